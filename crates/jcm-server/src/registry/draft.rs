//! Working a batch out: each write meets the state that the writes before it would leave.

use std::collections::HashMap;
use std::sync::Arc;

use jcm_model::{
    Change, Cluster, ClusterName, Effect, Mutation, NodeId, Precondition, Revision, TargetPolicy,
};
use serde::{Deserialize, Serialize};

use super::{Wish, Write, WriteError};
use crate::snapshot::Snapshot;

/// What happened, or would happen, to one cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) name: ClusterName,
    pub(crate) action: Action,
    pub(crate) revision: Revision,
    pub(crate) header_changed: bool,
    pub(crate) nodes_added: Vec<NodeId>,
    pub(crate) nodes_changed: Vec<NodeId>,
    pub(crate) nodes_removed: Vec<NodeId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Created,
    Updated,
    Unchanged,
    Deleted,
}

impl Action {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}

/// The state that the batch leads to, as far as it was worked out.
pub(super) struct Draft<'a> {
    base: &'a Snapshot,
    targets: &'a TargetPolicy,
    revision: Revision,
    touched: HashMap<ClusterName, Option<Arc<Cluster>>>,
}

/// A write that may be committed.
pub(super) struct Attempt {
    pub(super) changes: Vec<Change>,
    pub(super) outcomes: Vec<Outcome>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a Snapshot, targets: &'a TargetPolicy) -> Self {
        Self { base, targets, revision: base.revision, touched: HashMap::new() }
    }

    /// Works a write out: the draft takes over all of it, or none.
    pub(super) fn attempt(&mut self, write: &Write) -> Result<Attempt, WriteError> {
        let pruned = if write.prune { self.pruned(write) } else { Vec::new() };
        let mut attempt = Attempt { changes: Vec::new(), outcomes: Vec::new() };
        let mut undo: Vec<(ClusterName, Option<Option<Arc<Cluster>>>)> = Vec::new();
        let start = self.revision;
        for (index, wish) in write.wishes.iter().chain(&pruned).enumerate() {
            let before = self.get(&wish.cluster);
            let revision = self.revision.next();
            let change = match self.base.quarantined.get(&wish.cluster) {
                Some(reason) if !self.touched.contains_key(&wish.cluster) => {
                    refuse_unless_deletion(wish, revision, reason)
                }
                _ => {
                    let change = wish.mutation.change(
                        &wish.cluster,
                        before.as_ref(),
                        wish.precondition,
                        revision,
                        self.targets,
                    );
                    change.map_err(|refusal| WriteError::Refused { index, refusal })
                }
            };
            match change {
                Ok(change) => {
                    attempt.outcomes.push(outcome(&wish.cluster, before.as_deref(), change.as_ref()));
                    if let Some(change) = change {
                        let after = change.apply(before.as_ref());
                        undo.push((wish.cluster.clone(), self.touched.insert(wish.cluster.clone(), after)));
                        self.revision = revision;
                        attempt.changes.push(change);
                    }
                }
                Err(error) => {
                    self.revision = start;
                    for (name, previous) in undo.into_iter().rev() {
                        match previous {
                            Some(previous) => self.touched.insert(name, previous),
                            None => self.touched.remove(&name),
                        };
                    }
                    return Err(error);
                }
            }
        }
        Ok(attempt)
    }

    fn get(&self, name: &ClusterName) -> Option<Arc<Cluster>> {
        match self.touched.get(name) {
            Some(touched) => touched.clone(),
            None => self.base.clusters.get(name).cloned(),
        }
    }

    /// Deletions of all clusters that the write does not name.
    fn pruned(&self, write: &Write) -> Vec<Wish> {
        let named: std::collections::HashSet<&ClusterName> =
            write.wishes.iter().map(|wish| &wish.cluster).collect();
        let mut names: Vec<&ClusterName> = self
            .base
            .clusters
            .keys()
            .chain(self.touched.keys())
            .filter(|name| !named.contains(name))
            .collect();
        names.sort();
        names.dedup();
        let wish = |name: &ClusterName| Wish {
            cluster: name.clone(),
            mutation: Mutation::DeleteCluster,
            precondition: Precondition::default(),
        };
        names.into_iter().filter(|name| self.get(name).is_some()).map(wish).collect()
    }
}

/// A cluster that cannot be read can only be deleted: nobody knows what any other change would be a change of.
fn refuse_unless_deletion(
    wish: &Wish,
    revision: Revision,
    reason: &str,
) -> Result<Option<Change>, WriteError> {
    match wish.mutation {
        Mutation::DeleteCluster if wish.precondition == Precondition::default() => {
            Ok(Some(Change { cluster: wish.cluster.clone(), revision, effect: Effect::Deleted }))
        }
        _ => Err(WriteError::Quarantined { cluster: wish.cluster.clone(), reason: reason.to_owned() }),
    }
}

fn outcome(name: &ClusterName, before: Option<&Cluster>, change: Option<&Change>) -> Outcome {
    let mut outcome = Outcome {
        name: name.clone(),
        action: Action::Unchanged,
        revision: before.map_or(Revision::ZERO, |cluster| cluster.revision),
        header_changed: false,
        nodes_added: Vec::new(),
        nodes_changed: Vec::new(),
        nodes_removed: Vec::new(),
    };
    let Some(change) = change else { return outcome };
    outcome.revision = change.revision;
    match &change.effect {
        Effect::Deleted => {
            outcome.action = Action::Deleted;
            outcome.nodes_removed =
                before.map_or_else(Vec::new, |c| c.nodes.iter().map(|node| node.id.clone()).collect());
        }
        Effect::Updated { created, header, put, removed } => {
            outcome.action = if *created { Action::Created } else { Action::Updated };
            outcome.header_changed = header.is_some();
            outcome.nodes_removed.clone_from(removed);
            for node in put {
                let known = before.is_some_and(|cluster| cluster.node(&node.id).is_some());
                if known { &mut outcome.nodes_changed } else { &mut outcome.nodes_added }
                    .push(node.id.clone());
            }
        }
    }
    outcome
}
