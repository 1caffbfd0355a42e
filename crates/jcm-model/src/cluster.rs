//! A cluster: a named set of nodes that offer one service, with the policy of its checks and its protection.
//!
//! [`ClusterSpec`] is what people write, [`Cluster`] is what is stored: with ids, births and revisions. Both keep
//! out what was left out; [`Cluster::to_filled`] fills it in for readers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::check::{Check, CheckKind, CheckSpec};
use crate::invalid::{Invalid, quoted};
use crate::node::{Labels, Node, NodeSpec, Ports};
use crate::pairs::Pairs;
use crate::text::{refuse_unless_key, refuse_unless_text};
use crate::{ClusterName, Lease, NodeId, Revision, object};

/// Most nodes of one cluster. Larger sets are several clusters: a view is one message.
pub const NODES_MAX: usize = 20_000;

const PANIC_BELOW_DEFAULT: f64 = 0.5;

/// Free configuration that is watched with the cluster.
pub type Properties = Pairs<Box<str>>;

/// What a cluster says about itself, beside its nodes. What is `None` was left out.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Header {
    /// Whether the cluster is in use.
    pub online: Option<bool>,
    /// How its nodes are checked.
    pub check: Option<CheckSpec>,
    /// From which share of routable nodes on every online node is routed to.
    pub panic_below: Option<PanicBelow>,
    /// Free configuration.
    pub properties: Properties,
}

impl Header {
    /// Whether the cluster is in use.
    pub fn online(&self) -> bool {
        self.online.unwrap_or(true)
    }

    /// The share of routable nodes among online ones below which all online ones are routed to.
    pub fn panic_below(&self) -> f64 {
        self.panic_below.map_or(PANIC_BELOW_DEFAULT, |share| share.0)
    }

    /// The check that is carried out.
    pub fn check(&self) -> Check {
        self.check.as_ref().unwrap_or(&CheckSpec::default()).effective()
    }

    /// Whether both mean the same once defaults are filled in.
    pub fn same_meaning(&self, other: &Self) -> bool {
        self.online() == other.online()
            && self.check() == other.check()
            && self.panic_below().to_bits() == other.panic_below().to_bits()
            && self.properties == other.properties
    }
}

/// A share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64", into = "f64")]
pub struct PanicBelow(f64);

impl TryFrom<f64> for PanicBelow {
    type Error = Invalid;
    fn try_from(share: f64) -> Result<Self, Invalid> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(Invalid::at("panic_below", format!("{share} is out of range: from 0 (never) to 1")))
        }
    }
}

impl From<PanicBelow> for f64 {
    fn from(share: PanicBelow) -> f64 {
        share.0
    }
}

/// A cluster as written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "RawCluster")]
pub struct ClusterSpec {
    /// The name, where the text carries it.
    pub name: Option<ClusterName>,
    /// Everything beside the nodes.
    pub header: Header,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// Whether the text says nothing of nodes. A cluster that has some is not emptied by that.
    pub nodes_left_out: bool,
}

/// The written form before its rules were tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCluster {
    /// The name; where the place of the text already names it, both must agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ClusterName>,
    /// Whether the cluster is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// How its nodes are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// What keeps its list from emptying.
    #[serde(default, deserialize_with = "protection", skip_serializing_if = "Option::is_none")]
    pub protection: Option<RawProtection>,
    /// Free configuration.
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub properties: Pairs<String>,
    /// The nodes.
    #[serde(default, deserialize_with = "nodes", skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeSpec>>,
}

/// A list, where there is one: `null` is no list.
fn nodes<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<NodeSpec>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

fn protection<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<RawProtection>, D::Error> {
    object::decode(deserializer, "protection").map(Some)
}

/// What keeps a cluster's list from emptying.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawProtection {
    /// From which share of routable nodes on every online node is routed to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub panic_below: Option<PanicBelow>,
}

impl<'de> Deserialize<'de> for ClusterSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: RawCluster = object::decode(deserializer, "a cluster")?;
        Self::try_from(raw).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawCluster> for ClusterSpec {
    type Error = Invalid;

    fn try_from(raw: RawCluster) -> Result<Self, Invalid> {
        let mut properties = Vec::with_capacity(raw.properties.len());
        for (key, value) in raw.properties.iter() {
            refuse_unless_key(key, "property name").map_err(|e| e.within("properties"))?;
            refuse_unless_text(value, "property").map_err(|e| e.within(&format!("properties.{key}")))?;
            properties.push((key.to_owned(), value.clone().into_boxed_str()));
        }
        let nodes_left_out = raw.nodes.is_none();
        let nodes = raw.nodes.unwrap_or_default();
        refuse_twins(&nodes).map_err(|e| e.within("nodes"))?;
        let header = Header {
            online: raw.online,
            check: raw.check,
            panic_below: raw.protection.and_then(|protection| protection.panic_below),
            properties: Pairs::new(properties).map_err(|e| e.within("properties"))?,
        };
        Ok(Self { name: raw.name, header, nodes, nodes_left_out })
    }
}

impl From<ClusterSpec> for RawCluster {
    fn from(spec: ClusterSpec) -> RawCluster {
        raw(spec.name, &spec.header, (!spec.nodes_left_out).then_some(spec.nodes))
    }
}

fn raw(name: Option<ClusterName>, header: &Header, nodes: Option<Vec<NodeSpec>>) -> RawCluster {
    let properties = header.properties.iter().map(|(k, v)| (k.to_owned(), v.to_string()));
    RawCluster {
        name,
        online: header.online,
        check: header.check.clone(),
        protection: header.panic_below.map(|share| RawProtection { panic_below: Some(share) }),
        properties: Pairs::new(properties).expect("the keys of a map stay unique"),
        nodes,
    }
}

/// Refuses a list in which two entries are the same node: same id, or same address with a common port.
pub(crate) fn refuse_twins(nodes: &[NodeSpec]) -> Result<(), Invalid> {
    if nodes.len() > NODES_MAX {
        return Err(Invalid::new(format!("{} nodes, the limit of one cluster is {NODES_MAX}", nodes.len())));
    }
    let mut ids = HashMap::with_capacity(nodes.len());
    let mut places = HashMap::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let id = node.id.clone().unwrap_or_else(|| node.default_id());
        if let Some(first) = ids.insert(id.clone(), index) {
            return Err(Invalid::new(format!(
                "entries {first} and {index} are the same node {}",
                quoted(id.as_str())
            ))
            .within(&format!("[{index}]")));
        }
        let mut ports: Vec<u16> = node.ports.iter().map(|(_, port)| port.get()).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            if let Some(first) = places.insert((node.address, port), index) {
                return Err(Invalid::new(format!(
                    "entries {first} and {index} share the address {} port {port}",
                    node.address
                ))
                .within(&format!("[{index}]")));
            }
        }
    }
    Ok(())
}

/// A cluster as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: ClusterName,
    /// The last commit that touched it.
    pub revision: Revision,
    /// The commit that created it.
    pub created: Revision,
    /// The last commit that changed what its nodes are asked; see [`Check::same_question`].
    pub check_changed: Revision,
    /// Everything beside the nodes.
    pub header: Arc<Header>,
    /// `header.check()`, worked out once.
    pub check: Arc<Check>,
    /// The nodes, in the order of their ids.
    pub nodes: Vec<Arc<Node>>,
}

impl Cluster {
    /// Where a node stands in `nodes`, or would stand.
    pub fn position(&self, id: &NodeId) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.id.cmp(id))
    }

    /// A node by its id.
    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.position(id).ok().map(|i| &self.nodes[i])
    }

    /// The cluster as it would be without any nodes; it does not cost what they are.
    #[must_use]
    pub fn without_nodes(&self) -> Self {
        Self {
            name: self.name.clone(),
            revision: self.revision,
            created: self.created,
            check_changed: self.check_changed,
            header: Arc::clone(&self.header),
            check: Arc::clone(&self.check),
            nodes: Vec::new(),
        }
    }

    /// The revision of a node's present form: added, moved to another address or port, or checked in another way.
    /// A verdict counts only for the birth it was found at.
    pub fn birth(&self, node: &Node) -> Revision {
        node.birth.max(self.check_changed)
    }

    /// Whether anybody checks its nodes.
    pub fn is_checked(&self) -> bool {
        self.check.kind != CheckKind::None
    }

    /// The written form: what was left out is still left out.
    pub fn to_spec(&self) -> ClusterSpec {
        ClusterSpec {
            name: Some(self.name.clone()),
            header: (*self.header).clone(),
            nodes: self.nodes.iter().map(|node| node.to_spec()).collect(),
            nodes_left_out: false,
        }
    }

    /// The written form with every default filled in: the answer to a `GET`. Writing it back changes nothing.
    pub fn to_filled(&self) -> Filled<'_> {
        let check = if self.is_checked() {
            FilledCheck::Policy(&self.check)
        } else {
            FilledCheck::None { kind: CheckKind::None }
        };
        Filled {
            name: &self.name,
            online: self.header.online(),
            check,
            protection: FilledProtection { panic_below: self.header.panic_below() },
            properties: &self.header.properties,
            nodes: self.nodes.iter().map(|node| FilledNode::of(node)).collect(),
        }
    }
}

/// The JSON of a cluster with every default filled in.
#[derive(Debug, Serialize)]
pub struct Filled<'a> {
    name: &'a ClusterName,
    online: bool,
    check: FilledCheck<'a>,
    protection: FilledProtection,
    properties: &'a Properties,
    nodes: Vec<FilledNode<'a>>,
}

#[derive(Debug, Serialize)]
struct FilledNode<'a> {
    id: &'a NodeId,
    address: IpAddr,
    ports: &'a Ports,
    weight: u16,
    priority: u16,
    zone: &'a str,
    online: bool,
    draining: bool,
    labels: &'a Labels,
    /// What has no default is left out where nobody wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<&'a Lease>,
}

impl<'a> FilledNode<'a> {
    fn of(node: &'a Node) -> Self {
        let attributes = &node.attributes;
        Self {
            id: &node.id,
            address: node.address,
            ports: &node.ports,
            weight: attributes.weight(),
            priority: attributes.priority(),
            zone: attributes.zone(),
            online: attributes.online(),
            draining: attributes.draining(),
            labels: attributes.labels(),
            lease: attributes.lease(),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum FilledCheck<'a> {
    None { kind: CheckKind },
    Policy(&'a Check),
}

#[derive(Debug, Serialize)]
struct FilledProtection {
    panic_below: f64,
}
