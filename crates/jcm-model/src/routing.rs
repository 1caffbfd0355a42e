//! Which nodes are routed to, and why: one pure function of a definition and verdicts.
//!
//! Servers answer HTTP with it and subscribers pick by it, so both always agree. Protection changes what is routed
//! to, never what is reported: the verdict stands beside the answer, untouched.

use crate::node::{Admin, Node};
use crate::{ClusterState, Judged, Verdict};

/// What part of its weight a degraded node keeps: one in this many.
const DEGRADED_WEIGHT_DIVISOR: u16 = 4;

/// Where a cluster's traffic may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Whether protection routes to nodes that would not be routable by themselves.
    pub panic: bool,
    /// One for each node of the state, in its order.
    pub nodes: Vec<Route>,
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

/// Decides for every node of a cluster.
pub fn route(state: &ClusterState) -> Routing {
    let cluster = state.cluster();
    let online = |node: &Node| node.admin() == Admin::Online;
    let none_judged = !state.nodes().any(|(node, judged)| online(node) && judged.is_some());
    let mut nodes: Vec<Route> = state
        .nodes()
        .map(|(node, judged)| {
            if !cluster.header.online() {
                return Route::refused(Reason::ClusterOffline);
            }
            match node.admin() {
                Admin::Offline => Route::refused(Reason::Offline),
                Admin::Draining => Route::refused(Reason::Draining),
                Admin::Online if !cluster.is_checked() => Route::full(node, Some(Reason::NoCheck)),
                Admin::Online => by_verdict(node, judged, none_judged),
            }
        })
        .collect();

    let online_count = cluster.nodes.iter().filter(|node| online(node)).count();
    let routable_count = nodes.iter().filter(|route| route.routable).count();
    #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
    let panic = cluster.header.online()
        && (routable_count as f64) < cluster.header.panic_below() * online_count as f64;
    if panic {
        for (route, (node, judged)) in nodes.iter_mut().zip(state.nodes()) {
            if online(node) && !route.routable {
                let verdict = judged.map_or(Verdict::Unknown, |judged| judged.verdict);
                let single_vantage = judged.is_some_and(|judged| judged.single_vantage);
                *route = Route::full(node, Some(Reason::Panic { verdict, single_vantage }));
            }
        }
    }
    Routing { panic, nodes }
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
