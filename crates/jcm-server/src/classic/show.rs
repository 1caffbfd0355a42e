//! From a cluster and its verdicts to the facade's shape: pure functions.

use jcm_model::routing::{Route, Routing};
use jcm_model::{Admin, CheckKind, Cluster, ClusterState, Judged, Node, Revision, Verdict};

use super::ports;
use super::shape::{ShownCluster, ShownNode, ShownPort, Status};
use super::word::{CheckType, Online};

/// The label that carries `udata`.
pub(super) const UDATA: &str = "udata";

/// Bits of a version that tell states of one definition apart. Two states of a cluster that follow each other share them
/// once in a million times, and then the next change is the next chance.
const DIGEST_BITS: u32 = 20;

/// What `status` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Face {
    /// What checks found: for people and their tools.
    Reported,
    /// What to use: for clients, who send traffic to `NORMAL` nodes and look at nothing else.
    Routed,
}

/// The version of a state with this revision and digest: rises with the revision, differs with the verdicts, and is alike
/// on every server.
pub(super) fn version(revision: Revision, digest: u64) -> i64 {
    let version = (revision.0 << DIGEST_BITS) | (digest & ((1 << DIGEST_BITS) - 1));
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// The revision within a version.
pub(super) fn revision(version: i64) -> Revision {
    Revision(u64::try_from(version).unwrap_or(0) >> DIGEST_BITS)
}

/// The cluster.
pub(super) fn cluster<'a>(state: &'a ClusterState, routing: &Routing, face: Face) -> ShownCluster<'a> {
    let cluster = state.cluster();
    ShownCluster {
        name: cluster.name.as_str(),
        online: cluster.header.online().into(),
        nodes: state
            .nodes()
            .zip(&routing.nodes)
            .map(|((node, judged), route)| ShownNode {
                ip: node.address.to_string(),
                protos: ports::shown(cluster, node)
                    .iter()
                    .map(|known| ShownPort { port: known.port, proto: known.proto })
                    .collect(),
                udata: node.attributes.labels().get(UDATA).map_or("", |udata| udata),
                status: status(cluster, judged, *route, face),
                online: online(node),
                last_check: judged.map_or(0, |judged| judged.since.as_millisecond()),
            })
            .collect(),
        check_type: check_type(cluster),
        check_file: check_file(cluster),
        version: version(cluster.revision, state.digest()),
    }
}

/// The specs of nodes that a client must not use.
pub(super) fn invalids(state: &ClusterState, routing: &Routing) -> Vec<String> {
    let cluster = state.cluster();
    state
        .nodes()
        .zip(&routing.nodes)
        .filter(|(_, route)| !route.routable)
        .map(|((node, _), _)| ports::spec(cluster, node).to_string())
        .collect()
}

/// Whether a node is in use. One that is being drained takes nothing new, and the facade has no other word for that.
pub(super) fn online(node: &Node) -> Online {
    (node.admin() == Admin::Online).into()
}

pub(super) fn check_type(cluster: &Cluster) -> CheckType {
    match cluster.check.kind {
        CheckKind::None | CheckKind::Lease => CheckType::None,
        CheckKind::Http | CheckKind::Https => CheckType::Http,
        CheckKind::Tcp | CheckKind::Grpc => CheckType::Tcp,
    }
}

pub(super) fn check_file(cluster: &Cluster) -> &str {
    match check_type(cluster) {
        CheckType::None | CheckType::Tcp => "",
        CheckType::Http => &cluster.check.path,
    }
}

fn status(cluster: &Cluster, judged: Option<&Judged>, route: Route, face: Face) -> Status {
    let reported = match judged.map_or(Verdict::Unknown, |judged| judged.verdict) {
        _ if !cluster.is_checked() => Status::Normal,
        Verdict::Unknown => Status::Invalid,
        Verdict::Healthy | Verdict::Degraded => Status::Normal,
        Verdict::Down => Status::Abnormal,
    };
    match face {
        Face::Routed if route.routable => Status::Normal,
        Face::Routed if reported == Status::Normal => Status::Invalid,
        Face::Reported | Face::Routed => reported,
    }
}
