//! What one publication changed: enough to tell a reader the way from before it to after it.

use std::collections::BTreeSet;

#[cfg(doc)]
use jcm_model::Judged;
use jcm_model::verdict::same;
use jcm_model::walk::walk;
use jcm_model::{NodeId, Revision};

use super::published::Published;

/// What one publication changed.
#[derive(Debug)]
pub(super) struct Step {
    /// The sequence it started from.
    pub(super) from: u64,
    /// The sequence it led to.
    pub(super) to: u64,
    /// The cluster revision it started from.
    pub(super) from_revision: Revision,
    pub(super) header: bool,
    /// Nodes that were defined or removed.
    pub(super) defined: BTreeSet<NodeId>,
    /// Nodes whose verdict changed.
    pub(super) judged: BTreeSet<NodeId>,
    /// Those of them that were judged by another judge before, or by none: see [`Judged::is_of_same_judge`].
    pub(super) judged_anew: BTreeSet<NodeId>,
    /// Nodes that are routed to in another way than before, or lost their verdict.
    pub(super) relaid: BTreeSet<NodeId>,
}

impl Step {
    /// A step that names the nodes that look different; the rest is the caller's.
    pub(super) fn between(before: &Published, after: &Published) -> Self {
        let mut relaid = BTreeSet::new();
        let nodes = &after.state.cluster().nodes;
        for pair in walk(&before.state.cluster().nodes, nodes) {
            let (Some(was), Some(is)) = (pair.before, pair.now) else { continue };
            if before.routing.nodes[was] != after.routing.nodes[is]
                || !same(before.state.judged_at(was), after.state.judged_at(is))
            {
                relaid.insert(nodes[is].id.clone());
            }
        }
        Self {
            from: before.token.sequence,
            to: after.token.sequence,
            from_revision: before.state.cluster().revision,
            header: false,
            defined: BTreeSet::new(),
            judged: BTreeSet::new(),
            judged_anew: BTreeSet::new(),
            relaid,
        }
    }

    /// Verdicts on these nodes changed as well.
    pub(super) fn judge(
        &mut self,
        before: &Published,
        after: &Published,
        judged: impl IntoIterator<Item = NodeId>,
    ) {
        for id in judged {
            let same = before.state.judged(&id).zip(after.state.judged(&id));
            if !same.is_some_and(|(before, after)| after.is_of_same_judge(before)) {
                self.judged_anew.insert(id.clone());
            }
            self.judged.insert(id);
        }
    }

    pub(super) fn named_count(&self) -> usize {
        self.defined.len() + self.judged.len() + self.relaid.len()
    }
}
