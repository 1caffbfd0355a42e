//! Definitions to bytes and back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jcm_model::check::{Check, CheckKind, CheckSpec, Expect, Host, Method, Raw};
use jcm_model::cluster::{PanicBelow, RawCluster, RawProtection};
use jcm_model::node::{Node, RawNode};
use jcm_model::pairs::Pairs;
use jcm_model::{
    Change, Cluster, ClusterName, ClusterSpec, Effect, Header, Invalid, Lease, LeaseId, NodeId, NodeSpec,
    Revision,
};

use crate::{Malformed, v1};

impl From<&Cluster> for v1::Cluster {
    fn from(cluster: &Cluster) -> Self {
        Self {
            name: cluster.name.to_string(),
            revision: cluster.revision.0,
            created: cluster.created.0,
            check_changed: cluster.check_changed.0,
            header: Some(cluster.header.as_ref().into()),
            nodes: cluster.nodes.iter().map(|node| node.as_ref().into()).collect(),
        }
    }
}

impl TryFrom<v1::Cluster> for Cluster {
    type Error = Malformed;

    fn try_from(message: v1::Cluster) -> Result<Self, Malformed> {
        let header = Arc::new(Header::try_from(message.header.ok_or(Malformed::Missing("header"))?)?);
        let mut nodes = nodes(message.nodes)?;
        if !nodes.is_sorted_by(|a, b| a.id < b.id) {
            nodes.sort_by(|a, b| a.id.cmp(&b.id));
            nodes.dedup_by(|a, b| a.id == b.id);
        }
        let check: Check = header.check();
        Ok(Self {
            name: ClusterName::parse(&message.name)?,
            revision: Revision(message.revision),
            created: Revision(message.created),
            check_changed: Revision(message.check_changed),
            check: Arc::new(check),
            header,
            nodes,
        })
    }
}

fn nodes(messages: Vec<v1::Node>) -> Result<Vec<Arc<Node>>, Malformed> {
    messages.into_iter().map(|node| Ok(Arc::new(Node::try_from(node)?))).collect()
}

impl From<&Header> for v1::Header {
    fn from(header: &Header) -> Self {
        Self {
            online: header.online,
            check: header.check.as_ref().map(Into::into),
            panic_below: header.panic_below.map(Into::into),
            properties: header.properties.iter().map(|(k, v)| (k.to_owned(), v.to_string())).collect(),
        }
    }
}

impl TryFrom<v1::Header> for Header {
    type Error = Malformed;

    fn try_from(message: v1::Header) -> Result<Self, Malformed> {
        let panic_below = message.panic_below.map(PanicBelow::try_from).transpose()?;
        let raw = RawCluster {
            name: None,
            online: message.online,
            // What an earlier version stored may hold fields that meant nothing to its kind of check.
            check: message.check.map(kept_check).transpose()?,
            protection: panic_below.map(|share| RawProtection { panic_below: Some(share) }),
            properties: Pairs::new(message.properties)?,
            nodes: None,
        };
        Ok(ClusterSpec::try_from(raw)?.header)
    }
}

impl From<&CheckSpec> for v1::CheckPolicy {
    fn from(spec: &CheckSpec) -> Self {
        let raw = spec.raw();
        let count = |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok());
        Self {
            kind: kind_to_wire(raw.kind).into(),
            port: raw.port.clone(),
            path: raw.path.clone(),
            expect: raw.expect.as_ref().map(Expect::to_string),
            method: raw.method.map(|method| method_to_wire(method).into()),
            host: raw.host.as_ref().map(|host| host.as_str().to_owned()),
            body_contains: raw.body_contains.clone(),
            verify: raw.verify,
            service: raw.service.clone(),
            interval_ms: raw.interval.map(millis),
            timeout_ms: raw.timeout.map(millis),
            fall: count(raw.fall),
            rise: count(raw.rise),
            window: count(raw.window),
            degraded_at: raw.degraded_at,
            fresh: raw.fresh,
        }
    }
}

/// A policy as somebody writes it.
impl TryFrom<v1::CheckPolicy> for CheckSpec {
    type Error = Malformed;

    fn try_from(message: v1::CheckPolicy) -> Result<Self, Malformed> {
        Ok(Self::try_from(raw_check(message)?)?)
    }
}

fn kept_check(message: v1::CheckPolicy) -> Result<CheckSpec, Malformed> {
    Ok(CheckSpec::try_from(raw_check(message)?.without_misplaced())?)
}

fn raw_check(message: v1::CheckPolicy) -> Result<Raw, Malformed> {
    Ok(Raw {
        kind: kind_from_wire(message.kind())?,
        method: message.method.map(method_from_wire).transpose()?,
        port: message.port,
        path: message.path,
        host: message.host.as_deref().map(Host::parse).transpose().map_err(|e| e.within("host"))?,
        expect: message.expect.as_deref().map(Expect::parse).transpose().map_err(|e| e.within("expect"))?,
        body_contains: message.body_contains,
        verify: message.verify,
        service: message.service,
        interval: message.interval_ms.map(Duration::from_millis),
        timeout: message.timeout_ms.map(Duration::from_millis),
        fall: message.fall.map(i64::from),
        rise: message.rise.map(i64::from),
        window: message.window.map(i64::from),
        degraded_at: message.degraded_at,
        fresh: message.fresh,
    })
}

fn method_to_wire(method: Method) -> v1::CheckMethod {
    match method {
        Method::Get => v1::CheckMethod::Get,
        Method::Head => v1::CheckMethod::Head,
    }
}

fn method_from_wire(method: i32) -> Result<Method, Malformed> {
    match v1::CheckMethod::try_from(method) {
        Ok(v1::CheckMethod::Get) => Ok(Method::Get),
        Ok(v1::CheckMethod::Head) => Ok(Method::Head),
        Err(_) => Err(Invalid::at("method", "neither `GET` nor `HEAD`").into()),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn kind_to_wire(kind: CheckKind) -> v1::CheckKind {
    match kind {
        CheckKind::None => v1::CheckKind::None,
        CheckKind::Tcp => v1::CheckKind::Tcp,
        CheckKind::Http => v1::CheckKind::Http,
        CheckKind::Https => v1::CheckKind::Https,
        CheckKind::Grpc => v1::CheckKind::Grpc,
        CheckKind::Lease => v1::CheckKind::Lease,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a kind that only later versions know will be refused here")]
fn kind_from_wire(kind: v1::CheckKind) -> Result<CheckKind, Malformed> {
    Ok(match kind {
        v1::CheckKind::None => CheckKind::None,
        v1::CheckKind::Tcp => CheckKind::Tcp,
        v1::CheckKind::Http => CheckKind::Http,
        v1::CheckKind::Https => CheckKind::Https,
        v1::CheckKind::Grpc => CheckKind::Grpc,
        v1::CheckKind::Lease => CheckKind::Lease,
    })
}

impl From<&Node> for v1::Node {
    fn from(node: &Node) -> Self {
        let written = node.attributes.written();
        Self {
            id: node.id.to_string(),
            address: match node.address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            },
            ports: node.ports.iter().map(|(name, port)| (name.to_owned(), u32::from(port.get()))).collect(),
            weight: written.weight.map(u32::from),
            priority: written.priority.map(u32::from),
            zone: written.zone.map(str::to_owned),
            online: written.online,
            draining: written.draining,
            labels: node.attributes.labels().iter().map(|(k, v)| (k.to_owned(), v.to_string())).collect(),
            birth: node.birth.0,
            lease: node.attributes.lease().map(Into::into),
        }
    }
}

impl From<&Lease> for v1::Lease {
    fn from(lease: &Lease) -> Self {
        Self { id: lease.id().as_bytes().to_vec(), ttl_ms: millis(lease.ttl()) }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = Malformed;

    fn try_from(message: v1::Lease) -> Result<Self, Malformed> {
        let id = LeaseId::try_from(message.id.as_slice()).map_err(|e| e.within("id"))?;
        Ok(Self::new(id, Duration::from_millis(message.ttl_ms))?)
    }
}

impl TryFrom<v1::Node> for Node {
    type Error = Malformed;

    fn try_from(message: v1::Node) -> Result<Self, Malformed> {
        let birth = Revision(message.birth);
        let id = NodeId::parse(&message.id)?;
        let spec = NodeSpec::try_from(message)?;
        Ok(Self { id, address: spec.address, ports: spec.ports, attributes: spec.attributes, birth })
    }
}

/// A node as somebody writes it: the id may be empty, the birth says nothing.
impl TryFrom<v1::Node> for NodeSpec {
    type Error = Malformed;

    fn try_from(message: v1::Node) -> Result<Self, Malformed> {
        let address = match <[u8; 4]>::try_from(message.address.as_slice()) {
            Ok(v4) => IpAddr::from(v4),
            Err(_) => IpAddr::from(
                <[u8; 16]>::try_from(message.address.as_slice())
                    .map_err(|_| Invalid::at("address", "4 or 16 bytes"))?,
            ),
        };
        let id = if message.id.is_empty() { None } else { Some(NodeId::parse(&message.id)?) };
        let raw = RawNode {
            id,
            address: address.to_string(),
            ports: Pairs::new(message.ports.into_iter().map(|(name, port)| (name, i64::from(port))))?,
            weight: message.weight.map(i64::from),
            priority: message.priority.map(i64::from),
            zone: message.zone,
            online: message.online,
            draining: message.draining,
            labels: Pairs::new(message.labels)?,
            lease: message.lease.map(Lease::try_from).transpose().map_err(|e| e.within("lease"))?,
        };
        Ok(Self::try_from(raw)?)
    }
}

/// A cluster as somebody writes it.
impl TryFrom<v1::ClusterSpec> for ClusterSpec {
    type Error = Malformed;

    fn try_from(message: v1::ClusterSpec) -> Result<Self, Malformed> {
        let header = message.header.unwrap_or_default();
        if let Some(check) = &header.check {
            CheckSpec::try_from(check.clone()).map_err(|error| error.within("check"))?;
        }
        let header = Header::try_from(header)?;
        let node = |(at, node): (usize, v1::Node)| {
            NodeSpec::try_from(node).map_err(|error| error.within(&format!("nodes[{at}]")))
        };
        let nodes = message.nodes.map(|list| list.nodes.into_iter().enumerate().map(node).collect());
        let raw = RawCluster {
            name: if message.name.is_empty() { None } else { Some(ClusterName::parse(&message.name)?) },
            online: header.online,
            check: header.check,
            protection: header.panic_below.map(|share| RawProtection { panic_below: Some(share) }),
            properties: Pairs::new(
                header.properties.iter().map(|(key, value)| (key.to_owned(), value.to_string())),
            )?,
            nodes: nodes.transpose()?,
        };
        Ok(Self::try_from(raw)?)
    }
}

impl From<&Change> for v1::Change {
    fn from(change: &Change) -> Self {
        let effect = match &change.effect {
            Effect::Deleted => v1::change::Effect::Deleted(v1::change::Deleted {}),
            Effect::Updated { created, header, put, removed } => {
                v1::change::Effect::Updated(v1::change::Updated {
                    created: *created,
                    header: header.as_deref().map(Into::into),
                    put: put.iter().map(|node| node.as_ref().into()).collect(),
                    removed: removed.iter().map(NodeId::to_string).collect(),
                })
            }
        };
        Self { cluster: change.cluster.to_string(), revision: change.revision.0, effect: Some(effect) }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = Malformed;

    fn try_from(message: v1::Change) -> Result<Self, Malformed> {
        let effect = match message.effect.ok_or(Malformed::Missing("effect"))? {
            v1::change::Effect::Deleted(_) => Effect::Deleted,
            v1::change::Effect::Updated(updated) => Effect::Updated {
                created: updated.created,
                header: updated.header.map(|header| Header::try_from(header).map(Arc::new)).transpose()?,
                put: nodes(updated.put)?,
                removed: updated.removed.iter().map(|id| NodeId::parse(id)).collect::<Result<_, _>>()?,
            },
        };
        Ok(Self {
            cluster: ClusterName::parse(&message.cluster)?,
            revision: Revision(message.revision),
            effect,
        })
    }
}
