//! Clusters: list, read, put, patch, delete.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use jcm_model::{ClusterSpec, Mutation, Revision};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Problem;
use super::body::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, decode, read, refuse_unless_json};
use super::request::{InCluster, Params, ReadParams, WriteParams, terms};
use crate::app::App;
use crate::definitions::{self, Condition, Done, Freshness, Selection, caught_up};
use crate::registry::Outcome;

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

pub(super) async fn list(
    State(app): State<App>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    caught_up(&app, Freshness { min_revision: params.min_revision, consistent: params.consistent }).await?;
    let ListParams { label, state, after, limit, .. } = params;
    let page = definitions::list(&app, &Selection { label, state, after, limit })?;
    Ok(Json(page).into_response())
}

pub(super) async fn get(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<ReadParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caught_up(&app, params.freshness()).await?;
    let cluster = definitions::get(&app, &name)?;
    let etag = etag(cluster.revision);
    if holds(&headers, &etag.1) {
        return Ok((StatusCode::NOT_MODIFIED, [etag]).into_response());
    }
    Ok(([etag], Json(cluster.to_filled())).into_response())
}

/// Whether the reader has what carries this tag (RFC 9110, 13.1.2): a list of tags, weak ones included.
fn holds(headers: &HeaderMap, tag: &HeaderValue) -> bool {
    let values = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = values.flat_map(|value| value.split(',')).map(str::trim);
    tags.any(|held| held == "*" || held.strip_prefix("W/").unwrap_or(held).as_bytes() == tag.as_bytes())
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
    Ok(done(definitions::put(&app, &name, spec, terms(&headers, &params)?).await?))
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
    Ok(done(
        definitions::change(&app, &name, Mutation::PatchCluster(patch), terms(&headers, &params)?).await?,
    ))
}

pub(super) async fn delete(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(done(definitions::change(&app, &name, Mutation::DeleteCluster, terms(&headers, &params)?).await?))
}

/// What a write of one cluster is answered.
pub(super) fn done(done: Done) -> Response {
    let written = match done {
        Done::Tried(outcomes) => return tried(&outcomes),
        Done::Written(written) => written,
    };
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let answer = json!({ "revision": written.revision, "operation": written.operation });
    (status, [etag(written.revision)], Json(answer)).into_response()
}

pub(super) fn tried(outcomes: &[Outcome]) -> Response {
    Json(json!({ "dry_run": true, "results": outcomes })).into_response()
}

fn etag(revision: Revision) -> (HeaderName, HeaderValue) {
    (
        header::ETAG,
        HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes are a header value"),
    )
}
