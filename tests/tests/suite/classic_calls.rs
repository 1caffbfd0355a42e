//! The calls of 2015 on the wire: exact shapes, codes, conversions, and what a poll says and leaves out.

use std::collections::BTreeSet;
use std::time::Duration;

use jcm_tests::server::start;
use jcm_tests::{Answer, Client, Target, eventually};
use reqwest::Method;
use serde_json::{Value, json};

const TURN_DEADLINE: Duration = Duration::from_secs(30);

#[track_caller]
fn data(answer: &Answer) -> &Value {
    answer.expect_status(200);
    assert_eq!(answer.body["code"], 0, "{answer}");
    &answer.body["data"]
}

#[track_caller]
fn check_failed(answer: &Answer, code: i64, part: &str) {
    answer.expect_status(200);
    assert_eq!(answer.body["code"], code, "{answer}");
    let message = answer.body["msg"].as_str().unwrap_or_default();
    assert!(message.contains(part), "it must say {part:?}: {answer}");
    assert!(answer.body.get("data").is_none(), "{answer}");
}

fn node(port: u16) -> Value {
    json!({ "ip": "127.0.0.9", "protos": [{ "port": port, "proto": "HTTP" }], "online": "ONLINE" })
}

async fn post_nodes(client: &Client, name: &str, ports: &[u16]) {
    let nodes: Vec<_> = ports.iter().copied().map(node).collect();
    let cluster = json!({ "name": name, "online": "ONLINE", "checkType": "NONE", "nodes": nodes });
    data(&client.post("/c", &cluster).await);
}

/// A body exactly as given, with whatever content type.
async fn raw(client: &Client, method: Method, path: &str, content_type: &str, body: &str) -> Answer {
    let request = client.request(method, path).body(body.to_owned());
    client.send(request.header("content-type", content_type)).await
}

async fn poll(client: &Client, units: Value) -> Answer {
    let answer = client.post("/sub", &json!({ "tag": "t", "units": units })).await;
    answer.expect_status(200);
    assert!(answer.body["units"].is_array(), "not wrapped: {answer}");
    answer
}

/// What a poll says of one cluster; `Null`: nothing.
async fn unit(client: &Client, name: &str, version: i64) -> Value {
    let answer = poll(client, json!([{ "name": name, "version": version }])).await;
    let units = answer.body["units"].as_array().expect("asserted");
    assert!(units.len() <= 1, "{answer}");
    units.first().cloned().unwrap_or_default()
}

async fn version(client: &Client, name: &str) -> i64 {
    let unit = unit(client, name, 0).await;
    assert_eq!(unit["kind"], "RESP_UPDATE", "{unit}");
    unit["cluster"]["version"].as_i64().expect("a version")
}

#[tokio::test]
async fn a_poll_says_update_then_status_then_remove_in_the_shapes_of_2015() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[40000, 2]).await;
    let revision = client.get_cluster("orders").await.etag();
    let update = unit(&client, "orders", 0).await;
    let version = update["cluster"]["version"].as_i64().expect("a version");
    assert_eq!(version >> 20, i64::try_from(revision).expect("small"));
    assert_eq!(
        update,
        json!({ "name": "orders", "kind": "RESP_UPDATE", "cluster": {
            "name": "orders",
            "online": "ONLINE",
            "nodes": [
                { "ip": "127.0.0.9", "protos": [{ "port": 2, "proto": "HTTP" }], "udata": "", "status": "NORMAL", "online": "ONLINE", "lastCheck": 0 },
                { "ip": "127.0.0.9", "protos": [{ "port": 40000, "proto": "HTTP" }], "udata": "", "status": "NORMAL", "online": "ONLINE", "lastCheck": 0 },
            ],
            "checkType": "NONE",
            "checkFile": "",
            "version": version,
        }})
    );
    assert_eq!(
        unit(&client, "orders", version).await,
        json!({ "name": "orders", "kind": "RESP_STATUS", "invalids": [] })
    );
    // Neither older nor newer is the same.
    for other in [version - 1, version + 1, 1, i64::MAX, -1, 1_700_000_000_000] {
        assert_eq!(unit(&client, "orders", other).await["kind"], "RESP_UPDATE", "{other}");
    }
    data(&client.delete("/c/orders").await);
    assert_eq!(unit(&client, "orders", version).await, json!({ "name": "orders", "kind": "RESP_REMOVE" }));
    assert_eq!(unit(&client, "orders", 0).await, Value::Null);
    // Whoever has seen a later revision than this server has is not told that anything is gone.
    assert_eq!(unit(&client, "orders", (1 << 40) << 20).await, Value::Null);
}

#[tokio::test]
async fn a_node_out_of_use_is_named_by_its_spec() {
    let (_server, client) = start().await;
    let nodes = json!([
        node(1),
        { "ip": "127.0.0.9", "protos": [{ "port": 2, "proto": "TCP" }, { "port": 40000, "proto": "HTTP" }], "online": "ONLINE" },
        { "ip": "::1", "protos": [{ "port": 3, "proto": "HTTP" }], "online": "OFFLINE" },
    ]);
    let cluster = json!({ "name": "orders", "online": "ONLINE", "checkType": "NONE", "nodes": nodes });
    data(&client.post("/c", &cluster).await);
    for spec in ["127.0.0.9|HTTP:40000|TCP:2", "127.0.0.9|tcp:2|http:40000", "127.0.0.9|Tcp:2"] {
        for online in [json!(false), json!("ONLINE"), json!("offline")] {
            let body = json!({ "spec": spec, "online": online });
            data(&client.post("/c/node/online/orders", &body).await);
        }
        let version = version(&client, "orders").await;
        assert_eq!(
            unit(&client, "orders", version).await["invalids"],
            json!(["127.0.0.9|HTTP:40000|TCP:2", "::1|HTTP:3"])
        );
        let body = json!({ "spec": spec, "online": true });
        data(&client.post("/c/node/online/orders", &body).await);
    }
    let absent = json!({ "spec": "127.0.0.9|HTTP:9", "online": true });
    check_failed(&client.post("/c/node/online/orders", &absent).await, -1, "not found");
    let other_protocol = json!({ "spec": "127.0.0.9|TCP:1", "online": true });
    check_failed(&client.post("/c/node/online/orders", &other_protocol).await, -1, "not found");
}

#[tokio::test]
async fn an_offline_cluster_is_removed_from_those_who_hold_it_and_kept_from_the_others() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[1]).await;
    let version = version(&client, "orders").await;
    data(&client.post("/c/online/orders", &json!(false)).await);
    assert_eq!(unit(&client, "orders", version).await["kind"], "RESP_REMOVE");
    assert_eq!(unit(&client, "orders", 0).await, Value::Null);
    data(&client.post("/c/online/orders", &json!(true)).await);
    assert_eq!(unit(&client, "orders", 0).await["kind"], "RESP_UPDATE");
}

#[tokio::test]
async fn one_bad_unit_keeps_no_other_from_its_news() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[1]).await;
    let units = json!([
        { "name": "..", "version": 5 }, { "version": 5 }, { "name": null }, {},
        { "name": "orders" }, { "name": "orders", "version": null }, { "name": "absent", "version": "0" },
        { "name": "orders", "version": "7", "colour": "red" }
    ]);
    let answer = poll(&client, units).await;
    assert_eq!(answer.body["units"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(answer.body["units"][0]["kind"], "RESP_UPDATE", "{answer}");
    assert_eq!(poll(&client, Value::Null).await.body, json!({ "units": [] }));
    for (body, part) in [
        ("", "EOF"),
        ("[]", "object"),
        (r#"{"units":[["orders",0]]}"#, "units[0]"),
        (r#"{"units":[{"name":7}]}"#, "units[0]"),
        (r#"{"units":[{"name":"a","version":"x"}]}"#, "version"),
    ] {
        let answer = raw(&client, Method::POST, "/sub", "application/json", body).await;
        check_failed(&answer, -1, part);
    }
}

#[tokio::test]
async fn a_content_type_says_nothing() {
    let (_server, client) = start().await;
    let body = r#"{"name":"orders","online":"ONLINE","nodes":[]}"#;
    for content_type in ["application/x-www-form-urlencoded", "text/plain; charset=gbk", "*/*"] {
        data(&raw(&client, Method::POST, "/c", content_type, body).await);
        data(&raw(&client, Method::POST, "/c/online/orders", content_type, " true ").await);
        let polled =
            raw(&client, Method::POST, "/sub", content_type, r#"{"units":[{"name":"orders"}]}"#).await;
        assert_eq!(polled.body["units"][0]["kind"], "RESP_UPDATE", "{polled}");
    }
}

#[tokio::test]
async fn two_hundred_adds_at_once_all_succeed() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[]).await;
    let add = |worker: u16| {
        let client = client.clone();
        async move {
            for port in (1..=200).filter(|port| port % 16 == worker) {
                data(&client.post("/c/node/orders", &json!([node(port)])).await);
            }
        }
    };
    futures_util::future::join_all((0..16).map(add)).await;
    let got = client.get("/c/orders").await;
    assert_eq!(data(&got)["nodes"].as_array().map(Vec::len), Some(200), "{got}");
    // And so do removals of the same nodes by many.
    let remove = |_: u16| {
        let client = client.clone();
        async move {
            for port in 1..=20 {
                let body = json!([format!("127.0.0.9|HTTP:{port}")]).to_string();
                data(&raw(&client, Method::DELETE, "/c/node/orders", "text/plain", &body).await);
            }
        }
    };
    futures_util::future::join_all((0..16).map(remove)).await;
    let got = client.get("/c/orders").await;
    assert_eq!(data(&got)["nodes"].as_array().map(Vec::len), Some(180), "{got}");
}

#[tokio::test]
async fn posts_of_one_cluster_at_once_all_succeed() {
    let (_server, client) = start().await;
    let post = |worker: u16| {
        let client = client.clone();
        async move {
            for round in 0..10 {
                post_nodes(&client, "orders", &[1 + worker, 100 + round]).await;
            }
        }
    };
    futures_util::future::join_all((0..16).map(post)).await;
    let got = client.get("/c/orders").await;
    assert_eq!(data(&got)["nodes"].as_array().map(Vec::len), Some(2), "{got}");
}

#[tokio::test]
async fn removing_what_is_not_there_is_done_already_and_said() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[1, 2, 3]).await;
    let delete = |body: Value| {
        let client = client.clone();
        async move { raw(&client, Method::DELETE, "/c/node/orders", "application/json", &body.to_string()).await }
    };
    let answer = delete(json!(["127.0.0.9|HTTP:1", "127.0.0.9|http:1", "127.0.0.9|HTTP:9"])).await;
    data(&answer);
    assert!(
        answer.body["msg"]
            .as_str()
            .is_some_and(|text| text.contains("127.0.0.9|HTTP:9") && !text.contains(":1")),
        "{answer}"
    );
    assert!(delete(json!(["127.0.0.9|HTTP:2"])).await.body.get("msg").is_none());
    check_failed(&delete(json!([])).await, -1, "empty");
    check_failed(&delete(json!(["127.0.0.9|HTTP:3", "nonsense"])).await, -1, "[1]: `nonsense`");
    check_failed(&delete(json!([{ "ip": "127.0.0.9" }])).await, -1, "[0]");
    let got = client.get("/c/orders").await;
    assert_eq!(data(&got)["nodes"].as_array().map(Vec::len), Some(1), "{got}");
}

#[tokio::test]
async fn posting_a_cluster_again_keeps_what_is_known_of_its_nodes() {
    let (_server, client) = start().await;
    let target = Target::start(3).await;
    let policy = json!({ "kind": "http", "path": "/status", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 });
    let cluster = json!({
        "check": policy, "protection": { "panic_below": 0.1 }, "nodes": target.definitions()
    });
    client.put_cluster("orders", &cluster).await.ok();
    target.behave_at(target.nodes()[0], "error500").await;
    let shown = eventually(TURN_DEADLINE, "one is abnormal, two are normal", async || {
        let got = client.get("/c/orders").await;
        let statuses: Vec<_> = data(&got)["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|node| (node["status"].clone(), node["lastCheck"].as_i64() > Some(0)))
            .collect();
        let count = |wanted: &str| statuses.iter().filter(|status| **status == (json!(wanted), true)).count();
        if count("ABNORMAL") == 1 && count("NORMAL") == 2 { Ok(data(&got).clone()) } else { Err(got) }
    })
    .await;
    let before = client.get_cluster("orders").await;
    data(&client.post("/c", &shown).await);
    let after = client.get_cluster("orders").await;
    assert_eq!(after.body, before.body, "what the old shape cannot say stays");
    assert_eq!(after.etag(), before.etag(), "posting back what was shown is no change");
    let mut changed = shown.clone();
    changed["nodes"][0]["udata"] = json!("rack a7");
    data(&client.post("/c", &changed).await);
    let again = client.get("/c/orders").await;
    for at in 0..3 {
        let (old, new) = (&shown["nodes"][at], &data(&again)["nodes"][at]);
        assert_eq!((&old["status"], &old["lastCheck"]), (&new["status"], &new["lastCheck"]), "{again}");
    }
    assert_eq!(data(&again)["nodes"][0]["udata"], "rack a7");
    let dead = target.nodes()[0];
    let version = version(&client, "orders").await;
    assert_eq!(
        unit(&client, "orders", version).await["invalids"],
        json!([format!("{}|HTTP:{}", dead.ip(), dead.port())])
    );
    // The recovery changes the version, although nobody edited the cluster.
    target.behave("ok").await;
    eventually(TURN_DEADLINE, "the recovery is an update", async || {
        let unit = unit(&client, "orders", version).await;
        if unit["kind"] == "RESP_UPDATE" {
            let nodes = unit["cluster"]["nodes"].as_array().expect("nodes");
            assert!(nodes.iter().all(|node| node["status"] == "NORMAL"), "{unit}");
            Ok(())
        } else {
            Err(unit)
        }
    })
    .await;
}

#[tokio::test]
async fn a_cluster_of_the_new_api_comes_out_sensibly() {
    let (_server, client) = start().await;
    let cluster = json!({
        "check": { "kind": "http", "port": "web", "interval": "1h", "timeout": "1m" },
        "nodes": [
            { "address": "127.0.0.9", "ports": { "admin": 1, "grpc": 2, "web": 3 }, "labels": { "udata": "u", "rack": "a7" } },
            { "address": "127.0.0.9", "ports": { "web": 4, "https": 5, "tcp": 6 }, "draining": true },
        ],
    });
    client.put_cluster("orders", &cluster).await.ok();
    let unit = unit(&client, "orders", 0).await;
    let nodes: BTreeSet<String> = unit["cluster"]["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .map(|node| format!("{} {} {} {}", node["protos"], node["udata"], node["status"], node["online"]))
        .collect();
    assert_eq!(
        nodes,
        BTreeSet::from([
            r#"[{"port":3,"proto":"HTTP"},{"port":1,"proto":"TCP"}] "u" "NORMAL" "ONLINE""#.to_owned(),
            r#"[{"port":4,"proto":"HTTP"},{"port":6,"proto":"TCP"}] "" "INVALID" "OFFLINE""#.to_owned(),
        ])
    );
    assert_eq!((&unit["cluster"]["checkType"], &unit["cluster"]["checkFile"]), (&json!("HTTP"), &json!("/")));
}

#[tokio::test]
async fn everything_is_listed_in_full() {
    let (_server, client) = start().await;
    assert_eq!(*data(&client.get("/c").await), json!([]));
    for name in ["b.c", "a", "d"] {
        post_nodes(&client, name, &[1, 2]).await;
    }
    assert_eq!(*data(&client.get("/c/list").await), json!(["a", "b.c", "d"]));
    let all = client.get("/c/").await;
    let names: Vec<_> = data(&all)
        .as_array()
        .expect("a list")
        .iter()
        .map(|cluster| {
            assert_eq!(cluster["nodes"].as_array().map(Vec::len), Some(2), "{all}");
            cluster["name"].as_str().expect("a name").to_owned()
        })
        .collect();
    assert_eq!(names, ["a", "b.c", "d"]);
    let (one, all) = (client.get("/c/b.c").await, client.get("/c").await);
    assert_eq!(data(&all)[1], *data(&one));
}

#[tokio::test]
async fn the_server_tells_of_itself_and_remembers_the_switch() {
    let (server, client) = start().await;
    post_nodes(&client, "unchecked", &[1]).await;
    client.put_cluster("checked", &json!({ "check": { "kind": "tcp" } })).await.ok();
    let spec = format!("{}|{}", server.address().ip(), server.address().port());
    let wanted = |cache: bool| json!({ "leader": spec, "checkClusters": ["checked"], "statusCache": cache, "members": [spec] });
    assert_eq!(*data(&client.get("/sys/status").await), wanted(true));
    data(&client.post("/sys/nscache", &json!(false)).await);
    assert_eq!(*data(&client.post("/sys/status", &Value::Null).await), wanted(false));
    check_failed(&client.post("/sys/nscache", &json!("perhaps")).await, -1, "`perhaps`");
}

#[tokio::test]
async fn bad_calls_are_answered_200_with_a_code_and_change_nothing() {
    let (_server, client) = start().await;
    post_nodes(&client, "orders", &[1]).await;
    let before = client.get("/c/orders").await.text;
    let post = |path: &'static str, body: &'static str| {
        let client = client.clone();
        async move { raw(&client, Method::POST, path, "application/json", body).await }
    };
    for (path, body, part) in [
        ("/c", r#"{"name":"orders","nodes":"x"}"#, "nodes"),
        ("/c", r#"["orders"]"#, "object"),
        ("/c", r#"{"name":""}"#, "name"),
        (
            "/c",
            r#"{"name":"orders","nodes":[{"ip":"127.0.0.9","protos":[{"port":0,"proto":"HTTP"}]}]}"#,
            "nodes[0].protos[0].port",
        ),
        (
            "/c",
            r#"{"name":"orders","nodes":[{"ip":"127.0.0.9","protos":[{"port":65536,"proto":"HTTP"}]}]}"#,
            "65536",
        ),
        (
            "/c",
            r#"{"name":"orders","nodes":[{"ip":"127.0.0.9","protos":[{"port":1,"proto":"UDP"}]}]}"#,
            "`UDP`",
        ),
        ("/c", r#"{"name":"orders","nodes":[{"ip":"127.0.0.9","protos":[]}]}"#, "protos"),
        ("/c", r#"{"name":"orders","checkType":"HTTP","checkFile":"/a b"}"#, "checkFile"),
        ("/c/online/orders", r#""perhaps""#, "`perhaps`"),
        ("/c/online/orders", "", "EOF"),
        ("/c/online/absent", "true", "not found"),
        ("/c/online/a%2Fb", "true", "`a/b`"),
        ("/c/online/a%FFb", "true", "path"),
        ("/c/node/orders", "[]", "empty"),
        (
            "/c/node/orders",
            r#"[{"ip":"127.0.0.9","protos":[{"port":2,"proto":"TCP"}],"udata":"a\u0000"}]"#,
            "udata",
        ),
        ("/c/node/online/orders", r#"{"spec":"127.0.0.9|HTTP:1"}"#, "online"),
        ("/c/node/online/orders", r#"{"spec":"x","online":true}"#, "spec"),
    ] {
        let answer = post(path, body).await;
        check_failed(&answer, -1, part);
    }
    let many = "[".repeat(9 * 1024 * 1024);
    check_failed(&raw(&client, Method::POST, "/c", "application/json", &many).await, -1, "limit");
    assert_eq!(client.get("/c/orders").await.text, before);
    assert_eq!(*data(&client.get("/c/list").await), json!(["orders"]));
    client.get("/c/orders/nodes").await.expect_problem(404);
    client.put("/c/orders", &json!({})).await.expect_problem(405);
    client.get("/sub").await.expect_problem(405);
}
