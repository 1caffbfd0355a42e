//! One cluster's view, at once or as soon as it differs from what the caller holds.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jcm_model::{ClusterName, duration};
use jcm_proto::token::Token;
use serde::Deserialize;

use super::Problem;
use super::request::{InCluster, Params};
use crate::app::App;
use crate::definitions::{Freshness, caught_up};
use crate::views::{Answer, Inbox, Published};

/// Longest wait for news: below the minute at which proxies give up.
const WAIT_MAX: Duration = Duration::from_secs(55);

/// How long a caller who holds something newer than this server waits for it to catch up.
const BEHIND_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ViewParams {
    wait: Option<String>,
    token: Option<String>,
    min_revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

pub(super) async fn get(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<ViewParams>,
) -> Result<Response, Problem> {
    let ViewParams { min_revision, consistent, .. } = params;
    caught_up(&app, Freshness { min_revision, consistent }).await?;
    let wait =
        params.wait.as_deref().map(duration::parse).transpose().map_err(|error| error.within("wait"))?;
    let token = params.token.as_deref().map(Token::from_text).transpose();
    let token = token.map_err(|error| {
        Problem::invalid(format!("token: {error}; leave it out to get the whole view")).with("field", "token")
    })?;
    if let Some(token) = token {
        not_behind(&app, &name, &token).await?;
    }
    let published = match (wait, token) {
        (Some(wait), Some(token)) => news(&app, &name, &token, wait.min(WAIT_MAX)).await?,
        _ => fetch(&app, &name)?,
    };
    Ok(json_response(published.json(app.views.is_stale())))
}

/// The view, or why there is none.
pub(super) fn fetch(app: &App, name: &ClusterName) -> Result<Arc<Published>, Problem> {
    match app.views.get(name) {
        Answer::Published(published) => Ok(published),
        Answer::Absent => Err(Problem::no_cluster(name)),
        Answer::NotReady => Err(Problem::not_loaded(format!(
            "the nodes of cluster `{name}` have not been checked yet since this server started; try again in a moment"
        ))),
    }
}

/// Waits until this server has what the caller holds: nobody is sent back to something older.
async fn not_behind(app: &App, name: &ClusterName, token: &Token) -> Result<(), Problem> {
    let snapshot = app.catalog.get();
    let is_behind = token.store == snapshot.store && token.revision > snapshot.revision;
    if !is_behind || tokio::time::timeout(BEHIND_MAX, app.catalog.reached(token.revision)).await.is_ok() {
        return Ok(());
    }
    let (have, wanted) = (app.catalog.get().revision, token.revision);
    let detail = format!(
        "this server is at revision {have} and the view of cluster `{name}` that the token stands for is of {wanted}: keep that one, and try again or ask another server"
    );
    Err(Problem::not_loaded(detail).with("revision", have.0))
}

/// The first view whose content differs from what the token stands for; after the wait, the view as it is.
async fn news(
    app: &App,
    name: &ClusterName,
    token: &Token,
    wait: Duration,
) -> Result<Arc<Published>, Problem> {
    let inbox = Arc::new(Inbox::default());
    let watching = app.views.watch(name, &inbox, 0).ok_or_else(too_many)?;
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    let result = loop {
        // A view that is missing is news to somebody who holds one.
        let published = match fetch(app, name) {
            Ok(published) => published,
            Err(problem) => break Err(problem),
        };
        let same = |p: &Token| (p.store, p.revision, p.digest) == (token.store, token.revision, token.digest);
        if !same(&published.token) {
            break Ok(published);
        }
        tokio::select! {
            _ = inbox.take() => {}
            () = &mut deadline => break Ok(published),
            () = app.draining.cancelled() => break Ok(published),
        }
    };
    drop(watching);
    result
}

pub(super) fn too_many() -> Problem {
    let detail = "too many clusters that do not exist are being watched on this server";
    Problem::new(axum::http::StatusCode::TOO_MANY_REQUESTS, "BUSY", detail)
}

pub(super) fn json_response(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}
