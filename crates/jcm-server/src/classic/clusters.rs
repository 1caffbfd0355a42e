//! Clusters: post, read, list, delete, online.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jcm_model::{Cluster, ClusterName, ClusterState, Mutation, Precondition, Refusal, routing};
use serde_json::json;

use super::answer::{self, Failure};
use super::request::{Named, held, take, write};
use super::shape::{Object, PostedCluster, ShownCluster};
use super::show::{self, Face};
use super::take;
use super::word::Online;
use crate::app::App;
use crate::http::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, Problem};
use crate::registry::WriteError;
use crate::views::Answer;

/// How often a post is worked out anew because somebody else changed the cluster meanwhile. After that it is carried out
/// whatever is there: a post says what the whole cluster shall be.
const POST_ATTEMPTS_MAX: u32 = 8;

pub(super) async fn post(State(app): State<App>, body: Body) -> Result<Response, Failure> {
    let Object(posted): Object<PostedCluster> = take(body, BULK_BODY_BYTES_MAX).await?;
    let name = match posted.name.as_deref() {
        None | Some("") => return Err(Problem::invalid("name: is missing").into()),
        Some(name) => ClusterName::parse(name).map_err(|invalid| invalid.within("name"))?,
    };
    let mut attempt = 1;
    loop {
        let held = app.catalog.cluster(&name);
        let spec = take::cluster(&name, &posted, held.as_deref())?;
        let precondition = if attempt < POST_ATTEMPTS_MAX {
            Precondition {
                revision: held.as_ref().map(|held| held.revision),
                absent: held.is_none(),
                ..Precondition::default()
            }
        } else {
            Precondition::default()
        };
        match write(&app, &name, Mutation::PutCluster(spec), precondition).await {
            Ok(_) => return Ok(answer::done()),
            Err(WriteError::Refused { refusal: Refusal::Condition { .. }, .. }) => attempt += 1,
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn get(State(app): State<App>, Named(name): Named) -> Result<Response, Failure> {
    let cluster = held(&app, &name)?;
    Ok(shown(&app, &cluster, |cluster| answer::data(cluster)))
}

/// All clusters with all their nodes, one after the other: together they may be larger than one answer should be.
pub(super) async fn get_all(State(app): State<App>) -> Response {
    let snapshot = app.catalog.get();
    let clusters = stream::iter(snapshot.clusters.clone()).enumerate();
    let parts = clusters.map(move |(index, (_, cluster))| {
        shown(&app, &cluster, |cluster| {
            let mut part = if index == 0 { Vec::new() } else { vec![b','] };
            serde_json::to_writer(&mut part, cluster).expect("a cluster is JSON");
            Bytes::from(part)
        })
    });
    let start = stream::iter([Bytes::from_static(br#"{"code":0,"data":["#)]);
    let end = stream::iter([Bytes::from_static(b"]}")]);
    let body = start.chain(parts).chain(end).map(Ok::<_, std::convert::Infallible>);
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

pub(super) async fn list(State(app): State<App>) -> Response {
    let snapshot = app.catalog.get();
    answer::data(snapshot.clusters.keys().collect::<Vec<_>>())
}

pub(super) async fn delete(State(app): State<App>, Named(name): Named) -> Result<Response, Failure> {
    write(&app, &name, Mutation::DeleteCluster, Precondition::default()).await?;
    Ok(answer::done())
}

pub(super) async fn online(
    State(app): State<App>,
    Named(name): Named,
    body: Body,
) -> Result<Response, Failure> {
    let online: Online = take(body, BODY_BYTES_MAX).await?;
    let patch = Mutation::PatchCluster(json!({ "online": online.is_online() }));
    write(&app, &name, patch, Precondition::default()).await?;
    Ok(answer::done())
}

/// The cluster with what is known of it: what is published, or its definition alone while that is not ready.
fn shown<T>(app: &App, cluster: &Arc<Cluster>, lay_out: impl FnOnce(&ShownCluster<'_>) -> T) -> T {
    match app.views.get(&cluster.name) {
        Answer::Published(published) => {
            lay_out(&show::cluster(&published.state, &published.routing, Face::Reported))
        }
        Answer::Absent | Answer::NotReady => {
            let state = ClusterState::new(Arc::clone(cluster));
            lay_out(&show::cluster(&state, &routing::route(&state), Face::Reported))
        }
    }
}
