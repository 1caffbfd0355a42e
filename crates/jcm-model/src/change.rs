//! A committed change of one cluster: the fact that every copy applies, in the order of revisions.

use std::sync::Arc;

use crate::node::Node;
use crate::{Cluster, ClusterName, Edit, Header, NodeId, Revision};

/// What one mutation did to one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which cluster.
    pub cluster: ClusterName,
    /// The mutation's place in the order of all.
    pub revision: Revision,
    /// What it did.
    pub effect: Effect,
}

/// What a change did.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The cluster is gone.
    Deleted,
    /// The cluster is there, with these differences.
    Updated {
        /// Whether it was not there before.
        created: bool,
        /// Everything beside the nodes, where that changed.
        header: Option<Arc<Header>>,
        /// Nodes that are new or differ.
        put: Vec<Arc<Node>>,
        /// Nodes that are gone.
        removed: Vec<NodeId>,
    },
}

impl Change {
    /// The cluster after this change. Pure, and alike on every server and subscriber. It costs what the cluster holds: for
    /// many changes there is [`Edit`].
    ///
    /// A change at or below the revision held changes nothing, so that applying the log twice is harmless.
    pub fn apply(&self, before: Option<&Arc<Cluster>>) -> Option<Arc<Cluster>> {
        let mut edit = Edit::new(before.cloned());
        edit.apply(self);
        edit.to_cluster()
    }
}
