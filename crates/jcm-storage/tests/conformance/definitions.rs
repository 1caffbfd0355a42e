//! What is committed is what is loaded.

use jcm_model::{Mutation, Revision};
use serde_json::json;

use crate::backends::Backend;
use crate::written::{Expected, at, cluster, name, node, node_id, put_nodes};

pub(crate) async fn an_empty_store_is_at_revision_zero(backend: &impl Backend) {
    let (store, other) = (backend.empty(), backend.empty());
    let snapshot = Expected::default().expect_in(store.as_ref()).await;
    assert!(snapshot.operations.is_empty());
    assert_ne!(store.id(), other.id(), "two stores that were born empty have one identity");
}

pub(crate) async fn what_was_committed_is_loaded_with_births_and_with_what_was_left_out(
    backend: &impl Backend,
) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let full = json!({
        "online": false,
        "check": { "kind": "http", "port": "http", "path": "/health", "interval": "2s", "timeout": "500ms", "fall": 4 },
        "protection": { "panic_below": 0.25 },
        "properties": { "team": "payments", "note": "ünï" },
        "nodes": [
            { "id": "a", "address": "2001:db8::1", "ports": { "http": 80, "admin": 81 }, "weight": 100, "priority": 3,
              "zone": "z1", "online": true, "draining": true, "labels": { "rack": "7" } },
            node(1),
        ],
    });
    let bare = json!({ "nodes": [node(1)] });
    expected
        .commit(
            store.as_ref(),
            &[("full", cluster(full)), ("bare", cluster(bare)), ("empty", cluster(json!({})))],
        )
        .await;
    expected.commit(store.as_ref(), &[("full", put_nodes([2]))]).await;
    expected.expect_in(store.as_ref()).await;

    let snapshot = store.load().await.unwrap();
    let loaded = |wanted: &str| {
        let found = snapshot.clusters.iter().find(|cluster| cluster.name.as_str() == wanted);
        found.unwrap_or_else(|| panic!("{wanted} was not loaded")).clone()
    };
    let births: Vec<_> =
        loaded("full").nodes.iter().map(|node| (node.id.to_string(), node.birth.0)).collect();
    assert_eq!(births, [("a".to_owned(), 1), ("n000001".to_owned(), 1), ("n000002".to_owned(), 4)]);
    let written = serde_json::to_value(loaded("bare").to_spec()).unwrap();
    assert_eq!(written, json!({ "name": "bare", "nodes": [node(1)] }), "a default was filled in");
    // 100 is the default weight: it was written, so it stays written.
    let written = serde_json::to_value(loaded("full").nodes[0].to_spec()).unwrap();
    assert_eq!(written["weight"], 100);
}

pub(crate) async fn a_cluster_that_was_deleted_and_created_again_is_a_new_one(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let old = cluster(
        json!({ "check": { "kind": "tcp" }, "properties": { "old": "yes" }, "nodes": [node(1), node(2)] }),
    );
    expected.commit(store.as_ref(), &[("orders", old)]).await;
    expected.commit(store.as_ref(), &[("orders", Mutation::DeleteCluster)]).await;
    expected.expect_in(store.as_ref()).await;
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(2), node(3)] })))]).await;
    expected.expect_in(store.as_ref()).await;
    let again = [
        ("orders", Mutation::DeleteCluster),
        ("orders", cluster(json!({ "nodes": [node(9)] }))),
        ("orders", put_nodes([8])),
    ];
    expected.commit(store.as_ref(), &again).await;
    let snapshot = expected.expect_in(store.as_ref()).await;
    assert_eq!(snapshot.clusters[0].created, Revision(5));
    assert_eq!(snapshot.clusters[0].nodes.len(), 2);
}

pub(crate) async fn a_cluster_that_is_created_over_an_old_one_keeps_none_of_its_nodes(
    backend: &impl Backend,
) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(1), node(2)] })))]).await;
    // The change of somebody who found no cluster there, as it may come from another history.
    let head = expected.head;
    let mut stranger = Expected { head, ..Expected::default() };
    let change = stranger.change("orders", &cluster(json!({ "nodes": [node(3)] })));
    expected.take(&change);
    store.commit(crate::written::transaction(vec![change]), at(store.id(), head)).await.unwrap();
    let snapshot = expected.expect_in(store.as_ref()).await;
    assert_eq!(snapshot.clusters[0].nodes.len(), 1);
}

pub(crate) async fn a_new_check_is_noted_with_its_revision(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(1)] })))]).await;
    let patch = Mutation::PatchCluster(json!({ "check": { "kind": "tcp" } }));
    expected.commit(store.as_ref(), &[("orders", patch)]).await;
    expected.commit(store.as_ref(), &[("orders", Mutation::PatchCluster(json!({ "online": false })))]).await;
    let snapshot = expected.expect_in(store.as_ref()).await;
    let orders = &snapshot.clusters[0];
    assert_eq!(
        (orders.revision, orders.check_changed, orders.created),
        (Revision(3), Revision(2), Revision(1))
    );
    assert_eq!(orders.birth(&orders.nodes[0]), Revision(2));
}

pub(crate) async fn names_that_begin_alike_are_kept_apart(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let names = ["a", "a-b", "a.b", "a0", "aa", "A", "a_b"];
    for (number, name) in (1..).zip(names) {
        expected
            .commit(
                store.as_ref(),
                &[(name, cluster(json!({ "nodes": [node(number), node(number + 100)] })))],
            )
            .await;
    }
    expected.commit(store.as_ref(), &[("a", Mutation::DeleteNodes(vec![node_id("n000001")]))]).await;
    expected.commit(store.as_ref(), &[("a", Mutation::DeleteCluster)]).await;
    expected.expect_in(store.as_ref()).await;
    assert!(!expected.clusters.contains_key(&name("a")));
}
