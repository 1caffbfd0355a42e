//! Many clusters in one step: all or nothing, tried out first, and pruned when asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jcm_tests::server::start;
use jcm_tests::{Answer, Client};
use serde_json::{Value, json};

use crate::fixtures::{cluster, id, node, nodes};

#[tokio::test]
async fn an_apply_is_all_or_nothing() {
    let (_server, client) = start().await;
    client.put_cluster("kept", &cluster([1])).await.ok();
    let both = json!([{ "name": "left", "nodes": nodes([1]) }, { "name": "right", "nodes": nodes([2]) }]);
    let applied = client.apply(&both).await;
    let revision = applied.revision();
    for name in ["left", "right"] {
        let held = client.get_cluster(name).await;
        assert!(held.etag() <= revision, "{held}");
    }
    client.get_cluster("kept").await.ok();

    let mut bad = node(3);
    bad["weight"] = json!(0);
    let half = json!([{ "name": "left", "nodes": nodes([7]) }, { "name": "third", "nodes": [bad] }]);
    let refused = client.apply(&half).await;
    let detail = refused.expect_problem(400);
    assert!(detail.contains("weight"), "{detail}");
    let held = client.get_cluster("left").await;
    assert_eq!(held.ok()["nodes"][0]["ports"]["http"], 1, "not half of it: {held}");
    client.get_cluster("third").await.expect_problem(404);
}

#[tokio::test]
async fn an_apply_that_changes_nothing_commits_nothing() {
    let (_server, client) = start().await;
    let both = json!([{ "name": "left", "nodes": nodes([1]) }, { "name": "right", "nodes": nodes([2]) }]);
    let first = client.apply(&both).await.revision();
    client.apply(&both).await.ok();
    let next = client.put_cluster("other", &cluster([1])).await.revision();
    assert_eq!(next, first + 1, "no revision was taken in between");
}

#[tokio::test]
async fn an_apply_refuses_a_cluster_named_twice() {
    let (_server, client) = start().await;
    let twice = json!([{ "name": "left", "nodes": nodes([1]) }, { "name": "left", "nodes": nodes([2]) }]);
    let refused = client.apply(&twice).await;
    assert!(refused.expect_problem(400).contains("left"), "{refused}");
    let unnamed = client.apply(&json!([{ "nodes": nodes([1]) }])).await;
    assert!(unnamed.expect_problem(400).contains("name"), "{unnamed}");
}

#[tokio::test]
async fn a_dry_run_tells_the_difference_and_changes_nothing() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &cluster([1, 2])).await.revision();
    let tried = client.put("/v1/clusters/orders?dry_run=true", &cluster([2, 3])).await;
    tried.expect_status(200);
    assert!(tried.text.contains(&id(1)) && tried.text.contains(&id(3)), "both sides of it: {tried}");
    assert!(!tried.text.contains(&id(2)), "not what stays: {tried}");
    let list = json!([{ "name": "orders", "nodes": nodes([4]) }, { "name": "fresh", "nodes": [] }]);
    let tried = client.post("/v1/apply?dry_run=true", &jcm_tests::api::apply_body(&list)).await;
    tried.expect_status(200);
    assert!(tried.text.contains("fresh") && tried.text.contains(&id(4)), "{tried}");
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), revision, "{held}");
    client.get_cluster("fresh").await.expect_problem(404);
    // What would be refused is refused in a dry run, too.
    let mut bad = node(3);
    bad["weight"] = json!(0);
    client.put("/v1/clusters/orders?dry_run=true", &json!({ "nodes": [bad] })).await.expect_problem(400);
}

#[tokio::test]
async fn a_pruning_apply_deletes_what_it_does_not_name() {
    let (_server, client) = start().await;
    client.put_cluster("left", &cluster([1])).await.ok();
    client.put_cluster("right", &cluster([1])).await.ok();
    let mut body = jcm_tests::api::apply_body(&json!([{ "name": "left", "nodes": nodes([2]) }]));
    body["prune"] = json!(true);
    let tried = client.post("/v1/apply?dry_run=true", &body).await;
    tried.expect_status(200);
    assert!(tried.text.contains("right"), "the dry run names what would go: {tried}");
    client.get_cluster("right").await.ok();
    client.post("/v1/apply", &body).await.ok();
    client.get_cluster("right").await.expect_problem(404);
    client.get_cluster("left").await.ok();
}

#[tokio::test]
async fn an_apply_answers_the_revision_of_its_last_change() {
    let (_server, client) = start().await;
    client.put_cluster("a", &cluster([1])).await.ok();
    client.put_cluster("b", &cluster([1])).await.ok();
    // The first changes, the last one does not.
    let both = json!([{ "name": "a", "nodes": nodes([1, 2]) }, { "name": "b", "nodes": nodes([1]) }]);
    let applied = client.apply(&both).await;
    let held = client.get_cluster("a").await;
    assert_eq!(applied.revision(), held.etag(), "who reads at that revision must see the change: {applied}");
}

/// Reads the first of many clusters and then the last one: whatever it saw of the first, the last is as new.
async fn check_never_half(
    client: Client,
    read: &str,
    number: fn(&Answer) -> u64,
    ended: Arc<AtomicBool>,
) -> u64 {
    let mut pairs = 0;
    while !ended.load(Ordering::Relaxed) {
        let first = client.get(&read.replace("{}", "half-000")).await;
        let last = client.get(&read.replace("{}", "half-299")).await;
        assert!(number(&last) >= number(&first), "half an apply was seen\n{first}\n{last}");
        pairs += 1;
    }
    pairs
}

fn number(properties: &Value) -> u64 {
    properties["n"].as_str().and_then(|text| text.parse().ok()).expect("every round writes a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_ever_sees_half_an_apply() {
    const CLUSTERS: usize = 300;
    const ROUNDS: usize = 25;
    let (_server, client) = start().await;
    let round = |round: usize| -> Value {
        let cluster =
            |index| json!({ "name": format!("half-{index:03}"), "properties": { "n": round.to_string() } });
        (0..CLUSTERS).map(cluster).collect()
    };
    client.apply(&round(0)).await.ok();
    let ended = Arc::new(AtomicBool::new(false));
    let readers = ["/v1/clusters/{}", "/v1/clusters/{}/view"].map(|read| {
        let (client, ended) = (client.clone(), Arc::clone(&ended));
        tokio::spawn(check_never_half(client, read, |answer| number(&answer.ok()["properties"]), ended))
    });
    for index in 1..=ROUNDS {
        client.apply(&round(index)).await.ok();
    }
    ended.store(true, Ordering::Relaxed);
    for reader in readers {
        let pairs = reader.await.expect("never half");
        assert!(pairs > 10, "only {pairs} looks: that proves nothing");
    }
}
