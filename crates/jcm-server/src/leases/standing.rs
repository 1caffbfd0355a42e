//! What a server says of a lease that a client keeps. Pure.

use jcm_model::{ClusterName, Lease, LeaseId, NodeId, Revision, StoreId};
use jcm_proto::v1::watch_request::Held;
use jcm_proto::v1::watch_response::LostLease;
use jcm_proto::v1::watch_response::lost_lease::Reason;
use jcm_proto::{Malformed, discovery};

use crate::snapshot::Snapshot;

/// A lease that a client says it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) cluster: ClusterName,
    pub(crate) node: NodeId,
    pub(crate) lease: LeaseId,
    /// What the write that registered it led to, where its answer came.
    pub(crate) registered: Option<(StoreId, Revision)>,
}

impl TryFrom<Held> for Kept {
    type Error = Malformed;

    fn try_from(message: Held) -> Result<Self, Malformed> {
        let registered = if message.store.is_empty() {
            None
        } else {
            Some((discovery::store_id(&message.store)?, Revision(message.revision)))
        };
        Ok(Self {
            cluster: ClusterName::parse(&message.cluster)?,
            node: NodeId::parse(&message.node)?,
            lease: LeaseId::try_from(message.lease.as_slice())?,
            registered,
        })
    }
}

impl Kept {
    pub(crate) fn lost(&self, lost: Lost) -> LostLease {
        LostLease {
            cluster: self.cluster.to_string(),
            node: self.node.to_string(),
            lease: self.lease.as_bytes().to_vec(),
            reason: lost.reason.into(),
            unkept: lost.unkept.map(|lease| lease.as_bytes().to_vec()).unwrap_or_default(),
        }
    }
}

/// Why a lease does not stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) reason: Reason,
    /// The lease that is there instead, and that nobody keeps.
    pub(crate) unkept: Option<LeaseId>,
}

impl From<Reason> for Lost {
    fn from(reason: Reason) -> Self {
        Self { reason, unkept: None }
    }
}

/// Why a lease does not stand; `None`: it does, or this server cannot tell.
///
/// Its own memory may be behind the registration, so that something older stands there: it speaks only once it has come to
/// the registration's revision. Under another store than that of the registration, or without knowing it, revisions tell
/// nothing. There it says no more than that the node is gone, because a program that took "taken" for granted would stop: also
/// where another lease stands that nobody keeps, as after a restore from before the program began. The program then writes on
/// condition, and finds out what stands there. `may_be_kept` tells whether somebody keeps a lease of the node, as far as is known.
pub(super) fn standing(
    kept: &Kept,
    snapshot: &Snapshot,
    may_be_kept: impl Fn(&Lease) -> bool,
) -> Option<Lost> {
    if snapshot.quarantined.contains_key(&kept.cluster) {
        return None;
    }
    let is_comparable = match kept.registered {
        Some((store, revision)) if store == snapshot.store && revision > snapshot.revision => return None,
        Some((store, _)) => store == snapshot.store,
        None => false,
    };
    let node = snapshot.clusters.get(&kept.cluster).and_then(|cluster| cluster.node(&kept.node));
    match node.map(|node| node.attributes.lease()) {
        None => Some(Reason::Gone.into()),
        Some(Some(lease)) if lease.id() == kept.lease => None,
        Some(Some(lease)) if !is_comparable => {
            (!may_be_kept(lease)).then_some(Lost { reason: Reason::Gone, unkept: Some(lease.id()) })
        }
        Some(None) if !is_comparable => None,
        Some(Some(_)) => Some(Reason::Taken.into()),
        Some(None) => Some(Reason::Adopted.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leases::tests::{cluster_name, lease_id, leased, node_id, snapshot};

    #[test]
    fn a_server_that_is_behind_or_elsewhere_calls_nothing_taken() {
        let snapshot =
            snapshot(10, &[leased("mine", Some(1)), leased("people", None), leased("other", Some(2))]);
        let here = snapshot.store;
        let elsewhere = StoreId(uuid::Uuid::from_u128(77));
        for (node, registered, expected) in [
            ("mine", Some((here, 9)), None),
            ("mine", Some((here, 11)), None),
            ("other", Some((here, 10)), Some(Reason::Taken)),
            ("other", Some((here, 11)), None),
            ("other", Some((elsewhere, 3)), None),
            ("other", None, None),
            ("people", Some((here, 10)), Some(Reason::Adopted)),
            ("people", None, None),
            ("gone", Some((here, 10)), Some(Reason::Gone)),
            ("gone", Some((here, 11)), None),
            ("gone", Some((elsewhere, 30)), Some(Reason::Gone)),
            ("gone", None, Some(Reason::Gone)),
        ] {
            let registered = registered.map(|(store, revision)| (store, Revision(revision)));
            let kept = Kept { cluster: cluster_name(), node: node_id(node), lease: lease_id(1), registered };
            let expected = expected.map(Lost::from);
            assert_eq!(standing(&kept, &snapshot, |_| true), expected, "{node} registered at {registered:?}");
        }
    }

    #[test]
    fn a_lease_that_nobody_keeps_in_another_store_is_in_nobodys_way() {
        let snapshot = snapshot(10, &[leased("people", None), leased("other", Some(2))]);
        let (here, elsewhere) = (snapshot.store, StoreId(uuid::Uuid::from_u128(77)));
        let unkept = Lost { reason: Reason::Gone, unkept: Some(lease_id(2)) };
        for (node, store, expected) in [
            ("other", Some(elsewhere), Some(unkept)),
            ("other", None, Some(unkept)),
            ("other", Some(here), Some(Reason::Taken.into())),
            ("people", Some(elsewhere), None),
        ] {
            let registered = store.map(|store| (store, Revision(3)));
            let kept = Kept { cluster: cluster_name(), node: node_id(node), lease: lease_id(1), registered };
            assert_eq!(standing(&kept, &snapshot, |_| false), expected, "{node} registered in {store:?}");
        }
    }
}
