//! Nodes that may be used now, picked: for callers without a client library.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::node::Ports;
use jcm_model::{ClusterName, Node, NodeId, Revision};
use serde::{Deserialize, Serialize};

use super::request::{InCluster, Params, caught_up};
use super::view::fetch;
use super::{App, Problem};

/// Most nodes of one answer.
const NODES_MAX: usize = 1000;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ResolveParams {
    n: Option<usize>,
    zone: Option<String>,
    #[serde(default)]
    policy: Policy,
    min_revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

/// How nodes are picked. In all of them a lower priority number comes first, and the asked-for zone first within it.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Policy {
    /// By chance, by weight.
    #[default]
    Weighted,
    /// By chance, all alike.
    Random,
    /// In turn, over all callers of this server.
    RoundRobin,
}

#[derive(Debug, Serialize)]
struct Resolved<'a> {
    cluster: &'a ClusterName,
    revision: Revision,
    panic: bool,
    nodes: Vec<Pick>,
}

#[derive(Debug, Serialize)]
struct Pick {
    id: NodeId,
    address: IpAddr,
    ports: Ports,
}

pub(super) async fn get(
    State(app): State<App>,
    InCluster(name): InCluster,
    Params(params): Params<ResolveParams>,
) -> Result<Response, Problem> {
    caught_up(&app, params.min_revision, params.consistent).await?;
    let count = params.n.unwrap_or(1);
    if count == 0 || count > NODES_MAX {
        return Err(
            Problem::invalid(format!("n: {count} is out of range: from 1 to {NODES_MAX}")).with("field", "n"),
        );
    }
    let published = fetch(&app, &name)?;
    let mut nodes: Vec<(&Node, u16)> = published
        .state
        .nodes()
        .zip(&published.routing.nodes)
        .filter(|(_, route)| route.routable)
        .map(|((node, _), route)| (node.as_ref(), route.effective_weight))
        .collect();
    order(&mut nodes, params.policy);
    let elsewhere = |node: &Node| {
        params
            .zone
            .as_deref()
            .is_some_and(|zone| node.attributes.zone() != zone)
    };
    // The sort is stable: within a priority and zone the order of the policy stays.
    nodes.sort_by_key(|(node, _)| (node.attributes.priority(), elsewhere(node)));
    let pick = |(node, _): (&'_ Node, u16)| Pick {
        id: node.id.clone(),
        address: node.address,
        ports: node.ports.clone(),
    };
    let nodes = nodes.into_iter().take(count).map(pick).collect();
    let cluster = published.state.cluster();
    let resolved = Resolved {
        cluster: &name,
        revision: cluster.revision,
        panic: published.routing.panic,
        nodes,
    };
    Ok(Json(&resolved).into_response())
}

fn order(nodes: &mut [(&Node, u16)], policy: Policy) {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    if nodes.is_empty() {
        return;
    }
    match policy {
        Policy::RoundRobin => {
            let turn = TURN.fetch_add(1, Ordering::Relaxed) % nodes.len();
            nodes.rotate_left(turn);
        }
        Policy::Random => shuffle(nodes, |_| 1.0),
        Policy::Weighted => shuffle(nodes, f64::from),
    }
}

/// Weighted sampling without replacement: the largest of `u^(1/w)` first (Efraimidis and Spirakis, 2006).
fn shuffle(nodes: &mut [(&Node, u16)], weight: impl Fn(u16) -> f64) {
    let mut keyed: Vec<(f64, (&Node, u16))> = nodes
        .iter()
        .map(|(node, w)| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "53 random bits are enough for a choice"
            )]
            let unit =
                ((uuid::Uuid::new_v4().as_u64_pair().1 << 11 >> 11) as f64 + 1.0) / 9_007_199_254_740_993.0;
            (unit.ln() / weight(*w).max(1.0), (*node, *w))
        })
        .collect();
    keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (place, (_, node)) in nodes.iter_mut().zip(keyed) {
        *place = node;
    }
}
