//! Conditions hold, nothing is done twice, and writers do not undo one another.

use jcm_tests::server::start;
use serde_json::json;

use crate::fixtures::{cluster, id, node, with_header};

#[tokio::test]
async fn a_stale_if_match_is_refused_with_the_revision_found() {
    let (_server, client) = start().await;
    let first = client.put_cluster("orders", &cluster([1])).await.revision();
    let second = client.put_cluster("orders", &cluster([2])).await.revision();
    for stale in [format!("{first}"), format!("\"{first}\"")] {
        let refused = with_header(&client, "orders", &cluster([3]), ("if-match", &stale)).await;
        assert!(refused.expect_problem(412).contains("orders"), "{refused}");
        assert_eq!(refused.body["found"], second, "{refused}");
    }
    assert_eq!(client.get_cluster("orders").await.etag(), second, "a refused write changes nothing");
    for current in ["plain", "quoted"] {
        let held = client.get_cluster("orders").await;
        let tag = if current == "plain" { held.etag().to_string() } else { format!("\"{}\"", held.etag()) };
        let port = if current == "plain" { 4 } else { 5 };
        let stored = with_header(&client, "orders", &cluster([port]), ("if-match", &tag)).await;
        assert!(stored.revision() > second, "{stored}");
    }
    let held = client.get_cluster("orders").await;
    // The tag goes back just as it came.
    let tag = held.header("etag").expect("asserted by etag()").to_owned();
    with_header(&client, "orders", &cluster([6]), ("if-match", &tag)).await.ok();
}

#[tokio::test]
async fn conditions_hold_for_every_kind_of_write() {
    let (_server, client) = start().await;
    let stale = client.put_cluster("orders", &cluster([1])).await.revision();
    let found = client.put_cluster("orders", &cluster([2])).await.revision();
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
    assert_eq!(client.get_cluster("orders").await.etag(), found, "nothing was changed");
}

#[tokio::test]
async fn if_none_match_star_only_creates() {
    let (_server, client) = start().await;
    let created = with_header(&client, "orders", &cluster([1]), ("if-none-match", "*")).await;
    created.expect_status(201);
    let refused = with_header(&client, "orders", &cluster([2]), ("if-none-match", "*")).await;
    refused.expect_problem(412);
    assert_eq!(refused.body["found"], created.revision(), "{refused}");
    client.delete_cluster("orders").await.ok();
    with_header(&client, "orders", &cluster([3]), ("if-none-match", "*")).await.expect_status(201);
}

#[tokio::test]
async fn an_if_match_that_is_no_revision_is_refused_and_named() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    for header in [("if-match", "abc"), ("if-match", "-1"), ("if-match", "\"1"), ("if-none-match", "7")] {
        let refused = with_header(&client, "orders", &cluster([2]), header).await;
        assert!(refused.expect_problem(400).to_lowercase().contains(header.0), "{header:?}: {refused}");
    }
}

#[tokio::test]
async fn a_repeated_idempotency_key_is_answered_and_not_applied_again() {
    let (_server, client) = start().await;
    let key = ("idempotency-key", "deploy-7");
    let first = with_header(&client, "orders", &cluster([1]), key).await;
    let second = client.put_cluster("orders", &cluster([2])).await;
    let repeated = with_header(&client, "orders", &cluster([1]), key).await;
    assert_eq!(repeated.revision(), first.revision(), "the answer of the first time\n{repeated}");
    assert_eq!(repeated.body["operation"], first.body["operation"], "{repeated}");
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), second.revision(), "the later write stands: {held}");
    assert_eq!(held.body["nodes"][0]["ports"]["http"], 2, "{held}");
}

#[tokio::test]
async fn an_idempotency_key_with_another_body_is_refused() {
    let (_server, client) = start().await;
    let key = ("idempotency-key", "deploy-8");
    let first = with_header(&client, "orders", &cluster([1]), key).await.revision();
    let refused = with_header(&client, "orders", &cluster([2]), key).await;
    refused.expect_problem(422);
    let elsewhere = with_header(&client, "billing", &cluster([1]), key).await;
    elsewhere.expect_problem(422);
    assert_eq!(client.get_cluster("orders").await.etag(), first);
    client.get_cluster("billing").await.expect_problem(404);
}

#[tokio::test]
async fn an_idempotency_key_outlives_the_process() {
    let (mut server, client) = start().await;
    let key = ("idempotency-key", "deploy-9");
    let first = with_header(&client, "orders", &cluster([1]), key).await.revision();
    let second = client.put_cluster("orders", &cluster([2])).await.revision();
    server.kill_9().await;
    server.restart().await;
    assert_eq!(with_header(&client, "orders", &cluster([1]), key).await.revision(), first);
    with_header(&client, "orders", &cluster([3]), key).await.expect_problem(422);
    assert_eq!(client.get_cluster("orders").await.etag(), second);
}

#[tokio::test]
async fn an_operation_tells_what_became_of_its_write() {
    let (_server, client) = start().await;
    let written = client.put_cluster("orders", &cluster([1])).await;
    let operation = written.ok()["operation"].as_str().expect("a write answers its operation");
    let told = client.get(&format!("/v1/operations/{operation}")).await;
    assert_eq!(told.ok()["state"], "applied", "{told}");
    assert_eq!(told.body["revision"], written.revision(), "{told}");
}

#[tokio::test]
async fn concurrent_writers_lose_no_update() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([])).await.ok();
    let writers = (0..16_u16).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for step in 0..10 {
                // Without If-Match, other writers never cause a conflict.
                client.post_nodes("orders", &node(1 + writer * 10 + step)).await.expect_status(201);
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
    client.put_cluster("counter", &json!({ "properties": { "n": "0" } })).await.ok();
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

#[tokio::test]
async fn one_key_sent_by_many_at_once_is_one_write() {
    let (_server, client) = start().await;
    let before = client.put_cluster("orders", &cluster([])).await.revision();
    let senders: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            let path = jcm_tests::api::cluster_path("orders") + "/nodes";
            tokio::spawn(async move {
                let request = client.request(reqwest::Method::POST, &path);
                client.send(request.header("idempotency-key", "once").json(&node(1))).await.revision()
            })
        })
        .collect();
    for sender in senders {
        assert_eq!(sender.await.unwrap(), before + 1);
    }
    assert_eq!(client.get_cluster("orders").await.etag(), before + 1);
}

#[tokio::test]
async fn a_repetition_is_answered_alike_before_and_after_a_restart() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &cluster([])).await.ok();
    let path = jcm_tests::api::cluster_path("orders") + "/nodes";
    let post = async || {
        let request = client.request(reqwest::Method::POST, &path).header("idempotency-key", "k");
        client.send(request.json(&node(1))).await
    };
    let first = post().await;
    first.expect_status(201);
    for life in ["the same", "the next"] {
        let again = post().await;
        assert_eq!((again.status, &again.body), (first.status, &first.body), "in {life} life");
        server.restart().await;
    }
}

#[tokio::test]
async fn two_keys_on_one_write_are_refused() {
    let (_server, client) = start().await;
    let request = client.request(reqwest::Method::PUT, "/v1/clusters/orders");
    let request = request.header("idempotency-key", "a").header("idempotency-key", "b");
    let refused = client.send(request.json(&cluster([]))).await;
    assert!(refused.expect_problem(400).to_lowercase().contains("idempotency-key"), "{refused}");
}
