//! States, deltas and verdicts as they travel on the watch stream.

use std::sync::Arc;

use jcm_model::verdict::{Judged, Stamp, Verdict};
use jcm_model::{Cluster, ClusterState, Delta, Header, NodeId, Revision, ServerId, StoreId, Timestamp};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use crate::v1::watch_response as wire;
use crate::{Malformed, v1};

impl wire::View {
    /// The full view of a state. Of the token, `token_kept` bytes stand when only its end changes.
    pub fn new(
        store: StoreId,
        (token, token_kept): (Vec<u8>, u32),
        state: &ClusterState,
        stale: bool,
    ) -> Self {
        Self {
            store: store.0.as_bytes().to_vec(),
            token,
            token_kept,
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
    /// A delta of the named cluster, without a token: that is set by whoever knows whether its end suffices.
    pub fn new(cluster: &jcm_model::ClusterName, delta: &Delta, stale: bool) -> Self {
        let redefines = delta.to != delta.from;
        Self {
            cluster: cluster.to_string(),
            from: delta.from.0,
            to: if redefines { delta.to.0 } else { 0 },
            check_changed: if redefines { delta.check_changed.0 } else { 0 },
            header: delta.header.as_deref().map(Into::into),
            put: delta.put.iter().map(|node| node.as_ref().into()).collect(),
            removed: delta.removed.iter().map(NodeId::to_string).collect(),
            verdicts: delta.judged.iter().map(|(id, judged)| v1::NodeVerdict::new(id, judged)).collect(),
            stale,
            ..Self::default()
        }
    }

    /// The delta for who holds this state; `None` where it counts from verdicts that are not held.
    pub fn into_delta(mut self, held: &ClusterState) -> Result<Option<Delta>, Malformed> {
        for verdict in &mut self.verdicts {
            if verdict.stamp.is_none() && !verdict.complete(held)? {
                return Ok(None);
            }
        }
        let redefines = self.to != 0;
        Ok(Some(Delta {
            from: Revision(self.from),
            to: Revision(if redefines { self.to } else { self.from }),
            check_changed: if redefines {
                Revision(self.check_changed)
            } else {
                held.cluster().check_changed
            },
            header: self.header.map(|header| Header::try_from(header).map(Arc::new)).transpose()?,
            put: self
                .put
                .into_iter()
                .map(|node| Ok(Arc::new(node.try_into()?)))
                .collect::<Result<_, Malformed>>()?,
            removed: self.removed.iter().map(|id| NodeId::parse(id)).collect::<Result<_, _>>()?,
            judged: self.verdicts.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        }))
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
            stamp: Some(stamp(&judged.stamp)),
            since_ms: judged.since.as_millisecond(),
            single_vantage: judged.single_vantage,
            stale_since_ms: judged.stale_since.map_or(0, Timestamp::as_millisecond),
            sequence: 0,
            same_judge: 0,
        }
    }

    /// The same for who holds a verdict of the same judge on the same form of the node: a third as long.
    pub fn of_same_judge(node: &NodeId, judged: &Judged) -> Self {
        let sequence = judged.stamp.sequence;
        Self { birth: 0, stamp: None, sequence, same_judge: same_judge(judged), ..Self::new(node, judged) }
    }

    /// Takes what was left out from the verdict that is held. `false`: none is held, or another judge's.
    fn complete(&mut self, held: &ClusterState) -> Result<bool, Malformed> {
        let Some(judged) = held.judged(&NodeId::parse(&self.node)?) else { return Ok(false) };
        if same_judge(judged) != self.same_judge {
            return Ok(false);
        }
        self.birth = judged.birth.0;
        self.stamp = Some(v1::Stamp { sequence: self.sequence, ..stamp(&judged.stamp) });
        Ok(true)
    }
}

fn stamp(stamp: &Stamp) -> v1::Stamp {
    v1::Stamp {
        ring_epoch: stamp.ring_epoch,
        term: stamp.term,
        server: stamp.server.to_string(),
        incarnation: stamp.incarnation,
        sequence: stamp.sequence,
    }
}

/// Birth and stamp without the sequence, hashed: equal for two verdicts of which one can be told by the other.
fn same_judge(judged: &Judged) -> u32 {
    let Stamp { ring_epoch, term, server, incarnation, sequence: _ } = &judged.stamp;
    let mut hasher = Xxh3::new();
    for number in [judged.birth.0, *ring_epoch, *term, *incarnation] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(server.as_str().as_bytes());
    let [low @ .., _, _, _, _] = hasher.digest().to_le_bytes();
    u32::from_le_bytes(low)
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
