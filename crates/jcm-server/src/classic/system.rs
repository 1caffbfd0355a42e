//! The server itself, in the words of 2015.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::answer::{self, Failure};
use super::request::take;
use super::word::Online;
use crate::app::App;
use crate::http::BODY_BYTES_MAX;

/// Whether somebody wants the cache of node status. There is none, and nothing depends on it: the switch is remembered so
/// that a program which sets it and looks finds what it set.
#[derive(Debug, Clone)]
pub(super) struct StatusCache(Arc<AtomicBool>);

impl Default for StatusCache {
    fn default() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct System {
    /// `ip|port`; left out while nobody leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<String>,
    check_clusters: Vec<String>,
    status_cache: bool,
    members: Vec<String>,
}

pub(super) async fn status(State(app): State<App>, Extension(cache): Extension<StatusCache>) -> Response {
    let leader = app.roster().leader.clone();
    let members = app.roster().members.clone();
    let snapshot = app.catalog.get();
    let checked = snapshot.clusters.values().filter(|cluster| cluster.is_checked());
    answer::data(System {
        leader: members
            .iter()
            .find(|member| Some(&member.id) == leader.as_ref())
            .map(|member| server_spec(&member.advertise)),
        check_clusters: checked.map(|cluster| cluster.name.to_string()).collect(),
        status_cache: cache.0.load(Ordering::Relaxed),
        members: members.iter().map(|member| server_spec(&member.advertise)).collect(),
    })
}

pub(super) async fn status_cache(
    Extension(cache): Extension<StatusCache>,
    body: Body,
) -> Result<Response, Failure> {
    let wanted: Online = take(body, BODY_BYTES_MAX).await?;
    cache.0.store(wanted.is_online(), Ordering::Relaxed);
    Ok(answer::done())
}

/// `127.0.0.1:8080` as `127.0.0.1|8080`.
fn server_spec(advertise: &str) -> String {
    match advertise.rsplit_once(':') {
        Some((host, port)) => format!("{}|{port}", host.trim_start_matches('[').trim_end_matches(']')),
        None => advertise.to_owned(),
    }
}
