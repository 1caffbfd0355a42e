//! What people write comes back as they wrote it, conditions hold, and nothing is done twice.

use jcm_tests::{Answer, Client, Server};
use serde_json::{Value, json};

/// A cluster without a check, with nodes that nobody has to run.
fn cluster(ports: &[u16]) -> Value {
    json!({ "nodes": nodes(ports) })
}

fn nodes(ports: &[u16]) -> Value {
    ports.iter().map(|port| node(*port)).collect()
}

fn node(port: u16) -> Value {
    json!({ "address": "127.0.0.9", "ports": { "http": port } })
}

fn id(port: u16) -> String {
    format!("127.0.0.9:{port}")
}

/// Every field, none of them at its default.
fn rich_cluster() -> Value {
    json!({
        "name": "orders",
        "online": false,
        "check": {
            "kind": "http", "port": "http", "path": "/status", "expect": "200-204,404", "interval": "2s",
            "timeout": "700ms", "fall": 4, "rise": 3, "window": 12, "degraded_at": 0.25, "fresh": true
        },
        "protection": { "panic_below": 0.75 },
        "properties": { "timeout_ms": "300", "mode": "naïve – ☃" },
        "nodes": [
            {
                "id": "first", "address": "127.0.0.1", "ports": { "grpc": 19090, "http": 18080 }, "weight": 250,
                "priority": 2, "zone": "z1", "online": false, "draining": true, "labels": { "rack": "a7" }
            },
            {
                "id": "second", "address": "::1", "ports": { "http": 18081 }, "weight": 1, "priority": 0,
                "zone": "z2", "online": true, "draining": false, "labels": {}
            }
        ]
    })
}

async fn start() -> (Server, Client) {
    let server = Server::dev().start().await;
    let client = server.client();
    (server, client)
}

async fn with_header(client: &Client, name: &str, body: &Value, header: (&str, &str)) -> Answer {
    let path = jcm_tests::api::cluster_path(name);
    client
        .send(
            client
                .request(reqwest::Method::PUT, &path)
                .header(header.0, header.1)
                .json(body),
        )
        .await
}

#[tokio::test]
async fn a_put_creates_with_201_and_replaces_with_200() {
    let (_server, client) = start().await;
    let created = client.put_cluster("orders", &cluster(&[18080])).await;
    created.expect_status(201);
    assert!(
        created.body["operation"]
            .as_str()
            .is_some_and(|operation| !operation.is_empty()),
        "{created}"
    );
    let replaced = client.put_cluster("orders", &cluster(&[18081])).await;
    replaced.expect_status(200);
    assert!(replaced.revision() > created.revision(), "{replaced}");
    let held = client.get_cluster("orders").await;
    assert_eq!(held.ok()["nodes"].as_array().map(Vec::len), Some(1), "{held}");
    assert_eq!(held.body["nodes"][0]["ports"], json!({ "http": 18081 }), "{held}");
    assert_eq!(held.etag(), replaced.revision());
}

#[tokio::test]
async fn every_revision_is_higher_than_the_last_one() {
    let (_server, client) = start().await;
    let mut last = 0;
    for port in 18080..18090 {
        let revision = client
            .put_cluster(&format!("c{}", port % 3), &cluster(&[port]))
            .await
            .revision();
        assert_eq!(revision, last + 1, "a mutation takes the next revision");
        last = revision;
    }
}

#[tokio::test]
async fn a_get_answers_exactly_what_was_put() {
    let (_server, client) = start().await;
    client
        .put_cluster("orders", &rich_cluster())
        .await
        .expect_status(201);
    let held = client.get_cluster("orders").await;
    assert_eq!(*held.ok(), rich_cluster(), "{held}");
}

#[tokio::test]
async fn a_get_fills_the_defaults_in() {
    let (_server, client) = start().await;
    let minimal = json!({ "nodes": [node(18080)] });
    client.put_cluster("minimal", &minimal).await.ok();
    let checked = json!({ "check": { "kind": "http" }, "nodes": [node(18080)] });
    client.put_cluster("checked", &checked).await.ok();

    let filled_node = json!({
        "id": "127.0.0.9:18080", "address": "127.0.0.9", "ports": { "http": 18080 }, "weight": 100, "priority": 0,
        "zone": "", "online": true, "draining": false, "labels": {}
    });
    let held = client.get_cluster("minimal").await;
    let mut wanted = json!({
        "name": "minimal", "online": true, "check": { "kind": "none" }, "protection": { "panic_below": 0.5 },
        "properties": {}, "nodes": [filled_node]
    });
    assert_eq!(*held.ok(), wanted, "{held}");

    wanted["name"] = json!("checked");
    wanted["check"] = json!({
        "kind": "http", "path": "/", "expect": "200-299", "interval": "1s", "timeout": "800ms", "fall": 3, "rise": 2,
        "window": 10, "degraded_at": 0.4, "fresh": false
    });
    let mut held = client.get_cluster("checked").await;
    // The port that is left out is each node's first by name: whether it is spelled out is not promised.
    held.body["check"]
        .as_object_mut()
        .expect("a check")
        .remove("port");
    assert_eq!(*held.ok(), wanted, "{held}");
}

#[tokio::test]
async fn a_put_of_what_get_answered_changes_nothing() {
    let (_server, client) = start().await;
    let table = [
        ("empty", json!({})),
        ("rich", {
            let mut rich = rich_cluster();
            rich["name"] = json!("rich");
            rich
        }),
        ("minimal", cluster(&[18080, 18081])),
        (
            "tcp",
            json!({ "check": { "kind": "tcp", "interval": "90s" }, "nodes": [node(18080)] }),
        ),
        (
            "short",
            json!({ "check": { "kind": "http", "interval": "1500us" }, "nodes": [node(18080)] }),
        ),
        // A policy that is switched off but kept.
        (
            "off",
            json!({ "check": { "kind": "none", "interval": "5s", "path": "/x" }, "nodes": [node(18080)] }),
        ),
        (
            "zero",
            json!({ "protection": { "panic_below": 0 }, "nodes": [node(18080)] }),
        ),
    ];
    for (name, cluster) in table {
        let put = client.put_cluster(name, &cluster).await;
        if name == "short" && put.status == 400 {
            // Shorter than the shortest interval: refusing it is as good as keeping it.
            continue;
        }
        let revision = put.revision();
        let held = client.get_cluster(name).await;
        let again = client.put_cluster(name, held.ok()).await;
        again.expect_status(200);
        assert_eq!(again.revision(), revision, "{name}: {held}\n{again}");
        let held_again = client.get_cluster(name).await;
        assert_eq!(held_again.body, held.body);
        assert_eq!(held_again.etag(), revision);
    }
}

#[tokio::test]
async fn the_same_cluster_written_in_other_words_changes_nothing() {
    let (_server, client) = start().await;
    let check = json!({ "kind": "http", "interval": "1s", "timeout": "800ms" });
    let first = client
        .put_cluster("orders", &json!({ "check": check, "nodes": nodes(&[1, 2]) }))
        .await;
    let check = json!({ "kind": "http", "interval": "1000ms", "fall": 3 });
    let other = json!({ "name": "orders", "online": true, "check": check, "nodes": nodes(&[2, 1]) });
    let second = client.put_cluster("orders", &other).await;
    assert_eq!(second.revision(), first.revision(), "{second}");
}

#[tokio::test]
async fn a_name_in_the_body_must_be_the_name_in_the_path() {
    let (_server, client) = start().await;
    let detail = client
        .put_cluster("orders", &json!({ "name": "billing" }))
        .await
        .expect_problem(400)
        .to_owned();
    assert!(
        detail.contains("billing") && detail.contains("orders"),
        "{detail}"
    );
    client.get_cluster("orders").await.expect_problem(404);
    client.get_cluster("billing").await.expect_problem(404);
}

#[tokio::test]
async fn a_stale_if_match_is_refused_with_the_revision_found() {
    let (_server, client) = start().await;
    let first = client.put_cluster("orders", &cluster(&[1])).await.revision();
    let second = client.put_cluster("orders", &cluster(&[2])).await.revision();
    for stale in [format!("{first}"), format!("\"{first}\"")] {
        let refused = with_header(&client, "orders", &cluster(&[3]), ("if-match", &stale)).await;
        assert!(refused.expect_problem(412).contains("orders"), "{refused}");
        assert_eq!(refused.body["found"], second, "{refused}");
    }
    assert_eq!(
        client.get_cluster("orders").await.etag(),
        second,
        "a refused write changes nothing"
    );
    for current in ["plain", "quoted"] {
        let held = client.get_cluster("orders").await;
        let tag = if current == "plain" {
            held.etag().to_string()
        } else {
            format!("\"{}\"", held.etag())
        };
        let port = if current == "plain" { 4 } else { 5 };
        let stored = with_header(&client, "orders", &cluster(&[port]), ("if-match", &tag)).await;
        assert!(stored.revision() > second, "{stored}");
    }
    let held = client.get_cluster("orders").await;
    // The tag goes back just as it came.
    let tag = held.header("etag").expect("asserted by etag()").to_owned();
    with_header(&client, "orders", &cluster(&[6]), ("if-match", &tag))
        .await
        .ok();
}

#[tokio::test]
async fn conditions_hold_for_every_kind_of_write() {
    let (_server, client) = start().await;
    let stale = client.put_cluster("orders", &cluster(&[1])).await.revision();
    let found = client.put_cluster("orders", &cluster(&[2])).await.revision();
    let cluster_path = jcm_tests::api::cluster_path("orders");
    let nodes_path = format!("{cluster_path}/nodes");
    let node_path = jcm_tests::api::node_path("orders", &id(2));
    let patch = json!({ "weight": 7 });
    for (method, path, body) in [
        ("PATCH", &cluster_path, Some(json!({ "online": false }))),
        ("DELETE", &cluster_path, None),
        ("POST", &nodes_path, Some(node(3))),
        ("PATCH", &node_path, Some(patch)),
        ("DELETE", &node_path, None),
    ] {
        let method: reqwest::Method = method.parse().unwrap();
        let mut request = client.request(method, path).header("if-match", stale.to_string());
        if let Some(body) = &body {
            request = request.json(body);
        }
        let refused = client.send(request).await;
        refused.expect_problem(412);
        assert_eq!(refused.body["found"], found, "{refused}");
    }
    assert_eq!(
        client.get_cluster("orders").await.etag(),
        found,
        "nothing was changed"
    );
}

#[tokio::test]
async fn if_none_match_star_only_creates() {
    let (_server, client) = start().await;
    let created = with_header(&client, "orders", &cluster(&[1]), ("if-none-match", "*")).await;
    created.expect_status(201);
    let refused = with_header(&client, "orders", &cluster(&[2]), ("if-none-match", "*")).await;
    refused.expect_problem(412);
    assert_eq!(refused.body["found"], created.revision(), "{refused}");
    client.delete_cluster("orders").await.ok();
    with_header(&client, "orders", &cluster(&[3]), ("if-none-match", "*"))
        .await
        .expect_status(201);
}

#[tokio::test]
async fn an_if_match_that_is_no_revision_is_refused_and_named() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster(&[1])).await.ok();
    for header in [
        ("if-match", "abc"),
        ("if-match", "-1"),
        ("if-match", "\"1"),
        ("if-none-match", "7"),
    ] {
        let refused = with_header(&client, "orders", &cluster(&[2]), header).await;
        assert!(
            refused.expect_problem(400).to_lowercase().contains(header.0),
            "{header:?}: {refused}"
        );
    }
}

#[tokio::test]
async fn a_repeated_idempotency_key_is_answered_and_not_applied_again() {
    let (_server, client) = start().await;
    let key = ("idempotency-key", "deploy-7");
    let first = with_header(&client, "orders", &cluster(&[1]), key).await;
    let second = client.put_cluster("orders", &cluster(&[2])).await;
    let repeated = with_header(&client, "orders", &cluster(&[1]), key).await;
    assert_eq!(
        repeated.revision(),
        first.revision(),
        "the answer of the first time\n{repeated}"
    );
    assert_eq!(repeated.body["operation"], first.body["operation"], "{repeated}");
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), second.revision(), "the later write stands: {held}");
    assert_eq!(held.body["nodes"][0]["ports"]["http"], 2, "{held}");
}

#[tokio::test]
async fn an_idempotency_key_with_another_body_is_refused() {
    let (_server, client) = start().await;
    let key = ("idempotency-key", "deploy-8");
    let first = with_header(&client, "orders", &cluster(&[1]), key)
        .await
        .revision();
    let refused = with_header(&client, "orders", &cluster(&[2]), key).await;
    refused.expect_problem(422);
    let elsewhere = with_header(&client, "billing", &cluster(&[1]), key).await;
    elsewhere.expect_problem(422);
    assert_eq!(client.get_cluster("orders").await.etag(), first);
    client.get_cluster("billing").await.expect_problem(404);
}

#[tokio::test]
async fn an_idempotency_key_outlives_the_process() {
    let (mut server, client) = start().await;
    let key = ("idempotency-key", "deploy-9");
    let first = with_header(&client, "orders", &cluster(&[1]), key)
        .await
        .revision();
    let second = client.put_cluster("orders", &cluster(&[2])).await.revision();
    server.kill_9().await;
    server.restart().await;
    assert_eq!(
        with_header(&client, "orders", &cluster(&[1]), key)
            .await
            .revision(),
        first
    );
    with_header(&client, "orders", &cluster(&[3]), key)
        .await
        .expect_problem(422);
    assert_eq!(client.get_cluster("orders").await.etag(), second);
}

#[tokio::test]
async fn an_operation_tells_what_became_of_its_write() {
    let (_server, client) = start().await;
    let written = client.put_cluster("orders", &cluster(&[1])).await;
    let operation = written.ok()["operation"]
        .as_str()
        .expect("a write answers its operation");
    let told = client.get(&format!("/v1/operations/{operation}")).await;
    assert_eq!(told.ok()["state"], "applied", "{told}");
    assert_eq!(told.body["revision"], written.revision(), "{told}");
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_nothing_else() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &rich_cluster()).await.ok();
    let patch =
        json!({ "online": true, "check": { "interval": "3s" }, "properties": { "mode": null, "new": "x" } });
    client.patch_cluster("orders", &patch).await.expect_status(200);
    let mut wanted = rich_cluster();
    wanted["online"] = json!(true);
    wanted["check"]["interval"] = json!("3s");
    wanted["properties"] = json!({ "timeout_ms": "300", "new": "x" });
    let held = client.get_cluster("orders").await;
    assert_eq!(*held.ok(), wanted, "{held}");
    client.patch_cluster("absent", &patch).await.expect_problem(404);
}

#[tokio::test]
async fn a_patch_cannot_rename() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster(&[1])).await.revision();
    client
        .patch_cluster("orders", &json!({ "name": "billing" }))
        .await
        .expect_problem(400);
    assert_eq!(client.get_cluster("orders").await.etag(), revision);
}

#[tokio::test]
async fn a_deleted_cluster_is_gone_and_may_come_back() {
    let (_server, client) = start().await;
    let created = client.put_cluster("orders", &cluster(&[1])).await.revision();
    let deleted = client.delete_cluster("orders").await;
    deleted.expect_status(200);
    assert!(deleted.revision() > created, "{deleted}");
    for path in [
        "/v1/clusters/orders",
        "/v1/clusters/orders/view",
        "/v1/resolve/orders",
    ] {
        let gone = client.get(path).await;
        assert!(gone.expect_problem(404).contains("orders"), "{gone}");
    }
    client.delete_cluster("orders").await.expect_problem(404);
    let again = client.put_cluster("orders", &cluster(&[1])).await;
    again.expect_status(201);
    assert!(again.revision() > deleted.revision(), "{again}");
}

#[tokio::test]
async fn nodes_are_added_one_by_one_or_as_a_list() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster(&[])).await.ok();
    let created = client.post_nodes("orders", &node(1)).await;
    created.expect_status(201);
    client
        .post_nodes("orders", &nodes(&[2, 3]))
        .await
        .expect_status(201);
    let view = client.view("orders").await;
    assert_eq!(view.node_ids(), [id(1), id(2), id(3)]);
    let mut heavy = node(2);
    heavy["weight"] = json!(7);
    let replaced = client.post_nodes("orders", &heavy).await;
    replaced.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node(&id(2))["weight"], 7, "{view}");
    assert_eq!(view.node_ids().len(), 3, "{view}");
    // The same once more changes nothing.
    let repeated = client.post_nodes("orders", &heavy).await;
    assert_eq!(repeated.revision(), replaced.revision(), "{repeated}");
    client.post_nodes("absent", &node(1)).await.expect_problem(404);
}

#[tokio::test]
async fn one_bad_entry_refuses_the_whole_list() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster(&[1])).await.revision();
    let mut bad = node(3);
    bad["weight"] = json!(0);
    let refused = client.post_nodes("orders", &json!([node(2), bad])).await;
    let detail = refused.expect_problem(400);
    assert!(
        detail.contains("weight") && detail.contains('1'),
        "it names the entry and the field: {detail}"
    );
    for (list, part) in [(json!([]), ""), (json!([node(2), node(2)]), "127.0.0.9:2")] {
        let refused = client.post_nodes("orders", &list).await;
        assert!(refused.expect_problem(400).contains(part), "{refused}");
    }
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), revision, "{held}");
}

#[tokio::test]
async fn a_nodes_attributes_are_patched_and_the_node_removed() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster(&[1, 2])).await.ok();
    let patch = json!({ "draining": true, "weight": 3, "labels": { "rack": "b2" } });
    let patched = client.patch_node("orders", &id(1), &patch).await;
    patched.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node(&id(1))["admin"], "draining", "{view}");
    assert_eq!(view.node(&id(1))["weight"], 3, "{view}");
    assert_eq!(view.node(&id(2))["admin"], "online", "{view}");
    client
        .patch_node("orders", &id(1), &json!({ "weight": 0 }))
        .await
        .expect_problem(400);
    client
        .patch_node("orders", &id(9), &json!({ "weight": 1 }))
        .await
        .expect_problem(404);
    client.delete_node("orders", &id(1)).await.expect_status(200);
    let gone = client.delete_node("orders", &id(1)).await;
    assert!(gone.expect_problem(404).contains(&id(1)), "{gone}");
    assert_eq!(client.view("orders").await.node_ids(), [id(2)]);
}

#[tokio::test]
async fn a_nodes_id_is_its_address_and_first_port_by_name() {
    let (_server, client) = start().await;
    let nodes = json!([
        { "address": "127.0.0.9", "ports": { "http": 2, "admin": 1 } },
        { "address": "::1", "ports": { "http": 40000 } },
        { "id": "canary", "address": "127.0.0.9", "ports": { "http": 3 } },
    ]);
    client
        .put_cluster("orders", &json!({ "nodes": nodes }))
        .await
        .ok();
    let mut ids = client.view("orders").await.node_ids();
    ids.sort();
    assert_eq!(ids, ["127.0.0.9:1", "[::1]:40000", "canary"]);
    // Brackets and colons of an id in a path.
    client
        .patch_node("orders", "[::1]:40000", &json!({ "weight": 5 }))
        .await
        .expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node("[::1]:40000")["weight"], 5, "{view}");
}

#[tokio::test]
async fn a_node_that_moves_one_port_stays_the_same_node() {
    let (_server, client) = start().await;
    let before = json!({ "address": "127.0.0.9", "ports": { "http": 10, "grpc": 11 } });
    client
        .put_cluster("orders", &json!({ "nodes": [before] }))
        .await
        .ok();
    assert_eq!(
        client.view("orders").await.node_ids(),
        ["127.0.0.9:11"],
        "grpc comes first by name"
    );
    let moved = json!({ "address": "127.0.0.9", "ports": { "http": 10, "grpc": 12 } });
    client.post_nodes("orders", &moved).await.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(
        view.node_ids(),
        ["127.0.0.9:11"],
        "the id was fixed when it was added: {view}"
    );
    assert_eq!(
        view.node("127.0.0.9:11")["ports"],
        json!({ "http": 10, "grpc": 12 }),
        "{view}"
    );
}

#[tokio::test]
async fn a_second_node_at_the_same_address_and_port_is_refused() {
    let (_server, client) = start().await;
    client
        .put_cluster(
            "orders",
            &json!({ "nodes": [{ "id": "a", "address": "127.0.0.9", "ports": { "http": 1 } }] }),
        )
        .await
        .ok();
    let twin = json!({ "id": "b", "address": "127.0.0.9", "ports": { "other": 1 } });
    let refused = client.post_nodes("orders", &twin).await;
    let detail = refused.expect_problem(409);
    assert!(detail.contains("127.0.0.9"), "{detail}");
    assert_eq!(client.view("orders").await.node_ids(), ["a"]);
}

#[tokio::test]
async fn an_apply_is_all_or_nothing() {
    let (_server, client) = start().await;
    client.put_cluster("kept", &cluster(&[1])).await.ok();
    let both = json!([{ "name": "left", "nodes": nodes(&[1]) }, { "name": "right", "nodes": nodes(&[2]) }]);
    let applied = client.apply(&both).await;
    let revision = applied.revision();
    for name in ["left", "right"] {
        let held = client.get_cluster(name).await;
        assert!(held.etag() <= revision, "{held}");
    }
    client.get_cluster("kept").await.ok();

    let mut bad = node(3);
    bad["weight"] = json!(0);
    let half = json!([{ "name": "left", "nodes": nodes(&[7]) }, { "name": "third", "nodes": [bad] }]);
    let refused = client.apply(&half).await;
    let detail = refused.expect_problem(400);
    assert!(detail.contains("weight"), "{detail}");
    let held = client.get_cluster("left").await;
    assert_eq!(
        held.ok()["nodes"][0]["ports"]["http"],
        1,
        "not half of it: {held}"
    );
    client.get_cluster("third").await.expect_problem(404);
}

#[tokio::test]
async fn an_apply_that_changes_nothing_commits_nothing() {
    let (_server, client) = start().await;
    let both = json!([{ "name": "left", "nodes": nodes(&[1]) }, { "name": "right", "nodes": nodes(&[2]) }]);
    let first = client.apply(&both).await.revision();
    client.apply(&both).await.ok();
    let next = client.put_cluster("other", &cluster(&[1])).await.revision();
    assert_eq!(next, first + 1, "no revision was taken in between");
}

#[tokio::test]
async fn an_apply_refuses_a_cluster_named_twice() {
    let (_server, client) = start().await;
    let twice = json!([{ "name": "left", "nodes": nodes(&[1]) }, { "name": "left", "nodes": nodes(&[2]) }]);
    let refused = client.apply(&twice).await;
    assert!(refused.expect_problem(400).contains("left"), "{refused}");
    let unnamed = client.apply(&json!([{ "nodes": nodes(&[1]) }])).await;
    assert!(unnamed.expect_problem(400).contains("name"), "{unnamed}");
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster(&[1, 2])).await.revision();
    let tried = client
        .put("/v1/clusters/orders?dry_run=true", &cluster(&[2, 3]))
        .await;
    tried.expect_status(200);
    assert!(
        tried.text.contains(&id(1)) && tried.text.contains(&id(3)),
        "both sides of it: {tried}"
    );
    assert!(!tried.text.contains(&id(2)), "not what stays: {tried}");
    let list = json!([{ "name": "orders", "nodes": nodes(&[4]) }, { "name": "fresh", "nodes": [] }]);
    let tried = client
        .post("/v1/apply?dry_run=true", &jcm_tests::api::apply_body(&list))
        .await;
    tried.expect_status(200);
    assert!(
        tried.text.contains("fresh") && tried.text.contains(&id(4)),
        "{tried}"
    );
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), revision, "{held}");
    client.get_cluster("fresh").await.expect_problem(404);
    // What would be refused is refused in a dry run, too.
    let mut bad = node(3);
    bad["weight"] = json!(0);
    client
        .put("/v1/clusters/orders?dry_run=true", &json!({ "nodes": [bad] }))
        .await
        .expect_problem(400);
}

#[tokio::test]
async fn a_pruning_apply_deletes_what_it_does_not_name() {
    let (_server, client) = start().await;
    client.put_cluster("left", &cluster(&[1])).await.ok();
    client.put_cluster("right", &cluster(&[1])).await.ok();
    let mut body = jcm_tests::api::apply_body(&json!([{ "name": "left", "nodes": nodes(&[2]) }]));
    body["prune"] = json!(true);
    let tried = client.post("/v1/apply?dry_run=true", &body).await;
    tried.expect_status(200);
    assert!(
        tried.text.contains("right"),
        "the dry run names what would go: {tried}"
    );
    client.get_cluster("right").await.ok();
    client.post("/v1/apply", &body).await.ok();
    client.get_cluster("right").await.expect_problem(404);
    client.get_cluster("left").await.ok();
}

#[tokio::test]
async fn the_list_is_paged_and_complete() {
    let (_server, client) = start().await;
    let names: Vec<String> = (0..25).map(|index| format!("c{index:02}")).collect();
    for (count, name) in names.iter().enumerate() {
        let ports: Vec<u16> = (1..=u16::try_from(count % 3).unwrap()).collect();
        client.put_cluster(name, &cluster(&ports)).await.ok();
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = client.get(&format!("/v1/clusters?limit=10{after}")).await;
        let clusters = page.ok()["clusters"].as_array().expect("a list").clone();
        assert!(clusters.len() <= 10, "{page}");
        seen.extend(clusters);
        match page.body["next"].as_str() {
            Some(next) => after = format!("&after={}", jcm_tests::api::percent_encoded(next)),
            None => break,
        }
        assert!(seen.len() <= names.len(), "a page repeats: {page}");
    }
    let found: Vec<_> = seen
        .iter()
        .filter_map(|cluster| cluster["name"].as_str())
        .collect();
    assert_eq!(found, names, "each once, in order");
    for (index, cluster) in seen.iter().enumerate() {
        assert_eq!(cluster["nodes"], index % 3, "{cluster}");
        assert!(
            cluster["revision"].as_u64().is_some() && cluster["state"].is_string(),
            "{cluster}"
        );
    }
}

#[tokio::test]
async fn a_read_waits_for_the_revision_it_asks_for() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster(&[1])).await.revision();
    client
        .get(&format!("/v1/clusters/orders?min_revision={revision}"))
        .await
        .ok();
    let reader = client.clone();
    let path = format!("/v1/clusters/orders?min_revision={}", revision + 1);
    let read = tokio::spawn(async move { reader.get(&path).await });
    // The writer is not ordered after the reader's arrival: either way the reader must see the second write.
    let second = client.put_cluster("orders", &cluster(&[2])).await.revision();
    assert_eq!(read.await.unwrap().etag(), second);
}

#[tokio::test]
async fn a_write_is_read_by_whoever_was_told_of_it() {
    let (_server, client) = start().await;
    for port in 1..200 {
        let revision = client.put_cluster("orders", &cluster(&[port])).await.revision();
        let held = client.get_cluster("orders").await;
        assert!(held.etag() >= revision, "{held}");
        assert_eq!(held.body["nodes"][0]["ports"]["http"], port, "{held}");
    }
}

#[tokio::test]
async fn concurrent_writers_lose_no_update() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster(&[])).await.ok();
    let writers = (0..16_u16).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for step in 0..10 {
                // Without If-Match, other writers never cause a conflict.
                client
                    .post_nodes("orders", &node(1 + writer * 10 + step))
                    .await
                    .expect_status(201);
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(client.view("orders").await.node_ids().len(), 160);
}

#[tokio::test]
async fn a_counter_under_if_match_counts_every_increment() {
    let (_server, client) = start().await;
    client
        .put_cluster("counter", &json!({ "properties": { "n": "0" } }))
        .await
        .ok();
    let writers = (0..8).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let held = client.get_cluster("counter").await;
                    let count: u64 = held.ok()["properties"]["n"].as_str().unwrap().parse().unwrap();
                    let next = json!({ "properties": { "n": (count + 1).to_string() } });
                    let tag = held.etag().to_string();
                    let answer = with_header(&client, "counter", &next, ("if-match", &tag)).await;
                    if answer.status == 200 {
                        break;
                    }
                    answer.expect_problem(412);
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(client.get_cluster("counter").await.body["properties"]["n"], "80");
}
