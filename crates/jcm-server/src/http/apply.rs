//! Many clusters in one atomic write.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::{ClusterSpec, Precondition};
use serde::Deserialize;
use serde_json::json;

use super::Problem;
use super::body::{BULK_BODY_BYTES_MAX, decode, read, refuse_unless_json};
use super::clusters::tried;
use super::request::{Params, WriteParams, precondition, terms};
use crate::app::App;
use crate::definitions::{self, Done};
use crate::registry::Written;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    clusters: Vec<ClusterSpec>,
    #[serde(default)]
    prune: bool,
    #[serde(default)]
    dry_run: bool,
}

/// The request, from a JSON object only.
struct Object(Request);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        jcm_model::object::decode(deserializer, "the request").map(Self)
    }
}

pub(super) async fn post(
    State(app): State<App>,
    Params(params): Params<WriteParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    refuse_unless_json(&headers)?;
    if precondition(&headers)? != Precondition::default() {
        return Err(Problem::invalid(
            "`If-Match` and `If-None-Match` are conditions on one cluster, and this names many",
        ));
    }
    let bytes = read(body, BULK_BODY_BYTES_MAX).await?;
    let Object(request) = decode(&bytes)?;
    let mut terms = terms(&headers, &params)?;
    terms.dry_run |= request.dry_run;
    Ok(match definitions::apply(&app, request.clusters, request.prune, terms).await? {
        Done::Tried(outcomes) => tried(&outcomes),
        Done::Written(Written { revision, operation, outcomes, .. }) => {
            Json(json!({ "revision": revision, "operation": operation, "results": outcomes })).into_response()
        }
    })
}
