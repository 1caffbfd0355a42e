//! Programs whose servers go away.

use std::path::Path;
use std::time::{Duration, Instant};

use jcm_subscriber::{Policy, Revision, Subscriber};
use jcm_tests::{Proxy, eventually};
use tempfile::TempDir;

use crate::programs::Programs;
use crate::row::Row;
use crate::scene::{self, PATIENCE, is_short};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_subscriber_cut_from_its_server() {
    let mut row = Row::begin(
        "21",
        "100 subscribers are cut from their server, which lives on",
        "elsewhere <= 5 s; backward versions 0",
    );
    let (_zookeeper, group) = scene::three().await;
    scene::followed(&group, "followed").await;
    let mut proxies = Vec::new();
    for server in 0..3 {
        proxies.push(Proxy::to(group.server(server).address()).await);
    }
    let urls: Vec<_> = proxies.iter().map(|proxy| format!("http://{}", proxy.address())).collect();
    let programs = Programs::start(100, &urls, "followed").await;
    let mut longest = Duration::ZERO;
    for (round, proxy) in proxies.iter().enumerate() {
        let at = programs.now();
        proxy.cut();
        let revision = scene::mark(&group.clients(), "followed", &format!("cut {round}")).await;
        longest = longest.max(programs.reached(revision).await.saturating_sub(at));
        proxy.heal();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    row.traffic(
        "connections",
        proxies.iter().map(|proxy| usize::try_from(proxy.connections()).unwrap_or(0)).sum(),
        110,
    );
    row.time_within("elsewhere_s", longest, Duration::from_secs(5));
    row.converged(&group).await;
    row.violations("subscribers_wrong", &programs.stop().await);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_all_servers_gone() {
    let mut row = Row::begin(
        "22",
        "all servers gone for 60 s (short: 15 s), and a program that starts meanwhile",
        "picks from memory, then from disk: 100 %",
    );
    let (_zookeeper, mut group) = scene::three().await;
    scene::followed(&group, "followed").await;
    let disk = TempDir::with_prefix("jcm-snapshot-").expect("a temporary directory");
    let program = async || {
        let builder = Subscriber::builder().servers(group.urls()).snapshot_dir(disk.path());
        let jcm = builder.build().await.expect("good addresses");
        let cluster = jcm.cluster("followed").policy(Policy::p2c()).subscribe().await.expect("a good name");
        (jcm, cluster)
    };
    let (jcm, cluster) = program().await;
    eventually(PATIENCE, "it can pick", async || cluster.alloc().map(drop)).await;
    let revision = scene::mark(&group.clients(), "followed", "before").await;
    assert!(cluster.reached(Revision(revision)).await);
    eventually(PATIENCE, "its snapshot is on disk", async || {
        let files = std::fs::read_dir(disk.path()).expect("its directory").count();
        if files > 0 { Ok(()) } else { Err("nothing") }
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let urls = group.urls();
    for server in 0..3 {
        group.server_mut(server).kill_9().await;
    }
    let (begun, mut picks, mut failed) = (Instant::now(), 0, 0);
    let mut late = None;
    while begun.elapsed() < Duration::from_secs(if is_short() { 15 } else { 60 }) {
        picks += 1;
        failed += usize::from(cluster.alloc().is_err());
        if late.is_none() && begun.elapsed() > Duration::from_secs(3) {
            // Another process would have a directory of its own; what counts is that no server answers.
            let copy = TempDir::with_prefix("jcm-snapshot-").expect("a temporary directory");
            copy_files(disk.path(), copy.path());
            let builder = Subscriber::builder().servers(urls.clone()).snapshot_dir(copy.path());
            let started = Instant::now();
            let jcm = builder.build().await.expect("good addresses");
            let cluster =
                jcm.cluster("followed").policy(Policy::p2c()).subscribe().await.expect("a good name");
            row.time("start_from_disk_s", started.elapsed());
            late = Some((jcm, cluster, copy));
        }
        if let Some((_, cluster, _)) = &late {
            picks += 1;
            failed += usize::from(cluster.alloc().is_err());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    row.traffic("picks", picks, 500);
    row.none("failed_picks", failed);
    for server in 0..3 {
        group.server_mut(server).restart().await;
    }
    row.converged(&group).await;
    let revision = scene::mark(&group.clients(), "followed", "after").await;
    let back = Instant::now();
    assert!(cluster.reached(Revision(revision)).await);
    row.time("followed_again_s", back.elapsed());
    jcm.shutdown().await;
    row.end();
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let file = entry.expect("an entry").path();
        let name = file.file_name().expect("a file has a name");
        std::fs::copy(&file, to.join(name)).expect("copy a file");
    }
}
