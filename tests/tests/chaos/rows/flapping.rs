//! Nodes that come and go, and nodes that are half dead.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jcm_tests::{Server, Target, eventually, target};
use serde_json::json;

use crate::lookout::{self, INTERVAL};
use crate::row::Row;
use crate::scene::{self, PATIENCE, is_short};
use crate::turns::{Turns, in_the_worst_minute};

/// One stretch of a flapping node, well or broken.
const STRETCH: Duration = Duration::from_secs(2);
const TURNS_A_MINUTE: usize = 4;
/// Two successes, a push and a busy machine.
const BACK_GRACE: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_32_flapping() {
    let stretches = if is_short() { 16 } else { 34 };
    let mut row = Row::begin(
        "32",
        "nodes answer 500 for 2 s, then 200 for 2 s, for more than a minute (short: 32 s)",
        "degraded; with fall 2: held down; turns pushed <= 4/min; back when the hold is over",
    );
    let (_zookeeper, group) = scene::three().await;
    let target = Target::start(2).await;
    let (gentle, strict) = (target.nodes()[0], target.nodes()[1]);
    for (name, node, fall) in [("gentle", gentle, 3), ("strict", strict, 2)] {
        let check = json!({ "kind": "http", "path": "/status", "fall": fall });
        let cluster = json!({ "check": check, "nodes": [target::definition(node)] });
        group.client(0).put_cluster(name, &cluster).await.ok();
        lookout::all_healthy(&group.clients(), name).await;
    }
    // Every server shares the checks by now, so that nobody takes a node over in between.
    group.converged(PATIENCE).await;
    tokio::time::sleep(INTERVAL * 3).await;
    let turns = Turns::follow(group.client(1), "gentle,strict").await;
    let checks = target.count(strict).await;
    tokio::join!(flap(&target, gentle, stretches), flap(&target, strict, stretches));
    let why = group.client(2).why("strict", &strict.to_string()).await;
    let held = &why.body["held"];
    row.require("not-held", held.is_object(), why.to_string());
    row.require("not-down", why.body["verdict"] == "down", why.to_string());
    let reason = why.body["reason"].as_str().unwrap_or_default();
    row.require("no-reason", reason.contains("held: flapping, until "), reason.to_owned());
    // Whoever is asked, every server probes by itself, and none of that turns a verdict.
    let path = format!("/v1/clusters/strict/nodes/{strict}/check?from=all");
    let run = group.client(1).post(&path, &serde_json::Value::Null).await;
    let probes = run.ok()["probes"].as_array().cloned().unwrap_or_default();
    let passed = probes.iter().filter(|probe| probe["outcome"] == "success").count();
    row.require("not-probed-by-all", passed == 3, run.to_string());
    let view = group.client(2).view("gentle").await;
    row.require("not-degraded", view.node(&gentle.to_string())["verdict"] == "degraded", view.to_string());
    let flapped = turns.now();
    let hold = Duration::from_millis(held["remaining_ms"].as_u64().unwrap_or_default());
    row.time("hold_s", hold);
    if held.is_object() {
        let back = turns.until(strict, "healthy", flapped).await;
        row.time_within("back_s", back, hold + BACK_GRACE);
    }
    for (name, node) in [("turns_gentle", gentle), ("turns_strict", strict)] {
        let pushed = turns.of(node);
        let most = in_the_worst_minute(&pushed);
        row.figure(name, pushed.len());
        row.figure(&format!("{name}_in_a_minute"), most);
        row.require("turns-a-minute", most <= TURNS_A_MINUTE, format!("{name}: {pushed:?}"));
    }
    row.require("gentle-was-down", turns.ever(&[gentle], "down") == 0, format!("{:?}", turns.of(gentle)));
    row.require("never-down", turns.ever(&[strict], "down") == 1, format!("{:?}", turns.of(strict)));
    row.traffic(
        "checks",
        usize::try_from(target.count(strict).await - checks).unwrap_or_default(),
        stretches,
    );
    row.converged(&group).await;
    turns.stop().await;
    row.end();
}

/// Breaks a node and mends it in turns, so many stretches in all; it ends well. Each begins half-way between two of its
/// checks, so that there are two in every stretch.
async fn flap(target: &Target, node: SocketAddr, stretches: usize) {
    let before = target.count(node).await;
    eventually(PATIENCE, "the node is checked", async || {
        if target.count(node).await > before { Ok(()) } else { Err("not yet") }
    })
    .await;
    let mut next = Instant::now() + INTERVAL / 2;
    for stretch in 0..stretches {
        tokio::time::sleep_until(next.into()).await;
        target.behave_at(node, if stretch % 2 == 0 { "error500" } else { "ok" }).await;
        next += STRETCH;
    }
    tokio::time::sleep_until(next.into()).await;
}

/// By a server alone: a peer's own probes would take their part of the node's answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_half_dead() {
    let mut row = Row::begin(
        "33",
        "two of five checks of a node fail, never three in a row",
        "degraded within 10 checks, a quarter of its weight; never down",
    );
    let server = Server::dev().start().await;
    let target = Target::start(2).await;
    let (half_dead, well) = (target.nodes()[0], target.nodes()[1]);
    server.client().put_cluster("checked", &lookout::checked(&target)).await.ok();
    lookout::all_healthy(&[server.client()], "checked").await;
    // Only well results: the window is full of them.
    let begun = target.count(half_dead).await;
    eventually(PATIENCE, "a window of checks", async || {
        if target.count(half_dead).await > begun + 10 { Ok(()) } else { Err("not yet") }
    })
    .await;
    let turns = Turns::follow(server.client(), "checked").await;
    let (from, checks) = (turns.now(), target.count(half_dead).await);
    target.behave_at(half_dead, "flaky").await;
    let took = turns.until(half_dead, "degraded", from).await;
    let checks = target.count(half_dead).await - checks;
    row.figure("checks", checks);
    row.time_within("degraded_s", took, INTERVAL * 10 + Duration::from_secs(1));
    let view = server.client().view("checked").await;
    let node = view.node(&half_dead.to_string());
    row.require("weight", node["effective_weight"] == 25 && node["routable"] == true, view.to_string());
    let why = server.client().why("checked", &half_dead.to_string()).await;
    let because = why.body["last_turn"]["because"].as_str().unwrap_or_default();
    row.require("no-cause", because.starts_with("4 of 10 failed"), why.to_string());
    let results = why.body["last_turn"]["results"].as_array().map_or(0, Vec::len);
    row.require("no-evidence", results == 10, why.to_string());
    let stays = if is_short() { 5 } else { 30 };
    tokio::time::sleep(INTERVAL * stays).await;
    row.none("ever_down", turns.ever(&[half_dead, well], "down"));
    row.figure("turns", turns.of(half_dead).len());
    row.require("turns", turns.of(half_dead).len() == 1, format!("{:?}", turns.of(half_dead)));
    row.traffic("checks_in_all", usize::try_from(target.count(half_dead).await).unwrap_or_default(), 15);
    target.behave("ok").await;
    lookout::all_healthy(&[server.client()], "checked").await;
    turns.stop().await;
    row.end();
}
