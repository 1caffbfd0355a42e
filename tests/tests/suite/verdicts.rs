//! From answers to verdicts and back: killed, paused, recovered, checked in another way, restarted; and why.

use jcm_tests::server::start;
use jcm_tests::{Target, eventually};
use serde_json::{Value, json};

use crate::checked::{TURN_DEADLINE, all, put, quick_check, results, verdict, view, why};

#[tokio::test]
async fn a_killed_node_is_down_and_back_when_it_is_back() {
    let (_server, client) = start().await;
    let mut victim = Target::start(1).await;
    let others = Target::start(3).await;
    let node = victim.nodes()[0];
    put(&client, "orders", quick_check(), &others).await;
    client.post_nodes("orders", &victim.definitions()).await.ok();
    all(&client, "orders", "healthy").await;
    victim.kill().await;
    let view = verdict(&client, "orders", node, "down").await;
    assert_eq!(view.node(&node.to_string())["routable"], false, "{view}");
    assert_eq!(view.node(&node.to_string())["effective_weight"], 0, "{view}");
    assert_eq!(view.body["panic"], false, "{view}");
    let picked = client.resolve("orders", "n=100").await;
    assert_eq!(picked.node_ids().len(), 3, "{picked}");
    assert!(!picked.node_ids().contains(&node.to_string()), "{picked}");
    victim.revive().await;
    let view = verdict(&client, "orders", node, "healthy").await;
    assert_eq!(view.node(&node.to_string())["routable"], true, "{view}");
    assert_eq!(view.node(&node.to_string())["reason"], Value::Null, "{view}");
}

#[tokio::test]
async fn a_paused_process_is_down_until_it_goes_on() {
    let (_server, client) = start().await;
    let victim = Target::start(1).await;
    let node = victim.nodes()[0];
    put(&client, "orders", quick_check(), &victim).await;
    verdict(&client, "orders", node, "healthy").await;
    victim.pause().await;
    verdict(&client, "orders", node, "down").await;
    victim.resume().await;
    verdict(&client, "orders", node, "healthy").await;
}

#[tokio::test]
async fn a_node_back_from_down_starts_an_empty_window() {
    let (_server, client) = start().await;
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    let check = json!({
        "kind": "http", "interval": "200ms", "timeout": "190ms", "fall": 3, "rise": 2, "window": 10
    });
    put(&client, "orders", check, &target).await;
    verdict(&client, "orders", node, "healthy").await;
    target.behave("error500").await;
    verdict(&client, "orders", node, "down").await;
    // Failures enough to fill a window: kept, they would call the node degraded for eight rounds more.
    let failed = target.count(node).await;
    eventually(TURN_DEADLINE, "a window of failures", async || match target.count(node).await {
        count if count >= failed + 12 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    target.behave("ok").await;
    let back = eventually(TURN_DEADLINE, "back from down", async || {
        let view = view(&client, "orders").await?;
        if view.node(&node.to_string())["verdict"] == "down" { Err(view) } else { Ok(view) }
    })
    .await;
    assert_eq!(back.node(&node.to_string())["verdict"], "healthy", "{back}");
    let answered = target.count(node).await;
    eventually(TURN_DEADLINE, "some rounds more", async || {
        let view = view(&client, "orders").await.map_err(|answer| answer.to_string())?;
        assert_eq!(view.node(&node.to_string())["verdict"], "healthy", "{view}");
        match target.count(node).await {
            count if count >= answered + 6 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn another_check_makes_a_new_beginning() {
    let (_server, client) = start().await;
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    // It would take forty seconds to come back under this policy.
    let check = json!({ "kind": "http", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 100 });
    put(&client, "orders", check, &target).await;
    verdict(&client, "orders", node, "healthy").await;
    target.behave("error500").await;
    verdict(&client, "orders", node, "down").await;
    client.patch_cluster("orders", &json!({ "check": { "kind": "tcp" } })).await.ok();
    let view = client.view("orders").await;
    assert_ne!(view.node(&node.to_string())["verdict"], "down", "found by a check that is no more: {view}");
    verdict(&client, "orders", node, "healthy").await;
}

#[tokio::test]
async fn a_restart_never_empties_a_list() {
    let (mut server, client) = start().await;
    let target = Target::start(3).await;
    let [dead, ..] = *target.nodes() else { panic!("three were asked for") };
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    target.behave_at(dead, "error500").await;
    verdict(&client, "orders", dead, "down").await;
    server.restart().await;
    eventually(TURN_DEADLINE, "the dead one is known again", async || {
        let view = client.view("orders").await;
        if view.status != 200 {
            view.expect_status(503).problem();
            assert!(view.text.contains("NOT_LOADED"), "{view}");
            return Err(view);
        }
        let nodes = view.body["nodes"].as_array().expect("nodes").clone();
        assert!(nodes.iter().any(|node| node["routable"] == true), "{view}");
        // Until a node is judged again it keeps the last verdict that reached the disk.
        let fresh = nodes.iter().all(|node| node["verdict"] != "unknown" && node["stale_since"].is_null());
        if fresh && view.node(&dead.to_string())["verdict"] == "down" { Ok(()) } else { Err(view) }
    })
    .await;
    assert_eq!(client.resolve("orders", "n=9").await.node_ids().len(), 2);
}

#[tokio::test]
async fn why_tells_the_evidence() {
    let (_server, client) = start().await;
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    put(&client, "orders", quick_check(), &target).await;
    verdict(&client, "orders", node, "healthy").await;
    let why = why(&client, "orders", node).await;
    assert_eq!(why.body["cluster"], "orders", "{why}");
    assert_eq!(why.body["node"], node.to_string(), "{why}");
    assert_eq!(why.body["verdict"], "healthy", "{why}");
    assert_eq!(why.body["routable"], true, "{why}");
    assert_eq!(why.body["reason"], Value::Null, "{why}");
    assert!(why.body["thresholds"].is_object() && why.body["protection"].is_object(), "{why}");
    let servers = client.get("/v1/servers").await;
    let server = servers.ok()["servers"][0]["id"].clone();
    assert_eq!(why.body["owner"], server, "{why}\n{servers}");
    assert_eq!(why.body["vantages"][0]["server"], server, "{why}");
    for result in results(&why) {
        assert!(result["at"].as_str().is_some_and(|at| at.contains('T')), "{why}");
        assert!(result["outcome"].is_string(), "{why}");
        assert!(result["latency_ms"].as_f64().is_some_and(|latency| latency >= 0.0), "{why}");
    }
    let absent = client.why("orders", "127.0.0.9:1").await;
    assert!(absent.expect_problem(404).contains("127.0.0.9:1"), "{absent}");
    client.why("absent", "127.0.0.9:1").await.expect_problem(404);
}

#[tokio::test]
async fn the_list_counts_the_healthy() {
    let (_server, client) = start().await;
    let target = Target::start(4).await;
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    target.behave_at(target.nodes()[0], "error500").await;
    verdict(&client, "orders", target.nodes()[0], "down").await;
    let list = client.get("/v1/clusters").await;
    assert_eq!(list.ok()["clusters"][0]["nodes"], 4, "{list}");
    assert_eq!(list.body["clusters"][0]["healthy"], 3, "{list}");
}

#[tokio::test]
async fn a_slow_node_does_not_hold_up_the_others() {
    let (_server, client) = start().await;
    let slow = Target::start(100).await;
    slow.behave("slow-bytes").await;
    let good = Target::start(1).await;
    let check = json!({ "kind": "http", "interval": "2s", "timeout": "2s" });
    put(&client, "slow", check, &slow).await;
    put(&client, "good", quick_check(), &good).await;
    verdict(&client, "good", good.nodes()[0], "healthy").await;
    good.behave("error500").await;
    verdict(&client, "good", good.nodes()[0], "down").await;
    good.behave("ok").await;
    verdict(&client, "good", good.nodes()[0], "healthy").await;
}
