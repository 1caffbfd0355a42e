//! What one publication changed: enough to tell a reader the way from before it to after it.

use std::collections::BTreeSet;

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
    /// Nodes that are routed to in another way than before, or lost their verdict.
    pub(super) relaid: BTreeSet<NodeId>,
}

impl Step {
    /// A step that names the nodes that look different; the rest is the caller's.
    pub(super) fn between(before: &Published, after: &Published) -> Self {
        let mut relaid = BTreeSet::new();
        let mut old = before.state.nodes().zip(&before.routing.nodes).peekable();
        for ((node, judged), route) in after.state.nodes().zip(&after.routing.nodes) {
            while old.next_if(|((held, _), _)| held.id < node.id).is_some() {}
            let held = old.next_if(|((held, _), _)| held.id == node.id);
            if held.is_some_and(|((_, held_judged), held_route)| held_route != route || held_judged != judged)
            {
                relaid.insert(node.id.clone());
            }
        }
        Self {
            from: before.token.sequence,
            to: after.token.sequence,
            from_revision: before.state.cluster().revision,
            header: false,
            defined: BTreeSet::new(),
            judged: BTreeSet::new(),
            relaid,
        }
    }

    pub(super) fn named_count(&self) -> usize {
        self.defined.len() + self.judged.len() + self.relaid.len()
    }
}
