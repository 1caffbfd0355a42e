//! The definitions as the store last knew them, so that a commit needs to read nothing.
//!
//! It holds what the tail of the change log led to, and shares the clusters with whoever loaded or followed them. Pure:
//! it changes with transactions alone, in their order.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Edit, Effect};
use jcm_proto::Transaction;

use super::chunks::Chunks;
use crate::CommitError;

/// What the chunks that are kept may take, over all clusters: the largest cluster several times.
const CHUNKS_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The definitions.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub(super) clusters: HashMap<ClusterName, Arc<Cluster>>,
    /// Of large clusters that were committed to from here lately. Those of a revision that has passed are no use.
    chunks: HashMap<ClusterName, Chunks>,
    /// Clusters whose bytes cannot be read.
    pub(super) quarantine: HashMap<ClusterName, Quarantined>,
}

/// A cluster whose bytes cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Quarantined {
    pub(super) reason: String,
    /// The names of the znodes below it, for its deletion.
    pub(super) children: Vec<String>,
}

/// What is known of a cluster that a transaction touches.
#[derive(Debug, Clone)]
pub(super) enum Before {
    Absent,
    /// With its chunks, where they are known here.
    There(Arc<Cluster>, Option<Chunks>),
    Quarantined(Quarantined),
}

/// A cluster that was committed to.
#[derive(Debug)]
pub(super) struct After {
    pub(super) name: ClusterName,
    /// `None`: it is gone.
    pub(super) cluster: Option<Arc<Cluster>>,
    /// Where it has any.
    pub(super) chunks: Option<Chunks>,
}

impl Mirror {
    /// What a transaction touches, as it is now.
    pub(super) fn excerpt(&self, transaction: &Transaction) -> BTreeMap<ClusterName, Before> {
        let mut excerpt = BTreeMap::new();
        for entry in &transaction.entries {
            let name = &entry.change.cluster;
            excerpt.entry(name.clone()).or_insert_with(|| self.before(name));
        }
        excerpt
    }

    fn before(&self, name: &ClusterName) -> Before {
        if let Some(quarantined) = self.quarantine.get(name) {
            return Before::Quarantined(quarantined.clone());
        }
        let Some(cluster) = self.clusters.get(name) else { return Before::Absent };
        let chunks = self.chunks.get(name).filter(|chunks| chunks.is_of(cluster));
        Before::There(Arc::clone(cluster), chunks.cloned())
    }

    /// Takes what somebody committed. What is there of it already stays.
    pub(super) fn take(&mut self, transaction: &Transaction) {
        let mut edits: BTreeMap<&ClusterName, Edit> = BTreeMap::new();
        for entry in &transaction.entries {
            let change = &entry.change;
            let name = &change.cluster;
            if self.quarantine.contains_key(name) {
                if matches!(change.effect, Effect::Deleted) {
                    self.quarantine.remove(name);
                }
                continue;
            }
            let edit = edits.entry(name).or_insert_with(|| Edit::new(self.clusters.get(name).cloned()));
            // An update of what is not there: it was read after its deletion, which is to follow.
            if edit.is_there() || matches!(change.effect, Effect::Updated { created: true, .. }) {
                edit.apply(change);
            }
        }
        for (name, edit) in edits {
            self.chunks.remove(name);
            match edit.to_cluster() {
                Some(cluster) => self.clusters.insert(name.clone(), cluster),
                None => self.clusters.remove(name),
            };
        }
    }

    /// Takes what was worked out already.
    pub(super) fn install(&mut self, after: Vec<After>) {
        for After { name, cluster, chunks } in after {
            self.quarantine.remove(&name);
            match chunks {
                Some(chunks) => self.keep(name.clone(), chunks),
                None => drop(self.chunks.remove(&name)),
            }
            match cluster {
                Some(cluster) => self.clusters.insert(name, cluster),
                None => self.clusters.remove(&name),
            };
        }
    }

    fn keep(&mut self, name: ClusterName, chunks: Chunks) {
        let others = self.chunks.iter().filter(|(held, _)| **held != name);
        let size_bytes: usize = others.map(|(_, chunks)| chunks.size_bytes()).sum();
        if size_bytes + chunks.size_bytes() > CHUNKS_BYTES_MAX {
            // The others are worked out again by who needs them.
            self.chunks.clear();
        }
        self.chunks.insert(name, chunks);
    }
}

/// A commit that touches what nobody can read was worked out by somebody who believed that it is not there.
pub(super) fn quarantined(name: &ClusterName, reason: &str) -> CommitError {
    CommitError::Refused {
        reason: format!("cluster `{name}` cannot be read and is left alone: {reason}; nothing was submitted"),
    }
}
