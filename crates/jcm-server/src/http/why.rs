//! Why a node is as it is: who checked it, what came back, which threshold moved, what protects it.

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;

use super::Problem;
use super::request::{InNode, Params, ReadParams};
use super::view::fetch;
use crate::app::App;
use crate::definitions::caught_up;

pub(super) async fn get(
    State(app): State<App>,
    InNode(name, id): InNode,
    Params(params): Params<ReadParams>,
) -> Result<Response, Problem> {
    caught_up(&app, params.freshness()).await?;
    let published = fetch(&app, &name)?;
    let cluster = published.state.cluster();
    let Ok(at) = cluster.position(&id) else {
        return Err(jcm_model::Refusal::NoNode { cluster: name, node: id }.into());
    };
    let node = &cluster.nodes[at];
    let route = published.routing.nodes[at];
    let judged = published.state.judged(&id);
    let findings = app.asker.findings(&name, &id).await;
    let online = cluster.nodes.iter().filter(|node| node.admin() == jcm_model::Admin::Online).count();
    let routable = published.routing.nodes.iter().filter(|route| route.routable).count();
    let (vantages, thresholds, last_turn, suspended) = match findings {
        Some(findings) => (
            json!(findings.vantages),
            json!(findings.thresholds),
            json!(findings.last_turn),
            json!(findings.suspended),
        ),
        None => (json!([]), json!({}), json!(null), json!(null)),
    };
    Ok(Json(json!({
        "cluster": name,
        "node": id,
        "revision": cluster.revision,
        "admin": node.admin(),
        "verdict": judged.map_or(jcm_model::Verdict::Unknown, |judged| judged.verdict),
        "since": judged.map(|judged| judged.since),
        "single_vantage": judged.is_some_and(|judged| judged.single_vantage),
        "stale_since": judged.and_then(|judged| judged.stale_since),
        "routable": route.routable,
        "effective_weight": route.effective_weight,
        "reason": route.reason.map(|reason| reason.to_string()),
        "owner": cluster.is_checked().then_some(&app.server),
        "check": cluster.check.as_ref(),
        "vantages": vantages,
        "thresholds": thresholds,
        "last_turn": last_turn,
        "suspended": suspended,
        "protection": {
            "panic": published.routing.panic,
            "panic_below": cluster.header.panic_below(),
            "online": online,
            "routable": routable,
        },
    }))
    .into_response())
}
