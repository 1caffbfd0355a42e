//! Servers that are killed, stopped, paused, and killed again and again.

use std::time::{Duration, Instant};

use jcm_tests::group::Group;
use jcm_tests::{eventually, group};
use reqwest::Method;
use serde_json::json;

use crate::load::{Load, Plan};
use crate::lookout::{self, Coverage, INTERVAL, Lookout};
use crate::programs::Programs;
use crate::row::Row;
use crate::scene::{self, PATIENCE, SESSION_TIMEOUT, is_short};

/// A look at the nodes' counts comes this much late at either end of a gap.
const LOOKED: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_01_leader_killed() {
    let mut row = Row::begin(
        "01",
        "leader kill -9 under writes and 300 subscribers",
        "writes back <= 1 s; subscribers back <= 5 s; nothing lost, nothing twice",
    );
    let (_zookeeper, mut group) = scene::three().await;
    scene::followed(&group, "followed").await;
    let programs = Programs::start(300, &group.urls(), "followed").await;
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let (mut kills, mut back) = (Vec::new(), Duration::ZERO);
    for kill in 0..if is_short() { 2 } else { 5 } {
        let leader = group.leader().await;
        let survivors = scene::others(&group, leader);
        let (at, seen) = (Instant::now(), programs.now());
        group.server_mut(leader).kill_9().await;
        let clients: Vec<_> = survivors.iter().map(|server| group.client(*server)).collect();
        let revision = scene::mark(&clients, "followed", &format!("kill {kill}")).await;
        back = back.max(programs.reached(revision).await.saturating_sub(seen));
        load.more(60).await;
        kills.push((survivors, at, Instant::now()));
        group.server_mut(leader).restart().await;
        group.converged(PATIENCE).await;
        load.more(30).await;
    }
    row.converged(&group).await;
    let done = load.stop().await;
    row.figure("kills", kills.len());
    let gap =
        kills.iter().map(|(survivors, at, end)| done.gap(survivors, *at, *end)).max().unwrap_or_default();
    row.time_within("write_gap_s", gap, Duration::from_secs(1));
    row.time_within("subscribers_back_s", back, Duration::from_secs(5));
    row.violations("subscribers_wrong", &programs.stop().await);
    done.judge(&mut row, if is_short() { 200 } else { 400 });
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_02_follower_killed() {
    let mut row = Row::begin(
        "02",
        "follower kill -9",
        "its share of checks is taken over <= session timeout + 2 intervals; wrong downs 0",
    );
    let (_zookeeper, mut group) = scene::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let follower = group.follower().await;
    let others = scene::others(&group, follower);
    let own = scene::share(&group, others[0], follower, "checked", &target).await;
    row.traffic("nodes_of_the_killed", own.len(), 5);
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let coverage = Coverage::start(&target);
    tokio::time::sleep(INTERVAL * 3).await;
    let broken = own[0];
    group.server_mut(follower).kill_9().await;
    let broken_at = lookout.now();
    lookout.broken(broken);
    target.behave_at(broken, "refuse").await;
    let found = lookout.until(&others, broken, "down", broken_at).await;
    tokio::time::sleep(SESSION_TIMEOUT).await;
    let gaps = coverage.stop().await;
    let gap = own.iter().filter(|node| **node != broken).filter_map(|node| gaps.get(node)).max().copied();
    row.time_within("coverage_gap_s", gap.unwrap_or(PATIENCE), SESSION_TIMEOUT + INTERVAL * 2 + LOOKED);
    row.time("failure_found_s", found);
    target.behave_at(broken, "ok").await;
    lookout.well(broken);
    group.server_mut(follower).restart().await;
    row.converged(&group).await;
    tokio::time::sleep(INTERVAL * 5).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_server_terminated() {
    let mut row = Row::begin(
        "03",
        "SIGTERM to the leader, then to a follower, under writes",
        "in-flight writes finished; exit <= 10 s; failed calls 0; write gap <= 1 s; no check is late by more than an \
         interval; wrong downs 0",
    );
    let (_zookeeper, mut group) = scene::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let (mut exits, mut unchecked, mut stops) = (Duration::ZERO, Duration::ZERO, Vec::new());
    for leads in [true, false] {
        let server = if leads { group.leader().await } else { group.follower().await };
        let coverage = Coverage::start(&target);
        tokio::time::sleep(INTERVAL).await;
        let at = Instant::now();
        let status = group.server_mut(server).terminate().await;
        exits = exits.max(at.elapsed());
        row.require("exit-status", status.success(), format!("{status}"));
        load.more(60).await;
        stops.push((scene::others(&group, server), at, Instant::now()));
        tokio::time::sleep(INTERVAL * 2).await;
        unchecked = unchecked.max(coverage.stop().await.into_values().max().unwrap_or_default());
        group.server_mut(server).restart().await;
        group.converged(PATIENCE).await;
        lookout::all_share(&group.clients(), "checked", target.nodes()).await;
    }
    eventually(PATIENCE, "each node is checked by one server", async || {
        let mut owned = 0;
        for client in group.clients() {
            let status = group::answer(&client, "/v1/status").await?;
            owned += status["nodes_owned"].as_u64().unwrap_or_default();
        }
        if owned == 60 { Ok(()) } else { Err(format!("{owned} checks of 60 nodes")) }
    })
    .await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.time_within("coverage_gap_s", unchecked, INTERVAL * 2 + LOOKED);
    row.converged(&group).await;
    let done = load.stop().await;
    let failed: Vec<_> = done.attempts.iter().filter(|attempt| attempt.has_failed()).collect();
    row.figure("failed_calls", failed.len());
    row.require("failed_calls", failed.is_empty(), done.described(&failed));
    row.time_within("exit_s", exits, Duration::from_secs(10));
    let gap = stops.iter().map(|(others, at, end)| done.gap(others, *at, *end)).max().unwrap_or_default();
    row.time_within("write_gap_s", gap, Duration::from_secs(1));
    done.judge(&mut row, 150);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_04_leader_paused() {
    let mut row = Row::begin(
        "04",
        "leader SIGSTOP 30 s, then CONT, with writes sent to it before and meanwhile",
        "writes sent to it before it goes on that commit after it: 0; writes back <= 3.5 s; nothing lost, nothing twice",
    );
    let (_zookeeper, group) = scene::three().await;
    let load = Load::start(group.clients(), Plan::usual()).await;
    group.client(0).put_cluster("fenced", &json!({ "nodes": [] })).await.ok();
    load.more(50).await;
    let leader = group.leader().await;
    let others = scene::others(&group, leader);
    let mut sent = tokio::task::JoinSet::new();
    let mut send = |number: usize| {
        let client = group.client(leader);
        sent.spawn(async move {
            let node = json!({ "address": format!("10.0.{}.{}", number / 200, number % 200 + 1), "ports": { "http": 80 } });
            let request = client.request(Method::POST, "/v1/clusters/fenced/nodes").json(&node);
            let answer = client.try_send(request.timeout(PATIENCE)).await;
            (number, answer.ok().map(|answer| answer.status))
        });
    };
    (0..20).for_each(&mut send);
    // Some of them are on their way when it stops.
    tokio::time::sleep(Duration::from_millis(3)).await;
    group.server(leader).signal("STOP").await;
    let at = Instant::now();
    (20..60).for_each(&mut send);
    tokio::time::sleep(Duration::from_secs(if is_short() { 12 } else { 30 })).await;
    let next = group.leader_among(&others).await;
    row.require("no-new-leader", next != leader, "nobody took over");
    let before = group.client(others[0]).get("/v1/clusters/fenced?consistent=true").await.node_ids();
    let resumed = Instant::now();
    group.server(leader).signal("CONT").await;
    let (mut acknowledged, mut read_after) = (0, 0);
    while let Some(answered) = sent.join_next().await {
        let (number, status) = answered.expect("a sender does not panic");
        acknowledged += usize::from(matches!(status, Some(200 | 201)));
        read_after += usize::from(number >= 20 && status.is_some());
    }
    // Connections from before it goes on are closed unread.
    row.none("requests_read_late", read_after);
    row.converged(&group).await;
    load.more(50).await;
    let after = group.client(others[0]).get("/v1/clusters/fenced?consistent=true").await.node_ids();
    row.figure("committed_before", before.len());
    let late = after.iter().filter(|id| !before.contains(id)).count();
    row.none("late_commits", late);
    row.require(
        "lost",
        after.len() >= acknowledged,
        format!("{acknowledged} acknowledged, {} there", after.len()),
    );
    let done = load.stop().await;
    row.time_within("write_gap_s", done.gap(&others, at, resumed), Duration::from_millis(3_500));
    done.judge(&mut row, 200);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_05_follower_paused() {
    let mut row = Row::begin(
        "05",
        "follower SIGSTOP 30 s, then CONT",
        "the paused round is thrown away: wrong downs 0",
    );
    let (_zookeeper, group) = scene::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let follower = group.follower().await;
    let others = scene::others(&group, follower);
    let own = scene::share(&group, others[0], follower, "checked", &target).await;
    row.traffic("nodes_of_the_paused", own.len(), 5);
    let lookout = Lookout::start(group.clients(), &["checked"]);
    tokio::time::sleep(INTERVAL * 2).await;
    group.server(follower).signal("STOP").await;
    tokio::time::sleep(Duration::from_secs(if is_short() { 12 } else { 30 })).await;
    group.server(follower).signal("CONT").await;
    row.converged(&group).await;
    tokio::time::sleep(INTERVAL * 8).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_06_crash_loop() {
    let mut row = Row::begin(
        "06",
        "a server crashes every 5 s, for 30 s",
        "joins are damped, leadership is not stolen: leader changes 0, moves per node <= 1.5, wrong downs 0",
    );
    let (_zookeeper, mut group) = scene::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let (leader, looping) = (group.leader().await, group.follower().await);
    let asked = scene::others(&group, looping)[0];
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let mut owners = lookout::owners(&group.client(asked), "checked", target.nodes()).await;
    row.traffic("owners_before", lookout::distinct(&owners).len(), 3);
    let (begun, mut moves, mut leader_changes, mut crashes) = (Instant::now(), 0, 0, 0);
    while begun.elapsed() < Duration::from_secs(30) {
        let round = Instant::now();
        group.server_mut(looping).restart().await;
        crashes += 1;
        while round.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = lookout::owners(&group.client(asked), "checked", target.nodes()).await;
            moves += now
                .iter()
                .filter(|(node, owner)| owners.get(node).is_some_and(|before| before != *owner))
                .count();
            owners.extend(now);
            let status = group::answer(&group.client(asked), "/v1/status").await.unwrap_or_default();
            leader_changes += usize::from(status["leader"] != Group::id(leader));
        }
    }
    row.converged(&group).await;
    row.figure("crashes", crashes);
    row.none("leader_changes", leader_changes);
    #[expect(clippy::cast_precision_loss, reason = "a handful of moves")]
    let per_node = moves as f64 / target.nodes().len() as f64;
    row.figure("moves_per_node", (per_node * 100.0).round() / 100.0);
    row.require("moves_per_node", per_node <= 1.5, format!("{per_node:.2}"));
    eventually(PATIENCE, "it has a share again", async || {
        let owners = lookout::owners(&group.client(asked), "checked", target.nodes()).await;
        if lookout::distinct(&owners).len() == 3 { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}
