//! What people write comes back as they wrote it, with the defaults filled in.

use jcm_tests::server::start;
use serde_json::{Value, json};

use crate::fixtures::{cluster, node, nodes};

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

#[tokio::test]
async fn a_put_creates_with_201_and_replaces_with_200() {
    let (_server, client) = start().await;
    let created = client.put_cluster("orders", &cluster([18080])).await;
    created.expect_status(201);
    assert!(created.body["operation"].as_str().is_some_and(|operation| !operation.is_empty()), "{created}");
    let replaced = client.put_cluster("orders", &cluster([18081])).await;
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
        let revision = client.put_cluster(&format!("c{}", port % 3), &cluster([port])).await.revision();
        assert_eq!(revision, last + 1, "a mutation takes the next revision");
        last = revision;
    }
}

#[tokio::test]
async fn a_get_answers_exactly_what_was_put() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &rich_cluster()).await.expect_status(201);
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
    held.body["check"].as_object_mut().expect("a check").remove("port");
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
        ("minimal", cluster([18080, 18081])),
        ("tcp", json!({ "check": { "kind": "tcp", "interval": "90s" }, "nodes": [node(18080)] })),
        ("short", json!({ "check": { "kind": "http", "interval": "1500us" }, "nodes": [node(18080)] })),
        // A policy that is switched off but kept.
        (
            "off",
            json!({ "check": { "kind": "none", "interval": "5s", "path": "/x" }, "nodes": [node(18080)] }),
        ),
        ("zero", json!({ "protection": { "panic_below": 0 }, "nodes": [node(18080)] })),
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
    let first = client.put_cluster("orders", &json!({ "check": check, "nodes": nodes([1, 2]) })).await;
    let check = json!({ "kind": "http", "interval": "1000ms", "fall": 3 });
    let other = json!({ "name": "orders", "online": true, "check": check, "nodes": nodes([2, 1]) });
    let second = client.put_cluster("orders", &other).await;
    assert_eq!(second.revision(), first.revision(), "{second}");
}

#[tokio::test]
async fn a_name_in_the_body_must_be_the_name_in_the_path() {
    let (_server, client) = start().await;
    let detail =
        client.put_cluster("orders", &json!({ "name": "billing" })).await.expect_problem(400).to_owned();
    assert!(detail.contains("billing") && detail.contains("orders"), "{detail}");
    client.get_cluster("orders").await.expect_problem(404);
    client.get_cluster("billing").await.expect_problem(404);
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
    let revision = client.put_cluster("orders", &cluster([1])).await.revision();
    client.patch_cluster("orders", &json!({ "name": "billing" })).await.expect_problem(400);
    assert_eq!(client.get_cluster("orders").await.etag(), revision);
}

#[tokio::test]
async fn a_deleted_cluster_is_gone_and_may_come_back() {
    let (_server, client) = start().await;
    let created = client.put_cluster("orders", &cluster([1])).await.revision();
    let deleted = client.delete_cluster("orders").await;
    deleted.expect_status(200);
    assert!(deleted.revision() > created, "{deleted}");
    for path in ["/v1/clusters/orders", "/v1/clusters/orders/view", "/v1/resolve/orders"] {
        let gone = client.get(path).await;
        assert!(gone.expect_problem(404).contains("orders"), "{gone}");
    }
    client.delete_cluster("orders").await.expect_problem(404);
    let again = client.put_cluster("orders", &cluster([1])).await;
    again.expect_status(201);
    assert!(again.revision() > deleted.revision(), "{again}");
}

#[tokio::test]
async fn the_list_is_paged_and_complete() {
    let (_server, client) = start().await;
    let names: Vec<String> = (0..25).map(|index| format!("c{index:02}")).collect();
    for (count, name) in names.iter().enumerate() {
        let ports: Vec<u16> = (1..=u16::try_from(count % 3).unwrap()).collect();
        client.put_cluster(name, &cluster(ports)).await.ok();
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
    let found: Vec<_> = seen.iter().filter_map(|cluster| cluster["name"].as_str()).collect();
    assert_eq!(found, names, "each once, in order");
    for (index, cluster) in seen.iter().enumerate() {
        assert_eq!(cluster["nodes"], index % 3, "{cluster}");
        assert!(cluster["revision"].as_u64().is_some() && cluster["state"].is_string(), "{cluster}");
    }
}

#[tokio::test]
async fn a_read_waits_for_the_revision_it_asks_for() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster([1])).await.revision();
    client.get(&format!("/v1/clusters/orders?min_revision={revision}")).await.ok();
    let reader = client.clone();
    let path = format!("/v1/clusters/orders?min_revision={}", revision + 1);
    let read = tokio::spawn(async move { reader.get(&path).await });
    // The writer is not ordered after the reader's arrival: either way the reader must see the second write.
    let second = client.put_cluster("orders", &cluster([2])).await.revision();
    assert_eq!(read.await.unwrap().etag(), second);
}

#[tokio::test]
async fn a_write_is_read_by_whoever_was_told_of_it() {
    let (_server, client) = start().await;
    for port in 1..200 {
        let revision = client.put_cluster("orders", &cluster([port])).await.revision();
        let held = client.get_cluster("orders").await;
        assert!(held.etag() >= revision, "{held}");
        assert_eq!(held.body["nodes"][0]["ports"]["http"], port, "{held}");
    }
}

#[tokio::test]
async fn a_read_for_a_revision_that_never_comes_is_refused_in_the_end() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let late = client.get("/v1/clusters/orders?min_revision=1000000").await;
    assert!(late.problem().contains("1000000"), "{late}");
    client.get("/v1/clusters/orders?consistent=true").await.ok();
}

#[tokio::test]
async fn a_cluster_of_twenty_thousand_nodes_is_kept() {
    let (mut server, client) = start().await;
    let nodes: Vec<_> = (0..20_000_u32)
        .map(|index| {
            let port = 1 + index % 50_000;
            json!({ "address": format!("127.1.{}.{}", index / 250 % 250, 1 + index % 250), "ports": { "http": port } })
        })
        .collect();
    let put = client.put_cluster("large", &json!({ "nodes": nodes })).await;
    put.expect_status(201);
    server.kill_9().await;
    server.restart().await;
    let held = client.get_cluster("large").await;
    assert_eq!(held.ok()["nodes"].as_array().map(Vec::len), Some(20_000));
    assert_eq!(held.etag(), put.revision());
}
