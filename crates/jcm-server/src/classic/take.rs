//! From what somebody posts to a definition: pure functions.
//!
//! The facade's shape says less than a definition holds. What a post leaves out, or repeats as it was shown, stays as it
//! is: a program that reads a cluster, changes one thing and posts it back changes that one thing.

use std::collections::HashSet;

use jcm_model::check::{CheckSpec, Raw};
use jcm_model::node::RawNode;
use jcm_model::pairs::Pairs;
use jcm_model::{CheckKind, Cluster, ClusterName, ClusterSpec, Header, Invalid, Node, NodeSpec, address};

use super::ports::{self, Places};
use super::shape::{Object, PostedCluster, PostedNode};
use super::show::{UDATA, check_file, check_type, online};
use super::spec::Spec;
use super::word::{CheckType, Online, Port, Proto};

/// The definition that the post asks for.
pub(super) fn cluster(
    name: &ClusterName,
    posted: &PostedCluster,
    held: Option<&Cluster>,
) -> Result<ClusterSpec, Invalid> {
    let nodes = match (&posted.nodes, held) {
        (Some(posted), _) => nodes(posted, held)?,
        (None, Some(held)) => held.nodes.iter().map(|node| node.to_spec()).collect(),
        (None, None) => Vec::new(),
    };
    let mut header = held.map_or_else(Header::default, |held| (*held.header).clone());
    header.online = match posted.online {
        Some(online) if held.is_none_or(|held| held.header.online() != online.is_online()) => {
            Some(online.is_online())
        }
        Some(_) => header.online,
        // As in 2015: nothing gets traffic before somebody said so.
        None => header.online.or(held.is_none().then_some(false)),
    };
    header.check = check(posted, held, &nodes)?;
    Ok(ClusterSpec { name: Some(name.clone()), header, nodes, nodes_left_out: false })
}

fn check(
    posted: &PostedCluster,
    held: Option<&Cluster>,
    nodes: &[NodeSpec],
) -> Result<Option<CheckSpec>, Invalid> {
    let held_type = held.map_or(CheckType::None, check_type);
    let held_check = held.and_then(|held| held.header.check.clone());
    let wanted_type = posted.check_type.unwrap_or(held_type);
    let wanted_path = posted.check_file.as_deref().and_then(path);
    let same_path = wanted_path.as_ref().is_none_or(|path| held.is_some_and(|held| check_file(held) == path));
    if wanted_type == CheckType::None {
        return Ok(held_check.filter(|_| held_type == CheckType::None));
    }
    if wanted_type == held_type && same_path {
        return Ok(held_check);
    }
    let mut raw = held_check.as_ref().map_or_else(Raw::default, |check| check.raw().clone());
    if wanted_type != held_type {
        let all_speak_tcp = nodes.iter().all(|node| node.ports.get(ports::base_name(Proto::Tcp)).is_some());
        raw.kind = match wanted_type {
            CheckType::None => CheckKind::None,
            CheckType::Http => CheckKind::Http,
            CheckType::Tcp => CheckKind::Tcp,
        };
        // A check without a name asks the first port by name, and `http` comes before `tcp`.
        raw.port = (wanted_type == CheckType::Tcp && all_speak_tcp && !nodes.is_empty())
            .then(|| ports::base_name(Proto::Tcp).to_owned());
        raw = raw.without_misplaced();
    }
    // Only who is asked for a page is asked for a file.
    if wanted_path.is_some() && wanted_type == CheckType::Http {
        raw.path = wanted_path;
    }
    CheckSpec::try_from(raw).map(Some).map_err(|mut invalid| {
        // The one field of a check that a post can get wrong, by the name it was posted under.
        if invalid.field == "path" {
            "checkFile".clone_into(&mut invalid.field);
        }
        invalid
    })
}

/// The path to ask for; the leading slash may be left out.
fn path(file: &str) -> Option<String> {
    match file {
        "" => None,
        file if file.starts_with('/') => Some(file.to_owned()),
        file => Some(format!("/{file}")),
    }
}

/// The nodes that the posts ask for. A node that is posted twice counts once.
pub(super) fn nodes(posted: &[Object<PostedNode>], held: Option<&Cluster>) -> Result<Vec<NodeSpec>, Invalid> {
    let places = held.map(Places::new);
    let mut seen = HashSet::new();
    let mut taken = HashSet::new();
    let mut specs = Vec::with_capacity(posted.len());
    for (index, Object(posted)) in posted.iter().enumerate() {
        let place = format!("nodes[{index}]");
        let spec = spec(posted).map_err(|invalid| invalid.within(&place))?;
        if !seen.insert(spec.to_string()) {
            continue;
        }
        let there = places.as_ref().and_then(|places| places.any(&spec));
        let found = there.filter(|node| taken.insert(node.id.clone()));
        let node = node(&spec, posted, held.zip(found));
        let mut node = node.map_err(|invalid| invalid.within(&place))?;
        if there.is_some() && found.is_none() {
            // One node becomes two: without an id of its own this one would count as the other once more.
            node.id = Some(node.default_id());
        }
        specs.push(node);
    }
    Ok(specs)
}

/// Address and ports of a post, each port once.
fn spec(posted: &PostedNode) -> Result<Spec, Invalid> {
    let ip = posted
        .ip
        .as_deref()
        .ok_or_else(|| Invalid::at("ip", "is missing: write an IP address like `127.0.0.1`"))?;
    let address = address::parse(ip.trim()).map_err(|invalid| invalid.within("ip"))?;
    let mut ports: Vec<(Proto, Port)> = Vec::new();
    for Object(posted) in posted.protos.iter().flatten() {
        if !ports.contains(&(posted.proto, posted.port)) {
            ports.push((posted.proto, posted.port));
        }
    }
    if ports.is_empty() {
        let reason = "is empty: a node has at least one port, like `{\"port\":8080,\"proto\":\"HTTP\"}`";
        return Err(Invalid::at("protos", reason));
    }
    Ok(Spec { address, ports })
}

fn node(spec: &Spec, posted: &PostedNode, held: Option<(&Cluster, &Node)>) -> Result<NodeSpec, Invalid> {
    let mut raw = match held {
        Some((_, node)) => RawNode::from(node.to_spec()),
        None => RawNode {
            id: None,
            address: spec.address.to_string(),
            ports: Pairs::default(),
            weight: None,
            priority: None,
            zone: None,
            // As in 2015: nothing gets traffic before somebody said so.
            online: Some(false),
            draining: None,
            labels: Pairs::default(),
            lease: None,
        },
    };
    let same_ports = held.is_some_and(|(cluster, node)| {
        let shown = ports::spec(cluster, node).ports;
        shown.len() == spec.ports.len() && shown.iter().all(|port| spec.ports.contains(port))
    });
    if !same_ports {
        raw.ports = Pairs::new(ports::named(&spec.ports, held)).map_err(|e| e.within("protos"))?;
    }
    match posted.online {
        Some(wanted) if held.is_none_or(|(_, node)| online(node) != wanted_online(wanted)) => {
            raw.online = Some(wanted.is_online());
            raw.draining = raw.draining.filter(|_| !wanted.is_online());
        }
        Some(_) | None => {}
    }
    if let Some(udata) = &posted.udata {
        let others = raw
            .labels
            .iter()
            .filter(|(key, _)| *key != UDATA)
            .map(|(key, value)| (key.to_owned(), value.clone()));
        let wanted = (!udata.is_empty()).then(|| (UDATA.to_owned(), udata.clone()));
        raw.labels = Pairs::new(others.chain(wanted)).map_err(|e| e.within("udata"))?;
    }
    NodeSpec::try_from(raw).map_err(|mut invalid| {
        if invalid.field == format!("labels.{UDATA}") {
            UDATA.clone_into(&mut invalid.field);
        }
        invalid
    })
}

/// What is not online yet is shown as offline.
fn wanted_online(wanted: Online) -> Online {
    wanted.is_online().into()
}
