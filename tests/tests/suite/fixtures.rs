//! Definitions that several suites write: clusters without a check, of nodes that nobody has to run.

use jcm_tests::{Answer, Client};
use serde_json::{Value, json};

pub(crate) fn cluster(ports: impl IntoIterator<Item = u16>) -> Value {
    json!({ "nodes": nodes(ports) })
}

pub(crate) fn nodes(ports: impl IntoIterator<Item = u16>) -> Value {
    ports.into_iter().map(node).collect()
}

pub(crate) fn node(port: u16) -> Value {
    json!({ "address": "127.0.0.9", "ports": { "http": port } })
}

/// The id that such a node is given.
pub(crate) fn id(port: u16) -> String {
    format!("127.0.0.9:{port}")
}

/// A `PUT` of a cluster under a condition or a key.
pub(crate) async fn with_header(client: &Client, name: &str, body: &Value, header: (&str, &str)) -> Answer {
    let path = jcm_tests::api::cluster_path(name);
    client.send(client.request(reqwest::Method::PUT, &path).header(header.0, header.1).json(body)).await
}
