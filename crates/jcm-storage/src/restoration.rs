//! Other definitions for a store, worked out before anything is touched.
//!
//! Revisions begin above the head that was there: a commit that was worked out before the restore is conditional on a
//! head that never comes again, so it cannot land on definitions that its sender has not seen. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Node, Revision, StoreId};
use uuid::Uuid;

use crate::RestoreError;

/// How many identities a store remembers to have replaced; who was away for longer than so many restores starts over
/// from an empty directory.
const REPLACED_MAX: usize = 64;

/// What a store is to become.
#[derive(Debug, Clone)]
pub(crate) struct Restoration {
    /// Its identity from then on.
    pub(crate) store: StoreId,
    /// The identities whose place it takes, latest last.
    pub(crate) replaced: Vec<StoreId>,
    /// Its head.
    pub(crate) head: Revision,
    /// Its definitions, with revisions up to the head.
    pub(crate) clusters: BTreeMap<ClusterName, Arc<Cluster>>,
}

/// What is in force until then.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// `None`: there was a store, and it is gone.
    pub(crate) store: Option<StoreId>,
    pub(crate) replaced: Vec<StoreId>,
    pub(crate) head: Revision,
}

impl Restoration {
    /// Refuses what is not a set of definitions.
    pub(crate) fn work_out(
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
        now: InForce,
    ) -> Result<Self, RestoreError> {
        // Also without any cluster: the head must not stay where a commit could be waiting for it.
        let mut head = now.head.next();
        let mut restored = BTreeMap::new();
        for cluster in clusters {
            let name = cluster.name.clone();
            if restored.insert(name.clone(), Arc::new(born_at(&cluster, head))).is_some() {
                return Err(RestoreError::NotRestored { reason: format!("cluster `{name}` is there twice") });
            }
            head = head.next();
        }
        if !restored.is_empty() {
            head = Revision(head.0 - 1);
        }
        let mut replaced = now.replaced;
        for id in replaces.into_iter().chain(now.store) {
            replaced.retain(|known| *known != id);
            replaced.push(id);
        }
        replaced.drain(..replaced.len().saturating_sub(REPLACED_MAX));
        Ok(Self { store: StoreId(Uuid::new_v4()), replaced, head, clusters: restored })
    }
}

/// A cluster as if it had been created with all that it has.
fn born_at(cluster: &Cluster, revision: Revision) -> Cluster {
    let born = |node: &Arc<Node>| Arc::new(Node { birth: revision, ..(**node).clone() });
    Cluster {
        revision,
        created: revision,
        check_changed: revision,
        nodes: cluster.nodes.iter().map(born).collect(),
        ..cluster.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> StoreId {
        StoreId(Uuid::from_u128(number))
    }

    #[test]
    fn the_head_moves_even_when_nothing_is_restored_and_the_identities_are_remembered_once_each() {
        let now = InForce { store: Some(id(1)), replaced: vec![id(2), id(3)], head: Revision(9) };
        let restoration = Restoration::work_out(Vec::new(), vec![id(2), id(4)], now).unwrap();
        assert_eq!(restoration.head, Revision(10));
        assert_eq!(restoration.replaced, [id(3), id(2), id(4), id(1)]);
        assert!(!restoration.replaced.contains(&restoration.store));
        let long = (0..100).map(id).collect();
        let now = InForce { store: Some(id(200)), replaced: long, head: Revision(9) };
        let replaced = Restoration::work_out(Vec::new(), Vec::new(), now).unwrap().replaced;
        assert_eq!(
            (replaced.len(), replaced.last()),
            (REPLACED_MAX, Some(&id(200))),
            "the latest were forgotten"
        );
    }
}
