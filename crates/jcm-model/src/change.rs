//! A committed change of one cluster: the fact that every copy applies, in the order of revisions.

use std::sync::Arc;

use crate::node::Node;
use crate::{Cluster, ClusterName, Header, NodeId, Revision};

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
    /// The cluster after this change. Pure, and alike on every server and subscriber.
    ///
    /// A change at or below the revision held changes nothing, so that applying the log twice is harmless.
    pub fn apply(&self, before: Option<&Arc<Cluster>>) -> Option<Arc<Cluster>> {
        if let Some(held) = before
            && held.revision >= self.revision
        {
            return Some(Arc::clone(held));
        }
        let Effect::Updated { created, header, put, removed } = &self.effect else {
            return None;
        };
        let mut cluster = match before {
            Some(held) if !created => (**held).clone(),
            _ => self.newborn(),
        };
        cluster.revision = self.revision;
        if let Some(header) = header {
            let check = header.check();
            if !check.same_question(&cluster.check) {
                cluster.check_changed = self.revision;
            }
            cluster.check = Arc::new(check);
            cluster.header = Arc::clone(header);
        }
        merge_nodes(&mut cluster.nodes, put, removed);
        Some(Arc::new(cluster))
    }

    fn newborn(&self) -> Cluster {
        let header = Header::default();
        Cluster {
            name: self.cluster.clone(),
            revision: self.revision,
            created: self.revision,
            check_changed: self.revision,
            check: Arc::new(header.check()),
            header: Arc::new(header),
            nodes: Vec::new(),
        }
    }
}

/// Takes `removed` out of nodes sorted by id and puts `put` in. One pass, so that a change of many nodes in a large
/// cluster costs what the cluster costs, not their product.
pub(crate) fn merge_nodes(nodes: &mut Vec<Arc<Node>>, put: &[Arc<Node>], removed: &[NodeId]) {
    match (put, removed) {
        ([], []) => {}
        ([], [id]) => {
            if let Ok(at) = nodes.binary_search_by(|node| node.id.cmp(id)) {
                nodes.remove(at);
            }
        }
        ([node], []) => match nodes.binary_search_by(|held| held.id.cmp(&node.id)) {
            Ok(at) => nodes[at] = Arc::clone(node),
            Err(at) => nodes.insert(at, Arc::clone(node)),
        },
        _ => {
            let gone: std::collections::HashSet<&NodeId> =
                removed.iter().chain(put.iter().map(|node| &node.id)).collect();
            nodes.retain(|node| !gone.contains(&node.id));
            nodes.extend(put.iter().cloned());
            nodes.sort_by(|a, b| a.id.cmp(&b.id));
        }
    }
}
