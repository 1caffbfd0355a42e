//! What other servers found: taken over as far as it is of the definitions that are here, and told on.

use std::collections::HashMap;
use std::sync::Arc;

use jcm_model::{ClusterName, Judged, NodeId, Revision};

use super::Checker;
use crate::peers::Heard;
use crate::views::Verdicts;

/// Verdicts that wait for the definition that they are of. Beyond that they are dropped: servers compare what they hold
/// now and then, and ask again.
const EARLY_MAX: usize = 20_000;

/// Verdicts on nodes in a form that this server has not been told of yet: the peer is ahead with the definitions.
#[derive(Debug, Default)]
pub(super) struct Early(HashMap<(ClusterName, NodeId), Judged>);

impl Early {
    fn keep(&mut self, cluster: ClusterName, node: NodeId, judged: Judged) {
        let at = (cluster, node);
        match self.0.get(&at) {
            Some(held) if !judged.supersedes(held) => {}
            None if self.0.len() >= EARLY_MAX => {}
            _ => {
                self.0.insert(at, judged);
            }
        }
    }

    /// Those whose definitions are here at this revision.
    fn due(&mut self, revision: Revision) -> Verdicts {
        let mut due = Verdicts::new();
        for ((cluster, node), judged) in self.0.extract_if(|_, judged| judged.birth <= revision) {
            due.entry(cluster).or_default().push((node, judged));
        }
        due
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Checker {
    /// Takes over what another server found.
    pub(super) fn learn(&mut self, heard: Heard) {
        let Heard::Verdicts { store, verdicts, .. } = heard;
        let snapshot = self.views.snapshot();
        if store != snapshot.store {
            return;
        }
        let mut known = Verdicts::new();
        for (cluster, verdicts) in verdicts {
            for (node, judged) in verdicts {
                if judged.birth > snapshot.revision {
                    self.early.keep(cluster.clone(), node, judged);
                } else {
                    known.entry(cluster.clone()).or_default().push((node, judged));
                }
            }
        }
        self.take_over(known);
    }

    /// Takes over what was heard before its definitions came.
    pub(super) fn learn_early(&mut self) {
        let due = self.early.due(self.views.snapshot().revision);
        if !due.is_empty() {
            self.take_over(due);
        }
    }

    fn take_over(&mut self, mut verdicts: Verdicts) {
        // Whether a judge is heard is for each server to say of itself.
        let silent = self.silent_since();
        for (_, judged) in verdicts.values_mut().flatten() {
            judged.stale_since = silent.get(&judged.stamp.server).copied();
        }
        let taken = self.publish(verdicts);
        for (cluster, verdicts) in taken.iter() {
            for (node, judged) in verdicts {
                self.latest_epoch = self.latest_epoch.max(judged.stamp.ring_epoch);
                self.assess_by_name(cluster, node);
                if judged.stamp.server != self.server {
                    self.records.overrule(cluster, node, judged);
                    self.leased.overrule(cluster, node, judged);
                }
            }
        }
        self.count();
    }

    /// Verdicts reach the board first: whoever begins to follow finds there what was turned before. Answers what is
    /// news.
    pub(super) fn publish(&self, verdicts: Verdicts) -> Arc<Verdicts> {
        let store = self.views.snapshot().store;
        let taken = Arc::new(self.views.judge(verdicts));
        if !taken.is_empty() {
            self.turned.publish(store, Arc::clone(&taken));
        }
        taken
    }
}
