//! Real nodes, really broken: what checks find, what is routed to, and what is said about it.
//!
//! Deadlines here are long and no figure is asserted: a busy machine must not fail what works.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jcm_tests::{Answer, Client, Server, Target, eventually, target};
use serde_json::{Value, json};

/// Turns under [`quick_check`] take one to two seconds.
const TURN_DEADLINE: Duration = Duration::from_secs(30);
/// Turns of 600 nodes under the default policy take about four seconds.
const MANY_DEADLINE: Duration = Duration::from_mins(1);

/// Quick enough for a test, slow enough that a busy machine does not look like a failure.
fn quick_check() -> Value {
    json!({ "kind": "http", "path": "/status", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 })
}

async fn start() -> (Server, Client) {
    let server = Server::dev().start().await;
    let client = server.client();
    (server, client)
}

async fn put(client: &Client, name: &str, check: Value, target: &Target) {
    let cluster = json!({ "check": check, "nodes": target.definitions() });
    client.put_cluster(name, &cluster).await.ok();
}

/// The view once it is served: right after a start verdicts may be waited for.
async fn view(client: &Client, name: &str) -> Result<Answer, Answer> {
    let view = client.view(name).await;
    if view.status == 200 { Ok(view) } else { Err(view) }
}

/// Waits until the node has this verdict, and answers the view that said so.
async fn verdict(client: &Client, name: &str, node: SocketAddr, wanted: &str) -> Answer {
    eventually(TURN_DEADLINE, &format!("{node} is {wanted}"), async || {
        let view = view(client, name).await?;
        if view.node(&node.to_string())["verdict"] == wanted {
            Ok(view)
        } else {
            Err(view)
        }
    })
    .await
}

/// Waits until all nodes of the cluster have this verdict.
async fn all(client: &Client, name: &str, wanted: &str) -> Answer {
    eventually(
        TURN_DEADLINE,
        &format!("all of {name} are {wanted}"),
        async || {
            let view = view(client, name).await?;
            let nodes = view.ok()["nodes"].as_array().expect("nodes").clone();
            if nodes.iter().all(|node| node["verdict"] == wanted) {
                Ok(view)
            } else {
                Err(view)
            }
        },
    )
    .await
}

async fn why(client: &Client, name: &str, node: SocketAddr) -> Answer {
    let why = client.why(name, &node.to_string()).await;
    why.ok();
    why
}

fn results(why: &Answer) -> Vec<Value> {
    let vantages = why.ok()["vantages"]
        .as_array()
        .unwrap_or_else(|| panic!("no vantages: {why}"));
    vantages
        .iter()
        .flat_map(|vantage| vantage["results"].as_array().expect("results").clone())
        .collect()
}

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
        eventually(TURN_DEADLINE, "eight requests", async || {
            match target.count(*node).await {
                count @ ..8 => Err(format!("{behaviour}: {count}")),
                _ => Ok(()),
            }
        })
        .await;
        let why = why(&client, "dialects", *node).await;
        let results = results(&why);
        assert!(!results.is_empty(), "{why}");
        assert!(
            results.iter().all(|result| result["error"].is_null()),
            "{behaviour}: {why}"
        );
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
        assert!(
            node_view["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("down")),
            "{node_view}"
        );
        assert!(node_view["since"].is_string(), "{node_view}");
        let why = why(&client, "broken", *node).await;
        assert_eq!(why.body["verdict"], "down", "{why}");
        let results = results(&why);
        let failed = results.iter().filter_map(|result| result["error"].as_str());
        let texts: Vec<_> = failed.collect();
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{behaviour} says {part:?}: {why}"
        );
    }
    target.behave("ok").await;
    all(&client, "broken", "healthy").await;
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    let (_server, client) = start().await;
    // The first address is where the redirects point; it is in no cluster.
    let target = Target::start(2).await;
    let [elsewhere, node] = *target.nodes() else {
        panic!("two were asked for")
    };
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
    assert!(
        host.is_some_and(|host| host.ends_with(&node.to_string())),
        "{head}"
    );
    client
        .patch_cluster("asked", &json!({ "check": { "path": "/other?deep=1" } }))
        .await
        .ok();
    eventually(TURN_DEADLINE, "the new path is asked for", async || {
        let head = target.last_request(node).await;
        if head.starts_with("GET /other?deep=1 HTTP/1.1\r\n") {
            Ok(())
        } else {
            Err(head)
        }
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
    let [node, other] = *target.nodes() else {
        panic!("two were asked for")
    };
    target.behave_at(node, "hang").await;
    let check = json!({ "kind": "tcp", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 });
    put(&client, "plain", check, &target).await;
    all(&client, "plain", "healthy").await;
    assert_eq!(target.count(node).await, 0, "a connection is all it asks for");
    target.behave_at(other, "refuse").await;
    verdict(&client, "plain", other, "down").await;
    let why = why(&client, "plain", other).await;
    assert!(why.text.contains("refused"), "{why}");
    assert_eq!(
        client.view("plain").await.node(&node.to_string())["verdict"],
        "healthy"
    );
    target.behave_at(other, "ok").await;
    verdict(&client, "plain", other, "healthy").await;
}

#[tokio::test]
async fn a_connection_is_reused_unless_the_policy_wants_fresh_ones() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [kept, fresh] = *target.nodes() else {
        panic!("two were asked for")
    };
    let mut check = quick_check();
    client
        .put_cluster(
            "kept",
            &json!({ "check": check, "nodes": [target::definition(kept)] }),
        )
        .await
        .ok();
    check["fresh"] = json!(true);
    client
        .put_cluster(
            "fresh",
            &json!({ "check": check, "nodes": [target::definition(fresh)] }),
        )
        .await
        .ok();
    for node in [kept, fresh] {
        eventually(TURN_DEADLINE, "eight requests", async || {
            match target.count(node).await {
                count @ ..8 => Err(count.to_string()),
                _ => Ok(()),
            }
        })
        .await;
    }
    let connections = target.connections(kept).await;
    assert!(
        connections <= 2,
        "{connections} connections for at least eight requests"
    );
    let connections = target.connections(fresh).await;
    assert!(
        connections >= 8,
        "{connections} connections for at least eight requests"
    );
}

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
async fn two_failures_of_five_degrade_a_node_and_cut_its_weight() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [node, other] = *target.nodes() else {
        panic!("two were asked for")
    };
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
    eventually(TURN_DEADLINE, "a window of failures", async || {
        match target.count(node).await {
            count if count >= failed + 12 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
    target.behave("ok").await;
    let back = eventually(TURN_DEADLINE, "back from down", async || {
        let view = view(&client, "orders").await?;
        if view.node(&node.to_string())["verdict"] == "down" {
            Err(view)
        } else {
            Ok(view)
        }
    })
    .await;
    assert_eq!(back.node(&node.to_string())["verdict"], "healthy", "{back}");
    let answered = target.count(node).await;
    eventually(TURN_DEADLINE, "some rounds more", async || {
        let view = view(&client, "orders")
            .await
            .map_err(|answer| answer.to_string())?;
        assert_eq!(view.node(&node.to_string())["verdict"], "healthy", "{view}");
        match target.count(node).await {
            count if count >= answered + 6 => Ok(()),
            count => Err(count.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn what_people_decide_and_what_checks_find_are_two_things() {
    let (_server, client) = start().await;
    let target = Target::start(4).await;
    let [draining, offline, plain, _] = *target.nodes() else {
        panic!("four were asked for")
    };
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    client
        .patch_node("orders", &draining.to_string(), &json!({ "draining": true }))
        .await
        .ok();
    client
        .patch_node("orders", &offline.to_string(), &json!({ "online": false }))
        .await
        .ok();
    let view = client.view("orders").await;
    for (node, admin, reason) in [
        (draining, "draining", "draining"),
        (offline, "offline", "offline"),
    ] {
        let found = view.node(&node.to_string());
        assert_eq!(found["admin"], admin, "{view}");
        assert_eq!(found["verdict"], "healthy", "{view}");
        assert_eq!(found["routable"], false, "{view}");
        assert_eq!(found["reason"], reason, "{view}");
    }
    assert_eq!(
        view.body["panic"], false,
        "two of four left by decision are no emergency: {view}"
    );
    assert_eq!(view.node(&plain.to_string())["routable"], true, "{view}");
    // The verdict follows the node, whatever was decided.
    target.behave_at(draining, "error500").await;
    let view = verdict(&client, "orders", draining, "down").await;
    assert_eq!(view.node(&draining.to_string())["reason"], "draining", "{view}");
    target.behave_at(draining, "ok").await;
    verdict(&client, "orders", draining, "healthy").await;
    client
        .patch_node("orders", &draining.to_string(), &json!({ "draining": false }))
        .await
        .ok();
    let view = client.view("orders").await;
    assert_eq!(
        view.node(&draining.to_string())["routable"],
        true,
        "at once, its verdict was kept: {view}"
    );
}

#[tokio::test]
async fn an_offline_cluster_is_empty_on_purpose() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    client
        .patch_cluster("orders", &json!({ "online": false }))
        .await
        .ok();
    let view = client.view("orders").await;
    for node in view.ok()["nodes"].as_array().expect("nodes") {
        assert_eq!(node["routable"], false, "{view}");
        assert_eq!(node["verdict"], "healthy", "{view}");
    }
    assert_eq!(view.body["panic"], false, "{view}");
    assert!(client.resolve("orders", "n=10").await.node_ids().is_empty());
    client
        .patch_cluster("orders", &json!({ "online": true }))
        .await
        .ok();
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
        assert!(
            node["reason"]
                .as_str()
                .is_some_and(|reason| reason.contains("panic")),
            "{view}"
        );
    }
    assert_eq!(client.resolve("orders", "n=10").await.node_ids().len(), 4);
    // One of four is below one half, two are not.
    let [first, second, ..] = *target.nodes() else {
        panic!("four were asked for")
    };
    target.behave_at(first, "ok").await;
    let view = verdict(&client, "orders", first, "healthy").await;
    assert_eq!(view.body["panic"], true, "{view}");
    target.behave_at(second, "ok").await;
    let view = verdict(&client, "orders", second, "healthy").await;
    assert_eq!(view.body["panic"], false, "{view}");
    let picked: BTreeSet<_> = client
        .resolve("orders", "n=10")
        .await
        .node_ids()
        .into_iter()
        .collect();
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
    assert_eq!(
        (&node["verdict"], &node["routable"]),
        (&json!("unknown"), &json!(true)),
        "{view}"
    );
    assert_eq!(node["reason"], "no check", "{view}");
    assert_eq!(view.body["panic"], false, "{view}");
    assert_eq!(client.resolve("plain", "n=1").await.node_ids(), ["127.0.0.9:1"]);
}

#[tokio::test]
async fn nodes_nobody_has_judged_are_routed_to_only_while_all_are_such() {
    let (_server, client) = start().await;
    let target = Target::start(2).await;
    let [hanging, working] = *target.nodes() else {
        panic!("two were asked for")
    };
    target.behave_at(hanging, "hang").await;
    // The first round of a node that hangs lasts long enough to look at it; three of them make it down.
    let check = json!({ "kind": "http", "interval": "8s", "timeout": "8s", "fall": 3 });
    client
        .put_cluster(
            "new",
            &json!({ "check": check, "nodes": [target::definition(hanging)] }),
        )
        .await
        .ok();
    let before = client.view("new").await;
    let node = before.node(&hanging.to_string());
    assert_eq!(
        (&node["verdict"], &node["routable"]),
        (&json!("unknown"), &json!(true)),
        "{before}"
    );
    assert_eq!(node["reason"], "not yet checked", "{before}");
    assert_eq!(before.body["panic"], false, "{before}");
    assert_eq!(
        client.resolve("new", "n=1").await.node_ids(),
        [hanging.to_string()]
    );
    // As soon as one is known to work, the others have to show it.
    client.post_nodes("new", &target::definition(working)).await.ok();
    let after = verdict(&client, "new", working, "healthy").await;
    let node = after.node(&hanging.to_string());
    assert_eq!(
        (&node["verdict"], &node["routable"]),
        (&json!("unknown"), &json!(false)),
        "{after}"
    );
    assert_eq!(node["reason"], "not yet checked", "{after}");
    assert_eq!(
        client.resolve("new", "n=5").await.node_ids(),
        [working.to_string()]
    );
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
    client
        .patch_cluster("orders", &json!({ "check": { "kind": "tcp" } }))
        .await
        .ok();
    let view = client.view("orders").await;
    assert_ne!(
        view.node(&node.to_string())["verdict"],
        "down",
        "found by a check that is no more: {view}"
    );
    verdict(&client, "orders", node, "healthy").await;
}

#[tokio::test]
async fn a_removed_node_is_left_alone() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    let [removed, deleted, unchecked] = *target.nodes() else {
        panic!("three were asked for")
    };
    for (name, node) in [("one", removed), ("two", deleted), ("three", unchecked)] {
        let cluster = json!({ "check": quick_check(), "nodes": [target::definition(node)] });
        client.put_cluster(name, &cluster).await.ok();
        verdict(&client, name, node, "healthy").await;
    }
    client.delete_node("one", &removed.to_string()).await.ok();
    client.delete_cluster("two").await.ok();
    client
        .patch_cluster("three", &json!({ "check": { "kind": "none" } }))
        .await
        .ok();
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
    assert!(
        why.body["thresholds"].is_object() && why.body["protection"].is_object(),
        "{why}"
    );
    let servers = client.get("/v1/servers").await;
    let server = servers.ok()["servers"][0]["id"].clone();
    assert_eq!(why.body["owner"], server, "{why}\n{servers}");
    assert_eq!(why.body["vantages"][0]["server"], server, "{why}");
    for result in results(&why) {
        assert!(result["at"].as_str().is_some_and(|at| at.contains('T')), "{why}");
        assert!(result["outcome"].is_string(), "{why}");
        assert!(
            result["latency_ms"]
                .as_f64()
                .is_some_and(|latency| latency >= 0.0),
            "{why}"
        );
    }
    let absent = client.why("orders", "127.0.0.9:1").await;
    assert!(absent.expect_problem(404).contains("127.0.0.9:1"), "{absent}");
    client.why("absent", "127.0.0.9:1").await.expect_problem(404);
}

#[tokio::test]
async fn a_restart_never_empties_a_list() {
    let (mut server, client) = start().await;
    let target = Target::start(3).await;
    let [dead, ..] = *target.nodes() else {
        panic!("three were asked for")
    };
    put(&client, "orders", quick_check(), &target).await;
    all(&client, "orders", "healthy").await;
    target.behave_at(dead, "error500").await;
    verdict(&client, "orders", dead, "down").await;
    server.restart().await;
    let view = eventually(TURN_DEADLINE, "all judged again", async || {
        let view = client.view("orders").await;
        if view.status != 200 {
            view.expect_status(503).problem();
            assert!(view.text.contains("NOT_LOADED"), "{view}");
            return Err(view);
        }
        let nodes = view.body["nodes"].as_array().expect("nodes").clone();
        assert!(nodes.iter().any(|node| node["routable"] == true), "{view}");
        if nodes.iter().all(|node| node["verdict"] != "unknown") {
            Ok(view)
        } else {
            Err(view)
        }
    })
    .await;
    assert_eq!(view.node(&dead.to_string())["verdict"], "down", "{view}");
    assert_eq!(client.resolve("orders", "n=9").await.node_ids().len(), 2);
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

/// 30 clusters of 20 nodes each, 12 of them well all the time and 8 broken in different ways.
const CLUSTERS: usize = 30;
const STEADY: usize = 12;

struct Fleet {
    steady: Target,
    killed: Target,
    paused: Target,
    moody: Vec<(Target, &'static str)>,
}

impl Fleet {
    async fn start() -> Self {
        let mut moody = Vec::new();
        for behaviour in ["error500", "slow-bytes", "refuse", "close"] {
            moody.push((Target::start(CLUSTERS).await, behaviour));
        }
        Self {
            steady: Target::start(CLUSTERS * STEADY).await,
            killed: Target::start(CLUSTERS * 2).await,
            paused: Target::start(CLUSTERS * 2).await,
            moody,
        }
    }

    fn steady_nodes(&self, cluster: usize) -> &[SocketAddr] {
        &self.steady.nodes()[cluster * STEADY..][..STEADY]
    }

    fn broken_nodes(&self, cluster: usize) -> Vec<SocketAddr> {
        let pairs = [&self.killed, &self.paused].map(|target| &target.nodes()[cluster * 2..][..2]);
        let single = self.moody.iter().map(|(target, _)| target.nodes()[cluster]);
        pairs.concat().into_iter().chain(single).collect()
    }

    async fn break_some(&mut self) {
        self.killed.kill().await;
        self.paused.pause().await;
        for (target, behaviour) in &self.moody {
            target.behave(behaviour).await;
        }
    }

    async fn heal(&mut self) {
        self.killed.revive().await;
        self.paused.resume().await;
        for (target, _) in &self.moody {
            target.behave("ok").await;
        }
    }
}

/// Looks at all clusters until the breakable nodes have this verdict; the steady ones must never be down.
async fn fleet_turns(client: &Client, fleet: &Fleet, wanted: &str) -> Duration {
    let start = Instant::now();
    for cluster in 0..CLUSTERS {
        let name = format!("fleet-{cluster}");
        eventually(
            MANY_DEADLINE,
            &format!("{name}: breakable nodes {wanted}"),
            async || {
                let view = view(client, &name).await?;
                for node in fleet.steady_nodes(cluster) {
                    let verdict = &view.node(&node.to_string())["verdict"];
                    assert_ne!(verdict, "down", "{node} works all the time\n{view}");
                }
                let turned = |node: &SocketAddr| view.node(&node.to_string())["verdict"] == wanted;
                if fleet.broken_nodes(cluster).iter().all(turned) {
                    Ok(())
                } else {
                    Err(view)
                }
            },
        )
        .await;
    }
    start.elapsed()
}

#[tokio::test]
async fn of_thirty_clusters_of_twenty_the_broken_nodes_are_found_and_only_those() {
    let (_server, client) = start().await;
    let mut fleet = Fleet::start().await;
    for cluster in 0..CLUSTERS {
        let nodes: Vec<_> = fleet
            .steady_nodes(cluster)
            .iter()
            .copied()
            .chain(fleet.broken_nodes(cluster))
            .map(target::definition)
            .collect();
        assert_eq!(nodes.len(), 20);
        // The default policy: every second, three to fall, two to rise.
        let cluster_definition = json!({ "check": { "kind": "http" }, "nodes": nodes });
        client
            .put_cluster(&format!("fleet-{cluster}"), &cluster_definition)
            .await
            .ok();
    }
    let judged = fleet_turns(&client, &fleet, "healthy").await;

    fleet.break_some().await;
    let down = fleet_turns(&client, &fleet, "down").await;
    for cluster in 0..CLUSTERS {
        let picked = client.resolve(&format!("fleet-{cluster}"), "n=100").await;
        let picked_ids: BTreeSet<_> = picked.node_ids().into_iter().collect();
        let steady: BTreeSet<_> = fleet
            .steady_nodes(cluster)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(picked_ids, steady, "{picked}");
    }

    fleet.heal().await;
    let back = fleet_turns(&client, &fleet, "healthy").await;
    for cluster in 0..CLUSTERS {
        assert_eq!(
            client
                .resolve(&format!("fleet-{cluster}"), "n=100")
                .await
                .node_ids()
                .len(),
            20
        );
    }
    eprintln!("600 nodes judged after {judged:.1?}, 240 down after {down:.1?}, back after {back:.1?}");
}
