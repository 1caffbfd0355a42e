//! Nodes that fail, all of them, and what of that ZooKeeper may see: nothing.

use std::time::{Duration, Instant};

use jcm_tests::{Target, eventually};
use serde_json::json;

use crate::lookout::{self, INTERVAL};
use crate::programs::Programs;
use crate::row::Row;
use crate::scene::{self, PATIENCE, is_short};

/// What all nodes together may take to turn on this machine.
const MASS_DEADLINE: Duration = Duration::from_mins(2);
/// A process has descriptors for its nodes and for the connections of their checks.
const PER_TARGET: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_30_every_node_fails() {
    let mut row = Row::begin("30", "every node of a cluster fails", "panic list, flagged; empty pushes 0");
    let (_zookeeper, group) = scene::three().await;
    let target = scene::checked(&group, "checked", 20).await;
    let programs = Programs::start(30, &group.urls(), "checked").await;
    target.behave("refuse").await;
    let at = Instant::now();
    for client in group.clients() {
        eventually(PATIENCE, "all are down, all are routed to, and it says so", async || {
            let view = client.view("checked").await;
            let nodes = view.body["nodes"].as_array().cloned().unwrap_or_default();
            let is_panic = nodes.len() == 20
                && view.body["panic"] == true
                && nodes.iter().all(|node| node["verdict"] == "down" && node["routable"] == true);
            if is_panic { Ok(()) } else { Err(view) }
        })
        .await;
        let picked = client.resolve("checked", "n=100").await;
        row.require("nothing-resolved", picked.node_ids().len() == 20, picked.to_string());
    }
    row.time("panic_s", at.elapsed());
    let empty = programs.clusters().filter(|cluster| cluster.alloc().is_err()).count();
    row.none("programs_without_a_node", empty);
    let flagged = programs.clusters().filter(|cluster| cluster.is_panicking()).count();
    row.traffic("programs_that_know", flagged, 30);
    target.behave("ok").await;
    lookout::all_healthy(&group.clients(), "checked").await;
    row.converged(&group).await;
    row.violations("empty_pushes", &programs.stop().await);
    row.end();
}

/// Verdicts never touch the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verdicts_write_nothing_to_zookeeper() {
    let mut row =
        Row::begin("verdicts", "10,000 verdicts turn (short: 2,000)", "transactions of ZooKeeper: 0");
    let nodes = if is_short() { 500 } else { 2_500 };
    let (zookeeper, group) = scene::three().await;
    let target = Target::start(nodes).await;
    let check = json!({ "kind": "http", "interval": "2s", "timeout": "1500ms", "fall": 2, "rise": 1 });
    for (number, part) in target.nodes().chunks(250).enumerate() {
        let part: Vec<_> = part.iter().copied().map(jcm_tests::target::definition).collect();
        let cluster = json!({ "check": check, "nodes": part });
        group.client(0).put_cluster(&format!("part-{number}"), &cluster).await.ok();
    }
    let all = async |verdict: &str| {
        for part in 0..nodes / 250 {
            lookout::all_are(&group.client(1), &format!("part-{part}"), verdict, MASS_DEADLINE).await;
        }
    };
    all("healthy").await;
    // What the definitions led to is over: joins, and the log of changes.
    tokio::time::sleep(INTERVAL * 5).await;
    let before = zookeeper.transactions().await;
    let mut turns = 0;
    for _ in 0..2 {
        target.behave("error500").await;
        all("down").await;
        target.behave("ok").await;
        all("healthy").await;
        turns += 2 * nodes;
    }
    let after = zookeeper.transactions().await;
    row.traffic("turns", turns, nodes * 4);
    row.none("transactions", usize::try_from(after - before).unwrap_or(usize::MAX));
    row.converged(&group).await;
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_31_ten_thousand_nodes_fail() {
    let mut row = Row::begin(
        "31",
        "10,000 nodes answer 500 at once (short: 1,000)",
        "all verdicts <= detection + 5 s; ZooKeeper writes 0",
    );
    let interval = Duration::from_secs(5);
    let (zookeeper, group) = scene::three().await;
    let mut targets = Vec::new();
    for number in 0..if is_short() { 1 } else { 10 } {
        let target = Target::start(PER_TARGET).await;
        let check = json!({ "kind": "http", "interval": "5s", "timeout": "2s", "fall": 2, "rise": 1 });
        let cluster = json!({ "check": check, "nodes": target.definitions() });
        group.client(0).put_cluster(&format!("tenth-{number}"), &cluster).await.ok();
        targets.push(target);
    }
    let all = async |verdict: &str| {
        for part in 0..targets.len() {
            for client in group.clients() {
                lookout::all_are(&client, &format!("tenth-{part}"), verdict, MASS_DEADLINE).await;
            }
        }
    };
    all("healthy").await;
    tokio::time::sleep(INTERVAL * 5).await;
    let before = zookeeper.transactions().await;
    for target in &targets {
        target.behave("error500").await;
    }
    let at = Instant::now();
    all("down").await;
    let detection = interval * 2 + Duration::from_secs(2);
    row.time_within("all_down_s", at.elapsed(), detection + Duration::from_secs(5));
    let after = zookeeper.transactions().await;
    row.none("transactions", usize::try_from(after - before).unwrap_or(usize::MAX));
    for target in &targets {
        target.behave("ok").await;
    }
    all("healthy").await;
    row.traffic("nodes", targets.len() * PER_TARGET, 1_000);
    row.converged(&group).await;
    row.end();
}
