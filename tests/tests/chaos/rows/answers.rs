//! Nodes whose answers are meant to hurt whoever reads them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jcm_tests::network::isolated;
use jcm_tests::{Answer, Client, Server, Target, eventually, process, target};
use serde_json::json;

use crate::lookout::{self, INTERVAL};
use crate::row::Row;
use crate::scene::is_short;
use crate::turns::Turns;

/// Where every cloud hands out credentials to whoever asks from inside.
const METADATA: &str = "169.254.169.254:80";
const GROWTH_MAX_KIB: u64 = 10 * 1024;
/// Between two checks in row 34: long enough that a machine with much else to do is not late by as much, which would be
/// another row.
const SLOW_INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_millis(800);
const TURN_DEADLINE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_34_one_byte_a_second() {
    let slow = if is_short() { 50 } else { 500 };
    let mut row = Row::begin(
        "34",
        "500 nodes (short: 50) answer one byte a second",
        "each probe ends at its timeout; no other node is touched",
    );
    let server = Server::dev().start().await;
    let client = server.client();
    let (trickling, well) = (Target::start(slow).await, Target::start(100).await);
    for (name, target) in [("slow", &trickling), ("well", &well)] {
        let check = json!({ "kind": "http", "path": "/status", "interval": "2s", "timeout": "800ms" });
        client.put_cluster(name, &json!({ "check": check, "nodes": target.definitions() })).await.ok();
        lookout::all_healthy(&[server.client()], name).await;
    }
    let rounds = if is_short() { 5 } else { 20 };
    tokio::time::sleep(SLOW_INTERVAL * (rounds + 2)).await;
    let checks = usize::try_from(rounds).expect("a few");
    row.figure("jitter_p99_ms_before", jitter_p99(&well.gaps(well.nodes(), checks).await));
    let turns = Turns::follow(server.client(), "slow,well").await;
    trickling.behave("slow-bytes").await;
    all(&client, "slow", "down").await;
    tokio::time::sleep(SLOW_INTERVAL * (rounds + 2)).await;
    row.figure("jitter_p99_ms", jitter_p99(&well.gaps(well.nodes(), checks).await));
    let why = client.why("slow", &trickling.nodes()[0].to_string()).await;
    let results = why.body["vantages"][0]["results"].as_array().cloned().unwrap_or_default();
    let latest = results.first().cloned().unwrap_or_default();
    row.require("another-error", latest["error"] == "timed out while reading the answer", why.to_string());
    let latencies = results.iter().filter_map(|result| result["latency_ms"].as_f64());
    let longest = latencies.fold(0.0, f64::max);
    row.time_within("longest_probe_s", Duration::from_secs_f64(longest / 1_000.0), TIMEOUT + INTERVAL / 2);
    row.none("wrong_downs", turns.ever(well.nodes(), "down"));
    row.traffic("slow_nodes_found", turns.ever(trickling.nodes(), "down"), slow);
    trickling.behave("ok").await;
    all(&client, "slow", "healthy").await;
    turns.stop().await;
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_huge_answers() {
    let mut row = Row::begin(
        "35",
        "1,000 nodes answer with bodies, packed bodies or headers without an end",
        "<= 4 KiB of body and 16 KiB of headers read, nothing unpacked; RSS <= +10 MiB",
    );
    let server = Server::dev().start().await;
    let client = server.client();
    let mut targets = Vec::new();
    for (name, count) in [("bodies", 333), ("packed", 333), ("headers", 334)] {
        let target = Target::start(count).await;
        let check = json!({ "kind": "http", "path": "/status", "interval": "5s", "timeout": "4s" });
        client.put_cluster(name, &json!({ "check": check, "nodes": target.definitions() })).await.ok();
        targets.push(target);
    }
    for name in ["bodies", "packed", "headers"] {
        all(&client, name, "healthy").await;
    }
    let settle = if is_short() { 10 } else { 20 };
    tokio::time::sleep(INTERVAL * settle).await;
    let rss = || process::status_kib(server.pid(), "VmRSS");
    let before = rss();
    let mut connections = 0;
    for (target, behaviour) in targets.iter().zip(["endless-body", "compressed", "endless-headers"]) {
        connections += target.connections(target.nodes()[0]).await;
        target.behave(behaviour).await;
    }
    let begun = Instant::now();
    let mut peak = before;
    while begun.elapsed() < INTERVAL * (10 + settle) {
        peak = peak.max(rss());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    row.figure("rss_kib_before", before);
    row.figure("rss_kib_growth", peak - before);
    row.require("rss", peak - before <= GROWTH_MAX_KIB, format!("{} KiB more", peak - before));
    all(&client, "headers", "down").await;
    for name in ["bodies", "packed"] {
        let view = client.view(name).await;
        let bad = view.body["nodes"].as_array().into_iter().flatten();
        let bad = bad.filter(|node| node["verdict"] != "healthy").count();
        row.require("a-status-is-an-answer", bad == 0, format!("{bad} of {name} are not healthy"));
    }
    let why = client.why("headers", &targets[2].nodes()[0].to_string()).await;
    let error = &why.body["vantages"][0]["results"][0]["error"];
    row.require("another-error", error == "headers are larger than 16 KiB", why.to_string());
    let mut after = 0;
    for target in &targets {
        after += target.connections(target.nodes()[0]).await;
    }
    // Each such answer costs its connection, which is what shows that it was sent.
    row.traffic("huge_answers_of_three_nodes", usize::try_from(after - connections).unwrap_or_default(), 9);
    for target in &targets {
        target.behave("ok").await;
    }
    all(&client, "headers", "healthy").await;
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_35_huge_answers_of_tls_and_grpc() {
    let mut row = Row::begin(
        "35 (TLS, gRPC)",
        "1,000 nodes speak TLS and HTTP/2 without an end: handshakes, headers, pings, frames that nobody knows",
        "all are down, with the reason; RSS <= +10 MiB; no other node is touched",
    );
    let server = Server::dev().start().await;
    let client = server.client();
    let well = Target::start(100).await;
    let check = json!({ "kind": "http", "path": "/status", "interval": "2s", "timeout": "1500ms" });
    client.put_cluster("well", &json!({ "check": check, "nodes": well.definitions() })).await.ok();
    lookout::all_healthy(&[server.client()], "well").await;
    let floods = [
        ("https", "tls-flood"),
        ("grpc", "http2-headers"),
        ("grpc", "http2-pings"),
        ("grpc", "http2-unknown"),
    ];
    let mut targets = Vec::new();
    for (kind, flood) in floods {
        let target = Target::start(250).await;
        // First they say nothing at all: what a node costs that is only checked is no growth.
        target.behave("hang").await;
        let check = json!({ "kind": kind, "interval": "5s", "timeout": "2s", "fall": 2 });
        client.put_cluster(flood, &json!({ "check": check, "nodes": target.definitions() })).await.ok();
        targets.push(target);
    }
    for (_, flood) in floods {
        all(&client, flood, "down").await;
    }
    let rss = || process::status_kib(server.pid(), "VmRSS");
    let (before, turns) = (rss(), Turns::follow(server.client(), "well").await);
    for (target, (_, flood)) in targets.iter().zip(floods) {
        target.behave(flood).await;
    }
    let (begun, mut peak) = (Instant::now(), before);
    while begun.elapsed() < INTERVAL * if is_short() { 15 } else { 60 } {
        peak = peak.max(rss());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    row.figure("rss_kib_before", before);
    row.figure("rss_kib_growth", peak - before);
    row.require("rss", peak - before <= GROWTH_MAX_KIB, format!("{} KiB more", peak - before));
    row.none("wrong_downs", turns.ever(well.nodes(), "down"));
    turns.stop().await;
    for (target, (_, flood)) in targets.iter().zip(floods) {
        all(&client, flood, "down").await;
        let node = target.nodes()[0];
        let asked = usize::try_from(target.count(node).await).unwrap_or_default();
        row.traffic(&format!("{flood}, of one node"), asked, 2);
        let why = client.why(flood, &node.to_string()).await;
        let latest = &why.body["vantages"][0]["results"][0];
        row.figure(&format!("{flood}, error"), latest["error"].as_str().unwrap_or("none"));
    }
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_36_redirect_to_metadata() {
    if !isolated("rows::answers::row_36_redirect_to_metadata").await {
        return;
    }
    let mut row = Row::begin(
        "36",
        "nodes redirect their checks to a metadata service, which is there and listens",
        "never followed: connections to it 0; never accepted as a node",
    );
    let metadata: SocketAddr = METADATA.parse().expect("an address");
    let address = format!("{}/32", metadata.ip());
    let added = tokio::process::Command::new("ip").args(["address", "add", &address, "dev", "lo"]).status();
    assert!(added.await.expect("run ip, of the package iproute2").success());
    let service = Target::at(&[metadata]).await;
    let server = Server::dev().start().await;
    let client = server.client();
    let target = Target::start(50).await;
    target.behave("redirect-to-metadata").await;
    // By another path each, because a node is checked once for each cluster that it is in.
    let strict = json!({ "check": { "kind": "http", "path": "/a" }, "nodes": target.definitions() });
    let check = json!({ "kind": "http", "path": "/b", "expect": "200-399" });
    let lenient = json!({ "check": check, "nodes": target.definitions() });
    client.put_cluster("strict", &strict).await.ok();
    client.put_cluster("lenient", &lenient).await.ok();
    all(&client, "strict", "down").await;
    all(&client, "lenient", "healthy").await;
    let node = target.nodes()[0];
    let path = format!("/v1/clusters/strict/nodes/{node}/check");
    let run = client.post(&path, &serde_json::Value::Null).await;
    row.require("run", run.ok()["probes"][0]["error"] == "unexpected status 302", run.to_string());
    let why = client.why("strict", &node.to_string()).await;
    let error = &why.body["vantages"][0]["results"][0]["error"];
    row.require("another-error", error == "unexpected status 302", why.to_string());
    let named = json!({ "check": { "kind": "http" }, "nodes": [target::definition(metadata)] });
    let refused = client.put_cluster("named", &named).await;
    row.require("accepted-as-a-node", refused.status == 400, refused.to_string());
    let run =
        client.post(&format!("/v1/clusters/strict/nodes/{metadata}/check"), &serde_json::Value::Null).await;
    row.require("probed-unregistered", run.status == 404, run.to_string());
    tokio::time::sleep(INTERVAL * if is_short() { 3 } else { 20 }).await;
    let followed = service.connections(metadata).await;
    row.none("connections_to_metadata", usize::try_from(followed).unwrap_or(usize::MAX));
    let redirects: u64 = target.counts().await.iter().map(|(_, count)| count).sum();
    row.traffic("redirects", usize::try_from(redirects).unwrap_or_default(), 300);
    let direct: Answer = Client::new(&format!("http://{metadata}")).get("/latest/meta-data/").await;
    row.require("nothing-to-find", direct.status == 200, "the metadata service does not answer anybody");
    target.behave("ok").await;
    all(&client, "strict", "healthy").await;
    row.end();
}

/// Waits until every node of the cluster is this.
async fn all(client: &Client, cluster: &str, verdict: &str) {
    eventually(TURN_DEADLINE, &format!("all of {cluster} are {verdict}"), async || {
        let view = client.view(cluster).await;
        let nodes = view.body["nodes"].as_array().cloned().unwrap_or_default();
        let others = nodes.iter().filter(|node| node["verdict"] != verdict).count();
        if view.status == 200 && others == 0 {
            Ok(())
        } else {
            Err(format!("{others} of {} are not", nodes.len()))
        }
    })
    .await;
}

/// By how much the time between two checks is off the interval at the worst of a hundred, in milliseconds.
fn jitter_p99(gaps: &[u64]) -> u64 {
    let interval = u64::try_from(SLOW_INTERVAL.as_millis()).expect("two seconds");
    let mut jitter: Vec<u64> = gaps.iter().map(|gap| gap.abs_diff(interval)).collect();
    jitter.sort_unstable();
    jitter.get(jitter.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(u64::MAX)
}
