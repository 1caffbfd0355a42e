//! ZooKeeper in trouble: members killed and paused, the quorum gone, everything wiped.

use std::time::{Duration, Instant};

use jcm_tests::{Ensemble, Group, binary, process};
use serde_json::json;
use tempfile::TempDir;

use crate::bare::Bare;
use crate::load::{Attempt, Done, Load, Plan, longest_gap};
use crate::lookout::{DETECTION, INTERVAL, Lookout};
use crate::programs::Programs;
use crate::row::Row;
use crate::scene::{self, PATIENCE, SESSION_TIMEOUT, is_short};

const EVERY: [usize; 3] = [0, 1, 2];
/// Lines that a server may log in a row of a minute.
const LOG_LINES_MAX: usize = 120;
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_08_zookeeper_leader_killed() {
    let mut row = Row::begin(
        "08",
        "ZooKeeper's leader kill -9, under writes",
        "<= 3 s without writes, never a wrong answer; nothing lost",
    );
    let (zookeeper, group) = scene::three().await;
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let mut kills = Vec::new();
    for _ in 0..if is_short() { 1 } else { 3 } {
        let leader = zookeeper.leader().await;
        let at = Instant::now();
        zookeeper.kill_9(leader).await;
        load.more(60).await;
        kills.push((at, Instant::now()));
        zookeeper.restart(leader).await;
        load.more(30).await;
    }
    row.converged(&group).await;
    let done = load.stop().await;
    let gap = kills.iter().map(|(at, end)| done.gap(&EVERY, *at, *end)).max().unwrap_or_default();
    row.time_within("write_gap_s", gap, Duration::from_secs(3));
    done.judge(&mut row, 100);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_09_zookeeper_members_paused() {
    let mut row = Row::begin(
        "09",
        "ZooKeeper's leader, then a follower, SIGSTOP 8 s (syncLimit 4)",
        "leader: writes back <= 2 s + 3 s; follower: <= 3 s; wrong downs 0",
    );
    let zookeeper = Ensemble::of(3).sync_limit(4).start().await;
    let group = Group::of(&zookeeper, 3).session_timeout(Duration::from_secs(6)).start().await;
    let _target = scene::checked(&group, "checked", 30).await;
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let load = Load::start(group.clients(), Plan::usual()).await;
    let bare = Bare::start(&zookeeper, Duration::from_secs(6)).await;
    load.more(50).await;
    let mut pauses = Vec::new();
    for leads in [true, false] {
        let member = if leads { zookeeper.leader().await } else { zookeeper.follower().await };
        let at = Instant::now();
        zookeeper.pause(member).await;
        tokio::time::sleep(Duration::from_secs(8)).await;
        zookeeper.resume(member).await;
        load.more(60).await;
        pauses.push((at, Instant::now()));
        zookeeper.leader().await;
        group.converged(PATIENCE).await;
    }
    row.converged(&group).await;
    let done = load.stop().await;
    let bare = bare.stop().await;
    row.traffic("bare_writes", bare.len(), 100);
    for (name, (from, to)) in ["bare_leader_gap_s", "bare_follower_gap_s"].into_iter().zip(&pauses) {
        row.time(name, longest_gap(bare.clone(), *from, *to));
    }
    row.time_within("leader_gap_s", done.gap(&EVERY, pauses[0].0, pauses[0].1), Duration::from_secs(5));
    row.time_within("follower_gap_s", done.gap(&EVERY, pauses[1].0, pauses[1].1), Duration::from_secs(3));
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    done.judge(&mut row, 100);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_10_quorum_lost() {
    let mut row = Row::begin(
        "10",
        "two of three ZooKeeper members killed for 60 s (short: 20 s)",
        "reads 100 %; checks and pushes go on; 503 <= 2 s; recovery <= 10 s; wrong downs 0",
    );
    let (zookeeper, group) = scene::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let programs = Programs::start(30, &group.urls(), "checked").await;
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let outage = Duration::from_secs(if is_short() { 20 } else { 60 });
    let begun = Instant::now();
    for member in [1, 2] {
        zookeeper.kill_9(member).await;
    }
    let gone = Instant::now();
    for client in group.clients() {
        scene::without_store(&client).await;
    }
    row.time("noticed_s", gone.elapsed());
    // Past the session timeout, so that nothing but the servers themselves keeps the ring.
    tokio::time::sleep(SESSION_TIMEOUT * 2).await;
    let broken = target.nodes()[7];
    let broken_at = lookout.now();
    lookout.broken(broken);
    target.behave_at(broken, "refuse").await;
    let found = lookout.until(&EVERY, broken, "down", broken_at).await;
    row.time_within("failure_found_s", found, DETECTION + INTERVAL * 2);
    pushed(&programs, &broken.to_string()).await;
    tokio::time::sleep(outage.saturating_sub(gone.elapsed())).await;
    let served = Instant::now();
    zookeeper.start_all().await;
    let serves = Instant::now();
    load.more(30).await;
    target.behave_at(broken, "ok").await;
    lookout.well(broken);
    row.converged(&group).await;
    tokio::time::sleep(INTERVAL * 4).await;
    let done = load.stop().await;
    let failed = done.reads.iter().filter(|read| read.begun > begun && read.status != Some(200)).count();
    row.traffic("reads", done.reads.iter().filter(|read| read.begun > begun).count(), 100);
    row.none("failed_reads", failed);
    let refused: Vec<_> =
        done.attempts.iter().filter(|attempt| attempt.begun > gone && attempt.ended < served).collect();
    row.traffic("refused_writes", refused.iter().filter(|attempt| attempt.status == Some(503)).count(), 20);
    let slowest = refused.iter().map(|attempt| attempt.took()).max().unwrap_or_default();
    row.time_within("slowest_refusal_s", slowest, REFUSED_WITHIN);
    let others =
        refused.iter().filter(|attempt| attempt.begun > gone + INTERVAL * 3 && attempt.status != Some(503));
    row.none("answers_other_than_503", others.count());
    row.time_within("recovery_s", recovery(&done, serves), Duration::from_secs(10));
    // An outage under load must not fill a disk: what began and what ended, however many writes were refused.
    let lines = EVERY.map(|server| group.server(server).log().lines().count()).into_iter().max();
    row.figure("log_lines", lines.unwrap_or_default());
    row.require("log-flooded", lines.is_some_and(|lines| lines <= LOG_LINES_MAX), format!("{lines:?} lines"));
    let (history, looks) = lookout.stop().await;
    let unanswered: usize = looks.values().map(|(good, all)| all - good).sum();
    row.none("failed_views", unanswered);
    row.violations("wrong_downs", &history.violations());
    row.violations("subscribers_wrong", &programs.stop().await);
    done.judge(&mut row, 50);
    row.end();
}

/// From when ZooKeeper served again until the last of the servers acknowledged a write.
fn recovery(done: &Done, serves: Instant) -> Duration {
    let first = |server: usize| {
        let own =
            done.attempts.iter().filter(|attempt| attempt.server == server && attempt.is_acknowledged());
        own.map(|attempt| attempt.ended).filter(|ended| *ended >= serves).min()
    };
    EVERY
        .iter()
        .map(|server| first(*server).map_or(PATIENCE, |ended| ended - serves))
        .max()
        .unwrap_or_default()
}

/// Waits until every program holds the node as down.
async fn pushed(programs: &Programs, node: &str) {
    for cluster in programs.clusters() {
        jcm_tests::eventually(PATIENCE, "the program is told", async || {
            let nodes = cluster.nodes();
            let found = nodes.iter().find(|found| found.id().as_str() == node);
            match found {
                Some(found) if found.verdict == jcm_subscriber::Verdict::Down => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_restart_without_zookeeper() {
    let mut row = Row::begin(
        "11",
        "a server restarts while ZooKeeper is gone",
        "serves its snapshot, marked stale, <= 3 s; empty lists 0; wrong downs 0",
    );
    let (zookeeper, mut group) = scene::three().await;
    let _target = scene::checked(&group, "checked", 30).await;
    scene::followed(&group, "followed").await;
    let revision = scene::mark(&group.clients(), "followed", "before").await;
    for client in group.clients() {
        assert!(scene::comes_to(&client, revision, PATIENCE).await.is_some());
    }
    // A snapshot is written some time after a change.
    tokio::time::sleep(Duration::from_secs(if is_short() { 6 } else { 15 })).await;
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let group_leader = group.leader().await;
    zookeeper.stop_all().await;
    let restarted = usize::from(group_leader == 0);
    scene::without_store(&group.client(restarted)).await;
    let at = Instant::now();
    group.server_mut(restarted).restart().await;
    row.time_within("listens_s", at.elapsed(), Duration::from_secs(3));
    let client = group.client(restarted);
    let cluster = client.get_cluster("followed").await;
    row.require("old-definition", cluster.body["properties"]["mark"] == "before", cluster.to_string());
    let (mut empty, mut views, mut unmarked) = (0, 0, 0);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) {
        for (name, count) in [("followed", 3), ("checked", 30)] {
            let view = client.view(name).await;
            if view.status == 200 {
                views += 1;
                empty += usize::from(view.node_ids().len() != count);
                unmarked += usize::from(view.body["stale"] != true);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    row.traffic("views", views, 20);
    row.none("empty_lists", empty);
    row.none("views_not_marked_stale", unmarked);
    let write = client.patch_cluster("followed", &json!({ "properties": { "mark": "x" } })).await;
    row.require("write-refused", write.status == 503, write.to_string());
    zookeeper.start_all().await;
    row.converged(&group).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_12_zookeeper_wiped() {
    let mut row = Row::begin(
        "12",
        "ZooKeeper wiped behind the servers' backs, and a server restarted on it",
        "recognised; writes refused; last good kept; nodes removed 0; an explicit restore re-seeds",
    );
    let (zookeeper, mut group) = scene::three().await;
    scene::followed(&group, "followed").await;
    let programs = Programs::start(30, &group.urls(), "followed").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    zookeeper.wipe().await;
    let (begun, mut removed, mut views, mut accepted, mut refused) = (Instant::now(), 0, 0, 0, 0);
    let (mut restarted, mut unmarked) = (false, 0);
    while begun.elapsed() < Duration::from_secs(20) {
        for server in EVERY {
            let client = group.client(server);
            let view = client.view("followed").await;
            views += 1;
            removed += usize::from(view.status != 200 || view.node_ids().len() != 3);
            unmarked += usize::from(restarted && view.body["stale"] != true);
            let write = client.patch_cluster("followed", &json!({ "properties": { "mark": "x" } })).await;
            accepted += usize::from(matches!(write.status, 200 | 201));
            refused += usize::from(write.status == 503);
        }
        if !restarted && begun.elapsed() > Duration::from_secs(10) {
            restarted = true;
            // It serves what it kept, and says why it takes no writes.
            group.server_mut(1).kill_9().await;
            let began = group.server_mut(1).restarts_within(Duration::from_secs(5)).await;
            row.require("restart-refused", began, "it does not serve what it kept on its disk");
            let write =
                group.client(1).patch_cluster("followed", &json!({ "properties": { "mark": "x" } })).await;
            let says = write.body["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("the ensemble holds none"));
            row.require("no-reason", write.status == 503 && says, write.to_string());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    row.traffic("views", views, 50);
    row.traffic("writes_refused", refused, 20);
    row.none("nodes_removed", removed);
    row.none("views_not_marked_stale", unmarked);
    row.none("writes_accepted", accepted);
    let said = EVERY.map(|server| group.server(server).log().matches("the store takes no writes").count());
    row.require("log-flooded", said.iter().all(|count| *count <= 2), format!("{said:?} times"));
    let emptied = programs.clusters().filter(|cluster| cluster.nodes().len() != 3).count();
    row.none("programs_emptied", emptied);
    // Healed as an operator would: what a server still holds is put into the new store, on purpose.
    let disk = TempDir::with_prefix("jcm-saved-").expect("a temporary directory");
    let file = disk.path().join("saved").display().to_string();
    let url = group.server(1).url();
    for command in [&["save", &file][..], &["restore", &file, "--yes"]] {
        let arguments = [&["--server", &url, "snapshot"], command].concat();
        let exit = process::run(&binary::program("jcmctl"), &arguments, PATIENCE).await;
        row.require("not-restored", exit.code == Some(0), format!("{arguments:?}: {exit:?}"));
    }
    row.converged(&group).await;
    for client in group.clients() {
        let view = client.view("followed").await;
        row.require("not-restored", view.status == 200 && view.node_ids().len() == 3, view.to_string());
    }
    let revision = scene::mark(&group.clients(), "followed", "restored").await;
    for client in group.clients() {
        row.require(
            "not-restored",
            scene::comes_to(&client, revision, PATIENCE).await.is_some(),
            "not writable",
        );
    }
    let emptied = programs.clusters().filter(|cluster| cluster.nodes().len() != 3).count();
    row.none("programs_emptied_by_the_restore", emptied);
    row.violations("subscribers_wrong", &programs.stop().await);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_zookeeper_overloaded() {
    let mut row = Row::begin(
        "16",
        "ZooKeeper's leader runs 20 % of the time, under writes, for 20 s",
        "bounded in flight; an answer <= 2 s for each operation; pings not starved: expiries 0",
    );
    let (zookeeper, group) = scene::three().await;
    let load = Load::start(group.clients(), Plan { writers: 30, ..Plan::usual() }).await;
    load.more(100).await;
    let (expired, leader) = (zookeeper.expiries(), group.leader().await);
    let begun = Instant::now();
    let slow = zookeeper.leader().await;
    zookeeper.stumble(slow, Duration::from_millis(400), Duration::from_millis(100), 40).await;
    let end = Instant::now();
    load.more(50).await;
    row.none("expiries", zookeeper.expiries() - expired);
    row.require("leader-changed", group.leader().await == leader, "another server leads");
    row.converged(&group).await;
    let done = load.stop().await;
    let during = done.attempts.iter().filter(|attempt| attempt.begun > begun && attempt.ended < end);
    let slowest = during.clone().map(Attempt::took).max().unwrap_or_default();
    row.traffic("attempts", during.count(), 100);
    row.time_within("slowest_answer_s", slowest, REFUSED_WITHIN);
    done.judge(&mut row, 150);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_alien_bytes_in_zookeeper() {
    let mut row = Row::begin(
        "18",
        "garbage in one cluster's znode, and alien znodes beside it; a server restarts on that",
        "that cluster quarantined, others served: affected = 1",
    );
    let (zookeeper, mut group) = scene::three().await;
    for name in ["first", "struck", "last"] {
        scene::followed(&group, name).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tree = zookeeper.shell(&["ls", "-R", "/jcm"]).await;
    let of = |name: &str| {
        tree.lines().find(|line| line.contains("/clusters/") && line.ends_with(name)).map(str::to_owned)
    };
    let struck = of("/struck").unwrap_or_else(|| panic!("no znode of it in {tree}"));
    zookeeper.shell(&["set", &struck, "garbage-that-nobody-wrote"]).await;
    let (bucket, _) = struck.rsplit_once('/').expect("a path");
    zookeeper.shell(&["create", &format!("{bucket}/%zz-alien"), "x"]).await;
    let restarted = group.follower().await;
    // Without what it knew: all it has is what ZooKeeper says.
    group.server_mut(restarted).restart().await;
    let client = group.client(restarted);
    let mut affected = 0;
    for name in ["first", "struck", "last"] {
        let view = client.view(name).await;
        affected += usize::from(view.status != 200 || view.node_ids().len() != 3);
        row.require("absent", view.status != 404, format!("{name} is called absent: {view}"));
        row.require("emptied", view.status != 200 || view.node_ids().len() == 3, view.to_string());
    }
    row.figure("affected", affected);
    row.require("affected", affected <= 1, affected.to_string());
    let log = group.server(restarted).log();
    row.require(
        "no-alarm",
        log.contains("struck") && (log.contains("WARN") || log.contains("ERROR")),
        "nothing in its log",
    );
    let revision = scene::mark(&group.clients(), "first", "written").await;
    row.require("others-not-writable", scene::comes_to(&client, revision, PATIENCE).await.is_some(), "no");
    // Healed as an operator would: the cluster is written anew.
    zookeeper.shell(&["delete", &format!("{bucket}/%zz-alien")]).await;
    group.client(scene::others(&group, restarted)[0]).delete_cluster("struck").await;
    scene::followed(&group, "struck").await;
    row.converged(&group).await;
    row.end();
}
