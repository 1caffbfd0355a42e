//! The JSON of a cluster as its users see it: definition, verdict, routing and reason side by side.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;

use crate::node::{Admin, Labels, Node, Ports};
use crate::routing::{Route, Routing};
use crate::{ClusterName, ClusterState, Judged, Lease, NodeId, Revision, Verdict};

/// A cluster as its users see it.
#[derive(Debug, Serialize)]
pub struct View<'a> {
    /// Its name.
    pub name: &'a ClusterName,
    /// The last commit that touched it.
    pub revision: Revision,
    /// What to hand back to be told only what changed since.
    pub token: &'a str,
    /// Whether the server that answers may be behind.
    pub stale: bool,
    /// Whether protection is routing to nodes that are not fit.
    pub panic: bool,
    /// Whether the cluster is in use.
    pub online: bool,
    /// Free configuration.
    pub properties: &'a crate::cluster::Properties,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<NodeView<'a>>,
}

/// A node as its users see it.
#[derive(Debug, Serialize)]
pub struct NodeView<'a> {
    /// Its id.
    pub id: &'a NodeId,
    /// Where it is.
    pub address: IpAddr,
    /// What it offers.
    pub ports: &'a Ports,
    /// The weight as written.
    pub weight: u16,
    /// Order of preference, 0 first.
    pub priority: u16,
    /// Where it stands.
    pub zone: &'a str,
    /// Free labels.
    pub labels: &'a Labels,
    /// What keeps it there, where a program registered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<&'a Lease>,
    /// What people decided.
    pub admin: Admin,
    /// What checks found.
    pub verdict: Verdict,
    /// The share of traffic it gets now.
    pub effective_weight: u16,
    /// Whether traffic may go there.
    pub routable: bool,
    /// Why; `null` for a healthy node in use.
    pub reason: Option<String>,
    /// Since when it has this verdict.
    pub since: Option<Timestamp>,
    /// Since when its checker has been silent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale_since: Option<Timestamp>,
}

impl<'a> View<'a> {
    /// Lays state and routing (of that state) side by side.
    pub fn new(state: &'a ClusterState, routing: &Routing, token: &'a str, stale: bool) -> Self {
        let cluster = state.cluster();
        Self {
            name: &cluster.name,
            revision: cluster.revision,
            token,
            stale,
            panic: routing.panic,
            online: cluster.header.online(),
            properties: &cluster.header.properties,
            nodes: state
                .nodes()
                .zip(&routing.nodes)
                .map(|((node, judged), route)| NodeView::new(node, judged, *route))
                .collect(),
        }
    }
}

impl<'a> NodeView<'a> {
    /// One row.
    pub fn new(node: &'a Node, judged: Option<&Judged>, route: Route) -> Self {
        let attributes = &node.attributes;
        Self {
            id: &node.id,
            address: node.address,
            ports: &node.ports,
            weight: attributes.weight(),
            priority: attributes.priority(),
            zone: attributes.zone(),
            labels: attributes.labels(),
            lease: attributes.lease(),
            admin: node.admin(),
            verdict: judged.map_or(Verdict::Unknown, |judged| judged.verdict),
            effective_weight: route.effective_weight,
            routable: route.routable,
            reason: route.reason.map(|reason| reason.to_string()),
            since: judged.map(|judged| judged.since),
            stale_since: judged.and_then(|judged| judged.stale_since),
        }
    }
}
