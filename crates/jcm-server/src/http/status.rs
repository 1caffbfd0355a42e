//! How this server is: liveness, readiness, metrics, members, and what became of an operation.

use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::OperationId;
use serde_json::json;
use uuid::Uuid;

use super::Problem;
use crate::app::App;
use crate::registry::Fate;

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Definitions were loaded before the port was opened, so whoever can ask gets the same answer, until draining.
pub(super) async fn readyz(State(app): State<App>) -> Result<&'static str, Problem> {
    if app.stopping.is_cancelled() {
        return Err(Problem::not_loaded("this server is stopping"));
    }
    Ok("ok\n")
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}

pub(super) async fn servers(State(app): State<App>) -> Response {
    let roster = app.roster();
    let row = |member: &jcm_storage::Member| {
        let role = if roster.leader.as_ref() == Some(&member.id) { "leader" } else { "follower" };
        json!({ "id": member.id, "advertise": member.advertise, "zone": member.zone, "role": role, "version": member.version })
    };
    Json(json!({ "servers": roster.members.iter().map(row).collect::<Vec<_>>() })).into_response()
}

pub(super) async fn status(State(app): State<App>) -> Response {
    let roster = app.roster();
    let leader = &roster.leader;
    // Its own role by what it can be sure of; the others' word for it may be late.
    let role = if app.membership.leads() { "leader" } else { "follower" };
    let snapshot = app.catalog.get();
    let stale_for = app.staleness.age();
    // A store of this server's own shows by its last commit alone that it takes none, on a full disk for example. A shared
    // one is back as soon as there is contact, not only with the next write.
    let is_reached =
        stale_for.is_none() && (app.store.kind() != "embedded" || app.registry.is_store_available());
    Json(json!({
        "server": app.server,
        "version": env!("CARGO_PKG_VERSION"),
        "role": role,
        "leader": leader,
        "store": {
            "kind": app.store.kind(),
            "id": snapshot.store,
            "state": if is_reached { "ok" } else { "unavailable" },
            "revision": snapshot.revision,
            "stale_for_ms": stale_for.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
        },
        "epoch": roster.epoch,
        "clusters": snapshot.clusters.len(),
        "nodes_owned": app.asker.owned(),
        "suspended": app.asker.suspended(),
        "subscribers": app.subscribers.count(),
    }))
    .into_response()
}

/// What became of an operation, as far as this server can find out.
pub(super) async fn operation(State(app): State<App>, Path(id): Path<String>) -> Result<Response, Problem> {
    let refused = |_| {
        Problem::invalid("an operation id is what a write answered as `operation`").with("field", "operation")
    };
    let id = OperationId(Uuid::parse_str(&id).map_err(refused)?);
    let (state, revision) = match app.registry.fate(id).await {
        Fate::Applied(revision) => ("applied", Some(revision)),
        Fate::NotApplied => ("not_applied", None),
        Fate::Unknown => ("unknown", None),
        Fate::Forgotten => ("forgotten", None),
    };
    Ok(Json(json!({ "operation": id, "state": state, "revision": revision })).into_response())
}
