//! Who checks what: the servers that share the checks, and of one node who owns it and who would substitute.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_health::ring::Place;
use jcm_model::{ClusterName, NodeId, ServerId};
use serde::Deserialize;
use serde_json::json;

use super::Problem;
use super::request::Params;
use crate::app::App;

/// A node, or none: both or neither.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RingParams {
    cluster: Option<String>,
    node: Option<String>,
}

pub(super) async fn get(
    State(app): State<App>,
    Params(params): Params<RingParams>,
) -> Result<Response, Problem> {
    let duty = app.asker.duty();
    let ring = duty.ring();
    let node = match (params.cluster, params.node) {
        (None, None) => None,
        (Some(cluster), Some(node)) => {
            let (cluster, node) = (ClusterName::parse(&cluster)?, NodeId::parse(&node)?);
            Some(json!({
                "cluster": cluster,
                "node": node,
                "owner": ring.owner(&cluster, &node),
                "order": ring.order(&cluster, &node),
                "checked_by": checked_by(&app, &cluster, &node),
            }))
        }
        _ => return Err(Problem::invalid("`cluster` and `node` are given together or not at all")),
    };
    let mut shares: BTreeMap<&ServerId, usize> = ring.servers().iter().map(|server| (server, 0)).collect();
    for cluster in app.catalog.get().clusters.values().filter(|cluster| cluster.is_checked()) {
        for node in &cluster.nodes {
            if let Some(owner) = ring.owner(&cluster.name, &node.id) {
                *shares.entry(owner).or_default() += 1;
            }
        }
    }
    let liveness = app.peers.liveness();
    let liveness = liveness.borrow().clone();
    let row = |(server, nodes): (&ServerId, usize)| {
        let is_heard = *server == app.server || liveness.is_live(server);
        json!({ "id": server, "nodes": nodes, "heard": is_heard })
    };
    let mut answer = json!({
        "epoch": ring.epoch(),
        "servers": shares.into_iter().map(row).collect::<Vec<_>>(),
        "nodes_checked_here": app.asker.owned(),
        "takeovers": app.asker.takeovers(),
    });
    if let Some(node) = node {
        answer["node"] = node;
    }
    Ok(Json(answer).into_response())
}

/// Who checks the node, as far as this server can tell; `None` where nobody is meant to.
pub(super) fn checked_by(app: &App, cluster: &ClusterName, node: &NodeId) -> Option<ServerId> {
    let defined = app.catalog.cluster(cluster).filter(|cluster| cluster.is_checked())?;
    defined.node(node)?;
    let held = app.views.judged(cluster, node);
    let stamp = held.as_ref().map(|held| &held.stamp);
    Some(app.asker.duty().responsible(Place::of(cluster, node), defined.check.interval, stamp).clone())
}
