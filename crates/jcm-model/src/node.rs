//! One member of a cluster: an address with named ports, and what people decided about it.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::invalid::Invalid;
use crate::name::refuse_unless_port_name;
use crate::pairs::Pairs;
use crate::text::{refuse_unless_key, refuse_unless_text};
use crate::{Lease, NodeId, Revision, address, object};

/// Largest weight; the smallest is 1.
pub const WEIGHT_MAX: u16 = 1000;
/// The weight of a node that says nothing about it.
pub const WEIGHT_DEFAULT: u16 = 100;
/// Largest priority; 0 is the first choice.
pub const PRIORITY_MAX: u16 = 1000;
/// Most ports of one node.
pub const PORTS_MAX: usize = 64;

/// Ports by name.
pub type Ports = Pairs<NonZeroU16>;
/// Labels by key.
pub type Labels = Pairs<Box<str>>;

/// What people decided about a node; independent of what checks find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// In use.
    Online,
    /// Taken out.
    Offline,
    /// Finishing what it has, taking nothing new.
    Draining,
}

/// A node as written. What is `None` was left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "RawNode")]
pub struct NodeSpec {
    /// The id, where its owner chose one.
    pub id: Option<NodeId>,
    /// Where it is.
    pub address: IpAddr,
    /// What it offers.
    pub ports: Ports,
    /// What people said about it.
    pub attributes: Attributes,
}

/// What people say about a node and may change at any time. What is `None` was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    weight: Option<NonZeroU16>,
    priority: Option<u16>,
    zone: Option<Box<str>>,
    online: Option<bool>,
    draining: Option<bool>,
    labels: Labels,
    lease: Option<Lease>,
}

/// Attributes as they were written, without labels: what was left out is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written<'a> {
    /// Share of the traffic, 1–1000.
    pub weight: Option<u16>,
    /// Order of preference, 0 first.
    pub priority: Option<u16>,
    /// Where it stands.
    pub zone: Option<&'a str>,
    /// Whether it is in use.
    pub online: Option<bool>,
    /// Whether it is being emptied.
    pub draining: Option<bool>,
}

/// The written form before its rules were tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawNode {
    /// The id, where its owner chose one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<NodeId>,
    /// An IP literal.
    pub address: String,
    /// Ports by name, 1–65535.
    pub ports: Pairs<i64>,
    /// Share of the traffic, 1–1000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
    /// Order of preference, 0 first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Whether it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub online: Option<bool>,
    /// Whether it is being emptied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<bool>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "Pairs::is_empty")]
    pub labels: Pairs<String>,
    /// For how long it is there; left out: until somebody takes it away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
}

impl<'de> Deserialize<'de> for NodeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: RawNode = object::decode(deserializer, "a node")?;
        Self::try_from(raw).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawNode> for NodeSpec {
    type Error = Invalid;

    fn try_from(raw: RawNode) -> Result<Self, Invalid> {
        let address = address::parse(&raw.address).map_err(|e| e.within("address"))?;
        let mut ports = Vec::with_capacity(raw.ports.len());
        for (name, number) in raw.ports.iter() {
            refuse_unless_port_name(name).map_err(|e| e.within("ports"))?;
            let port = u16::try_from(*number).ok().and_then(NonZeroU16::new);
            ports.push((
                name.to_owned(),
                port.ok_or_else(|| {
                    Invalid::at(format!("ports.{name}"), format!("{number} is out of range: from 1 to 65535"))
                })?,
            ));
        }
        if ports.is_empty() || ports.len() > PORTS_MAX {
            return Err(Invalid::at(
                "ports",
                format!("{} ports: a node has from 1 to {PORTS_MAX}", ports.len()),
            ));
        }
        let ports = Pairs::new(ports).map_err(|e| e.within("ports"))?;
        Ok(Self { id: raw.id.clone(), address, ports, attributes: Attributes::try_from(&raw)? })
    }
}

impl TryFrom<&RawNode> for Attributes {
    type Error = Invalid;

    fn try_from(raw: &RawNode) -> Result<Self, Invalid> {
        let weight = match raw.weight {
            None => None,
            Some(0) => {
                return Err(Invalid::at(
                    "weight",
                    format!("0 is refused: from 1 to {WEIGHT_MAX}; to empty a node set `draining: true`"),
                ));
            }
            Some(weight) => Some(
                u16::try_from(weight)
                    .ok()
                    .filter(|w| *w <= WEIGHT_MAX)
                    .and_then(NonZeroU16::new)
                    .ok_or_else(|| {
                        Invalid::at("weight", format!("{weight} is out of range: from 1 to {WEIGHT_MAX}"))
                    })?,
            ),
        };
        let priority = match raw.priority {
            None => None,
            Some(priority) => {
                Some(u16::try_from(priority).ok().filter(|p| *p <= PRIORITY_MAX).ok_or_else(|| {
                    Invalid::at("priority", format!("{priority} is out of range: from 0 to {PRIORITY_MAX}"))
                })?)
            }
        };
        if let Some(zone) = &raw.zone {
            refuse_unless_text(zone, "zone").map_err(|e| e.within("zone"))?;
        }
        let mut labels = Vec::with_capacity(raw.labels.len());
        for (key, value) in raw.labels.iter() {
            refuse_unless_key(key, "label name").map_err(|e| e.within("labels"))?;
            refuse_unless_text(value, "label").map_err(|e| e.within(&format!("labels.{key}")))?;
            labels.push((key.to_owned(), value.clone().into_boxed_str()));
        }
        Ok(Self {
            weight,
            priority,
            // An empty zone and no zone are the same thing, and have one form.
            zone: raw.zone.clone().filter(|zone| !zone.is_empty()).map(String::into_boxed_str),
            online: raw.online,
            draining: raw.draining,
            labels: Pairs::new(labels).map_err(|e| e.within("labels"))?,
            lease: raw.lease,
        })
    }
}

impl From<NodeSpec> for RawNode {
    fn from(spec: NodeSpec) -> RawNode {
        let a = spec.attributes;
        let labels = a.labels.iter().map(|(k, v)| (k.to_owned(), v.to_string()));
        let ports = spec.ports.iter().map(|(k, v)| (k.to_owned(), i64::from(v.get())));
        RawNode {
            id: spec.id,
            address: spec.address.to_string(),
            ports: Pairs::new(ports).expect("the keys of a map stay unique"),
            weight: a.weight.map(|w| i64::from(w.get())),
            priority: a.priority.map(i64::from),
            zone: a.zone.map(String::from),
            online: a.online,
            draining: a.draining,
            labels: Pairs::new(labels).expect("the keys of a map stay unique"),
            lease: a.lease,
        }
    }
}

impl NodeSpec {
    /// The id this node gets when it is new and brought none: its address and its first port by name.
    pub fn default_id(&self) -> NodeId {
        let port = self.ports.first().map_or(0, |(_, port)| port.get());
        NodeId::parse(&SocketAddr::new(self.address, port).to_string())
            .expect("an address with a port is a valid id")
    }
}

/// A node as it is stored: with its id, and with the revision of its present form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the cluster, fixed when the node was added.
    pub id: NodeId,
    /// Where it is.
    pub address: IpAddr,
    /// What it offers.
    pub ports: Ports,
    /// What people said about it.
    pub attributes: Attributes,
    /// The revision at which it was added, or its address or ports changed. See also [`crate::Cluster::birth`].
    pub birth: Revision,
}

impl Node {
    /// The written form: what was left out is still left out, the id is there.
    pub fn to_spec(&self) -> NodeSpec {
        NodeSpec {
            id: Some(self.id.clone()),
            address: self.address,
            ports: self.ports.clone(),
            attributes: self.attributes.clone(),
        }
    }

    /// The port that a check or caller means: the named one, or the first by name.
    pub fn port(&self, name: Option<&str>) -> Option<u16> {
        match name {
            Some(name) => self.ports.get(name).map(|port| port.get()),
            None => self.ports.first().map(|(_, port)| port.get()),
        }
    }

    /// What people decided. Draining wins over online, offline over both.
    pub fn admin(&self) -> Admin {
        match (self.attributes.online(), self.attributes.draining()) {
            (false, _) => Admin::Offline,
            (true, true) => Admin::Draining,
            (true, false) => Admin::Online,
        }
    }

    /// Whether both are reached in the same way, so that a verdict of one is a verdict of the other.
    pub fn same_form(&self, other: &Self) -> bool {
        self.address == other.address && self.ports == other.ports
    }

    /// Whether both mean the same once defaults are filled in; `birth` does not count.
    pub fn same_meaning(&self, other: &Self) -> bool {
        self.id == other.id && self.same_form(other) && self.attributes.same_meaning(&other.attributes)
    }
}

impl Attributes {
    /// As they were written: the other readers fill in what was left out.
    pub fn written(&self) -> Written<'_> {
        Written {
            weight: self.weight.map(NonZeroU16::get),
            priority: self.priority,
            zone: self.zone.as_deref(),
            online: self.online,
            draining: self.draining,
        }
    }

    /// Share of the traffic, 1–1000.
    pub fn weight(&self) -> u16 {
        self.weight.map_or(WEIGHT_DEFAULT, NonZeroU16::get)
    }

    /// Order of preference, 0 first.
    pub fn priority(&self) -> u16 {
        self.priority.unwrap_or(0)
    }

    /// Where it stands; empty when nobody said.
    pub fn zone(&self) -> &str {
        self.zone.as_deref().unwrap_or("")
    }

    /// Whether it is in use.
    pub fn online(&self) -> bool {
        self.online.unwrap_or(true)
    }

    /// Whether it is being emptied.
    pub fn draining(&self) -> bool {
        self.draining.unwrap_or(false)
    }

    /// Free labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What keeps it there, where a program registered it; `None`: it is there until somebody takes it away.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    fn same_meaning(&self, other: &Self) -> bool {
        let meaning = |a: &Self| (a.weight(), a.priority(), a.online(), a.draining());
        meaning(self) == meaning(other)
            && self.zone() == other.zone()
            && self.labels == other.labels
            && self.lease == other.lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_out_of_range_is_refused_by_field() {
        for (json, part) in [
            (r#"{"address":"127.0.0.1","ports":{"http":0}}"#, "ports.http: 0"),
            (r#"{"address":"127.0.0.1","ports":{"http":70000}}"#, "ports.http: 70000"),
            (r#"{"address":"127.0.0.1","ports":{}}"#, "ports: 0 ports"),
            (r#"{"address":"127.0.0.1"}"#, "missing field `ports`"),
            (r#"{"address":"localhost","ports":{"http":80}}"#, "address: `localhost`"),
            (r#"{"address":"127.0.0.1","ports":{"http":80},"weight":0}"#, "weight: 0 is refused"),
            (r#"{"address":"127.0.0.1","ports":{"http":80},"weight":1001}"#, "weight: 1001"),
            (r#"{"address":"127.0.0.1","ports":{"http":80},"priority":-1}"#, "priority: -1"),
            (r#"{"address":"127.0.0.1","ports":{"http":80},"labels":{"a":"x\u0000"}}"#, "labels.a"),
            (r#"{"address":"127.0.0.1","ports":{"http":80,"http":81}}"#, "stands there twice"),
            (r#"{"address":"127.0.0.1","ports":{"http":80},"colour":"red"}"#, "unknown field `colour`"),
            (r#"{"id":"a/b","address":"127.0.0.1","ports":{"http":80}}"#, "node id `a/b`"),
        ] {
            let error = serde_json::from_str::<NodeSpec>(json).expect_err(json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn ids_of_ipv6_nodes_are_bracketed() {
        let spec: NodeSpec = serde_json::from_str(r#"{"address":"::1","ports":{"b":2,"a":1}}"#).unwrap();
        assert_eq!(spec.default_id().as_str(), "[::1]:1");
    }
}
