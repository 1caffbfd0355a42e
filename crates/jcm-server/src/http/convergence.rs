//! How many subscribers hold a revision of a cluster, over all servers.

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::{Head, Revision};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Problem;
use super::request::{InCluster, Params};
use crate::app::App;
use crate::convergence::Convergence;
use crate::definitions::{Freshness, caught_up};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConvergenceParams {
    revision: Option<u64>,
}

pub(super) async fn get(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(ConvergenceParams { revision }): Params<ConvergenceParams>,
) -> Result<Response, Problem> {
    // A revision that this server does not know yet may be the cluster's by now.
    let consistent = revision.is_some_and(|revision| Revision(revision) > app.catalog.get().revision);
    caught_up(&app, Freshness { min_revision: None, consistent }).await?;
    let snapshot = app.catalog.get();
    let cluster = snapshot.clusters.get(&name).ok_or_else(|| Problem::no_cluster(&name))?;
    // Nobody can hold more of a cluster than there is.
    let wanted = revision.map_or(cluster.revision, |revision| Revision(revision).min(cluster.revision));
    let head = Head { store: snapshot.store, revision: wanted };
    let Convergence { servers, missing } = Convergence::of(&app, &name, head).await;
    let sum = |of: fn(&crate::convergence::Count) -> usize| -> usize {
        servers.iter().map(|(_, count)| of(count)).sum()
    };
    let lagging: Vec<Value> = servers
        .iter()
        .flat_map(|(server, count)| count.lagging.iter().map(move |lagging| (server, lagging)))
        .map(|(server, lagging)| {
            json!({
                "peer": lagging.peer, "server": server,
                "revision": lagging.revision, "age_ms": lagging.age_ms,
            })
        })
        .collect();
    let rows = servers.iter().map(
        |(server, count)| json!({ "id": server, "subscribers": count.subscribers, "reached": count.reached }),
    );
    Ok(Json(json!({
        "cluster": name,
        "revision": wanted,
        "subscribers": sum(|count| count.subscribers),
        "reached": sum(|count| count.reached),
        "unacknowledged": sum(|count| count.unacknowledged),
        "lagging": lagging,
        "servers": rows.collect::<Vec<_>>(),
        "servers_missing": missing,
    }))
    .into_response())
}
