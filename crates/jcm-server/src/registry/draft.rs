//! Working a batch out: each write meets the state that the writes before it would leave.

use std::collections::HashMap;

use jcm_model::edit::{Places, Undo};
use jcm_model::{
    Change, ClusterName, Edit, Effect, Mutation, NodeId, Precondition, Revision, StoreId, TargetPolicy,
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

/// Places that are kept from one batch to the next, over all clusters: some megabytes, and the largest cluster several times.
const PLACES_MAX: usize = 100_000;

/// Which nodes have the places of clusters that were written lately: to find that out costs what a cluster holds, and the
/// next write of it need not. Only what a batch led to that was committed may be kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    store: Option<StoreId>,
    places: HashMap<ClusterName, Places>,
}

/// The state that the batch leads to, as far as it was worked out.
pub(super) struct Draft<'a> {
    base: &'a Snapshot,
    targets: &'a TargetPolicy,
    kept: Kept,
    revision: Revision,
    touched: HashMap<ClusterName, Touched>,
}

/// A cluster that some write is about.
struct Touched {
    edit: Edit,
    /// How many changes were made to it.
    changes: usize,
}

/// A write that may be committed.
pub(super) struct Attempt {
    pub(super) changes: Vec<Change>,
    pub(super) outcomes: Vec<Outcome>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(base: &'a Snapshot, targets: &'a TargetPolicy, kept: Kept) -> Self {
        let kept = if kept.store == Some(base.store) { kept } else { Kept::default() };
        Self { base, targets, kept, revision: base.revision, touched: HashMap::new() }
    }

    /// What the next batch may begin with, once this one was committed.
    pub(super) fn into_kept(self) -> Kept {
        let mut places = self.kept.places;
        let mut count: usize = places.values().map(Places::count).sum();
        let worked_out = self.touched.into_iter().filter_map(|(name, touched)| {
            let places = touched.edit.into_places()?;
            Some((name, places))
        });
        for (name, worked_out) in worked_out {
            count += worked_out.count();
            if count > PLACES_MAX {
                // The others are worked out again by who needs them.
                count = worked_out.count();
                places.clear();
            }
            places.insert(name, worked_out);
        }
        Kept { store: Some(self.base.store), places }
    }

    /// Works a write out: the draft takes over all of it, or none.
    pub(super) fn attempt(&mut self, write: &Write) -> Result<Attempt, WriteError> {
        let pruned = if write.prune { self.pruned(write) } else { Vec::new() };
        let mut attempt = Attempt { changes: Vec::new(), outcomes: Vec::new() };
        let mut undo: Vec<(ClusterName, Undo)> = Vec::new();
        let start = self.revision;
        for (index, wish) in write.wishes.iter().chain(&pruned).enumerate() {
            let revision = self.revision.next();
            let touched = self.touched.entry(wish.cluster.clone()).or_insert_with(|| {
                let cluster = self.base.clusters.get(&wish.cluster).cloned();
                let edit = match (cluster, self.kept.places.remove(&wish.cluster)) {
                    (Some(cluster), Some(places)) => Edit::resumed(cluster, places),
                    (cluster, _) => Edit::new(cluster),
                };
                Touched { edit, changes: 0 }
            });
            let change = match self.base.quarantined.get(&wish.cluster) {
                Some(reason) if touched.changes == 0 => refuse_unless_deletion(wish, revision, reason),
                _ => wish
                    .mutation
                    .change_in(&touched.edit, &wish.cluster, wish.precondition, revision, self.targets)
                    .map_err(|refusal| WriteError::Refused { index, refusal }),
            };
            match change {
                Ok(change) => {
                    attempt.outcomes.push(outcome(&wish.cluster, &touched.edit, change.as_ref()));
                    if let Some(change) = change {
                        undo.push((wish.cluster.clone(), touched.edit.apply(&change)));
                        touched.changes += 1;
                        self.revision = revision;
                        attempt.changes.push(change);
                    }
                }
                Err(error) => {
                    self.revision = start;
                    for (name, undo) in undo.into_iter().rev() {
                        if let Some(touched) = self.touched.get_mut(&name) {
                            touched.edit.undo(undo);
                            touched.changes -= 1;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(attempt)
    }

    fn is_there(&self, name: &ClusterName) -> bool {
        match self.touched.get(name) {
            Some(touched) => touched.edit.is_there(),
            None => self.base.clusters.contains_key(name),
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
        names.into_iter().filter(|name| self.is_there(name)).map(wish).collect()
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

fn outcome(name: &ClusterName, before: &Edit, change: Option<&Change>) -> Outcome {
    let mut outcome = Outcome {
        name: name.clone(),
        action: Action::Unchanged,
        revision: before.revision().unwrap_or(Revision::ZERO),
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
            outcome.nodes_removed = before.nodes().map(|node| node.id.clone()).collect();
            outcome.nodes_removed.sort_unstable();
        }
        Effect::Updated { created, header, put, removed } => {
            outcome.action = if *created { Action::Created } else { Action::Updated };
            outcome.header_changed = header.is_some();
            outcome.nodes_removed.clone_from(removed);
            for node in put {
                let known = before.node(&node.id).is_some();
                if known { &mut outcome.nodes_changed } else { &mut outcome.nodes_added }
                    .push(node.id.clone());
            }
        }
    }
    outcome
}
