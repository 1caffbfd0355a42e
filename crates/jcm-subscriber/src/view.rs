//! One immutable view of a cluster, laid out for picking.
//!
//! Invariant: `turns` names positions of `entries`, and holds each node that traffic may go to now. Everything that a
//! pick writes sits in a [`Load`] of its own cache lines or in the picking thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use jcm_model::routing::{self, Routing};
use jcm_model::{ClusterName, ClusterState, Node, Revision};

use crate::schedule::Turns;

/// What is held of a cluster.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Nothing,
    Removed(Revision),
    State(Arc<ClusterState>),
}

#[derive(Debug)]
pub(crate) struct View {
    /// Differs from that of every other view in this process.
    pub(crate) generation: u64,
    /// Where threads keep their part of this cluster.
    pub(crate) slot: usize,
    /// The order in which entries are picked: positions in `entries`.
    pub(crate) turns: Turns,
    /// The nodes that may be picked, those of the lowest priority number first.
    pub(crate) entries: Box<[Entry]>,
    pub(crate) name: ClusterName,
    pub(crate) content: Content,
    pub(crate) routing: Routing,
    /// One for each node of the state, in its order.
    loads: Vec<Arc<Load>>,
}

/// A node that may be picked.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) load: Arc<Load>,
    pub(crate) weight: u32,
    /// Its place in the state.
    pub(crate) node: u32,
}

/// What this program has going on with one node. It outlives views: calls that began under one end under another.
///
/// Threads that call different nodes must not slow one another down, so no two loads share a cache line of 64 bytes: in
/// an `Arc` each follows 32 bytes of counts that only a new view writes, and takes 32 bytes itself.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(crate) struct Load {
    in_flight: AtomicU32,
    failures: AtomicU64,
}

impl Load {
    // Relaxed throughout: the counts order nothing, and a pick that misses the latest one is only slightly worse.
    #[inline]
    pub(crate) fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn fail(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

impl View {
    /// The view before anything is known.
    pub(crate) fn empty(name: ClusterName, slot: usize) -> Self {
        Self {
            generation: next_generation(),
            slot,
            turns: Turns::default(),
            entries: Box::default(),
            name,
            content: Content::Nothing,
            routing: Routing { panic: false, nodes: Vec::new() },
            loads: Vec::new(),
        }
    }

    /// The view that follows `self`: nodes that are still the same keep their counts.
    pub(crate) fn next(&self, content: Content) -> Self {
        let mut next = Self { content, ..Self::empty(self.name.clone(), self.slot) };
        let Content::State(state) = &next.content else {
            return next;
        };
        next.routing = routing::route(state);
        next.loads = self.carried_loads(state);
        let mut chosen: Vec<(u16, u32)> = (0_u32..)
            .zip(&state.cluster().nodes)
            .filter(|(at, _)| next.routing.nodes[*at as usize].routable)
            .map(|(at, node)| (node.attributes.priority(), at))
            .collect();
        chosen.sort_unstable();
        let first_choice = chosen.first().map_or(0, |(priority, _)| *priority);
        next.entries = chosen
            .iter()
            .map(|(_, at)| Entry {
                load: Arc::clone(&next.loads[*at as usize]),
                weight: u32::from(next.routing.nodes[*at as usize].effective_weight).max(1),
                node: *at,
            })
            .collect();
        let weights: Vec<u16> = chosen
            .iter()
            .take_while(|(priority, _)| *priority == first_choice)
            .map(|(_, at)| next.routing.nodes[*at as usize].effective_weight.max(1))
            .collect();
        next.turns = Turns::new(&weights);
        next
    }

    /// One load for each node of `state`; both lists of nodes are in the order of ids.
    fn carried_loads(&self, state: &ClusterState) -> Vec<Arc<Load>> {
        let mut held = self.nodes().iter().zip(&self.loads).peekable();
        state
            .cluster()
            .nodes
            .iter()
            .map(|node| {
                while held.next_if(|(old, _)| old.id < node.id).is_some() {}
                held.next_if(|(old, _)| old.id == node.id)
                    .filter(|(old, _)| old.same_form(node))
                    .map(|(_, load)| Arc::clone(load))
                    .unwrap_or_default()
            })
            .collect()
    }

    pub(crate) fn state(&self) -> Option<&Arc<ClusterState>> {
        match &self.content {
            Content::State(state) => Some(state),
            Content::Nothing | Content::Removed(_) => None,
        }
    }

    pub(crate) fn nodes(&self) -> &[Arc<Node>] {
        self.state().map_or(&[], |state| &state.cluster().nodes)
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        self.state().map(|state| state.cluster().revision)
    }

    pub(crate) fn load(&self, at: usize) -> &Load {
        &self.loads[at]
    }

    /// The node behind an entry.
    pub(crate) fn node(&self, entry: u32) -> &Arc<Node> {
        &self.nodes()[self.entries[entry as usize].node as usize]
    }
}

/// Numbers start at 1: 0 is a thread that holds no view.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
