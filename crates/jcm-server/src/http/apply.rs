//! Many clusters in one atomic write.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::invalid::quoted;
use jcm_model::{ClusterName, ClusterSpec, Mutation, Precondition};
use serde::Deserialize;
use serde_json::json;

use super::Problem;
use super::body::{BULK_BODY_BYTES_MAX, decode, read, refuse_unless_json};
use super::clusters::dry_run;
use super::request::{PRINCIPAL, Params, WriteParams, operation, precondition};
use crate::app::App;
use crate::registry::{Wish, Write, WriteError};

/// Most clusters of one request.
const CLUSTERS_MAX: usize = 10_000;

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
    let only_look = params.dry_run || request.dry_run;
    let names = names(&request)?;
    let (operation, fingerprint) = operation(&headers, &[b"POST", b"apply", &bytes])?;
    let wish = |(cluster, spec): (ClusterName, ClusterSpec)| Wish {
        cluster,
        mutation: Mutation::PutCluster(spec),
        precondition: Precondition::default(),
    };
    let wishes = names.into_iter().zip(request.clusters).map(wish).collect();
    let write =
        Write { operation, fingerprint, principal: PRINCIPAL.to_owned(), wishes, prune: request.prune };
    // A refusal speaks of one cluster's fields: say which cluster that was.
    let refused = |error: WriteError| match error {
        WriteError::Refused { index, refusal: jcm_model::Refusal::Invalid(invalid) } => {
            Problem::from(invalid.within(&format!("clusters[{index}]")))
        }
        error => error.into(),
    };
    if only_look {
        return Ok(dry_run(&app.registry.try_out(&write).map_err(refused)?));
    }
    let written = app.registry.write(write).await.map_err(refused)?;
    let answer =
        json!({ "revision": written.revision, "operation": written.operation, "results": written.outcomes });
    Ok(Json(answer).into_response())
}

fn names(request: &Request) -> Result<Vec<ClusterName>, Problem> {
    if request.clusters.is_empty() {
        return Err(
            Problem::invalid("clusters: the list is empty: send at least one").with("field", "clusters")
        );
    }
    if request.clusters.len() > CLUSTERS_MAX {
        let detail = format!("clusters: {} entries, the limit is {CLUSTERS_MAX}", request.clusters.len());
        return Err(Problem::invalid(detail).with("field", "clusters"));
    }
    let mut seen = HashMap::new();
    let mut names = Vec::with_capacity(request.clusters.len());
    for (index, spec) in request.clusters.iter().enumerate() {
        let Some(name) = &spec.name else {
            return Err(Problem::invalid(format!(
                "clusters[{index}].name: every cluster of this request needs its name"
            )));
        };
        if let Some(first) = seen.insert(name, index) {
            let detail =
                format!("clusters[{index}].name: {} stands at {first} already", quoted(name.as_str()));
            return Err(Problem::invalid(detail));
        }
        names.push(name.clone());
    }
    Ok(names)
}
