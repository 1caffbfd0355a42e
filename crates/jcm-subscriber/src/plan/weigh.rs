//! Which nodes of a view a policy chooses among now, and with what share of the traffic each. Pure.
//!
//! Nodes come in groups: a priority, and within it the preferred zone and the rest. A group has a share of the traffic, and
//! gives it to its nodes by weight.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jcm_model::Admin;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::policy::{Choice, Policy, Subset};
use crate::view::{View, is_fit};

/// What part of its weight a node begins its slow start with: Envoy's default.
const SLOW_START_FROM: f64 = 0.1;
/// Shares of more than one group are weights of this sum, so that they stay comparable as numbers.
const SHARES_SUM: f64 = 1_000_000.0;

/// The outcome: positions of nodes in the view.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Weighed {
    /// Whether protection of this policy is in force.
    pub(crate) panic: bool,
    /// Those that are chosen among, with weights above 0, in the order of the view.
    pub(crate) chosen: Vec<(u32, f64)>,
    /// Those that may be called when all of these are excluded, the best first.
    pub(crate) standing_by: Vec<u32>,
    /// Whether a node is in its slow start, so that weights change with time alone.
    pub(crate) ramping: bool,
}

/// A node that may be called.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    node: u32,
    priority: u16,
    local: bool,
    weight: f64,
}

/// What there is of a group, fit or not: capacity is compared with it.
#[derive(Debug, Clone, Copy, Default)]
struct Capacity {
    fit: f64,
    whole: f64,
}

/// A share of the traffic, and who gets it.
#[derive(Debug)]
struct Group {
    share: f64,
    members: Vec<Candidate>,
}

/// Weighs the nodes of a view. `client` tells this client's subset from others'.
pub(crate) fn weigh(view: &View, policy: &Policy, client: u64, now: Instant) -> Weighed {
    let Some(state) = view.state() else {
        return Weighed::default();
    };
    let header = &state.cluster().header;
    let online = |at: usize| header.online() && view.nodes()[at].admin() == Admin::Online;
    let fit = |at: usize| is_fit(view.routing.nodes[at]);
    let free = |at: usize| fit(at) && view.seats()[at].ejected().is_none();
    let count = |which: &dyn Fn(usize) -> bool| (0..view.nodes().len()).filter(|at| which(*at)).count();
    let (online_count, fit_count, free_count) = (count(&online), count(&fit), count(&free));
    let threshold = policy.panic_threshold.unwrap_or_else(|| header.panic_below());
    #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
    let too_few = |nodes: usize| (nodes as f64) < threshold * online_count as f64;

    let mut ramping = false;
    let mut candidate = |at: usize| {
        let node = &view.nodes()[at];
        let route = &view.routing.nodes[at];
        let weight = if fit(at) { route.effective_weight } else { node.attributes.weight() };
        let warmth =
            view.seats()[at].routable_since.map_or(1.0, |since| warmth(since, policy.slow_start, now));
        ramping |= warmth < 1.0;
        Candidate {
            node: u32::try_from(at).expect("a cluster has at most 20,000 nodes"),
            priority: node.attributes.priority(),
            local: policy.zone.as_deref().is_none_or(|zone| zone == node.attributes.zone()),
            weight: f64::from(weight.max(1)) * warmth,
        }
    };
    let mut candidates = |which: &dyn Fn(usize) -> bool| -> Vec<Candidate> {
        (0..view.nodes().len()).filter(|at| which(*at)).map(&mut candidate).collect()
    };

    if too_few(fit_count) {
        let chosen = candidates(&online).iter().map(|candidate| (candidate.node, candidate.weight)).collect();
        return Weighed { panic: true, chosen, standing_by: Vec::new(), ramping };
    }
    // Ejections are this program's own opinion: they give way before protection opens.
    let pardoned = too_few(free_count) || free_count == 0;
    let in_use = |at: usize| if pardoned { fit(at) } else { free(at) };
    let candidates = candidates(&in_use);
    let capacities = capacities(view, policy, &online, &in_use);
    let groups = groups(policy, client, view, candidates, &capacities);
    let mut weighed = settle(groups);
    // Last of all come those that this program ejected: they are routable.
    let ejected = (0_u32..).take(view.nodes().len()).filter(|at| fit(*at as usize) && !in_use(*at as usize));
    weighed.standing_by.extend(ejected);
    weighed.ramping = ramping;
    weighed
}

/// How much of its weight a node has so long after it became routable: a tenth at first, all of it after the window.
fn warmth(since: Instant, window: Duration, now: Instant) -> f64 {
    let elapsed = now.saturating_duration_since(since);
    if elapsed >= window {
        return 1.0;
    }
    (elapsed.as_secs_f64() / window.as_secs_f64()).max(SLOW_START_FROM)
}

/// By priority and zone, how much is fit of how much. Slow starts do not count: a new node is no lost capacity.
fn capacities(
    view: &View,
    policy: &Policy,
    online: &dyn Fn(usize) -> bool,
    in_use: &dyn Fn(usize) -> bool,
) -> BTreeMap<(u16, bool), Capacity> {
    let mut capacities: BTreeMap<(u16, bool), Capacity> = BTreeMap::new();
    for (at, node) in view.nodes().iter().enumerate().filter(|(at, _)| online(*at)) {
        let local = policy.zone.as_deref().is_none_or(|zone| zone == node.attributes.zone());
        let capacity = capacities.entry((node.attributes.priority(), local)).or_default();
        capacity.whole += f64::from(node.attributes.weight());
        if in_use(at) {
            capacity.fit += f64::from(view.routing.nodes[at].effective_weight);
        }
    }
    capacities
}

/// The groups that have candidates, in the order in which they are wanted.
fn groups(
    policy: &Policy,
    client: u64,
    view: &View,
    candidates: Vec<Candidate>,
    capacities: &BTreeMap<(u16, bool), Capacity>,
) -> Vec<Group> {
    let mut members: BTreeMap<u16, [Vec<Candidate>; 2]> = BTreeMap::new();
    for candidate in candidates {
        members.entry(candidate.priority).or_default()[usize::from(!candidate.local)].push(candidate);
    }
    let capacity = |priority, local| capacities.get(&(priority, local)).copied().unwrap_or_default();
    let carried = |capacity: Capacity| {
        if capacity.whole == 0.0 {
            0.0
        } else {
            (capacity.fit / capacity.whole / policy.spill_below).min(1.0)
        }
    };
    let mut left = 1.0;
    let mut groups = Vec::new();
    for (priority, [local, remote]) in members {
        let (here, there) = (capacity(priority, true), capacity(priority, false));
        let both = Capacity { fit: here.fit + there.fit, whole: here.whole + there.whole };
        let share = if policy.choice == Choice::Primary { f64::min(left, carried(both)) } else { left };
        left = f64::max(left - share, 0.0);
        let at_home = match (local.is_empty(), remote.is_empty()) {
            (true, _) => 0.0,
            (false, true) => 1.0,
            (false, false) => carried(here),
        };
        for (share, members) in [(share * at_home, local), (share * (1.0 - at_home), remote)] {
            if !members.is_empty() {
                groups.extend(subset(policy.subset, client, view, share, members));
            }
        }
    }
    groups
}

/// The part of a group that this client uses, and the rest of it, which stands by.
fn subset(
    subset: Option<Subset>,
    client: u64,
    view: &View,
    share: f64,
    mut members: Vec<Candidate>,
) -> Vec<Group> {
    let Some(Subset { nodes, client: own }) = subset.filter(|subset| subset.nodes < members.len()) else {
        return vec![Group { share, members }];
    };
    let seed = own.unwrap_or(client);
    let score = |member: &Candidate| {
        let id = view.nodes()[member.node as usize].id.as_str();
        std::cmp::Reverse(xxh3_64_with_seed(id.as_bytes(), seed))
    };
    members.sort_by_cached_key(score);
    let rest = members.split_off(nodes);
    vec![Group { share, members }, Group { share: 0.0, members: rest }]
}

/// Weights of nodes out of shares of groups.
fn settle(groups: Vec<Group>) -> Weighed {
    let total: f64 = groups.iter().map(|group| group.share).sum();
    let (used, unused): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| group.share > 0.0);
    let mut weighed = Weighed::default();
    // The weights of one group stay the numbers that people wrote.
    let alone = used.len() == 1;
    for group in &used {
        let sum: f64 = group.members.iter().map(|member| member.weight).sum();
        let scale = if alone { 1.0 } else { group.share / total / sum * SHARES_SUM };
        weighed.chosen.extend(group.members.iter().map(|member| (member.node, member.weight * scale)));
    }
    weighed.chosen.sort_by_key(|(node, _)| *node);
    let by_want = unused.iter().flat_map(|group| group.members.iter().map(|member| member.node));
    weighed.standing_by.extend(by_want);
    weighed
}
