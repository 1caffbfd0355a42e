//! Clusters of tests, by a few strokes.

use std::sync::Arc;
use std::time::Instant;

use jcm_model::node::Node;
use jcm_model::{
    Change, ClusterName, ClusterState, Effect, Judged, NodeId, Revision, ServerId, Stamp, Timestamp, Verdict,
};
use tokio::sync::Notify;

use crate::core::Core;
use crate::policy::Policy;
use crate::status::Standing;
use crate::view::Content;
use crate::world::World;

/// A node: what is written, and its verdict.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sketch {
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) priority: u16,
    pub(crate) zone: &'static str,
    pub(crate) online: bool,
    pub(crate) verdict: Verdict,
}

pub(crate) fn healthy(port: u16) -> Sketch {
    Sketch { port, weight: 100, priority: 0, zone: "z1", online: true, verdict: Verdict::Healthy }
}

pub(crate) fn down(port: u16) -> Sketch {
    Sketch { verdict: Verdict::Down, ..healthy(port) }
}

/// One of each kind.
pub(crate) fn policies() -> [Policy; 9] {
    [
        Policy::round_robin(),
        Policy::weighted(),
        Policy::random(),
        Policy::p2c(),
        Policy::peak_ewma(),
        Policy::least_inflight(),
        Policy::ring_hash(),
        Policy::maglev(),
        Policy::primary(),
    ]
}

pub(crate) fn orders() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

pub(crate) fn id(port: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{port}")).unwrap()
}

pub(crate) fn state(sketches: &[Sketch]) -> Content {
    let nodes = sketches.iter().map(|sketch| {
        serde_json::json!({ "address": "127.0.0.1", "ports": { "http": sketch.port }, "weight": sketch.weight,
            "priority": sketch.priority, "zone": sketch.zone, "online": sketch.online,
            "labels": { "port": sketch.port.to_string() } })
    });
    let json = serde_json::json!({ "check": { "kind": "http" }, "nodes": nodes.collect::<Vec<_>>() });
    let spec: jcm_model::ClusterSpec = serde_json::from_value(json).unwrap();
    let put = spec.nodes.iter().map(|node| {
        Arc::new(Node {
            id: node.default_id(),
            address: node.address,
            ports: node.ports.clone(),
            attributes: node.attributes.clone(),
            birth: Revision(1),
        })
    });
    let effect = Effect::Updated {
        created: true,
        header: Some(Arc::new(spec.header)),
        put: put.collect(),
        removed: vec![],
    };
    let cluster = Change { cluster: orders(), revision: Revision(1), effect }.apply(None).unwrap();
    let mut state = ClusterState::new(cluster);
    for sketch in sketches {
        let judged = Judged {
            verdict: sketch.verdict,
            birth: Revision(1),
            stamp: Stamp {
                ring_epoch: 1,
                term: 1,
                server: ServerId::parse("s").unwrap(),
                incarnation: 1,
                sequence: 1,
            },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: false,
            stale_since: None,
        };
        state.judge(&id(sketch.port), judged);
    }
    Content::State(Arc::new(state))
}

pub(crate) fn empty_core() -> Core {
    Core::new(orders(), Arc::new(Notify::new()), World::default())
}

pub(crate) fn core(sketches: &[Sketch]) -> Core {
    let core = empty_core();
    publish(&core, state(sketches));
    core
}

pub(crate) fn publish(core: &Core, content: Content) {
    let now = Instant::now();
    core.publish(Some(content), Standing::Stale { since: now }, now);
}
