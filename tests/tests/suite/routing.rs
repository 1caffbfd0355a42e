//! What is routed to: what people decided, what checks found, and the protection that never lets a list run empty.

use std::collections::BTreeSet;

use jcm_tests::server::start;
use jcm_tests::{Target, target};
use serde_json::json;

use crate::checked::{all, put, quick_check, verdict};

#[tokio::test]
async fn two_failures_of_five_degrade_a_node_and_cut_its_weight() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [node, other] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(node, "flaky").await;
    let check = json!({ "kind": "http", "interval": "200ms", "timeout": "190ms", "fall": 3, "rise": 2 });
    put(&client, "wobbly", check, &target).await;
    let view = verdict(&client, "wobbly", node, "degraded").await;
    let degraded = view.node(&node.to_string());
    assert_eq!(degraded["routable"], true, "{view}");
    assert_eq!(degraded["weight"], 100, "the weight stays as defined: {view}");
    assert_eq!(degraded["effective_weight"], 25, "{view}");
    assert_eq!(degraded["reason"], "degraded", "{view}");
    assert_eq!(view.node(&other.to_string())["effective_weight"], 100, "{view}");
    target.behave("ok").await;
    let view = verdict(&client, "wobbly", node, "healthy").await;
    assert_eq!(view.node(&node.to_string())["effective_weight"], 100, "{view}");
}

#[tokio::test]
async fn what_people_decide_and_what_checks_find_are_two_things() {
    let (_server, client) = start().await;
    let target = Target::start(4).await;
    let [draining, offline, plain, _] = *target.nodes() else { panic!("four were asked for") };
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    client.patch_node("orders", &draining.to_string(), &json!({ "draining": true })).await.ok();
    client.patch_node("orders", &offline.to_string(), &json!({ "online": false })).await.ok();
    let view = client.view("orders").await;
    for (node, admin, reason) in [(draining, "draining", "draining"), (offline, "offline", "offline")] {
        let found = view.node(&node.to_string());
        assert_eq!(found["admin"], admin, "{view}");
        assert_eq!(found["verdict"], "healthy", "{view}");
        assert_eq!(found["routable"], false, "{view}");
        assert_eq!(found["reason"], reason, "{view}");
    }
    assert_eq!(view.body["panic"], false, "two of four left by decision are no emergency: {view}");
    assert_eq!(view.node(&plain.to_string())["routable"], true, "{view}");
    // The verdict follows the node, whatever was decided.
    target.behave_at(draining, "error500").await;
    let view = verdict(&client, "orders", draining, "down").await;
    assert_eq!(view.node(&draining.to_string())["reason"], "draining", "{view}");
    target.behave_at(draining, "ok").await;
    verdict(&client, "orders", draining, "healthy").await;
    client.patch_node("orders", &draining.to_string(), &json!({ "draining": false })).await.ok();
    let view = client.view("orders").await;
    assert_eq!(view.node(&draining.to_string())["routable"], true, "at once, its verdict was kept: {view}");
}

#[tokio::test]
async fn an_offline_cluster_is_empty_on_purpose() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    client.patch_cluster("orders", &json!({ "online": false })).await.ok();
    let view = client.view("orders").await;
    for node in view.ok()["nodes"].as_array().expect("nodes") {
        assert_eq!(node["routable"], false, "{view}");
        assert_eq!(node["verdict"], "healthy", "{view}");
    }
    assert_eq!(view.body["panic"], false, "{view}");
    assert!(client.resolve("orders", "n=10").await.node_ids().is_empty());
    client.patch_cluster("orders", &json!({ "online": true })).await.ok();
    assert_eq!(client.resolve("orders", "n=10").await.node_ids().len(), 2);
}

#[tokio::test]
async fn when_all_are_dead_all_are_routed_to_and_it_says_so() {
    let (_server, client) = start().await;
    let target = Target::start(4).await;
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    target.behave("error500").await;
    let view = all(&client, "orders", "down").await;
    assert_eq!(view.body["panic"], true, "{view}");
    for node in view.body["nodes"].as_array().expect("nodes") {
        assert_eq!(node["routable"], true, "{view}");
        assert_eq!(node["effective_weight"], 100, "{view}");
        assert!(node["reason"].as_str().is_some_and(|reason| reason.contains("panic")), "{view}");
    }
    assert_eq!(client.resolve("orders", "n=10").await.node_ids().len(), 4);
    // One of four is below one half, two are not.
    let [first, second, ..] = *target.nodes() else { panic!("four were asked for") };
    target.behave_at(first, "ok").await;
    let view = verdict(&client, "orders", first, "healthy").await;
    assert_eq!(view.body["panic"], true, "{view}");
    target.behave_at(second, "ok").await;
    let view = verdict(&client, "orders", second, "healthy").await;
    assert_eq!(view.body["panic"], false, "{view}");
    let picked: BTreeSet<_> = client.resolve("orders", "n=10").await.node_ids().into_iter().collect();
    assert_eq!(picked, BTreeSet::from([first.to_string(), second.to_string()]));
}

#[tokio::test]
async fn protection_can_be_switched_off() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let cluster = json!({
        "check": quick_check(), "protection": { "panic_below": 0.0 }, "nodes": target.definitions()
    });
    client.put_cluster("bare", &cluster).await.ok();
    all(&client, "bare", "healthy").await;
    target.behave("error500").await;
    let view = all(&client, "bare", "down").await;
    assert_eq!(view.body["panic"], false, "{view}");
    let picked = client.resolve("bare", "n=10").await;
    assert!(picked.node_ids().is_empty(), "{picked}");
}

#[tokio::test]
async fn without_a_check_every_node_is_routable_and_unknown() {
    let (_server, client) = start().await;
    // Nobody listens there.
    let nodes = json!([{ "address": "127.0.0.9", "ports": { "http": 1 } }]);
    client.put_cluster("plain", &json!({ "nodes": nodes })).await.ok();
    let view = client.view("plain").await;
    let node = view.node("127.0.0.9:1");
    assert_eq!((&node["verdict"], &node["routable"]), (&json!("unknown"), &json!(true)), "{view}");
    assert_eq!(node["reason"], "no check", "{view}");
    assert_eq!(view.body["panic"], false, "{view}");
    assert_eq!(client.resolve("plain", "n=1").await.node_ids(), ["127.0.0.9:1"]);
}

#[tokio::test]
async fn nodes_nobody_has_judged_are_routed_to_only_while_all_are_such() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [hanging, working] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(hanging, "hang").await;
    // The first round of a node that hangs lasts long enough to look at it; three of them make it down.
    let check = json!({ "kind": "http", "interval": "8s", "timeout": "8s", "fall": 3 });
    client.put_cluster("new", &json!({ "check": check, "nodes": [target::definition(hanging)] })).await.ok();
    let before = client.view("new").await;
    let node = before.node(&hanging.to_string());
    assert_eq!((&node["verdict"], &node["routable"]), (&json!("unknown"), &json!(true)), "{before}");
    assert_eq!(node["reason"], "not yet checked", "{before}");
    assert_eq!(before.body["panic"], false, "{before}");
    assert_eq!(client.resolve("new", "n=1").await.node_ids(), [hanging.to_string()]);
    // As soon as one is known to work, the others have to show it.
    client.post_nodes("new", &target::definition(working)).await.ok();
    let after = verdict(&client, "new", working, "healthy").await;
    let node = after.node(&hanging.to_string());
    assert_eq!((&node["verdict"], &node["routable"]), (&json!("unknown"), &json!(false)), "{after}");
    assert_eq!(node["reason"], "not yet checked", "{after}");
    assert_eq!(client.resolve("new", "n=5").await.node_ids(), [working.to_string()]);
}
