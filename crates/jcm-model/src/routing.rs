//! Which nodes are routed to, and why: one pure function of a definition and verdicts.
//!
//! Servers answer HTTP with it and subscribers pick by it, so both always agree. Protection changes what is routed
//! to, never what is reported: the verdict stands beside the answer, untouched.

use std::sync::Arc;

use crate::node::{Admin, Node};
use crate::verdict::same;
use crate::walk::{Pair, walk};
use crate::{Cluster, ClusterState, Judged, Verdict};

/// What part of its weight a degraded node keeps: one in this many.
const DEGRADED_WEIGHT_DIVISOR: u16 = 4;

/// Where a cluster's traffic may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Whether protection routes to nodes that would not be routable by themselves.
    pub panic: bool,
    /// One for each node of the state, in its order.
    pub nodes: Vec<Route>,
    tally: Tally,
}

/// What the routes of all nodes hang on together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tally {
    /// Nodes that people have in use.
    online: usize,
    /// Those of them that were judged.
    judged: usize,
    /// Those that would be routed to without protection, but for ones never judged.
    fit: usize,
}

/// Whether one node is routed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Whether traffic may go there.
    pub routable: bool,
    /// Its share of the traffic; 0 when it gets none.
    pub effective_weight: u16,
    /// Why it is as it is; `None` for a healthy node in use.
    pub reason: Option<Reason>,
}

/// Why a node is routed to, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Nobody checks it, so it is taken to work.
    NoCheck,
    /// No verdict yet.
    NotYetChecked,
    /// Too many of its recent checks failed: it gets a quarter of its weight.
    Degraded,
    /// Its checks fail.
    Down {
        /// Whether that is one server's word.
        single_vantage: bool,
    },
    /// Somebody took it out.
    Offline,
    /// Somebody is emptying it.
    Draining,
    /// Somebody took the whole cluster out.
    ClusterOffline,
    /// Too few nodes are routable, so that every online one is, this one among them although it is not fit.
    Panic {
        /// Its verdict.
        verdict: Verdict,
        /// Whether that is one server's word.
        single_vantage: bool,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoCheck => f.write_str("no check"),
            Self::NotYetChecked => f.write_str("not yet checked"),
            Self::Degraded => f.write_str("degraded"),
            Self::Down { single_vantage: false } => f.write_str("down"),
            Self::Down { single_vantage: true } => f.write_str("down, single vantage"),
            Self::Offline => f.write_str("offline"),
            Self::Draining => f.write_str("draining"),
            Self::ClusterOffline => f.write_str("cluster offline"),
            Self::Panic { verdict: Verdict::Unknown, .. } => f.write_str("panic: not yet checked"),
            Self::Panic { verdict, single_vantage: false } => write!(f, "panic: {verdict}"),
            Self::Panic { verdict, single_vantage: true } => write!(f, "panic: {verdict}, single vantage"),
        }
    }
}

impl Routing {
    /// No node.
    pub fn empty() -> Self {
        Self { panic: false, nodes: Vec::new(), tally: Tally::default() }
    }
}

impl Tally {
    fn of(state: &ClusterState) -> Self {
        let mut tally = Self::default();
        for (node, judged) in state.nodes() {
            tally.count(state.cluster(), node, judged);
        }
        tally
    }

    fn count(&mut self, cluster: &Cluster, node: &Node, judged: Option<&Judged>) {
        let (online, was_judged, fit) = counted(cluster, node, judged);
        self.online += usize::from(online);
        self.judged += usize::from(was_judged);
        self.fit += usize::from(fit);
    }

    fn forget(&mut self, cluster: &Cluster, node: &Node, judged: Option<&Judged>) {
        let (online, was_judged, fit) = counted(cluster, node, judged);
        self.online -= usize::from(online);
        self.judged -= usize::from(was_judged);
        self.fit -= usize::from(fit);
    }

    fn frame(self, cluster: &Cluster) -> Frame {
        let none_judged = self.judged == 0;
        let online = cluster.header.online();
        let routable = if none_judged { self.online } else { self.fit };
        #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
        let panic = online && (routable as f64) < cluster.header.panic_below() * self.online as f64;
        Frame { online, is_checked: cluster.is_checked(), none_judged, panic }
    }
}

/// Whether a node is online; whether it was judged, too; and whether it is routable by itself, where any was judged.
fn counted(cluster: &Cluster, node: &Node, judged: Option<&Judged>) -> (bool, bool, bool) {
    let online = node.admin() == Admin::Online;
    let verdict = judged.map_or(Verdict::Unknown, |judged| judged.verdict);
    let fit = !cluster.is_checked() || matches!(verdict, Verdict::Healthy | Verdict::Degraded);
    (online, online && judged.is_some(), online && fit)
}

/// All that a node's route hangs on beside the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts that are compared as one")]
struct Frame {
    /// Whether the cluster is in use.
    online: bool,
    is_checked: bool,
    none_judged: bool,
    panic: bool,
}

impl Frame {
    fn route(self, node: &Node, judged: Option<&Judged>) -> Route {
        if !self.online {
            return Route::refused(Reason::ClusterOffline);
        }
        match node.admin() {
            Admin::Offline => return Route::refused(Reason::Offline),
            Admin::Draining => return Route::refused(Reason::Draining),
            Admin::Online => {}
        }
        if !self.is_checked {
            return Route::full(node, Some(Reason::NoCheck));
        }
        let route = by_verdict(node, judged, self.none_judged);
        if route.routable || !self.panic {
            return route;
        }
        let verdict = judged.map_or(Verdict::Unknown, |judged| judged.verdict);
        let single_vantage = judged.is_some_and(|judged| judged.single_vantage);
        Route::full(node, Some(Reason::Panic { verdict, single_vantage }))
    }
}

/// Decides for every node of a cluster.
pub fn route(state: &ClusterState) -> Routing {
    let tally = Tally::of(state);
    let frame = tally.frame(state.cluster());
    let nodes = state.nodes().map(|(node, judged)| frame.route(node, judged)).collect();
    Routing { panic: frame.panic, nodes, tally }
}

/// The same as [`route`] for a state of which the routing at an earlier state of the same cluster is known: it costs what
/// changed in between, unless that changed something for all nodes.
pub fn reroute(state: &ClusterState, earlier: &ClusterState, before: &Routing) -> Routing {
    let (now, old) = (state.cluster(), earlier.cluster());
    if now.is_checked() != old.is_checked() {
        return route(state);
    }
    let mut tally = before.tally;
    let mut nodes = Vec::with_capacity(now.nodes.len());
    let mut changed = Vec::new();
    for Pair { before: was, now: is } in walk(&old.nodes, &now.nodes) {
        let held = was.map(|at| (&old.nodes[at], earlier.judged_at(at)));
        let node = is.map(|at| (&now.nodes[at], state.judged_at(at)));
        if let (Some((held, held_judged)), Some((node, judged)), Some(at)) = (held, node, was)
            && Arc::ptr_eq(held, node)
            && same(held_judged, judged)
        {
            nodes.push(before.nodes[at]);
            continue;
        }
        if let Some((held, judged)) = held {
            tally.forget(old, held, judged);
        }
        if let (Some((node, judged)), Some(at)) = (node, is) {
            tally.count(now, node, judged);
            changed.push(at);
            // Until it is known what holds for all.
            nodes.push(Route::refused(Reason::NotYetChecked));
        }
    }
    let frame = tally.frame(now);
    if frame != before.tally.frame(old) {
        return route(state);
    }
    for at in changed {
        nodes[at] = frame.route(&now.nodes[at], state.judged_at(at));
    }
    Routing { panic: frame.panic, nodes, tally }
}

fn by_verdict(node: &Node, judged: Option<&Judged>, none_judged: bool) -> Route {
    match judged.map_or(Verdict::Unknown, |judged| judged.verdict) {
        Verdict::Healthy => Route::full(node, None),
        Verdict::Degraded => Route {
            routable: true,
            effective_weight: (node.attributes.weight() / DEGRADED_WEIGHT_DIVISOR).max(1),
            reason: Some(Reason::Degraded),
        },
        Verdict::Down => Route::refused(Reason::Down {
            single_vantage: judged.is_some_and(|judged| judged.single_vantage),
        }),
        // A cluster that nobody has looked at yet must not be an empty list; that is no emergency either.
        Verdict::Unknown if none_judged => Route::full(node, Some(Reason::NotYetChecked)),
        Verdict::Unknown => Route::refused(Reason::NotYetChecked),
    }
}

impl Route {
    fn full(node: &Node, reason: Option<Reason>) -> Self {
        Self { routable: true, effective_weight: node.attributes.weight(), reason }
    }

    fn refused(reason: Reason) -> Self {
        Self { routable: false, effective_weight: 0, reason: Some(reason) }
    }
}
