//! A probe by hand: what it tells, what it may be pointed at, and that no verdict follows from it.

use std::time::Duration;

use jcm_tests::process::{self, Exit};
use jcm_tests::{Client, Server, Target, binary, eventually, server};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(30);

/// A server, and a cluster of two healthy nodes that are checked so seldom that a verdict cannot turn in between.
async fn start() -> (Server, Client, Target) {
    let (server, client) = server::start().await;
    let target = Target::start(2).await;
    let check = json!({ "kind": "http", "path": "/status", "interval": "10s", "timeout": "5s" });
    client.put_cluster("orders", &json!({ "check": check, "nodes": target.definitions() })).await.ok();
    eventually(DEADLINE, "all are healthy", async || {
        let view = client.view("orders").await;
        let nodes = view.body["nodes"].as_array().cloned().unwrap_or_default();
        let is_good = nodes.len() == 2 && nodes.iter().all(|node| node["verdict"] == "healthy");
        if is_good { Ok(()) } else { Err(view) }
    })
    .await;
    (server, client, target)
}

fn path(cluster: &str, node: &str, query: &str) -> String {
    format!("/v1/clusters/{cluster}/nodes/{node}/check{query}")
}

#[tokio::test]
async fn a_probe_by_hand_tells_what_it_saw_and_turns_nothing() {
    let (_server, client, target) = start().await;
    let node = target.nodes()[0];
    let before = target.count(node).await;
    let passed = client.post(&path("orders", &node.to_string(), ""), &Value::Null).await;
    let probe = &passed.ok()["probes"][0];
    assert_eq!(probe["outcome"], "success", "{passed}");
    assert!(probe["latency_ms"].as_f64().is_some_and(|latency| latency > 0.0), "{passed}");
    let (connected, answering) = (&probe["phases"]["connect_ms"], &probe["phases"]["first_byte_ms"]);
    assert!(connected.as_f64() <= answering.as_f64() && connected.is_number(), "{passed}");
    assert!(answering.as_f64() <= probe["latency_ms"].as_f64(), "{passed}");
    assert_eq!(probe["server"], passed.body["owner"], "{passed}");
    assert!(target.count(node).await > before, "it was asked");

    target.behave_at(node, "error500").await;
    for _ in 0..5 {
        let failed = client.post(&path("orders", &node.to_string(), "?from=all"), &Value::Null).await;
        assert_eq!(failed.ok()["probes"][0]["outcome"], "failure", "{failed}");
        assert_eq!(failed.body["probes"][0]["error"], "unexpected status 500", "{failed}");
    }
    let view = client.view("orders").await;
    assert_eq!(view.node(&node.to_string())["verdict"], "healthy", "five failures by hand are none: {view}");
    let needs = client.why("orders", &node.to_string()).await;
    let needs: Vec<_> =
        needs.body["needs"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert!(needs.iter().any(|need| need.starts_with("down after ")), "{needs:?}");
}

#[tokio::test]
async fn only_what_is_registered_and_checked_is_probed_and_only_from_servers() {
    let (_server, client, target) = start().await;
    let node = target.nodes()[0].to_string();
    client.put_cluster("unchecked", &json!({ "nodes": target.definitions() })).await.ok();
    for (path, status, said) in [
        (path("orders", "127.0.0.1:1", ""), 404, "127.0.0.1:1"),
        (path("nothing", &node, ""), 404, "nothing"),
        (path("unchecked", &node, ""), 400, "no check"),
        (path("orders", &node, "?from=nobody"), 404, "nobody"),
        (path("orders", &node, "?to=10.0.0.1"), 400, "to"),
    ] {
        let refused = client.post(&path, &Value::Null).await;
        assert!(refused.expect_problem(status).contains(said), "{refused}");
    }
}

async fn run(server: &Server, arguments: &[&str]) -> Exit {
    let environment = [("JCM_SERVER", server.url())];
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    process::run_with(&binary::program("jcmctl"), arguments, &environment, b"", DEADLINE).await
}

#[tokio::test]
async fn the_command_shows_every_node_and_says_by_its_exit_whether_all_passed() {
    let (server, _client, target) = start().await;
    let exit = run(&server, &["check", "run", "orders"]).await;
    let shown = exit.expect_success();
    for node in target.nodes() {
        assert!(shown.contains(&node.to_string()), "{shown}");
    }
    assert!(shown.contains("status 200") && shown.contains("down after 3 more failures in a row"), "{shown}");

    let (broken, node) = (target.nodes()[1], target.nodes()[1].to_string());
    target.behave_at(broken, "refuse").await;
    let exit = run(&server, &["check", "run", "orders", &node, "-o", "json"]).await;
    let document: Value =
        serde_json::from_str(exit.expect_code(4)).unwrap_or_else(|error| panic!("{error}: {exit:?}"));
    assert_eq!(document["nodes"][0]["probes"][0]["error"], "connection refused", "{document}");
    assert_eq!(document["nodes"][0]["verdict"], "healthy", "{document}");
    run(&server, &["check", "run", "orders", "127.0.0.1:1"]).await.expect_code(3);
    run(&server, &["check", "run", "nothing"]).await.expect_code(3);
    run(&server, &["check", "run", "orders", "--from", "nobody"]).await.expect_code(3);
}
