//! The clusters that have nodes with leases. Most have none, and to look through all their nodes twice a second would cost a
//! server with many of them something for nothing.

use std::collections::HashMap;
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName};

use crate::snapshot::Snapshot;

/// The clusters that have nodes with leases, as of the last snapshot that was looked at.
#[derive(Debug, Default)]
pub(super) struct Leasing {
    /// Each cluster that was looked at, and whether it has any.
    looked: HashMap<ClusterName, (Arc<Cluster>, bool)>,
    snapshot: Option<Arc<Snapshot>>,
    clusters: Vec<Arc<Cluster>>,
}

impl Leasing {
    /// Looks at what has changed since the last snapshot.
    pub(super) fn look(&mut self, snapshot: &Arc<Snapshot>) {
        if self.snapshot.as_ref().is_some_and(|held| Arc::ptr_eq(held, snapshot)) {
            return;
        }
        self.looked.retain(|name, _| snapshot.clusters.contains_key(name));
        self.clusters.clear();
        for (name, cluster) in &snapshot.clusters {
            let held = self.looked.get(name).filter(|(held, _)| Arc::ptr_eq(held, cluster));
            let has_leases = held.map_or_else(
                || cluster.nodes.iter().any(|node| node.attributes.lease().is_some()),
                |(_, has_leases)| *has_leases,
            );
            if held.is_none() {
                self.looked.insert(name.clone(), (Arc::clone(cluster), has_leases));
            }
            if has_leases {
                self.clusters.push(Arc::clone(cluster));
            }
        }
        self.snapshot = Some(Arc::clone(snapshot));
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leases::tests::{leased, snapshot};

    #[test]
    fn a_cluster_counts_as_long_as_a_node_of_it_has_a_lease() {
        let mut leasing = Leasing::default();
        for (revision, lease) in [(1, None), (2, Some(1)), (3, Some(2)), (4, None)] {
            let snapshot = Arc::new(snapshot(revision, &[leased("people", None), leased("own", lease)]));
            for _ in 0..2 {
                leasing.look(&snapshot);
                assert_eq!(leasing.clusters().count(), usize::from(lease.is_some()), "at {revision}");
            }
        }
        let empty = Snapshot { clusters: imbl::OrdMap::new(), ..Snapshot::clone(&snapshot(5, &[])) };
        leasing.look(&Arc::new(empty));
        assert!(leasing.looked.is_empty());
    }
}
