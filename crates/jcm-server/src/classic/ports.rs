//! Ports by name on one side, ports by protocol on the other.
//!
//! The facade shows at most one port of each protocol: the original named a node by one of each and its client picked
//! among several by hash. What it does not show it does not touch.

use std::collections::HashMap;
use std::net::IpAddr;

use jcm_model::{CheckKind, Cluster, Node};

use super::spec::Spec;
use super::word::{Port, Proto};

/// One port of a node, with the protocol that the facade takes it to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known<'a> {
    pub(super) name: &'a str,
    pub(super) proto: Proto,
    pub(super) port: Port,
}

/// The name of the first port of a protocol.
pub(super) fn base_name(proto: Proto) -> &'static str {
    match proto {
        Proto::Http => "http",
        Proto::Tcp => "tcp",
    }
}

/// All ports of a node. `http`, `http2`, `http-admin` … speak HTTP, and so does the port that an HTTP check asks,
/// whatever its name; `https` does not, for those who ask for HTTP.
pub(super) fn known<'a>(cluster: &'a Cluster, node: &'a Node) -> impl Iterator<Item = Known<'a>> {
    let check = &cluster.check;
    let asked = match (check.kind, &check.port) {
        (CheckKind::Http, Some(name)) => Some(&**name),
        (CheckKind::Http, None) => node.ports.first().map(|(name, _)| name),
        _ => None,
    };
    node.ports.iter().map(move |(name, port)| {
        let by_name = name.starts_with("http") && !name.starts_with("https");
        let proto = if by_name || asked == Some(name) { Proto::Http } else { Proto::Tcp };
        Known { name, proto, port: Port(port.get()) }
    })
}

/// The ports that the facade shows, HTTP first: the one with the protocol's own name, or the first by name.
pub(super) fn shown<'a>(cluster: &'a Cluster, node: &'a Node) -> Vec<Known<'a>> {
    let first = |proto: Proto| {
        known(cluster, node)
            .filter(|known| known.proto == proto)
            .min_by_key(|known| known.name != base_name(proto))
    };
    [first(Proto::Http), first(Proto::Tcp)].into_iter().flatten().collect()
}

/// The node's spec.
pub(super) fn spec(cluster: &Cluster, node: &Node) -> Spec {
    let ports = shown(cluster, node);
    Spec { address: node.address, ports: ports.iter().map(|known| (known.proto, known.port)).collect() }
}

/// The nodes of a cluster by where they are.
pub(super) struct Places<'a> {
    cluster: &'a Cluster,
    nodes: HashMap<(IpAddr, u16), &'a Node>,
}

impl<'a> Places<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let mut nodes = HashMap::new();
        for node in &cluster.nodes {
            nodes.extend(node.ports.iter().map(|(_, port)| ((node.address, port.get()), &**node)));
        }
        Self { cluster, nodes }
    }

    /// The first node that has any of the ports.
    pub(super) fn any(&self, spec: &Spec) -> Option<&'a Node> {
        let at = |(_, port): &(Proto, Port)| self.nodes.get(&(spec.address, port.0)).copied();
        spec.ports.iter().find_map(at)
    }

    /// The node that has all of the ports, in any order, with these protocols.
    pub(super) fn exactly(&self, spec: &Spec) -> Option<&'a Node> {
        let has = |node: &Node, (proto, port): &(Proto, Port)| {
            known(self.cluster, node).any(|known| known.proto == *proto && known.port == *port)
        };
        self.any(spec).filter(|node| spec.ports.iter().all(|port| has(node, port)))
    }
}

/// Names for ports that came without: those of the node that is there where it has them, else `http`, `http2`, …, `tcp`,
/// `tcp2`, … Ports of that node which the facade does not show stay.
pub(super) fn named(posted: &[(Proto, Port)], held: Option<(&Cluster, &Node)>) -> Vec<(String, i64)> {
    let mut names: Vec<(String, i64)> = Vec::new();
    let mut left: Vec<Known<'_>> = Vec::new();
    if let Some((cluster, node)) = held {
        left = known(cluster, node).collect();
        let shown = shown(cluster, node);
        let is_posted = |known: &Known<'_>| posted.iter().any(|(_, port)| *port == known.port);
        left.retain(|known| {
            let stays = !shown.contains(known) && !is_posted(known);
            if stays {
                names.push((known.name.to_owned(), i64::from(known.port.0)));
            }
            !stays
        });
    }
    for (proto, port) in posted {
        let number = i64::from(port.0);
        let same = |known: &Known<'_>| (known.proto, known.port) == (*proto, *port);
        // A port that replaces another of its protocol takes over that one's name.
        let replaced =
            |known: &Known<'_>| known.proto == *proto && !posted.contains(&(known.proto, known.port));
        let at = left.iter().position(same).or_else(|| left.iter().position(replaced));
        let name = at.map(|at| left.remove(at).name.to_owned());
        let name = name.unwrap_or_else(|| free_name(base_name(*proto), &names, &left));
        names.push((name, number));
    }
    names
}

/// The base, or the base with the first number from 2 that makes it one of its own.
fn free_name(base: &str, names: &[(String, i64)], left: &[Known<'_>]) -> String {
    let is_free = |name: &str| {
        names.iter().all(|(taken, _)| taken != name) && left.iter().all(|held| held.name != name)
    };
    let mut name = base.to_owned();
    let mut number = 1_u32;
    while !is_free(&name) {
        number += 1;
        name = format!("{base}{number}");
    }
    name
}
