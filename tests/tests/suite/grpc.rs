//! Definitions over gRPC are the same definitions: the same conditions, the same answers, the same codes.

use jcm_proto::v1::get_operation_response::State;
use jcm_proto::v1::registry_client::RegistryClient;
use jcm_proto::v1::write_options::Condition;
use jcm_proto::v1::{
    ApplyRequest, ClusterSpec, DeleteClusterRequest, DeleteNodeRequest, Freshness, GetClusterRequest,
    GetOperationRequest, ListClustersRequest, Node, PatchClusterRequest, PatchNodeRequest, PutClusterRequest,
    PutNodesRequest, WriteOptions, cluster_spec,
};
use jcm_tests::{Client, Server, server};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fixtures::{cluster, id, with_header};

async fn start() -> (Server, Client, RegistryClient<Channel>) {
    let (server, client) = server::start().await;
    let registry = RegistryClient::connect(server.url()).await.expect("it listens");
    (server, client, registry)
}

fn node(port: u32) -> Node {
    Node { address: vec![127, 0, 0, 9], ports: [("http".to_owned(), port)].into(), ..Node::default() }
}

fn spec(name: &str, ports: &[u32]) -> ClusterSpec {
    let nodes = ports.iter().copied().map(node).collect();
    ClusterSpec { name: name.to_owned(), header: None, nodes: Some(cluster_spec::Nodes { nodes }) }
}

fn put(name: &str, ports: &[u32], options: WriteOptions) -> PutClusterRequest {
    PutClusterRequest { cluster: Some(spec(name, ports)), options: Some(options) }
}

fn trailer<'a>(status: &'a Status, name: &str) -> &'a str {
    let value = status.metadata().get(name).unwrap_or_else(|| panic!("no `{name}`: {status:?}"));
    value.to_str().expect("plain text")
}

#[tokio::test]
async fn every_kind_of_write_over_grpc_is_seen_over_http() {
    let (_server, client, mut registry) = start().await;
    let created =
        registry.put_cluster(put("orders", &[1], WriteOptions::default())).await.unwrap().into_inner();
    assert!(created.created);
    assert_eq!(created.results[0].action, "created");
    assert_eq!(client.get_cluster("orders").await.etag(), created.revision, "it is there at once");
    let cluster = || "orders".to_owned();
    let nodes = PutNodesRequest { cluster: cluster(), nodes: vec![node(2), node(3)], options: None };
    let added = registry.put_nodes(nodes).await.unwrap().into_inner();
    assert_eq!(added.results[0].nodes_added, [id(2), id(3)]);
    let merge_patch = r#"{"weight": 7}"#.to_owned();
    let patch = PatchNodeRequest { cluster: cluster(), node: id(2), merge_patch, options: None };
    registry.patch_node(patch).await.unwrap();
    let delete = DeleteNodeRequest { cluster: cluster(), node: id(3), options: None };
    registry.delete_node(delete).await.unwrap();
    let merge_patch = r#"{"properties": {"a": "b"}}"#.to_owned();
    let patch = PatchClusterRequest { cluster: cluster(), merge_patch, options: None };
    let last = registry.patch_cluster(patch).await.unwrap().into_inner();
    let held = client.get_cluster("orders").await;
    assert_eq!(held.etag(), last.revision);
    assert_eq!(held.body["properties"], json!({ "a": "b" }));
    assert_eq!(held.body["nodes"][1]["weight"], 7, "{held}");
    assert_eq!(held.body["nodes"].as_array().map(Vec::len), Some(2), "{held}");
    let get = GetClusterRequest { cluster: cluster(), freshness: None };
    let got = registry.get_cluster(get).await.unwrap().into_inner().cluster.expect("asked for");
    assert_eq!((got.revision, got.nodes.len()), (last.revision, 2));
    let operation = GetOperationRequest { operation: last.operation };
    let fate = registry.get_operation(operation).await.unwrap().into_inner();
    assert_eq!((fate.state(), fate.revision), (State::Applied, last.revision));
    registry.delete_cluster(DeleteClusterRequest { cluster: cluster(), options: None }).await.unwrap();
    client.get_cluster("orders").await.expect_problem(404);
}

#[tokio::test]
async fn many_clusters_are_applied_at_once_listed_by_page_and_pruned() {
    let (_server, client, mut registry) = start().await;
    client.put_cluster("old", &cluster([1])).await.ok();
    let clusters = vec![spec("a", &[1]), spec("b", &[2])];
    let apply = |dry_run| ApplyRequest {
        clusters: clusters.clone(),
        prune: true,
        options: Some(WriteOptions { dry_run, ..WriteOptions::default() }),
    };
    let tried = registry.apply(apply(true)).await.unwrap().into_inner();
    assert_eq!((tried.results.len(), tried.revision), (3, 0));
    client.get_cluster("old").await.ok();
    let applied = registry.apply(apply(false)).await.unwrap().into_inner();
    let actions: Vec<_> = applied.results.iter().map(|result| (&*result.name, &*result.action)).collect();
    assert_eq!(actions, [("a", "created"), ("b", "created"), ("old", "deleted")]);
    let freshness = Some(Freshness { min_revision: applied.revision, consistent: true });
    let page = ListClustersRequest { limit: 1, freshness, ..ListClustersRequest::default() };
    let first = registry.list_clusters(page.clone()).await.unwrap().into_inner();
    assert_eq!((&*first.clusters[0].name, &*first.next, first.revision), ("a", "a", applied.revision));
    let second = ListClustersRequest { after: first.next, ..page };
    let second = registry.list_clusters(second).await.unwrap().into_inner();
    assert_eq!((&*second.clusters[0].name, &*second.next, &*second.clusters[0].state), ("b", "", "healthy"));
}

#[tokio::test]
async fn a_refusal_has_the_text_and_the_code_that_http_has() {
    let (_server, client, mut registry) = start().await;
    let first = client.put_cluster("orders", &cluster([1])).await.revision();
    let found = client.put_cluster("orders", &cluster([2])).await.revision();
    let options = |condition| WriteOptions { condition: Some(condition), ..WriteOptions::default() };
    let refused =
        registry.put_cluster(put("orders", &[3], options(Condition::Revision(first)))).await.unwrap_err();
    let over_http = with_header(&client, "orders", &cluster([3]), ("if-match", &first.to_string())).await;
    assert_eq!(refused.code(), Code::Aborted);
    assert_eq!(refused.message(), over_http.expect_problem(412));
    assert_eq!(
        (trailer(&refused, "jcm-code"), trailer(&refused, "jcm-found")),
        ("CONDITION", &*found.to_string())
    );
    let refused =
        registry.put_cluster(put("orders", &[3], options(Condition::Absent(true)))).await.unwrap_err();
    assert_eq!((refused.code(), trailer(&refused, "jcm-code")), (Code::Aborted, "CONDITION"));

    let get = GetClusterRequest { cluster: "missing".to_owned(), freshness: None };
    let missing = registry.get_cluster(get).await.unwrap_err();
    assert_eq!((missing.code(), trailer(&missing, "jcm-code")), (Code::NotFound, "NO_CLUSTER"));
    let invalid = registry.put_cluster(put("orders", &[0], WriteOptions::default())).await.unwrap_err();
    assert_eq!((invalid.code(), trailer(&invalid, "jcm-code")), (Code::InvalidArgument, "INVALID"));
    assert!(trailer(&invalid, "jcm-field").contains("nodes[0]"), "{invalid:?}");
    let nothing = PutNodesRequest { cluster: "orders".to_owned(), ..PutNodesRequest::default() };
    assert_eq!(registry.put_nodes(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    let large = PatchClusterRequest {
        cluster: "orders".to_owned(),
        merge_patch: format!(r#"{{"properties": {{"a": "{}"}}}}"#, "b".repeat(64 * 1024)),
        options: None,
    };
    let large = registry.patch_cluster(large).await.unwrap_err();
    assert_eq!((large.code(), trailer(&large, "jcm-code")), (Code::OutOfRange, "TOO_LARGE"));
    assert_eq!(client.get_cluster("orders").await.etag(), found, "nothing was changed");
}

#[tokio::test]
async fn one_key_is_one_write_through_either_door() {
    let (_server, client, mut registry) = start().await;
    let options = || WriteOptions { idempotency_key: "k1".to_owned(), ..WriteOptions::default() };
    let first = registry.put_cluster(put("orders", &[1], options())).await.unwrap().into_inner();
    client.put_cluster("orders", &cluster([2])).await.ok();
    // Another writing of the same wish.
    let again = with_header(&client, "orders", &cluster([1]), ("idempotency-key", "k1")).await;
    assert_eq!((again.revision(), again.status), (first.revision, 201), "{again}");
    let reused = registry.put_cluster(put("orders", &[3], options())).await.unwrap_err();
    assert_eq!((reused.code(), trailer(&reused, "jcm-code")), (Code::InvalidArgument, "KEY_REUSED"));
    assert_eq!(trailer(&reused, "jcm-operation"), first.operation);
    let held = client.get_cluster("orders").await;
    assert_eq!(held.body["nodes"][0]["id"], id(2), "{held}");
}

#[tokio::test]
async fn a_reader_that_holds_the_revision_is_told_so() {
    let (_server, client) = server::start().await;
    let revision = client.put_cluster("orders", &cluster([1])).await.revision();
    let read = async |tag: &str| {
        let request = client.request(reqwest::Method::GET, "/v1/clusters/orders?consistent=true");
        client.send(request.header("if-none-match", tag)).await
    };
    let held = read(&format!("\"{revision}\"")).await;
    assert_eq!((held.status, held.etag(), &*held.text), (304, revision, ""), "{held}");
    assert_eq!(read(&format!("\"7\", W/\"{revision}\"")).await.status, 304);
    client.put_cluster("orders", &cluster([2])).await.ok();
    read(&format!("\"{revision}\"")).await.expect_status(200);
}

#[tokio::test]
async fn an_operation_that_was_refused_was_not_applied() {
    let (_server, client) = server::start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let refused = with_header(&client, "orders", &cluster([2]), ("if-match", "99999")).await;
    refused.expect_problem(412);
    let written = client.put_cluster("orders", &cluster([3])).await;
    let operation = written.body["operation"].as_str().expect("every write has one").to_owned();
    let fate = client.get(&format!("/v1/operations/{operation}")).await;
    assert_eq!(
        (&fate.body["state"], &fate.body["revision"]),
        (&json!("applied"), &json!(written.revision()))
    );
    // Made long ago by its own word, and seen by nobody.
    let old = client.get("/v1/operations/01943e2b-0000-7000-8000-000000000000").await;
    assert_eq!(old.ok()["state"], "forgotten", "{old}");
    let strange = client.get("/v1/operations/6f2b8a52-5d3c-4d0e-9b7a-2f6f0f1b1c11").await;
    assert_eq!(strange.ok()["state"], "unknown", "{strange}");
}
