//! Nodes of a cluster: add one or many, change attributes, remove.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use jcm_model::{Mutation, NodeSpec};
use serde_json::Value;

use super::Problem;
use super::body::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, decode, read, refuse_unless_json};
use super::clusters::done;
use super::request::{InCluster, InNode, Params, WriteParams, terms};
use crate::app::App;
use crate::definitions;

pub(super) async fn post(
    State(app): State<App>,
    InCluster(cluster): InCluster,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    refuse_unless_json(&headers)?;
    let bytes = read(body, BULK_BODY_BYTES_MAX).await?;
    // Decided by the first character, so that an error is about the entry and not about "no variant matched".
    let is_list = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let nodes: Vec<NodeSpec> = if is_list { decode(&bytes)? } else { vec![decode(&bytes)?] };
    Ok(done(definitions::put_nodes(&app, &cluster, nodes, terms(&headers, &params)?).await?))
}

pub(super) async fn patch(
    State(app): State<App>,
    InNode(cluster, node): InNode,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    refuse_unless_json(&headers)?;
    let bytes = read(body, BODY_BYTES_MAX).await?;
    let patch: Value = decode(&bytes)?;
    let mutation = Mutation::PatchNode(node, patch);
    Ok(done(definitions::change(&app, &cluster, mutation, terms(&headers, &params)?).await?))
}

pub(super) async fn delete(
    State(app): State<App>,
    InNode(cluster, node): InNode,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mutation = Mutation::DeleteNodes(vec![node]);
    Ok(done(definitions::change(&app, &cluster, mutation, terms(&headers, &params)?).await?))
}
