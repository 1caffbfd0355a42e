//! What somebody wants changed, and the pure function that turns it into a [`Change`] or a refusal.
//!
//! A mutation is a function of the state it meets, not a new state: after a conflict it is tried again on the newer
//! state, and only a precondition that no longer holds refuses it.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::{Change, Effect};
use crate::check::{self, CheckKind};
use crate::cluster::{NODES_MAX, refuse_twins};
use crate::edit::Place;
use crate::invalid::{Invalid, quoted};
use crate::node::Node;
use crate::{
    Cluster, ClusterName, ClusterSpec, Edit, Header, Lapsed, Lease, LeaseId, NodeId, NodeSpec, Revision,
    TargetPolicy,
};

/// One wish. Every kind names its cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mutation {
    /// The cluster shall be exactly this.
    PutCluster(ClusterSpec),
    /// The cluster shall differ by this JSON merge patch (RFC 7396) on its written form.
    PatchCluster(Value),
    /// The cluster shall be gone.
    DeleteCluster,
    /// These nodes shall be there; others stay as they are.
    PutNodes(Vec<NodeSpec>),
    /// One node shall differ by this JSON merge patch on its written form.
    PatchNode(NodeId, Value),
    /// These nodes shall be gone.
    DeleteNodes(Vec<NodeId>),
    /// Those of these nodes that are as they were shall be gone. One that was registered again, moved, or was taken away
    /// meanwhile is left alone.
    ClearAway(Vec<Lapsed>),
}

/// What must hold for a mutation to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// The cluster's revision is this one.
    pub revision: Option<Revision>,
    /// The cluster is not there.
    pub absent: bool,
    /// Every node that is named has this lease. One that is put may also not be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}

/// Why a mutation was not carried out. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no such cluster.
    #[error("there is no cluster `{cluster}`")]
    NoCluster {
        /// Its name.
        cluster: ClusterName,
    },
    /// There is no such node in the cluster.
    #[error("cluster `{cluster}` has no node `{node}`")]
    NoNode {
        /// The cluster.
        cluster: ClusterName,
        /// The id that was asked for.
        node: NodeId,
    },
    /// The condition that came with the mutation does not hold.
    #[error("the condition on cluster `{cluster}` does not hold: {}", match found { Some(r) => format!("it is at revision {r}"), None => "it is not there".to_owned() })]
    Condition {
        /// The cluster.
        cluster: ClusterName,
        /// The revision it has; `None` when it is not there.
        found: Option<Revision>,
    },
    /// The node does not have the lease that the mutation is about.
    #[error("node `{node}` of cluster `{cluster}` {}", match found { Some(lease) => format!("has another lease: {lease}"), None => "has no lease any more".to_owned() })]
    Lease {
        /// The cluster.
        cluster: ClusterName,
        /// The node.
        node: NodeId,
        /// The lease it has.
        found: Option<LeaseId>,
    },
    /// Another node of the cluster already has that place.
    #[error("node `{node}` of cluster `{cluster}` would share {address} port {port} with node `{other}`")]
    Clash {
        /// The cluster.
        cluster: ClusterName,
        /// The node that was written.
        node: NodeId,
        /// The node that is there.
        other: NodeId,
        /// The address both have.
        address: IpAddr,
        /// The port both have.
        port: u16,
    },
    /// A node that came without an id would get one that belongs to a node at another place.
    #[error(
        "the id `{node}` in cluster `{cluster}` belongs to a node that is now at another place: give this one an `id` of its own"
    )]
    IdTaken {
        /// The cluster.
        cluster: ClusterName,
        /// The id.
        node: NodeId,
    },
    /// The input, or what it would lead to, is not valid.
    #[error("{0}")]
    Invalid(Invalid),
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl Mutation {
    /// What this mutation does to the cluster as it is, as the change of the given revision. `None`: nothing.
    ///
    /// For many mutations of one cluster there is [`Mutation::change_in`].
    pub fn change(
        &self,
        name: &ClusterName,
        before: Option<&Arc<Cluster>>,
        precondition: Precondition,
        revision: Revision,
        targets: &TargetPolicy,
    ) -> Result<Option<Change>, Refusal> {
        self.change_in(&Edit::new(before.cloned()), name, precondition, revision, targets)
    }

    /// The same for a cluster that changes are being made to. What is asked of single nodes costs what they are, not what
    /// the cluster holds.
    pub fn change_in(
        &self,
        before: &Edit,
        name: &ClusterName,
        precondition: Precondition,
        revision: Revision,
        targets: &TargetPolicy,
    ) -> Result<Option<Change>, Refusal> {
        let found = before.revision();
        let creates = matches!(self, Self::PutCluster(_));
        let held = match before.without_nodes() {
            None if !creates => return Err(Refusal::NoCluster { cluster: name.clone() }),
            held => held,
        };
        if (precondition.absent && found.is_some())
            || (precondition.revision.is_some() && precondition.revision != found)
        {
            return Err(Refusal::Condition { cluster: name.clone(), found });
        }
        if precondition.lease.is_some() && !self.names_nodes() {
            return Err(Invalid::new("a condition on a lease belongs to a write that names nodes").into());
        }
        let (patched, cleared);
        let mut wanted = match self {
            Self::DeleteCluster => {
                return Ok(Some(Change { cluster: name.clone(), revision, effect: Effect::Deleted }));
            }
            Self::PutCluster(spec) => Wanted {
                header: Some(spec.header.clone()),
                nodes: &spec.nodes,
                nodes_left_out: spec.nodes_left_out,
                replace_all: true,
                ..Wanted::default()
            },
            Self::PutNodes(nodes) => Wanted { nodes, ..Wanted::default() },
            Self::DeleteNodes(ids) => Wanted { removed: ids, ..Wanted::default() },
            Self::ClearAway(lapsed) => {
                let stands =
                    |lapsed: &&Lapsed| before.node(&lapsed.node).is_some_and(|node| lapsed.is_of(node));
                let mut nodes: Vec<NodeId> =
                    lapsed.iter().filter(stands).map(|lapsed| lapsed.node.clone()).collect();
                nodes.sort_unstable();
                nodes.dedup();
                cleared = nodes;
                Wanted { removed: &cleared, ..Wanted::default() }
            }
            Self::PatchCluster(patch) => {
                // What says nothing of nodes leaves them as they are, and is not tried on them.
                let names_nodes = patch.get("nodes").is_some();
                let whole = if names_nodes { before.to_cluster() } else { None };
                let held = whole.as_deref().or(held);
                patched = held.map(|held| patched_cluster(name, held, patch)).transpose()?;
                patched.as_ref().map_or_else(Wanted::default, |spec| Wanted {
                    header: Some(spec.header.clone()),
                    nodes: &spec.nodes,
                    nodes_left_out: names_nodes && spec.nodes_left_out,
                    replace_all: names_nodes,
                    ..Wanted::default()
                })
            }
            Self::PatchNode(id, patch) => {
                let spec = patched_node(name, before, id, patch)?;
                return Self::PutNodes(vec![spec]).change_in(
                    before,
                    name,
                    Precondition { lease: precondition.lease, ..Precondition::default() },
                    revision,
                    targets,
                );
            }
        };
        wanted.lease = precondition.lease;
        wanted.difference(before, name, revision, targets)
    }

    /// Whether it is about single nodes.
    fn names_nodes(&self) -> bool {
        matches!(self, Self::PutNodes(_) | Self::PatchNode(..) | Self::DeleteNodes(_))
    }
}

#[derive(Default)]
struct Wanted<'a> {
    header: Option<Header>,
    nodes: &'a [NodeSpec],
    /// Whether nothing was said of nodes at all, which must not empty a cluster.
    nodes_left_out: bool,
    /// Whether nodes that are not named are gone.
    replace_all: bool,
    removed: &'a [NodeId],
    /// What every node that is named and there must have.
    lease: Option<LeaseId>,
}

impl Wanted<'_> {
    fn difference(
        self,
        before: &Edit,
        name: &ClusterName,
        revision: Revision,
        targets: &TargetPolicy,
    ) -> Result<Option<Change>, Refusal> {
        if self.nodes_left_out && before.node_count() > 0 {
            let reason = format!(
                "left out, and cluster `{name}` has {} nodes: write `\"nodes\": []` to take them all away",
                before.node_count()
            );
            return Err(Invalid::at("nodes", reason).into());
        }
        refuse_twins(self.nodes).map_err(|e| e.within("nodes"))?;
        let ids = self.resolve_ids(before);
        if let Some(id) = self.removed.iter().find(|id| before.node(id).is_none()) {
            return Err(Refusal::NoNode { cluster: name.clone(), node: id.clone() });
        }
        if let Some(lease) = self.lease {
            let named = ids.iter().chain(self.removed).filter_map(|id| before.node(id));
            refuse_unless_leased(name, lease, named)?;
        }
        let mut removed = self.removed.to_vec();
        let mut put = Vec::new();
        let mut named: HashSet<&NodeId> = HashSet::with_capacity(ids.len());
        for (index, (spec, id)) in self.nodes.iter().zip(&ids).enumerate() {
            let place = format!("nodes[{index}]");
            if !named.insert(id) {
                return Err(Invalid::at(
                    place,
                    format!("two entries are the same node {}", quoted(id.as_str())),
                )
                .into());
            }
            let mut node = Node {
                id: id.clone(),
                address: spec.address,
                ports: spec.ports.clone(),
                attributes: spec.attributes.clone(),
                birth: revision,
            };
            let held = before.node(id);
            if let Some(held) = held
                && spec.id.is_none()
                && !self.replace_all
                && !shares_place(held, spec)
            {
                return Err(Refusal::IdTaken { cluster: name.clone(), node: id.clone() });
            }
            match held {
                Some(held) if held.same_meaning(&node) => continue,
                Some(held) if held.same_form(&node) => node.birth = held.birth,
                _ => {
                    for (port_name, port) in node.ports.iter() {
                        targets
                            .permit((node.address, port.get()).into())
                            .map_err(|e| Invalid::at(format!("{place}.ports.{port_name}"), e.reason))?;
                    }
                }
            }
            put.push(Arc::new(node));
        }
        if self.replace_all {
            let gone = before.nodes().map(|node| &node.id).filter(|id| !named.contains(id));
            removed.extend(gone.cloned());
            removed.sort_unstable();
        }
        let held = before.without_nodes();
        let header = self.header.filter(|header| held.is_none_or(|held| !held.header.same_meaning(header)));
        if held.is_some() && header.is_none() && put.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        let added = put.iter().filter(|node| before.node(&node.id).is_none()).count();
        refuse_unless_checkable(before, header.as_ref(), &put, &removed)?;
        // Who replaces all nodes names all, and no two that are named share a place.
        let clash = put.iter().filter(|_| !self.replace_all).find_map(|node| clash(before, &named, node));
        if let Some((node, other, (address, port))) = clash {
            let cluster = name.clone();
            return Err(Refusal::Clash { cluster, node: node.clone(), other: other.clone(), address, port });
        }
        // After the clash: whoever may have the place of another node makes the cluster no larger.
        refuse_unless_few(name, (before.node_count() + added).saturating_sub(removed.len()))?;
        let effect = Effect::Updated { created: held.is_none(), header: header.map(Arc::new), put, removed };
        Ok(Some(Change { cluster: name.clone(), revision, effect }))
    }

    /// The id of each entry: its own, that of the node which already has its place, or a new one.
    fn resolve_ids(&self, before: &Edit) -> Vec<NodeId> {
        let held_at = |spec: &NodeSpec| {
            spec.ports.iter().find_map(|(_, port)| before.holder((spec.address, port.get())).cloned())
        };
        self.nodes
            .iter()
            .map(|spec| spec.id.clone().or_else(|| held_at(spec)).unwrap_or_else(|| spec.default_id()))
            .collect()
    }
}

/// Every one of these nodes has this lease.
fn refuse_unless_leased<'a>(
    cluster: &ClusterName,
    lease: LeaseId,
    mut nodes: impl Iterator<Item = &'a Arc<Node>>,
) -> Result<(), Refusal> {
    let found = |node: &Node| node.attributes.lease().map(Lease::id);
    match nodes.find(|node| found(node) != Some(lease)) {
        Some(node) => {
            Err(Refusal::Lease { cluster: cluster.clone(), node: node.id.clone(), found: found(node) })
        }
        None => Ok(()),
    }
}

/// Whether a node is written with the address and some port of one that is there.
fn shares_place(held: &Node, spec: &NodeSpec) -> bool {
    let has = |port| held.ports.iter().any(|(_, held)| *held == port);
    held.address == spec.address && spec.ports.iter().any(|(_, port)| has(*port))
}

fn refuse_unless_few(name: &ClusterName, node_count: usize) -> Result<(), Invalid> {
    if node_count <= NODES_MAX {
        return Ok(());
    }
    let reason = format!("cluster `{name}` would have {node_count} nodes, the limit is {NODES_MAX}");
    Err(Invalid::at("nodes", reason))
}

/// Every node has the port that is to be checked, or the lease that is its check. Where the check stays as it is, those that stay are known to have it.
fn refuse_unless_checkable(
    before: &Edit,
    header: Option<&Header>,
    put: &[Arc<Node>],
    removed: &[NodeId],
) -> Result<(), Invalid> {
    let held = before.without_nodes().map(|held| &*held.check);
    let new = header.map(Header::check);
    let Some(check) = new.as_ref().or(held).filter(|check| check.kind != CheckKind::None) else {
        return Ok(());
    };
    let is_leased = check.kind == CheckKind::Lease;
    if !is_leased && check.port.is_none() {
        return Ok(());
    }
    let port = check.port.as_deref();
    let lacks = |node: &&Arc<Node>| {
        if is_leased { node.attributes.lease().is_none() } else { node.port(port).is_none() }
    };
    // Not even looked at where the check stays: that would make each write cost what the cluster holds.
    let stay = new.iter().flat_map(|_| {
        let touched: HashSet<&NodeId> = put.iter().map(|node| &node.id).chain(removed).collect();
        before.nodes().filter(move |node| !touched.contains(&node.id))
    });
    match stay.chain(put).filter(lacks).min_by_key(|node| &node.id) {
        Some(node) if is_leased => {
            let reason = format!(
                "node `{}` has none, and where `check.kind` is `lease` nothing else would tell whether it works: let its \
                 program register itself, or choose another `check.kind`",
                node.id
            );
            Err(Invalid::at("lease", reason))
        }
        Some(node) => {
            let port = quoted(port.unwrap_or_default());
            let reason = format!("{port} is to be checked, and node `{}` has no port of that name", node.id);
            Err(Invalid::at("check.port", reason))
        }
        None => Ok(()),
    }
}

/// A node that is there and not among those written, and has a place that this one is written with.
fn clash<'a>(
    before: &'a Edit,
    named: &HashSet<&NodeId>,
    node: &'a Node,
) -> Option<(&'a NodeId, &'a NodeId, Place)> {
    node.ports.iter().find_map(|(_, port)| {
        let place = (node.address, port.get());
        let other = before.holder(place).filter(|other| !named.contains(other))?;
        Some((&node.id, other, place))
    })
}

fn patched_cluster(name: &ClusterName, held: &Cluster, patch: &Value) -> Result<ClusterSpec, Refusal> {
    let mut written = serde_json::to_value(held.to_spec()).expect("a cluster is JSON");
    merge(&mut written, patch, "a cluster")?;
    if let (Value::Object(check), Value::Object(patch)) = (&mut written["check"], &patch["check"]) {
        check::drop_left_over(check, patch);
    }
    let spec: ClusterSpec = decode(written)?;
    match &spec.name {
        Some(other) if other != name => Err(Invalid::at(
            "name",
            format!("{} is not {}: there is no rename", quoted(other.as_str()), quoted(name.as_str())),
        )
        .into()),
        _ => Ok(spec),
    }
}

fn patched_node(cluster: &ClusterName, held: &Edit, id: &NodeId, patch: &Value) -> Result<NodeSpec, Refusal> {
    let node = held.node(id).ok_or_else(|| Refusal::NoNode { cluster: cluster.clone(), node: id.clone() })?;
    let mut written = serde_json::to_value(node.to_spec()).expect("a node is JSON");
    merge(&mut written, patch, "a node")?;
    let spec: NodeSpec = decode(written)?;
    if spec.id.as_ref() != Some(id) {
        return Err(Invalid::at("id", format!("the id of node {} is fixed", quoted(id.as_str()))).into());
    }
    Ok(spec)
}

fn decode<T: serde::de::DeserializeOwned>(written: Value) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(written).map_err(|error| {
        let path = error.path().to_string();
        let reason = error.into_inner().to_string();
        if path == "." { Invalid::new(reason) } else { Invalid::at(path, reason) }
    })
}

/// Merges as RFC 7396 says: objects member by member, `null` takes a member away, anything else replaces.
fn merge(target: &mut Value, patch: &Value, what: &str) -> Result<(), Invalid> {
    fn step(target: &mut Value, patch: &Value) {
        let Value::Object(patch) = patch else {
            *target = patch.clone();
            return;
        };
        if !target.is_object() {
            *target = Value::Object(serde_json::Map::new());
        }
        let Value::Object(target) = target else { return };
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                step(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
    if !patch.is_object() {
        return Err(Invalid::new(format!("a patch of {what} is a JSON object")));
    }
    step(target, patch);
    Ok(())
}
