//! States, deltas and verdicts as they travel on the watch stream.

use std::sync::Arc;

use jcm_model::verdict::{Judged, Stamp, Verdict};
use jcm_model::{Cluster, ClusterState, Delta, Header, NodeId, Revision, ServerId, StoreId, Timestamp};
use uuid::Uuid;

use crate::v1::watch_response as wire;
use crate::{Malformed, v1};

impl wire::View {
    /// The full view of a state.
    pub fn new(store: StoreId, token: Vec<u8>, state: &ClusterState, stale: bool) -> Self {
        Self {
            store: store.0.as_bytes().to_vec(),
            token,
            cluster: Some(state.cluster().as_ref().into()),
            verdicts: state
                .nodes()
                .filter_map(|(node, judged)| Some(v1::NodeVerdict::new(&node.id, judged?)))
                .collect(),
            stale,
        }
    }

    /// The state it shows, and which store its revisions belong to.
    pub fn into_state(self) -> Result<(StoreId, ClusterState), Malformed> {
        let store = store_id(&self.store)?;
        let cluster = Cluster::try_from(self.cluster.ok_or(Malformed::Missing("cluster"))?)?;
        let verdicts = self.verdicts.into_iter().map(TryInto::try_into).collect::<Result<Vec<_>, _>>()?;
        Ok((store, ClusterState::with_verdicts(Arc::new(cluster), verdicts)))
    }
}

impl wire::Delta {
    /// A delta of the named cluster.
    pub fn new(cluster: &jcm_model::ClusterName, token: Vec<u8>, delta: &Delta, stale: bool) -> Self {
        Self {
            cluster: cluster.to_string(),
            token,
            from: delta.from.0,
            to: delta.to.0,
            check_changed: delta.check_changed.0,
            header: delta.header.as_deref().map(Into::into),
            put: delta.put.iter().map(|node| node.as_ref().into()).collect(),
            removed: delta.removed.iter().map(NodeId::to_string).collect(),
            verdicts: delta.judged.iter().map(|(id, judged)| v1::NodeVerdict::new(id, judged)).collect(),
            stale,
        }
    }
}

impl TryFrom<wire::Delta> for Delta {
    type Error = Malformed;

    fn try_from(message: wire::Delta) -> Result<Self, Malformed> {
        Ok(Self {
            from: Revision(message.from),
            to: Revision(message.to),
            check_changed: Revision(message.check_changed),
            header: message.header.map(|header| Header::try_from(header).map(Arc::new)).transpose()?,
            put: message
                .put
                .into_iter()
                .map(|node| Ok(Arc::new(node.try_into()?)))
                .collect::<Result<_, Malformed>>()?,
            removed: message.removed.iter().map(|id| NodeId::parse(id)).collect::<Result<_, _>>()?,
            judged: message.verdicts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

/// Reads the 16 bytes of a store id.
pub fn store_id(bytes: &[u8]) -> Result<StoreId, Malformed> {
    Ok(StoreId(Uuid::from_slice(bytes).map_err(|_| Malformed::Missing("store"))?))
}

impl v1::NodeVerdict {
    /// A verdict on the named node.
    pub fn new(node: &NodeId, judged: &Judged) -> Self {
        Self {
            node: node.to_string(),
            birth: judged.birth.0,
            verdict: match judged.verdict {
                Verdict::Unknown => v1::Verdict::Unknown,
                Verdict::Healthy => v1::Verdict::Healthy,
                Verdict::Degraded => v1::Verdict::Degraded,
                Verdict::Down => v1::Verdict::Down,
            }
            .into(),
            stamp: Some(v1::Stamp {
                ring_epoch: judged.stamp.ring_epoch,
                term: judged.stamp.term,
                server: judged.stamp.server.to_string(),
                incarnation: judged.stamp.incarnation,
                sequence: judged.stamp.sequence,
            }),
            since_ms: judged.since.as_millisecond(),
            single_vantage: judged.single_vantage,
            stale_since_ms: judged.stale_since.map_or(0, Timestamp::as_millisecond),
        }
    }
}

impl TryFrom<v1::NodeVerdict> for (NodeId, Judged) {
    type Error = Malformed;

    fn try_from(message: v1::NodeVerdict) -> Result<Self, Malformed> {
        let at =
            |ms: i64| Timestamp::from_millisecond(ms).map_err(|_| Malformed::Shape("a time out of range"));
        let verdict = match message.verdict() {
            v1::Verdict::Unknown => Verdict::Unknown,
            v1::Verdict::Healthy => Verdict::Healthy,
            v1::Verdict::Degraded => Verdict::Degraded,
            v1::Verdict::Down => Verdict::Down,
        };
        let stamp = message.stamp.ok_or(Malformed::Missing("stamp"))?;
        let judged = Judged {
            verdict,
            birth: Revision(message.birth),
            stamp: Stamp {
                ring_epoch: stamp.ring_epoch,
                term: stamp.term,
                server: ServerId::parse(&stamp.server)?,
                incarnation: stamp.incarnation,
                sequence: stamp.sequence,
            },
            since: at(message.since_ms)?,
            single_vantage: message.single_vantage,
            stale_since: (message.stale_since_ms != 0).then(|| at(message.stale_since_ms)).transpose()?,
        };
        Ok((NodeId::parse(&message.node)?, judged))
    }
}
