//! Programs of 2015 keep working: the management calls they make, and the client library they embed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jcm_tests::server::start;
use jcm_tests::{Answer, Client, Target, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const TURN_DEADLINE: Duration = Duration::from_secs(30);

/// Every result is 200; its code tells.
#[track_caller]
fn data(answer: &Answer) -> &Value {
    answer.expect_status(200);
    assert_eq!(answer.body["code"], 0, "{answer}");
    &answer.body["data"]
}

#[track_caller]
fn check_failed(answer: &Answer, part: &str) {
    answer.expect_status(200);
    assert!(answer.body["code"].as_i64().is_some_and(|code| code != 0), "{answer}");
    assert!(
        answer.body["msg"].as_str().is_some_and(|text| text.contains(part)),
        "it must name {part:?}: {answer}"
    );
}

fn posted_cluster(name: &str, nodes: &[Value]) -> Value {
    json!({ "name": name, "online": "ONLINE", "checkType": "NONE", "nodes": nodes })
}

fn posted_node(ip: &str, port: u16) -> Value {
    json!({ "ip": ip, "protos": [{ "port": port, "proto": "HTTP" }], "online": "ONLINE" })
}

async fn post_cluster(client: &Client, name: &str, target: &Target) {
    let nodes: Vec<_> =
        target.nodes().iter().map(|node| posted_node(&node.ip().to_string(), node.port())).collect();
    let cluster = json!({ "name": name, "online": "ONLINE", "nodes": nodes, "checkType": "HTTP", "checkFile": "/status" });
    data(&client.post("/c", &cluster).await);
}

async fn delete_nodes(client: &Client, name: &str, specs: Value) -> Answer {
    client.send(client.request(Method::DELETE, &format!("/c/node/{name}")).json(&specs)).await
}

/// The client library of 2015, with the habits that its programs cannot change.
struct OldClient {
    client: Client,
    asks_for: BTreeSet<String>,
    held: BTreeMap<String, Value>,
}

impl OldClient {
    fn new(client: &Client, names: &[&str]) -> Self {
        let asks_for = names.iter().map(|name| (*name).to_owned()).collect();
        Self { client: client.clone(), asks_for, held: BTreeMap::new() }
    }

    async fn poll(&mut self) -> Answer {
        let units: Vec<_> = self
            .asks_for
            .iter()
            .map(|name| {
                let version = self.held.get(name).map_or(json!(0), |cluster| cluster["version"].clone());
                json!({ "name": name, "version": version })
            })
            .collect();
        let answer = self.client.post("/sub", &json!({ "tag": 7, "units": units })).await;
        answer.expect_status(200);
        for unit in answer.body["units"].as_array().unwrap_or_else(|| panic!("not wrapped: {answer}")) {
            let name = unit["name"].as_str().expect("a name").to_owned();
            match unit["kind"].as_str().expect("a kind") {
                "RESP_UPDATE" => {
                    self.held.insert(name, unit["cluster"].clone());
                }
                "RESP_STATUS" => {
                    // It only ever takes nodes out; a node comes back with the whole cluster alone.
                    let invalid: BTreeSet<_> = unit["invalids"]
                        .as_array()
                        .expect("a list")
                        .iter()
                        .filter_map(Value::as_str)
                        .collect();
                    let cluster =
                        self.held.get_mut(&name).expect("a status of what it does not hold breaks it");
                    for node in cluster["nodes"].as_array_mut().expect("nodes") {
                        if invalid.contains(spec(node).as_str()) {
                            node["status"] = json!("ABNORMAL");
                        }
                    }
                }
                "RESP_REMOVE" => {
                    // And it never asks for it again.
                    self.held.remove(&name);
                    self.asks_for.remove(&name);
                }
                other => panic!("{other}: {answer}"),
            }
        }
        answer
    }

    /// The ports that it sends traffic to.
    fn picks(&self, name: &str) -> BTreeSet<u64> {
        let nodes = self.held.get(name).and_then(|cluster| cluster["nodes"].as_array());
        let fit = nodes.into_iter().flatten().filter(|node| node["status"] == "NORMAL");
        fit.filter_map(|node| node["protos"][0]["port"].as_u64()).collect()
    }

    async fn until_picks(&mut self, name: &str, wanted: &BTreeSet<u64>) {
        eventually(TURN_DEADLINE, &format!("it picks {wanted:?} of {name}"), async || {
            let answer = self.poll().await;
            if self.picks(name) == *wanted {
                Ok(())
            } else {
                Err(format!("{:?} after {answer}", self.picks(name)))
            }
        })
        .await;
    }
}

fn spec(node: &Value) -> String {
    let protos = node["protos"].as_array().expect("protos").iter();
    let ports =
        protos.map(|proto| format!("|{}:{}", proto["proto"].as_str().expect("a proto"), proto["port"]));
    node["ip"].as_str().expect("an ip").to_owned() + &ports.collect::<String>()
}

fn ports(target: &Target) -> Vec<u64> {
    target.nodes().iter().map(|node| u64::from(node.port())).collect()
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_cluster_with_dots_and_high_ports_is_managed() {
    let (_server, client) = start().await;
    let name = "com.example.orders";
    let cluster = json!({
        "name": name, "online": "ONLINE", "checkType": "TCP", "nodes": [posted_node("127.0.0.9", 40000)],
        "somethingElse": true
    });
    data(&client.post("/c", &cluster).await);
    let more = json!([
        { "ip": "127.0.0.9", "protos": [{ "port": 65535, "proto": "HTTP" }, { "port": 50000, "proto": "TCP" }],
          "udata": "x", "online": "ONLINE" }
    ]);
    data(&client.post(&format!("/c/node/{name}"), &more).await);
    assert_eq!(*data(&client.get("/c/list").await), json!([name]));

    let got = client.get(&format!("/c/{name}")).await;
    let held = data(&got);
    assert_eq!(
        fields(held),
        BTreeSet::from(["name", "online", "nodes", "checkType", "checkFile", "version"]),
        "{got}"
    );
    assert_eq!(
        (&held["name"], &held["online"], &held["checkType"]),
        (&json!(name), &json!("ONLINE"), &json!("TCP"))
    );
    let nodes = held["nodes"].as_array().expect("nodes");
    let node_fields = BTreeSet::from(["ip", "protos", "udata", "status", "online", "lastCheck"]);
    assert!(nodes.iter().all(|node| fields(node) == node_fields), "{got}");
    let specs: BTreeSet<_> = nodes.iter().map(spec).collect();
    let high = specs.iter().find(|spec| spec.contains("65535")).expect("the high port").clone();
    assert!(specs.contains("127.0.0.9|HTTP:40000") || specs.contains("127.0.0.9|TCP:40000"), "{got}");

    data(
        &client.post(&format!("/c/node/online/{name}"), &json!({ "spec": high, "online": "OFFLINE" })).await,
    );
    let got = client.get(&format!("/c/{name}")).await;
    let out: Vec<_> = data(&got)["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter(|node| node["online"] == "OFFLINE")
        .collect();
    assert_eq!(out.len(), 1, "{got}");
    assert_eq!(spec(out[0]), high, "{got}");

    // Without regard to case.
    data(&delete_nodes(&client, name, json!([high.to_lowercase()])).await);
    let got = client.get(&format!("/c/{name}")).await;
    assert_eq!(data(&got)["nodes"].as_array().map(Vec::len), Some(1), "{got}");
    assert_eq!(
        client.get_cluster(name).await.ok()["nodes"].as_array().map(Vec::len),
        Some(1),
        "/v1 sees the same"
    );

    data(&client.delete(&format!("/c/{name}")).await);
    assert_eq!(*data(&client.get("/c/list").await), json!([]));
    client.get_cluster(name).await.expect_problem(404);
}

#[tokio::test]
async fn a_failure_is_told_by_its_code() {
    let (_server, client) = start().await;
    check_failed(&client.get("/c/absent").await, "absent");
    check_failed(&client.delete("/c/absent").await, "absent");
    check_failed(&client.post("/c/node/absent", &json!([posted_node("127.0.0.9", 1)])).await, "absent");
    check_failed(&client.post("/c", &json!({ "nodes": [] })).await, "name");
    check_failed(&client.post("/c", &json!({ "name": ".." })).await, "name");
    check_failed(
        &client.post("/c", &json!({ "name": "x", "nodes": [posted_node("localhost", 1)] })).await,
        "localhost",
    );
    check_failed(
        &client.post("/c", &json!({ "name": "x", "nodes": [posted_node("169.254.169.254", 80)] })).await,
        "",
    );
    check_failed(&client.post("/c", &json!({ "name": "x", "checkType": "SCRIPT" })).await, "SCRIPT");
    let request = client.request(Method::POST, "/c").body("{ broken");
    check_failed(&client.send(request).await, "");
    let request = client.request(Method::POST, "/c").body("[".repeat(100_000));
    check_failed(&client.send(request).await, "");
    assert_eq!(*data(&client.get("/c/list").await), json!([]));
}

#[tokio::test]
async fn an_old_client_sees_a_death_and_the_recovery() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    post_cluster(&client, "orders", &target).await;
    let all = ports(&target);
    let mut old = OldClient::new(&client, &["orders"]);
    old.until_picks("orders", &all.iter().copied().collect()).await;
    target.behave_at(target.nodes()[1], "error500").await;
    old.until_picks("orders", &BTreeSet::from([all[0], all[2]])).await;
    target.behave_at(target.nodes()[1], "ok").await;
    old.until_picks("orders", &all.iter().copied().collect()).await;
}

#[tokio::test]
async fn an_old_client_is_never_left_without_a_node() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    post_cluster(&client, "orders", &target).await;
    let all: BTreeSet<_> = ports(&target).into_iter().collect();
    let mut old = OldClient::new(&client, &["orders"]);
    old.until_picks("orders", &all).await;
    target.behave("error500").await;
    eventually(TURN_DEADLINE, "all are down", async || {
        old.poll().await;
        assert!(!old.picks("orders").is_empty(), "it has nobody left: {:?}", old.held);
        let view = client.view("orders").await;
        let nodes = view.ok()["nodes"].as_array().expect("nodes");
        if nodes.iter().all(|node| node["verdict"] == "down") { Ok(()) } else { Err(view) }
    })
    .await;
    old.until_picks("orders", &all).await;
}

#[tokio::test]
async fn an_old_client_follows_what_people_decide() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    post_cluster(&client, "orders", &target).await;
    let all = ports(&target);
    let mut old = OldClient::new(&client, &["orders"]);
    old.until_picks("orders", &all.iter().copied().collect()).await;
    // Through the new API: old and new programs share one truth.
    let node = target.nodes()[0].to_string();
    client.patch_node("orders", &node, &json!({ "draining": true })).await.ok();
    old.until_picks("orders", &BTreeSet::from([all[1], all[2]])).await;
    client.patch_node("orders", &node, &json!({ "draining": false })).await.ok();
    old.until_picks("orders", &all.iter().copied().collect()).await;
    client.delete_node("orders", &node).await.ok();
    old.until_picks("orders", &BTreeSet::from([all[1], all[2]])).await;
}

#[tokio::test]
async fn an_old_client_that_asked_too_early_gets_the_cluster_later() {
    let (_server, client) = start().await;
    let mut old = OldClient::new(&client, &["orders", "com.example.billing"]);
    for _ in 0..3 {
        old.poll().await;
    }
    assert_eq!(
        old.asks_for.len(),
        2,
        "it was told to remove what is not there yet, and would never ask again"
    );
    let cluster = posted_cluster("com.example.billing", &[posted_node("127.0.0.9", 40000)]);
    data(&client.post("/c", &cluster).await);
    old.until_picks("com.example.billing", &BTreeSet::from([40000])).await;
}

#[tokio::test]
async fn an_old_client_is_told_of_a_deletion() {
    let (_server, client) = start().await;
    for name in ["deleted", "offline"] {
        data(&client.post("/c", &posted_cluster(name, &[posted_node("127.0.0.9", 1)])).await);
    }
    let mut old = OldClient::new(&client, &["deleted", "offline"]);
    old.until_picks("deleted", &BTreeSet::from([1])).await;
    old.until_picks("offline", &BTreeSet::from([1])).await;
    data(&client.delete("/c/deleted").await);
    data(&client.post("/c/online/offline", &json!("OFFLINE")).await);
    eventually(TURN_DEADLINE, "both are removed", async || {
        old.poll().await;
        if old.held.is_empty() { Ok(()) } else { Err(format!("{:?}", old.held)) }
    })
    .await;
}

#[tokio::test]
async fn a_server_that_just_started_wipes_no_old_client() {
    let (mut server, client) = start().await;
    let target = Target::start(3).await;
    post_cluster(&client, "orders", &target).await;
    let all: BTreeSet<_> = ports(&target).into_iter().collect();
    let mut old = OldClient::new(&client, &["orders"]);
    old.until_picks("orders", &all).await;
    for _ in 0..3 {
        server.restart().await;
        for _ in 0..20 {
            old.poll().await;
            assert_eq!(old.picks("orders"), all, "nothing happened to the nodes");
        }
    }
    // It still follows.
    target.behave_at(target.nodes()[0], "refuse").await;
    let dead = u64::from(target.nodes()[0].port());
    old.until_picks("orders", &all.iter().copied().filter(|port| *port != dead).collect()).await;
}

#[tokio::test]
async fn a_poll_that_holds_the_newest_gets_no_update() {
    let (_server, client) = start().await;
    data(&client.post("/c", &posted_cluster("orders", &[posted_node("127.0.0.9", 1)])).await);
    let mut old = OldClient::new(&client, &["orders"]);
    old.until_picks("orders", &BTreeSet::from([1])).await;
    let answer = old.poll().await;
    assert!(!answer.text.contains("RESP_UPDATE"), "{answer}");
    data(&client.post("/c/node/orders", &json!([posted_node("127.0.0.9", 2)])).await);
    let answer = old.poll().await;
    assert!(answer.text.contains("RESP_UPDATE"), "{answer}");
}

#[tokio::test]
async fn the_system_calls_answer() {
    let (_server, client) = start().await;
    data(&client.get("/sys/status").await);
    data(&client.post("/sys/nscache", &json!(true)).await);
}
