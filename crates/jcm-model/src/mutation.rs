//! What somebody wants changed, and the pure function that turns it into a [`Change`] or a refusal.
//!
//! A mutation is a function of the state it meets, not a new state: after a conflict it is tried again on the newer
//! state, and only a precondition that no longer holds refuses it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::{Change, Effect};
use crate::check::CheckKind;
use crate::cluster::{NODES_MAX, refuse_twins};
use crate::invalid::{Invalid, quoted};
use crate::node::Node;
use crate::{Cluster, ClusterName, ClusterSpec, Header, NodeId, NodeSpec, Revision, TargetPolicy};

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
}

/// What must hold for a mutation to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Precondition {
    /// The cluster's revision is this one.
    pub revision: Option<Revision>,
    /// The cluster is not there.
    pub absent: bool,
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
    pub fn change(
        &self,
        name: &ClusterName,
        before: Option<&Arc<Cluster>>,
        precondition: Precondition,
        revision: Revision,
        targets: &TargetPolicy,
    ) -> Result<Option<Change>, Refusal> {
        let found = before.map(|cluster| cluster.revision);
        let there = || before.ok_or_else(|| Refusal::NoCluster { cluster: name.clone() });
        let creates = matches!(self, Self::PutCluster(_));
        if !creates {
            there()?;
        }
        if (precondition.absent && found.is_some())
            || (precondition.revision.is_some() && precondition.revision != found)
        {
            return Err(Refusal::Condition { cluster: name.clone(), found });
        }
        let wanted = match self {
            Self::DeleteCluster => {
                return Ok(Some(Change { cluster: name.clone(), revision, effect: Effect::Deleted }));
            }
            Self::PutCluster(spec) => Wanted {
                header: Some(spec.header.clone()),
                nodes: &spec.nodes,
                nodes_left_out: spec.nodes_left_out,
                replace_all: true,
                removed: &[],
            },
            Self::PutNodes(nodes) => {
                Wanted { header: None, nodes, nodes_left_out: false, replace_all: false, removed: &[] }
            }
            Self::DeleteNodes(ids) => {
                Wanted { header: None, nodes: &[], nodes_left_out: false, replace_all: false, removed: ids }
            }
            Self::PatchCluster(patch) => {
                let spec = patched_cluster(name, there()?, patch)?;
                return Self::PutCluster(spec).change(
                    name,
                    before,
                    Precondition::default(),
                    revision,
                    targets,
                );
            }
            Self::PatchNode(id, patch) => {
                let spec = patched_node(name, there()?, id, patch)?;
                return Self::PutNodes(vec![spec]).change(
                    name,
                    before,
                    Precondition::default(),
                    revision,
                    targets,
                );
            }
        };
        wanted.difference(name, before, revision, targets)
    }
}

struct Wanted<'a> {
    header: Option<Header>,
    nodes: &'a [NodeSpec],
    /// Whether nothing was said of nodes at all, which must not empty a cluster.
    nodes_left_out: bool,
    /// Whether nodes that are not named are gone.
    replace_all: bool,
    removed: &'a [NodeId],
}

impl Wanted<'_> {
    fn difference(
        self,
        name: &ClusterName,
        before: Option<&Arc<Cluster>>,
        revision: Revision,
        targets: &TargetPolicy,
    ) -> Result<Option<Change>, Refusal> {
        if let Some(cluster) = before.filter(|cluster| self.nodes_left_out && !cluster.nodes.is_empty()) {
            let reason = format!(
                "left out, and cluster `{name}` has {} nodes: write `\"nodes\": []` to take them all away",
                cluster.nodes.len()
            );
            return Err(Invalid::at("nodes", reason).into());
        }
        refuse_twins(self.nodes).map_err(|e| e.within("nodes"))?;
        let held: &[Arc<Node>] = before.map_or(&[], |cluster| &cluster.nodes);
        let ids = self.resolve_ids(before);
        if let Some(id) =
            self.removed.iter().find(|id| before.is_none_or(|cluster| cluster.node(id).is_none()))
        {
            return Err(Refusal::NoNode { cluster: name.clone(), node: id.clone() });
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
            let held = before.and_then(|cluster| cluster.node(id));
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
            removed.extend(held.iter().map(|node| &node.id).filter(|id| !named.contains(id)).cloned());
        }
        let header =
            self.header.filter(|header| before.is_none_or(|cluster| !cluster.header.same_meaning(header)));
        if before.is_some() && header.is_none() && put.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        let effect =
            Effect::Updated { created: before.is_none(), header: header.map(Arc::new), put, removed };
        let change = Change { cluster: name.clone(), revision, effect };
        let after = change.apply(before).expect("an update leaves a cluster");
        refuse_unless_sound(&after, &change)?;
        Ok(Some(change))
    }

    /// The id of each entry: its own, that of the node which already has its place, or a new one.
    fn resolve_ids(&self, before: Option<&Arc<Cluster>>) -> Vec<NodeId> {
        let mut places: HashMap<(IpAddr, u16), &NodeId> = HashMap::new();
        if let Some(cluster) = before
            && self.nodes.iter().any(|spec| spec.id.is_none())
        {
            for node in &cluster.nodes {
                places.extend(node.ports.iter().map(|(_, port)| ((node.address, port.get()), &node.id)));
            }
        }
        let held_at = |spec: &NodeSpec| {
            spec.ports.iter().find_map(|(_, port)| places.get(&(spec.address, port.get())).copied())
        };
        self.nodes
            .iter()
            .map(|spec| {
                spec.id.clone().or_else(|| held_at(spec).cloned()).unwrap_or_else(|| spec.default_id())
            })
            .collect()
    }
}

/// Whether a node is written with the address and some port of one that is there.
fn shares_place(held: &Node, spec: &NodeSpec) -> bool {
    let has = |port| held.ports.iter().any(|(_, held)| *held == port);
    held.address == spec.address && spec.ports.iter().any(|(_, port)| has(*port))
}

/// What must hold of a cluster as a whole, tried on what the change touched.
fn refuse_unless_sound(after: &Cluster, change: &Change) -> Result<(), Refusal> {
    if after.nodes.len() > NODES_MAX {
        let reason = format!(
            "cluster `{}` would have {} nodes, the limit is {NODES_MAX}",
            after.name,
            after.nodes.len()
        );
        return Err(Invalid::at("nodes", reason).into());
    }
    if after.check.kind != CheckKind::None
        && let Some(port) = &after.check.port
        && let Some(node) = after.nodes.iter().find(|node| node.port(Some(port)).is_none())
    {
        let reason =
            format!("{} is to be checked, and node `{}` has no port of that name", quoted(port), node.id);
        return Err(Invalid::at("check.port", reason).into());
    }
    let Effect::Updated { put, .. } = &change.effect else {
        return Ok(());
    };
    if put.is_empty() {
        return Ok(());
    }
    let written: HashSet<&NodeId> = put.iter().map(|node| &node.id).collect();
    let mut places: HashMap<(IpAddr, u16), &NodeId> = HashMap::with_capacity(after.nodes.len());
    for node in &after.nodes {
        for (_, port) in node.ports.iter() {
            if let Some(other) = places.insert((node.address, port.get()), &node.id)
                && *other != node.id
            {
                let (writer, holder) =
                    if written.contains(&node.id) { (&node.id, other) } else { (other, &node.id) };
                return Err(Refusal::Clash {
                    cluster: after.name.clone(),
                    node: writer.clone(),
                    other: holder.clone(),
                    address: node.address,
                    port: port.get(),
                });
            }
        }
    }
    Ok(())
}

fn patched_cluster(name: &ClusterName, held: &Cluster, patch: &Value) -> Result<ClusterSpec, Refusal> {
    let mut written = serde_json::to_value(held.to_spec()).expect("a cluster is JSON");
    merge(&mut written, patch, "a cluster")?;
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

fn patched_node(
    cluster: &ClusterName,
    held: &Cluster,
    id: &NodeId,
    patch: &Value,
) -> Result<NodeSpec, Refusal> {
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
