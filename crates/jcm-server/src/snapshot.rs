//! All definitions at one revision.

use std::sync::Arc;

use imbl::OrdMap;
use jcm_model::{Cluster, ClusterName, Head, Revision, StoreId};

/// All definitions at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) store: StoreId,
    pub(crate) revision: Revision,
    pub(crate) clusters: OrdMap<ClusterName, Arc<Cluster>>,
    /// Clusters that are in the store and cannot be read, with the reason. They are not "not there": nobody who holds
    /// one may be told that it is gone, and only a deletion may touch it.
    pub(crate) quarantined: OrdMap<ClusterName, Arc<str>>,
}

impl Snapshot {
    /// The head that all of it agrees with.
    pub(crate) fn head(&self) -> Head {
        Head { store: self.store, revision: self.revision }
    }
}
