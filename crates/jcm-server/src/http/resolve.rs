//! Nodes that may be used now, picked: for callers without a client library.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::node::Ports;
use jcm_model::{ClusterName, Node, NodeId, Revision};
use serde::{Deserialize, Serialize};

use super::Problem;
use super::request::{InCluster, Params};
use super::view::fetch;
use crate::app::App;
use crate::definitions::{Freshness, caught_up};

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
    let ResolveParams { min_revision, consistent, .. } = params;
    caught_up(&app, Freshness { min_revision, consistent }).await?;
    let count = params.n.unwrap_or(1);
    if count == 0 || count > NODES_MAX {
        return Err(
            Problem::invalid(format!("n: {count} is out of range: from 1 to {NODES_MAX}")).with("field", "n")
        );
    }
    let published = fetch(&app, &name)?;
    let mut candidates: Vec<Candidate<'_>> = published
        .state
        .nodes()
        .zip(&published.routing.nodes)
        .filter(|(_, route)| route.routable)
        .map(|((node, _), route)| Candidate::new(node, route.effective_weight, &params))
        .collect();
    if matches!(params.policy, Policy::RoundRobin) {
        take_turns(&mut candidates);
    }
    // Only those that are asked for need to be in order.
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count - 1, Candidate::compare);
        candidates.truncate(count);
    }
    candidates.sort_by(Candidate::compare);
    let nodes = candidates.iter().map(|candidate| Pick::of(candidate.node)).collect();
    let cluster = published.state.cluster();
    let resolved =
        Resolved { cluster: &name, revision: cluster.revision, panic: published.routing.panic, nodes };
    Ok(Json(&resolved).into_response())
}

/// A node with its place in the order of picking.
struct Candidate<'a> {
    node: &'a Node,
    priority: u16,
    elsewhere: bool,
    /// Larger comes first.
    luck: f64,
}

impl<'a> Candidate<'a> {
    fn new(node: &'a Node, weight: u16, params: &ResolveParams) -> Self {
        let elsewhere = params.zone.as_deref().is_some_and(|zone| node.attributes.zone() != zone);
        // Sampling by weight without replacement: the largest of u^(1/w) first (Efraimidis and Spirakis, 2006), here
        // as logarithms.
        let luck = match params.policy {
            Policy::Weighted => (1.0 - fastrand::f64()).ln() / f64::from(weight.max(1)),
            Policy::Random => fastrand::f64(),
            Policy::RoundRobin => 0.0,
        };
        Self { node, priority: node.attributes.priority(), elsewhere, luck }
    }

    fn compare(&self, other: &Self) -> std::cmp::Ordering {
        let place = |candidate: &Self| (candidate.priority, candidate.elsewhere);
        place(self).cmp(&place(other)).then_with(|| other.luck.total_cmp(&self.luck))
    }
}

/// Each request begins one further on, over all callers and clusters of this server.
fn take_turns(candidates: &mut [Candidate<'_>]) {
    static TURN: AtomicUsize = AtomicUsize::new(0);
    let (turn, len) = (TURN.fetch_add(1, Ordering::Relaxed), candidates.len());
    for (at, candidate) in candidates.iter_mut().enumerate() {
        let distance = (at + len - turn % len) % len;
        candidate.luck = -f64::from(u32::try_from(distance).expect("a cluster has at most 20,000 nodes"));
    }
}

impl Pick {
    fn of(node: &Node) -> Self {
        Self { id: node.id.clone(), address: node.address, ports: node.ports.clone() }
    }
}
