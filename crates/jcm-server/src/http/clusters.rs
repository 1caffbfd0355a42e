//! Clusters: list, read, put, patch, delete.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use jcm_model::invalid::quoted;
use jcm_model::{ClusterName, ClusterSpec, Mutation, Revision};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Problem;
use super::body::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, decode, read, refuse_unless_json};
use super::request::{
    InCluster, PRINCIPAL, Params, ReadParams, WriteParams, caught_up, operation, precondition,
};
use crate::app::App;
use crate::registry::{Outcome, Wish, Write, WriteError};
use crate::views::Answer;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    label: Option<String>,
    state: Option<Condition>,
    after: Option<String>,
    limit: Option<usize>,
    min_revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

/// How a cluster is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Condition {
    /// Taken out by somebody.
    Offline,
    /// It has no node in use.
    Empty,
    /// Its nodes were not judged yet.
    Unknown,
    /// Protection routes to nodes that are not fit.
    Panic,
    /// Some node in use is not healthy.
    Degraded,
    /// Every node in use is healthy, or nobody checks them.
    Healthy,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a ClusterName,
    revision: Revision,
    nodes: usize,
    healthy: usize,
    state: Condition,
}

pub(super) async fn list(
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    caught_up(&app, params.min_revision, params.consistent).await?;
    let limit = params.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Problem::invalid(format!("limit: {limit} is out of range: from 1 to {PAGE_MAX}"))
            .with("field", "limit"));
    }
    let after =
        params.after.as_deref().map(ClusterName::parse).transpose().map_err(|error| error.within("after"))?;
    let snapshot = app.catalog.get();
    let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut rows = Vec::new();
    let mut next = None;
    for (name, cluster) in snapshot.clusters.range((start, std::ops::Bound::Unbounded)) {
        if params
            .label
            .as_deref()
            .is_some_and(|label| !cluster.nodes.iter().any(|node| has_label(node, label)))
        {
            continue;
        }
        let (healthy, state) = summary(&app, cluster);
        if params.state.is_some_and(|wanted| wanted != state) {
            continue;
        }
        if rows.len() == limit {
            next = rows.last().map(|row: &Row<'_>| row.name.clone());
            break;
        }
        rows.push(Row { name, revision: cluster.revision, nodes: cluster.nodes.len(), healthy, state });
    }
    Ok(Json(json!({ "clusters": rows, "next": next, "revision": snapshot.revision })).into_response())
}

/// `key` or `key=value`.
fn has_label(node: &jcm_model::Node, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => node.attributes.labels().get(key).is_some_and(|held| **held == *value),
        None => node.attributes.labels().get(label).is_some(),
    }
}

fn summary(app: &App, cluster: &jcm_model::Cluster) -> (usize, Condition) {
    let online = cluster.nodes.iter().filter(|node| node.admin() == jcm_model::Admin::Online).count();
    let published = match app.views.get(&cluster.name) {
        Answer::Published(published) => Some(published),
        Answer::Absent | Answer::NotReady => None,
    };
    let (healthy, healthy_online) = published.as_ref().map_or((0, 0), |published| published.healthy_counts());
    let state = match &published {
        _ if !cluster.header.online() => Condition::Offline,
        _ if online == 0 => Condition::Empty,
        _ if !cluster.is_checked() => Condition::Healthy,
        Some(published) if published.routing.panic => Condition::Panic,
        Some(published) if published.state.nodes().all(|(_, judged)| judged.is_none()) => Condition::Unknown,
        Some(_) if healthy_online == online => Condition::Healthy,
        Some(_) => Condition::Degraded,
        None => Condition::Unknown,
    };
    (healthy, state)
}

pub(super) async fn get(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<ReadParams>,
) -> Result<Response, Problem> {
    caught_up(&app, params.min_revision, params.consistent).await?;
    let snapshot = app.catalog.get();
    if let Some(reason) = snapshot.quarantined.get(&name) {
        return Err(WriteError::Quarantined { cluster: name, reason: reason.to_string() }.into());
    }
    let cluster = snapshot.clusters.get(&name).ok_or_else(|| Problem::no_cluster(&name))?;
    Ok(([etag(cluster.revision)], Json(cluster.to_filled())).into_response())
}

pub(super) async fn put(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    refuse_unless_json(&headers)?;
    let bytes = read(body, BULK_BODY_BYTES_MAX).await?;
    let spec: ClusterSpec = decode(&bytes)?;
    if let Some(other) = spec.name.as_ref().filter(|other| **other != name) {
        let detail = format!(
            "name: the body says {}, the path says {}",
            quoted(other.as_str()),
            quoted(name.as_str())
        );
        return Err(Problem::invalid(detail).with("field", "name"));
    }
    write(&app, &headers, &params, "PUT", &bytes, &name, Mutation::PutCluster(spec)).await
}

pub(super) async fn patch(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    refuse_unless_json(&headers)?;
    let bytes = read(body, BODY_BYTES_MAX).await?;
    let patch: Value = decode(&bytes)?;
    write(&app, &headers, &params, "PATCH", &bytes, &name, Mutation::PatchCluster(patch)).await
}

pub(super) async fn delete(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    write(&app, &headers, &params, "DELETE", &[], &name, Mutation::DeleteCluster).await
}

/// One mutation of one cluster, from request to answer.
pub(super) async fn write(
    app: &App,
    headers: &HeaderMap,
    params: &WriteParams,
    verb: &str,
    body: &[u8],
    cluster: &ClusterName,
    mutation: Mutation,
) -> Result<Response, Problem> {
    let precondition = precondition(headers)?;
    let node = match &mutation {
        Mutation::PatchNode(id, _) => id.as_str(),
        Mutation::DeleteNodes(ids) => ids.first().map_or("", |id| id.as_str()),
        _ => "",
    };
    let (operation, fingerprint) =
        operation(headers, &[verb.as_bytes(), cluster.as_str().as_bytes(), node.as_bytes(), body])?;
    let wishes = vec![Wish { cluster: cluster.clone(), mutation, precondition }];
    let write = Write { operation, fingerprint, principal: PRINCIPAL.to_owned(), wishes, prune: false };
    if params.dry_run {
        return Ok(dry_run(&app.registry.try_out(&write)?));
    }
    let written = app.registry.write(write).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let answer = json!({ "revision": written.revision, "operation": written.operation });
    Ok((status, [etag(written.revision)], Json(answer)).into_response())
}

pub(super) fn dry_run(outcomes: &[Outcome]) -> Response {
    Json(json!({ "dry_run": true, "results": outcomes })).into_response()
}

fn etag(revision: Revision) -> (HeaderName, HeaderValue) {
    (
        header::ETAG,
        HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes are a header value"),
    )
}
