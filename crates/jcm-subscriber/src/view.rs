//! One immutable view of a cluster: what is held of it, where its traffic may go, and what this program knows of its nodes.
//!
//! Every way of picking is laid out from it, see [`Plan`](crate::plan::Plan).

use std::sync::Arc;
use std::time::Instant;

use jcm_model::routing::{self, Reason, Route, Routing};
use jcm_model::{ClusterName, ClusterState, Node, NodeId, Revision};

use crate::calls::Outcomes;
use crate::outlier::{self, Cause, Outliers, Record, Suspect};

/// What is held of a cluster.
#[derive(Debug, Clone)]
pub(crate) enum Content {
    Nothing,
    Removed(Revision),
    State(Arc<ClusterState>),
}

#[derive(Debug)]
pub(crate) struct View {
    pub(crate) name: ClusterName,
    pub(crate) content: Content,
    pub(crate) routing: Routing,
    /// One for each node of the state, in its order.
    seats: Vec<Seat>,
}

/// What this program knows of a node by itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seat {
    pub(crate) outcomes: Arc<Outcomes>,
    record: Record,
    /// When it became routable under the eyes of this program; `None` for one that was so from the beginning.
    pub(crate) routable_since: Option<Instant>,
}

impl Seat {
    /// Until when this program leaves the node alone, and why.
    pub(crate) fn ejected(&self) -> Option<(Instant, Cause)> {
        self.record.ejected
    }
}

impl View {
    /// The view before anything is known.
    pub(crate) fn empty(name: ClusterName) -> Self {
        Self { name, content: Content::Nothing, routing: Routing::empty(), seats: Vec::new() }
    }

    /// The view that follows `self`: nodes that are still the same keep what is known of them.
    pub(crate) fn next(&self, content: Content, now: Instant) -> Self {
        let Content::State(state) = &content else {
            return Self { content, ..Self::empty(self.name.clone()) };
        };
        let routing = routing::route(state);
        // The first nodes ever seen have served others before; nothing is known of when they began.
        let first = self.state().is_none();
        let mut seats = carried(self.nodes(), &self.seats, &state.cluster().nodes);
        let was_fit = carried(self.nodes(), &self.fit_nodes(), &state.cluster().nodes);
        for ((seat, route), was_fit) in seats.iter_mut().zip(&routing.nodes).zip(was_fit) {
            if !first && is_fit(*route) && !was_fit {
                seat.routable_since = Some(now);
            }
        }
        Self { name: self.name.clone(), content, routing, seats }
    }

    /// The view after this program's own calls were judged, and whether that changes anything for picks; `None` where there
    /// is nothing to judge. `interval_over` compares success rates as well, and begins the next interval.
    pub(crate) fn judged(
        &self,
        outliers: &Outliers,
        interval_over: bool,
        now: Instant,
    ) -> Option<(Self, bool)> {
        let due =
            |seat: &Seat| outlier::is_due(outliers, &seat.record, seat.outcomes.tally(), interval_over, now);
        if !self.seats.iter().any(due) {
            return None;
        }
        let mut seats = self.seats.clone();
        let mut suspects: Vec<Suspect<'_>> = seats
            .iter_mut()
            .zip(&self.routing.nodes)
            .map(|(seat, route)| Suspect {
                tally: seat.outcomes.tally(),
                record: &mut seat.record,
                fit: is_fit(*route),
                forgiven: false,
            })
            .collect();
        let changed = outlier::judge(outliers, &mut suspects, interval_over, now);
        let forgiven: Vec<bool> = suspects.iter().map(|suspect| suspect.forgiven).collect();
        for (seat, _) in seats.iter_mut().zip(forgiven).filter(|(_, forgiven)| *forgiven) {
            seat.outcomes.forgive();
            if seat.record.ejected.is_none() {
                seat.routable_since = Some(now);
            }
        }
        let (name, content, routing) = (self.name.clone(), self.content.clone(), self.routing.clone());
        Some((Self { name, content, routing, seats }, changed))
    }

    fn fit_nodes(&self) -> Vec<bool> {
        self.routing.nodes.iter().map(|route| is_fit(*route)).collect()
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

    /// Reports on all nodes, as succeeded and as failed.
    pub(crate) fn reports(&self) -> (u64, u64) {
        self.seats.iter().map(|seat| seat.outcomes.tally()).fold((0, 0), |(successes, failures), tally| {
            (successes + tally.successes, failures + tally.failures)
        })
    }

    pub(crate) fn seats(&self) -> &[Seat] {
        &self.seats
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        self.state().map(|state| state.cluster().revision)
    }
}

/// Whether a node is routable by itself, without protection.
pub(crate) fn is_fit(route: Route) -> bool {
    route.routable && !matches!(route.reason, Some(Reason::Panic { .. }))
}

/// What was kept for each of the old nodes, for the new ones: nodes that are the same keep theirs, others begin anew. Both
/// lists of nodes are in the order of ids.
pub(crate) fn carried<T: Clone + Default>(
    old_nodes: &[Arc<Node>],
    old: &[T],
    new_nodes: &[Arc<Node>],
) -> Vec<T> {
    let mut held = old_nodes.iter().zip(old).peekable();
    let mut kept = |node: &Node| {
        let id: &NodeId = &node.id;
        while held.next_if(|(old, _)| old.id < *id).is_some() {}
        let (_, kept) = held.next_if(|(old, _)| old.id == *id).filter(|(old, _)| old.same_form(node))?;
        Some(kept.clone())
    };
    new_nodes.iter().map(|node| kept(node).unwrap_or_default()).collect()
}
