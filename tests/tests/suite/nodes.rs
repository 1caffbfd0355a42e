//! Nodes of a cluster, one by one and as lists, and what makes a node the same node.

use jcm_tests::server::start;
use serde_json::json;

use crate::fixtures::{cluster, id, node, nodes};

#[tokio::test]
async fn nodes_are_added_one_by_one_or_as_a_list() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([])).await.ok();
    let created = client.post_nodes("orders", &node(1)).await;
    created.expect_status(201);
    client.post_nodes("orders", &nodes([2, 3])).await.expect_status(201);
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
    let revision = client.put_cluster("orders", &cluster([1])).await.revision();
    let mut bad = node(3);
    bad["weight"] = json!(0);
    let refused = client.post_nodes("orders", &json!([node(2), bad])).await;
    let detail = refused.expect_problem(400);
    assert!(detail.contains("weight") && detail.contains('1'), "it names the entry and the field: {detail}");
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
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let patch = json!({ "draining": true, "weight": 3, "labels": { "rack": "b2" } });
    let patched = client.patch_node("orders", &id(1), &patch).await;
    patched.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node(&id(1))["admin"], "draining", "{view}");
    assert_eq!(view.node(&id(1))["weight"], 3, "{view}");
    assert_eq!(view.node(&id(2))["admin"], "online", "{view}");
    client.patch_node("orders", &id(1), &json!({ "weight": 0 })).await.expect_problem(400);
    client.patch_node("orders", &id(9), &json!({ "weight": 1 })).await.expect_problem(404);
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
    client.put_cluster("orders", &json!({ "nodes": nodes })).await.ok();
    let mut ids = client.view("orders").await.node_ids();
    ids.sort();
    assert_eq!(ids, ["127.0.0.9:1", "[::1]:40000", "canary"]);
    // Brackets and colons of an id in a path.
    client.patch_node("orders", "[::1]:40000", &json!({ "weight": 5 })).await.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node("[::1]:40000")["weight"], 5, "{view}");
}

#[tokio::test]
async fn a_node_that_moves_one_port_stays_the_same_node() {
    let (_server, client) = start().await;
    let before = json!({ "address": "127.0.0.9", "ports": { "http": 10, "grpc": 11 } });
    client.put_cluster("orders", &json!({ "nodes": [before] })).await.ok();
    assert_eq!(client.view("orders").await.node_ids(), ["127.0.0.9:11"], "grpc comes first by name");
    let moved = json!({ "address": "127.0.0.9", "ports": { "http": 10, "grpc": 12 } });
    client.post_nodes("orders", &moved).await.expect_status(200);
    let view = client.view("orders").await;
    assert_eq!(view.node_ids(), ["127.0.0.9:11"], "the id was fixed when it was added: {view}");
    assert_eq!(view.node("127.0.0.9:11")["ports"], json!({ "http": 10, "grpc": 12 }), "{view}");
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
async fn a_new_node_never_takes_the_place_of_one_that_has_moved() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &cluster([80])).await.ok();
    client.patch_node("orders", &id(80), &json!({ "ports": { "http": 81 } })).await.ok();
    // Its id would be that of the node which has moved away from just this place.
    let added = client.post_nodes("orders", &node(80)).await;
    let ports = async || -> Vec<u64> {
        let view = client.view("orders").await;
        let nodes = view.ok()["nodes"].as_array().expect("nodes").clone();
        nodes.iter().filter_map(|node| node["ports"]["http"].as_u64()).collect()
    };
    if added.status == 409 {
        assert!(added.problem().contains(&id(80)), "{added}");
        assert_eq!(ports().await, [81]);
    } else {
        added.ok();
        let mut ports = ports().await;
        ports.sort_unstable();
        assert_eq!(ports, [80, 81], "{added}");
    }
}
