//! Clusters for tests: their states, and the messages that carry them.

use std::sync::Arc;

use jcm_model::{
    Change, ClusterName, ClusterSpec, ClusterState, Effect, Judged, Node, NodeId, Revision, ServerId, Stamp,
    StoreId, Timestamp, Verdict,
};
use jcm_proto::v1::watch_response::{self as wire, Event};

pub(crate) fn orders() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

pub(crate) fn store(number: u128) -> StoreId {
    StoreId(serde_json::from_str(&format!("\"{number:032x}\"")).unwrap())
}

/// Checked nodes on loopback ports, each with a verdict stamped by the revision.
pub(crate) fn state(revision: u64, nodes: &[(u16, Verdict)]) -> ClusterState {
    state_with(revision, nodes, "{}")
}

/// The same with properties, as JSON.
pub(crate) fn state_with(revision: u64, nodes: &[(u16, Verdict)], properties: &str) -> ClusterState {
    let json = format!(r#"{{"check":{{"kind":"http"}},"properties":{properties},"nodes":[]}}"#);
    let spec: ClusterSpec = serde_json::from_str(&json).unwrap();
    let put = nodes.iter().map(|(port, _)| {
        let json = format!(r#"{{"address":"127.0.0.1","ports":{{"http":{port}}}}}"#);
        let node: jcm_model::NodeSpec = serde_json::from_str(&json).unwrap();
        Arc::new(Node {
            id: node.default_id(),
            address: node.address,
            ports: node.ports,
            attributes: node.attributes,
            birth: Revision(1),
        })
    });
    let effect = Effect::Updated {
        created: true,
        header: Some(Arc::new(spec.header)),
        put: put.collect(),
        removed: vec![],
    };
    let mut cluster = Change { cluster: orders(), revision: Revision(1), effect }.apply(None).unwrap();
    Arc::make_mut(&mut cluster).revision = Revision(revision);
    let mut state = ClusterState::new(cluster);
    for (port, verdict) in nodes {
        let judged = Judged {
            verdict: *verdict,
            birth: Revision(1),
            stamp: Stamp {
                ring_epoch: 1,
                term: 1,
                server: ServerId::parse("s").unwrap(),
                incarnation: 1,
                sequence: revision,
            },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: false,
            stale_since: None,
        };
        state.judge(&id(*port), judged);
    }
    state
}

pub(crate) fn healthy(ports: std::ops::Range<u16>) -> Vec<(u16, Verdict)> {
    ports.map(|port| (port, Verdict::Healthy)).collect()
}

pub(crate) fn id(port: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{port}")).unwrap()
}

pub(crate) fn view(state: &ClusterState) -> Event {
    Event::View(wire::View::new(store(1), (token(state), 0), state, false))
}

pub(crate) fn delta(from: &ClusterState, to: &ClusterState) -> Event {
    Event::Delta(wire::Delta { token: token(to), ..wire::Delta::new(&orders(), &to.since(from), false) })
}

pub(crate) fn token(state: &ClusterState) -> Vec<u8> {
    format!("token of {}", state.cluster().revision).into_bytes()
}
