//! Why a node is as it is: who checked it, what came back, which threshold moved, what protects it.

use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::{ClusterName, Lease, NodeId, ServerId};
use serde_json::json;

use super::Problem;
use super::request::{InNode, Params, ReadParams};
use super::ring;
use super::view::fetch;
use crate::app::App;
use crate::checker::{Findings, milliseconds};
use crate::definitions::caught_up;

/// How long the server that checks a node may take to answer what it found.
const FINDINGS_DEADLINE: Duration = Duration::from_secs(1);

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
    let owner = ring::checked_by(&app, &name, &id);
    let (findings, note) = findings(&app, owner.as_ref(), &name, &id).await;
    let online = cluster.nodes.iter().filter(|node| node.admin() == jcm_model::Admin::Online).count();
    let routable = published.routing.nodes.iter().filter(|route| route.routable).count();
    let held = findings.as_ref().and_then(|findings| findings.held.as_ref());
    let reason = [route.reason.map(|reason| reason.to_string()), held.map(|held| held.reason.clone())];
    let reason = reason.into_iter().flatten().reduce(|one, other| format!("{one}, {other}"));
    let mut findings = findings.map_or_else(|| json!({ "vantages": [] }), |found| json!(found));
    if findings["thresholds"].is_null() {
        findings["thresholds"] = json!({});
    }
    let lease = node.attributes.lease().map(|lease| lease_now(&app, &name, &id, lease));
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
        "reason": reason,
        "owner": owner,
        "check": cluster.check.as_ref(),
        "vantages": findings["vantages"],
        "thresholds": findings["thresholds"],
        "needs": findings["needs"],
        "last_turn": findings["last_turn"],
        "held": findings["held"],
        "lease": lease,
        "suspended": findings["suspended"],
        "note": note,
        "protection": {
            "panic": published.routing.panic,
            "panic_below": cluster.header.panic_below(),
            "online": online,
            "routable": routable,
        },
    }))
    .into_response())
}

/// The node's lease, and its last renewal as far as this server knows: all of them are told of every one.
fn lease_now(app: &App, cluster: &ClusterName, node: &NodeId, lease: &Lease) -> serde_json::Value {
    let renewal = app.peers.leases().renewal(cluster, node, lease.id());
    let mut shown = json!(lease);
    shown["renewed"] = json!(renewal.map(|renewal| {
        json!({ "ms_ago": milliseconds(renewal.at.elapsed()).round(), "through": renewal.through })
    }));
    shown
}

/// What the owner found of the node, so that every server answers alike; and where it cannot be asked, why.
pub(super) async fn findings(
    app: &App,
    owner: Option<&ServerId>,
    cluster: &ClusterName,
    node: &NodeId,
) -> (Option<Findings>, Option<String>) {
    let Some(owner) = owner else { return (None, None) };
    if *owner == app.server {
        return (app.asker.findings(cluster, node).await, None);
    }
    match app.peers.findings(owner, cluster, node, FINDINGS_DEADLINE).await {
        Ok(Some(findings)) => (Some(findings), None),
        Ok(None) => (None, Some(format!("server `{owner}` is only about to check this node"))),
        Err(error) => {
            let note = format!("what checks found is not known here: {error}");
            // It was checked here lately, or is checked here as well.
            (app.asker.findings(cluster, node).await, Some(note))
        }
    }
}
