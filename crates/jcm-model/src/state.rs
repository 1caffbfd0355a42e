//! A cluster and what is known of its nodes, as one value: what servers publish and subscribers hold.
//!
//! Invariant: it goes forward only. A definition older than the one held, a verdict of another form of the node, and
//! a verdict stamped earlier than the one held are dropped, whoever sent them and in whatever order they arrive.

use std::sync::Arc;

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::node::Node;
use crate::walk::walk;
use crate::{Change, Cluster, Header, Judged, NodeId, Revision, Stamp, Verdict};

/// A cluster with the verdicts on its nodes.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterState {
    cluster: Arc<Cluster>,
    /// One for each node, in the same order.
    judged: Vec<Option<Arc<Judged>>>,
    /// The sum of what each node adds to it: a change costs what it touches.
    digest: u64,
}

/// The difference between two states of one cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Delta {
    /// The cluster revision it starts from; equal to `to` when only verdicts changed.
    pub from: Revision,
    /// The cluster revision it leads to.
    pub to: Revision,
    /// [`Cluster::check_changed`] at `to`: a delta over several commits does not show in which of them that was.
    pub check_changed: Revision,
    /// Everything beside the nodes, where that changed.
    pub header: Option<Arc<Header>>,
    /// Nodes that are new or differ.
    pub put: Vec<Arc<Node>>,
    /// Nodes that are gone.
    pub removed: Vec<NodeId>,
    /// Verdicts that are new.
    pub judged: Vec<(NodeId, Judged)>,
}

impl ClusterState {
    /// A state in which nothing is known of the nodes yet.
    pub fn new(cluster: Arc<Cluster>) -> Self {
        let judged = vec![None; cluster.nodes.len()];
        let mut state = Self { cluster, judged, digest: 0 };
        state.digest = state.sum();
        state
    }

    /// A state from a full view. Verdicts on nodes that are not there, or of another form of them, are dropped.
    pub fn with_verdicts(
        cluster: Arc<Cluster>,
        verdicts: impl IntoIterator<Item = (NodeId, Judged)>,
    ) -> Self {
        let mut state = Self::new(cluster);
        for (id, judged) in verdicts {
            state.judge(&id, judged);
        }
        state
    }

    /// The definition.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Each node with what is known of it, in the order of ids.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (&Arc<Node>, Option<&Judged>)> {
        self.cluster.nodes.iter().zip(self.judged.iter().map(Option::as_deref))
    }

    /// What is known of one node.
    pub fn judged(&self, id: &NodeId) -> Option<&Judged> {
        self.cluster.position(id).ok().and_then(|at| self.judged[at].as_deref())
    }

    /// What is known of the node at a place in the order of ids.
    pub fn judged_at(&self, at: usize) -> Option<&Judged> {
        self.judged.get(at).and_then(Option::as_deref)
    }

    /// Takes a verdict over unless it says less than what is held. Answers whether it did.
    pub fn judge(&mut self, id: &NodeId, judged: Judged) -> bool {
        let Ok(at) = self.cluster.position(id) else {
            return false;
        };
        let node = &self.cluster.nodes[at];
        if judged.birth != self.cluster.birth(node) || judged.verdict == Verdict::Unknown {
            return false;
        }
        let held = self.judged[at].as_deref();
        if held.is_some_and(|held| !judged.supersedes(held)) {
            return false;
        }
        let (was, is) = (share(&self.cluster, node, held), share(&self.cluster, node, Some(&judged)));
        self.digest = self.digest.wrapping_sub(was).wrapping_add(is);
        self.judged[at] = Some(Arc::new(judged));
        true
    }

    /// Notes since when the judge of the verdict that stands has been silent; `None`: it is heard. That is said of the
    /// very verdict with this stamp and of no other. Answers whether it was news.
    pub fn remark(&mut self, id: &NodeId, stamp: &Stamp, stale_since: Option<Timestamp>) -> bool {
        let held = self.cluster.position(id).ok().and_then(|at| self.judged[at].as_mut());
        match held {
            Some(held) if held.stamp == *stamp && held.stale_since != stale_since => {
                Arc::make_mut(held).stale_since = stale_since;
                true
            }
            _ => false,
        }
    }

    /// The state under a newer definition: verdicts on nodes that kept their form stay.
    #[must_use]
    pub fn redefined(&self, cluster: Arc<Cluster>) -> Self {
        let mut judged = Vec::with_capacity(cluster.nodes.len());
        let mut digest = self.digest;
        // Else every birth is another one.
        let same_question = self.cluster.check_changed == cluster.check_changed;
        for pair in walk(&self.cluster.nodes, &cluster.nodes) {
            let before = pair.before.map(|at| (&self.cluster.nodes[at], &self.judged[at]));
            let now = pair.now.map(|at| &cluster.nodes[at]);
            if let (Some((held, verdict)), Some(node)) = (before, now)
                && same_question
                && Arc::ptr_eq(held, node)
            {
                judged.push(verdict.clone());
                continue;
            }
            if let Some((held, verdict)) = before {
                digest = digest.wrapping_sub(share(&self.cluster, held, verdict.as_deref()));
            }
            if let Some(node) = now {
                let held = before.and_then(|(_, verdict)| verdict.as_ref());
                let kept = held.filter(|judged| judged.birth == cluster.birth(node)).cloned();
                digest = digest.wrapping_add(share(&cluster, node, kept.as_deref()));
                judged.push(kept);
            }
        }
        Self { cluster, judged, digest }
    }

    /// The state after a delta, or `None` when the delta does not start where this state is: then a full view is needed.
    pub fn after(&self, delta: &Delta) -> Option<Self> {
        if delta.from != self.cluster.revision {
            return None;
        }
        let mut next = if delta.to == delta.from {
            self.clone()
        } else {
            let effect = crate::Effect::Updated {
                created: false,
                header: delta.header.clone(),
                put: delta.put.clone(),
                removed: delta.removed.clone(),
            };
            let change = Change { cluster: self.cluster.name.clone(), revision: delta.to, effect };
            let mut cluster = change.apply(Some(&self.cluster))?;
            Arc::make_mut(&mut cluster).check_changed = delta.check_changed;
            self.redefined(cluster)
        };
        for (id, judged) in &delta.judged {
            if !next.judge(id, judged.clone()) {
                next.remark(id, &judged.stamp, judged.stale_since);
            }
        }
        Some(next)
    }

    /// What leads from an earlier state of the same cluster (same creation) to this one.
    pub fn since(&self, earlier: &Self) -> Delta {
        let mut delta = Delta {
            from: earlier.cluster.revision,
            to: self.cluster.revision,
            check_changed: self.cluster.check_changed,
            header: (*earlier.cluster.header != *self.cluster.header)
                .then(|| Arc::clone(&self.cluster.header)),
            put: Vec::new(),
            removed: Vec::new(),
            judged: Vec::new(),
        };
        for pair in walk(&earlier.cluster.nodes, &self.cluster.nodes) {
            let held = pair.before.map(|at| &earlier.cluster.nodes[at]);
            let Some(at) = pair.now else {
                delta.removed.extend(held.map(|gone| gone.id.clone()));
                continue;
            };
            let node = &self.cluster.nodes[at];
            if held.is_none_or(|held| !Arc::ptr_eq(held, node) && held != node) {
                delta.put.push(Arc::clone(node));
            }
            if let Some(judged) = &self.judged[at]
                && pair.before.and_then(|at| earlier.judged[at].as_ref()) != Some(judged)
            {
                delta.judged.push((node.id.clone(), Judged::clone(judged)));
            }
        }
        delta
    }

    /// A digest of each node's id, form and verdict: equal wherever the same is known, on any server.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    fn sum(&self) -> u64 {
        let shares = self.nodes().map(|(node, judged)| share(&self.cluster, node, judged));
        shares.fold(0, u64::wrapping_add)
    }
}

/// What a node adds to the digest of its cluster. No two have the same id, so that nothing cancels out.
fn share(cluster: &Cluster, node: &Node, judged: Option<&Judged>) -> u64 {
    let verdict = judged.map_or(Verdict::Unknown, |judged| judged.verdict) as u64;
    // A verdict is one of four.
    xxh3_64_with_seed(node.id.as_str().as_bytes(), (cluster.birth(node).0 << 2) | verdict)
}
