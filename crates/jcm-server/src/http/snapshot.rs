//! All definitions as one file, out of this server's memory and back into the store.

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use jcm_model::StoreId;
use jcm_proto::SavedDefinitions;
use jcm_storage::RestoreError;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tracing::{info, warn};
use uuid::Uuid;

use super::request::Params;
use super::{Problem, body};
use crate::app::App;
use crate::saved;

/// Largest file that is taken: some millions of nodes, packed.
const SNAPSHOT_BYTES_MAX: usize = 256 * 1024 * 1024;

/// How long an answer waits for this server's memory to show what was restored.
const SHOWN_DEADLINE: Duration = Duration::from_secs(10);

/// What this server holds, at one revision: also while the store is out of reach, or gone.
pub(super) async fn get(State(app): State<App>) -> Result<Response, Problem> {
    let snapshot = app.catalog.get();
    let name = format!("attachment; filename=\"jcm-{}-{}.snapshot\"", snapshot.store, snapshot.revision);
    let file = apart(move || saved::from_memory(&snapshot).encode()).await?;
    Ok((
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_DISPOSITION, name)],
        file,
    )
        .into_response())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreParams {
    replaces: Uuid,
}

/// Puts a file in the place of everything in the store. `replaces` names the store that the caller means to replace, as
/// this server knows it: a mix-up of two stores is refused, and so is a repetition.
pub(super) async fn post(
    State(app): State<App>,
    Params(params): Params<RestoreParams>,
    request: Request,
) -> Result<Response, Problem> {
    let held = app.catalog.get().store;
    if StoreId(params.replaces) != held {
        let detail = format!(
            "this server belongs to store {held}, not to {}; nothing was changed: look at `GET /v1/status` and repeat it with the store that shall be replaced",
            params.replaces
        );
        return Err(Problem::new(StatusCode::PRECONDITION_FAILED, "CONDITION", detail)
            .with("found", held.to_string()));
    }
    let file = body::read(request.into_body(), SNAPSHOT_BYTES_MAX).await?;
    let saved = apart(move || SavedDefinitions::decode(&file)).await?;
    let saved = saved.map_err(|error| {
        let why = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Problem::invalid(format!(
            "the body is no snapshot that can be restored: {error}{why}; nothing was changed"
        ))
    })?;
    // A task of its own: a caller that goes away does not leave half of it behind.
    let restored = tokio::spawn(restore(app.clone(), held, saved)).await;
    restored.map_err(|error| internal(&error.to_string()))?
}

async fn restore(app: App, held: StoreId, saved: SavedDefinitions) -> Result<Response, Problem> {
    let (clusters, nodes, revision) = (saved.clusters.len(), saved.node_count(), saved.revision);
    let unreadable: Vec<String> = saved.quarantined.iter().map(|(name, _)| name.to_string()).collect();
    // Servers that belong to the store in the file may follow too: it is theirs that is restored.
    let mut replaces = vec![held];
    if saved.store != held {
        replaces.push(saved.store);
    }
    warn!(replaced = %held, from = %saved.store, %revision, clusters, nodes, "restoring a snapshot");
    let store = app.store.restore(saved.clusters, replaces).await.map_err(|error| match error {
        RestoreError::NotRestored { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", error.to_string())
        }
        RestoreError::Unknown { .. } => {
            let detail = format!("{error}; `GET /v1/status` tells: it names another store when it was");
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN", detail)
        }
    })?;
    info!(%store, replaced = %held, "a snapshot was restored");
    // It is restored, also when memory is late.
    let shown = tokio::time::timeout(SHOWN_DEADLINE, app.catalog.holds(store)).await.is_ok();
    Ok(Json(json!({
        "store": store.to_string(),
        "replaced": held.to_string(),
        "clusters": clusters,
        "nodes": nodes,
        "shown": shown,
        "unreadable": unreadable,
    }))
    .into_response())
}

/// Work that takes its time is done beside the threads that answer everybody.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error.to_string()))
}

fn internal(reason: &str) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", reason)
}
