//! Real nodes, really broken: what counts as an answer and what as a failure.

use jcm_tests::server::start;
use jcm_tests::{Target, eventually, target};
use serde_json::json;
use std::time::Duration;

use crate::checked::{TURN_DEADLINE, all, put, quick_check, results, verdict, why};

#[tokio::test]
async fn every_correct_answer_of_http_1_counts_as_healthy() {
    let (_server, client) = start().await;
    let behaviours = [
        "ok",
        "http10",
        "noreason",
        "lowercase",
        "no-content",
        "chunked",
        "informational",
        "close-reused",
        "endless-body",
    ];
    let target = Target::start(behaviours.len()).await;
    for (node, behaviour) in target.nodes().iter().zip(behaviours) {
        target.behave_at(*node, behaviour).await;
    }
    put(&client, "dialects", quick_check(), &target).await;
    all(&client, "dialects", "healthy").await;
    // Many rounds, so that connections are used again: not one of them may have failed.
    for (node, behaviour) in target.nodes().iter().zip(behaviours) {
        eventually(TURN_DEADLINE, "eight requests", async || match target.count(*node).await {
            count @ ..8 => Err(format!("{behaviour}: {count}")),
            _ => Ok(()),
        })
        .await;
        let why = why(&client, "dialects", *node).await;
        let results = results(&why);
        assert!(!results.is_empty(), "{why}");
        assert!(results.iter().all(|result| result["error"].is_null()), "{behaviour}: {why}");
    }
    all(&client, "dialects", "healthy").await;
}

#[tokio::test]
async fn every_kind_of_failure_is_down_with_its_reason() {
    let (_server, client) = start().await;
    let table = [
        ("error500", "500"),
        ("redirect", "302"),
        ("hang", "timed out"),
        ("slow-bytes", "timed out"),
        ("refuse", "refused"),
        ("close", "closed"),
        ("garbage", "not an HTTP"),
        ("endless-headers", "headers"),
    ];
    let target = Target::start(table.len()).await;
    put(&client, "broken", quick_check(), &target).await;
    all(&client, "broken", "healthy").await;
    for (node, (behaviour, _)) in target.nodes().iter().zip(table) {
        target.behave_at(*node, behaviour).await;
    }
    let down = all(&client, "broken", "down").await;
    for (node, (behaviour, part)) in target.nodes().iter().zip(table) {
        let node_view = down.node(&node.to_string());
        assert!(node_view["reason"].as_str().is_some_and(|reason| reason.contains("down")), "{node_view}");
        assert!(node_view["since"].is_string(), "{node_view}");
        let why = why(&client, "broken", *node).await;
        assert_eq!(why.body["verdict"], "down", "{why}");
        let results = results(&why);
        let failed = results.iter().filter_map(|result| result["error"].as_str());
        let texts: Vec<_> = failed.collect();
        assert!(texts.iter().any(|text| text.contains(part)), "{behaviour} says {part:?}: {why}");
    }
    target.behave("ok").await;
    all(&client, "broken", "healthy").await;
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let (_server, client) = start().await;
    // The first address is where the redirects point; it is in no cluster.
    let target = Target::start(2).await;
    let [elsewhere, node] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(node, "redirect").await;
    let cluster = json!({ "check": quick_check(), "nodes": [target::definition(node)] });
    client.put_cluster("redirecting", &cluster).await.ok();
    verdict(&client, "redirecting", node, "down").await;
    assert_eq!(target.connections(elsewhere).await, 0, "somebody followed");
}

#[tokio::test]
async fn the_request_asks_for_the_path_at_the_node() {
    let (_server, client) = start().await;
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    put(&client, "asked", quick_check(), &target).await;
    verdict(&client, "asked", node, "healthy").await;
    let head = target.last_request(node).await;
    assert!(head.starts_with("GET /status HTTP/1.1\r\n"), "{head}");
    let host = head.lines().find(|line| line.to_lowercase().starts_with("host:"));
    assert!(host.is_some_and(|host| host.ends_with(&node.to_string())), "{head}");
    client.patch_cluster("asked", &json!({ "check": { "path": "/other?deep=1" } })).await.ok();
    eventually(TURN_DEADLINE, "the new path is asked for", async || {
        let head = target.last_request(node).await;
        if head.starts_with("GET /other?deep=1 HTTP/1.1\r\n") { Ok(()) } else { Err(head) }
    })
    .await;
}

#[tokio::test]
async fn the_expected_statuses_are_the_policys() {
    let (_server, client) = start().await;
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    target.behave("error500").await;
    let mut check = quick_check();
    check["expect"] = json!("500-503");
    put(&client, "odd", check, &target).await;
    verdict(&client, "odd", node, "healthy").await;
    target.behave("ok").await;
    verdict(&client, "odd", node, "down").await;
}

#[tokio::test]
async fn a_tcp_check_asks_for_a_connection_and_no_more() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [node, other] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(node, "hang").await;
    let check = json!({ "kind": "tcp", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 });
    put(&client, "plain", check, &target).await;
    all(&client, "plain", "healthy").await;
    assert_eq!(target.count(node).await, 0, "a connection is all it asks for");
    target.behave_at(other, "refuse").await;
    verdict(&client, "plain", other, "down").await;
    let why = why(&client, "plain", other).await;
    assert!(why.text.contains("refused"), "{why}");
    assert_eq!(client.view("plain").await.node(&node.to_string())["verdict"], "healthy");
    target.behave_at(other, "ok").await;
    verdict(&client, "plain", other, "healthy").await;
}

#[tokio::test]
async fn a_connection_is_reused_unless_the_policy_wants_fresh_ones() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [kept, fresh] = *target.nodes() else { panic!("two were asked for") };
    let mut check = quick_check();
    client.put_cluster("kept", &json!({ "check": check, "nodes": [target::definition(kept)] })).await.ok();
    check["fresh"] = json!(true);
    client.put_cluster("fresh", &json!({ "check": check, "nodes": [target::definition(fresh)] })).await.ok();
    for node in [kept, fresh] {
        eventually(TURN_DEADLINE, "eight requests", async || match target.count(node).await {
            count @ ..8 => Err(count.to_string()),
            _ => Ok(()),
        })
        .await;
    }
    let connections = target.connections(kept).await;
    assert!(connections <= 2, "{connections} connections for at least eight requests");
    let connections = target.connections(fresh).await;
    assert!(connections >= 8, "{connections} connections for at least eight requests");
}

#[tokio::test]
async fn a_removed_node_is_left_alone() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    let [removed, deleted, unchecked] = *target.nodes() else { panic!("three were asked for") };
    for (name, node) in [("one", removed), ("two", deleted), ("three", unchecked)] {
        let cluster = json!({ "check": quick_check(), "nodes": [target::definition(node)] });
        client.put_cluster(name, &cluster).await.ok();
        verdict(&client, name, node, "healthy").await;
    }
    client.delete_node("one", &removed.to_string()).await.ok();
    client.delete_cluster("two").await.ok();
    client.patch_cluster("three", &json!({ "check": { "kind": "none" } })).await.ok();
    for node in [removed, deleted, unchecked] {
        // At most the round that was under way, and then never again: five intervals of silence.
        eventually(TURN_DEADLINE, &format!("{node} is left alone"), async || {
            let before = target.count(node).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            match target.count(node).await {
                after if after == before => Ok(()),
                after => Err(format!("{} requests in five intervals", after - before)),
            }
        })
        .await;
    }
}
