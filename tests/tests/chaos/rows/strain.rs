//! Checks in want of something: of answers to thousands of SYNs, of a processor.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use jcm_tests::network::isolated;
use jcm_tests::{Network, Quota, Server, Target, eventually, target};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::lookout::{self, INTERVAL};
use crate::row::Row;
use crate::scene::{self, PATIENCE, is_short};
use crate::turns::Turns;

const SILENT_NODES: u16 = 5_000;
const FIRST_SILENT_PORT: u16 = 20_000;
/// Healthy nodes in each of three clusters.
const BESIDE: u8 = 20;
/// Between two checks of a healthy node in row 37.
const WELL_INTERVAL: Duration = Duration::from_secs(2);
const CLUSTERS: [&str; 3] = ["one", "two", "three"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_37_swallowed_syns() {
    if !isolated("rows::strain::row_37_swallowed_syns").await {
        return;
    }
    let mut row = Row::begin(
        "37",
        "5,000 nodes of one cluster swallow SYNs",
        "bounded in flight, fair between clusters: healthy clusters' checks late by <= 1 interval",
    );
    let network = Network::of(&["server", "nodes", "hole"]).await;
    network.swallow("hole").await;
    let listen = SocketAddr::from((network.address("server"), 7400)).to_string();
    let server = Server::serve("[store]\nkind = 'embedded'\n").within("server").listen(&listen);
    let server = server.argument("--insecure").start().await;
    let client = server.client();
    let addresses = network.more_addresses("nodes", BESIDE * 3).await;
    let listen: Vec<_> = addresses.iter().map(|address| SocketAddr::from((*address, 8080))).collect();
    let well = Target::within("nodes", &listen, network.address("nodes").into()).await;
    for (name, part) in CLUSTERS.iter().zip(well.nodes().chunks(usize::from(BESIDE))) {
        let part: Vec<_> = part.iter().copied().map(target::definition).collect();
        let check = json!({ "kind": "http", "path": "/status", "interval": "2s", "timeout": "800ms" });
        client.put_cluster(name, &json!({ "check": check, "nodes": part })).await.ok();
        lookout::all_healthy(&[server.client()], name).await;
    }
    let checks = if is_short() { 5 } else { 20 };
    let some_rounds = WELL_INTERVAL * u32::try_from(checks + 2).expect("a few");
    tokio::time::sleep(some_rounds).await;
    row.time("lag_s_before", lag(&well.gaps(well.nodes(), checks).await));
    let turns = Turns::follow(server.client(), &CLUSTERS.join(",")).await;
    let hole = network.address("hole");
    let silent: Vec<_> = (FIRST_SILENT_PORT..FIRST_SILENT_PORT + SILENT_NODES)
        .map(|port| target::definition(SocketAddr::from((hole, port))))
        .collect();
    let cluster = json!({ "check": { "kind": "http", "path": "/status" }, "nodes": silent });
    client.put_cluster("silent", &cluster).await.ok();
    eventually(PATIENCE, "all silent nodes are down", async || {
        let list = client.get("/v1/clusters").await;
        let view = client.view("silent").await;
        let nodes = view.body["nodes"].as_array().cloned().unwrap_or_default();
        let down = nodes.iter().filter(|node| node["verdict"] == "down").count();
        if down == usize::from(SILENT_NODES) { Ok(()) } else { Err(format!("{down} are; {list}")) }
    })
    .await;
    let late = scene::figure(&client, "jcm_check_rounds_late_total").await;
    let skipped = scene::figure(&client, "jcm_check_rounds_skipped_total").await;
    tokio::time::sleep(some_rounds).await;
    row.figure("late_rounds", scene::figure(&client, "jcm_check_rounds_late_total").await - late);
    row.figure("skipped_rounds", scene::figure(&client, "jcm_check_rounds_skipped_total").await - skipped);
    row.figure("local_troubles", scene::figure(&client, "jcm_check_local_troubles_total").await);
    let gaps = well.gaps(well.nodes(), checks).await;
    row.traffic("checks_of_healthy_nodes", gaps.len(), usize::from(BESIDE) * 3 * checks * 3 / 4);
    row.time_within("lag_s", lag(&gaps), WELL_INTERVAL);
    row.figure("checks_in_flight", scene::figure(&client, "jcm_checks_in_flight").await);
    row.none("wrong_downs", turns.ever(well.nodes(), "down"));
    let why = client.why("silent", &format!("{hole}:{FIRST_SILENT_PORT}")).await;
    let error = &why.body["vantages"][0]["results"][0]["error"];
    row.require("another-error", error == "timed out while connecting", why.to_string());
    let dropped = usize::try_from(network.dropped().await).unwrap_or(usize::MAX);
    row.traffic("packets_swallowed", dropped, usize::from(SILENT_NODES));
    turns.stop().await;
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_52_no_processor() {
    let mut row = Row::begin(
        "52",
        "a lone server with 4,000 nodes gets 5 % of a processor, then busy neighbours, then stands still for 5 s",
        "it knows that it is late and suspects itself; wrong downs 0",
    );
    let server = Server::dev().start().await;
    let client = server.client();
    // For 2,000 checks a second a twentieth of a processor is enough, in a build for tests.
    let target = Target::start(4_000).await;
    let check =
        json!({ "kind": "http", "path": "/status", "interval": "500ms", "timeout": "400ms", "fall": 2 });
    for (name, part) in CLUSTERS.iter().zip(target.nodes().chunks(4_000_usize.div_ceil(CLUSTERS.len()))) {
        let part: Vec<_> = part.iter().copied().map(target::definition).collect();
        client.put_cluster(name, &json!({ "check": check, "nodes": part })).await.ok();
    }
    for name in CLUSTERS {
        lookout::all_healthy(&[server.client()], name).await;
    }
    let turns = Turns::follow(server.client(), &CLUSTERS.join(",")).await;
    let length = INTERVAL * if is_short() { 10 } else { 30 };

    let late = scene::figure(&client, "jcm_check_rounds_late_total").await;
    let skipped = scene::figure(&client, "jcm_check_rounds_skipped_total").await;
    let suspicions = scene::figure(&client, "jcm_suspicions_total").await;
    let checks = scene::figure(&client, "jcm_checks_total").await;
    let quota = Quota::of(server.pid(), 5);
    tokio::time::sleep(length).await;
    let throttled = quota.throttled();
    drop(quota);
    row.traffic("times_throttled", usize::try_from(throttled).unwrap_or(usize::MAX), 20);
    let known = scene::figure(&client, "jcm_check_rounds_late_total").await - late;
    row.figure("checks", scene::figure(&client, "jcm_checks_total").await - checks);
    row.figure("pauses", scene::figure(&client, "jcm_pauses_total").await);
    row.figure("late_rounds", known);
    let skipped = scene::figure(&client, "jcm_check_rounds_skipped_total").await - skipped;
    row.figure("skipped_rounds", skipped);
    row.require("did-not-know", known + skipped > 0.0, "not one round was thrown away or skipped as late");
    let suspicions = scene::figure(&client, "jcm_suspicions_total").await - suspicions;
    row.figure("suspicions", suspicions);
    row.require("did-not-suspect-itself", suspicions > 0.0, "it trusted what it saw");
    tokio::time::sleep(INTERVAL * 5).await;
    row.none("wrong_downs_throttled", turns.ever(target.nodes(), "down"));

    let neighbours: Vec<Child> = (0..8).map(|_| neighbour()).collect();
    tokio::time::sleep(length).await;
    drop(neighbours);
    row.none("wrong_downs_beside_busy_neighbours", turns.ever(target.nodes(), "down"));

    server.signal("STOP").await;
    tokio::time::sleep(INTERVAL * 5).await;
    server.signal("CONT").await;
    tokio::time::sleep(INTERVAL * 10).await;
    row.none("wrong_downs_after_standing_still", turns.ever(target.nodes(), "down"));

    // It is not blind: what is really broken is found as always.
    let broken = target.nodes()[0];
    let from = turns.now();
    target.behave_at(broken, "refuse").await;
    row.time("real_failure_found_s", turns.until(broken, "down", from).await);
    target.behave_at(broken, "ok").await;
    for name in CLUSTERS {
        lookout::all_healthy(&[server.client()], name).await;
    }
    turns.stop().await;
    row.end();
}

/// By how much the check that came latest came late.
fn lag(gaps: &[u64]) -> Duration {
    let longest = Duration::from_millis(gaps.iter().copied().max().unwrap_or(u64::MAX));
    longest.saturating_sub(WELL_INTERVAL)
}

/// Somebody who takes all of a processor that there is to have. Ends with its handle.
fn neighbour() -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().expect("every Unix has a shell")
}
