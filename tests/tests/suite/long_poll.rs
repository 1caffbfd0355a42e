//! The view that waits for a change: push for plain HTTP.

use std::time::{Duration, Instant};

use jcm_tests::server::start;
use serde_json::json;

use crate::fixtures::{cluster, id};

#[tokio::test]
async fn a_long_poll_waits_for_a_change() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let view = client.view("orders").await;
    let token = jcm_tests::api::percent_encoded(view.ok()["token"].as_str().expect("a token"));
    let poll = client.clone();
    let path = format!("/v1/clusters/orders/view?wait=30s&token={token}");
    let polled = tokio::spawn(async move { poll.get(&path).await });
    let revision = client.patch_node("orders", &id(1), &json!({ "weight": 7 })).await.revision();
    let polled = polled.await.unwrap();
    assert_eq!(polled.ok()["revision"], revision, "{polled}");
    assert_eq!(polled.node(&id(1))["weight"], 7, "{polled}");
    assert_ne!(polled.body["token"], view.body["token"], "{polled}");
    // A token that is behind is answered at once: a wait of 30 s would be seen.
    let start = Instant::now();
    let behind = client.get(&format!("/v1/clusters/orders/view?wait=30s&token={token}")).await;
    assert_eq!(behind.ok()["revision"], revision, "{behind}");
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_long_poll_without_a_change_ends_with_the_same_view() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster([1])).await.revision();
    let view = client.view("orders").await;
    let token = jcm_tests::api::percent_encoded(view.ok()["token"].as_str().expect("a token"));
    let start = Instant::now();
    let polled = client.get(&format!("/v1/clusters/orders/view?wait=1s&token={token}")).await;
    assert!(
        start.elapsed() >= Duration::from_millis(900),
        "it waits for what it was told: {:?}",
        start.elapsed()
    );
    assert_eq!(polled.ok()["revision"], revision, "{polled}");
    assert_eq!(polled.node_ids(), [id(1)], "{polled}");
}

#[tokio::test]
async fn a_long_poll_hears_of_a_deletion() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let view = client.view("orders").await;
    let token = jcm_tests::api::percent_encoded(view.ok()["token"].as_str().expect("a token"));
    let poll = client.clone();
    let path = format!("/v1/clusters/orders/view?wait=30s&token={token}");
    let polled = tokio::spawn(async move { poll.get(&path).await });
    client.delete_cluster("orders").await.ok();
    polled.await.unwrap().expect_problem(404);
}
