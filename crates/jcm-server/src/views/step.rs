//! What one publication changed: enough to tell a reader the way from before it to after it.

use std::collections::BTreeMap;

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
    /// Each node that something happened to. One table, because most of them turn, and a turn is routed in another way.
    nodes: BTreeMap<NodeId, Happened>,
}

/// What happened to a node.
#[expect(clippy::struct_excessive_bools, reason = "four facts, each true or not by itself")]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Happened {
    /// It was defined or removed.
    pub(super) defined: bool,
    /// Its verdict changed.
    pub(super) judged: bool,
    /// It was judged by another judge before, or by none: see [`Judged::is_of_same_judge`].
    pub(super) judged_anew: bool,
    /// It is routed to in another way than before, or lost its verdict.
    pub(super) relaid: bool,
}

impl Step {
    /// A step that names the nodes that look different; the rest is the caller's.
    pub(super) fn between(before: &Published, after: &Published) -> Self {
        let mut named: BTreeMap<NodeId, Happened> = BTreeMap::new();
        let nodes = &after.state.cluster().nodes;
        for pair in walk(&before.state.cluster().nodes, nodes) {
            let (Some(was), Some(is)) = (pair.before, pair.now) else { continue };
            if before.routing.nodes[was] != after.routing.nodes[is]
                || !same(before.state.judged_at(was), after.state.judged_at(is))
            {
                named.entry(nodes[is].id.clone()).or_default().relaid = true;
            }
        }
        Self {
            from: before.token.sequence,
            to: after.token.sequence,
            from_revision: before.state.cluster().revision,
            header: false,
            nodes: named,
        }
    }

    /// These nodes were defined, or removed, as well.
    pub(super) fn define(&mut self, defined: impl IntoIterator<Item = NodeId>) {
        for id in defined {
            self.nodes.entry(id).or_default().defined = true;
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
            let happened = self.nodes.entry(id).or_default();
            happened.judged = true;
            happened.judged_anew |= !same.is_some_and(|(before, after)| after.is_of_same_judge(before));
        }
    }

    pub(super) fn nodes(&self) -> &BTreeMap<NodeId, Happened> {
        &self.nodes
    }
}
