//! Each policy by its distribution: fixed seeds, and bounds that chance does not reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jcm_model::Verdict;
use proptest::prelude::*;

use super::*;
use crate::random::{Random, mixed};
use crate::sketch::{Sketch, down, healthy, orders, policies, state};
use crate::view::Content;

/// Ids of so many nodes.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|node| format!("127.0.{}.{}:8080", node / 250, node % 250 + 1)).collect()
}

/// How often each node came up.
pub(crate) struct Shares {
    counts: Vec<u32>,
    total: u32,
}

impl Shares {
    pub(crate) fn new(nodes: usize) -> Self {
        Self { counts: vec![0; nodes], total: 0 }
    }

    pub(crate) fn add(&mut self, node: u32) {
        self.counts[node as usize] += 1;
        self.total += 1;
    }

    pub(crate) fn of(&self, node: usize) -> f64 {
        f64::from(self.counts[node]) / f64::from(self.total)
    }
}

pub(super) fn view(sketches: &[Sketch], now: Instant) -> Arc<View> {
    Arc::new(View::empty(orders()).next(state(sketches), now))
}

pub(super) fn plan_of(policy: &Policy, view: &Arc<View>, now: Instant) -> Plan {
    plan_after(policy, None, view, now)
}

pub(super) fn plan_after(policy: &Policy, before: Option<&Plan>, view: &Arc<View>, now: Instant) -> Plan {
    let all_calls = before.map_or_else(Arc::default, |before| Arc::clone(&before.all_calls));
    let ground = Ground { policy, all_calls: &all_calls, client: 1, chance: None, tables_later: true };
    Plan::new(&ground, before, view, Alarm { failures: None, judge: Arc::default() }, now)
}

fn plan(policy: &Policy, sketches: &[Sketch]) -> Plan {
    let now = Instant::now();
    plan_of(policy, &view(sketches, now), now)
}

pub(super) fn hand(plan: &Plan, seed: u64) -> Hand {
    let hand = Hand::empty();
    hand.seed(Random::seeded(seed));
    hand.begin(plan);
    hand
}

/// Which port an entry is.
fn port(plan: &Plan, entry: u32) -> u16 {
    plan.node(entry).port(Some("http")).unwrap()
}

/// How often each port comes up when calls end at once.
fn counts(plan: &Plan, picks: u32) -> BTreeMap<u16, u32> {
    let hand = hand(plan, 7);
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let entry = hand.choose(plan, Micros::default).unwrap();
        *counts.entry(port(plan, entry)).or_default() += 1;
    }
    counts
}

/// Fails where counts are no likely outcome of these weights: Pearson's chi-square beyond its mean by six standard
/// deviations, which chance reaches once in far more than a million seeds.
fn fits(counts: &BTreeMap<u16, u32>, weights: &[(u16, f64)]) {
    let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
    let picks: f64 = counts.values().map(|count| f64::from(*count)).sum();
    let chi_square: f64 = weights
        .iter()
        .map(|(port, weight)| {
            let expected = picks * weight / total;
            let off = f64::from(counts.get(port).copied().unwrap_or_default()) - expected;
            off * off / expected
        })
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
    let freedom = (weights.len() - 1) as f64;
    let bound = freedom + 6.0 * (2.0 * freedom).sqrt();
    assert!(chi_square < bound, "chi-square {chi_square} of {bound}: {counts:?} for {weights:?}");
    assert!(counts.keys().all(|port| weights.iter().any(|(known, _)| known == port)), "{counts:?}");
}

fn degraded(port: u16) -> Sketch {
    Sketch { verdict: Verdict::Degraded, ..healthy(port) }
}

#[test]
fn turns_are_exactly_by_weight_and_a_degraded_node_has_a_quarter() {
    let heavy = Sketch { weight: 200, ..healthy(2) };
    for policy in [Policy::round_robin(), Policy::weighted()] {
        assert_eq!(counts(&plan(&policy, &[healthy(1), healthy(2)]), 300), [(1, 150), (2, 150)].into());
        let uneven = plan(&policy, &[healthy(1), heavy, degraded(3)]);
        assert_eq!(counts(&uneven, 1300), [(1, 400), (2, 800), (3, 100)].into());
    }
}

#[test]
fn draws_are_by_weight() {
    let nodes = [healthy(1), Sketch { weight: 317, ..healthy(2) }, degraded(3), healthy(4), healthy(5)];
    let weights = [(1, 100.0), (2, 317.0), (3, 25.0), (4, 100.0), (5, 100.0)];
    for policy in
        [Policy::random(), Policy::p2c(), Policy::peak_ewma(), Policy::least_inflight(), Policy::primary()]
    {
        fits(&counts(&plan(&policy, &nodes), 200_000), &weights);
        let even: Vec<Sketch> = (1..=50).map(healthy).collect();
        fits(&counts(&plan(&policy, &even), 200_000), &(1..=50).map(|port| (port, 1.0)).collect::<Vec<_>>());
    }
}

#[test]
fn keys_are_spread_by_weight_and_come_to_one_place() {
    let nodes = [healthy(1), Sketch { weight: 300, ..healthy(2) }, healthy(3)];
    for policy in policies() {
        let (plan, again) = (plan(&policy, &nodes), plan(&policy, &nodes));
        let mut shares = Shares::new(3);
        for key in 0..50_000 {
            let entry = Hand::choose_for(&plan, mixed(key), Micros::default).unwrap();
            assert_eq!(Some(entry), Hand::choose_for(&again, mixed(key), Micros::default), "{policy:?}");
            shares.add(entry);
        }
        // A ring of 160 points a node is within some 8 % of the shares, the others are closer.
        for (node, share) in [(0, 0.2), (1, 0.6), (2, 0.2)] {
            assert!(
                (shares.of(node) / share - 1.0).abs() < 0.25,
                "{policy:?}: node {node} has {}",
                shares.of(node)
            );
        }
    }
}

#[test]
fn keys_of_a_hash_stay_across_views_that_change_nothing_about_it() {
    let now = Instant::now();
    let nodes: Vec<Sketch> = (1..=20).map(healthy).collect();
    for policy in [Policy::ring_hash(), Policy::maglev()] {
        let first = plan_of(&policy, &view(&nodes, now), now);
        let same = plan_after(&policy, Some(&first), &view(&nodes, now), now);
        let less = plan_after(&policy, Some(&same), &view(&nodes[..19], now), now);
        assert!(match (&first.table, &same.table) {
            (Table::Hashed(one), Table::Hashed(other)) => Arc::ptr_eq(&one.hashed, &other.hashed),
            _ => false,
        });
        let at =
            |plan: &Plan, key: u64| port(plan, Hand::choose_for(plan, mixed(key), Micros::default).unwrap());
        let keys = 20_000;
        let stayed = (0..keys).filter(|key| at(&first, *key) == at(&less, *key)).count();
        #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
        let moved = 1.0 - stayed as f64 / keys as f64;
        // A twentieth must move; of the rest the ring moves nothing and Maglev a few in a hundred.
        assert!((0.03..0.08).contains(&moved), "{policy:?} moved {moved}");
    }
}

#[test]
fn no_node_of_a_ring_has_more_than_its_bounded_share_of_calls() {
    let nodes: Vec<Sketch> = (1..=10).map(healthy).collect();
    let plan = plan(&Policy::ring_hash(), &nodes);
    let mut most = 0;
    for call in 1..=1000_u32 {
        // Half of the calls are for one key: without a bound its node would have half.
        let key = if call % 2 == 0 { 1 } else { mixed(u64::from(call)) };
        let entry = Hand::choose_for(&plan, key, Micros::default).unwrap();
        plan.begin(entry);
        most = plan.entries.iter().map(|entry| entry.calls.in_flight()).max().unwrap();
        assert!(f64::from(most) <= (1.25 * f64::from(call) / 10.0).ceil(), "{most} of {call} calls");
    }
    assert_eq!(most, 125, "the busy key fills its node up to the bound");
    assert_eq!(plan.all_calls.0.load(Ordering::Relaxed), 1000);
}

#[test]
fn the_least_loaded_of_few_nodes_is_always_found() {
    let heavy = Sketch { weight: 200, ..healthy(32) };
    let nodes: Vec<Sketch> = (1..=31).map(healthy).chain([heavy]).collect();
    let plan = plan(&Policy::least_inflight(), &nodes);
    let hand = hand(&plan, 3);
    for call in 0..330 {
        plan.begin(hand.choose(&plan, Micros::default).unwrap());
        let loads =
            || plan.entries.iter().map(|entry| f64::from(entry.calls.in_flight()) / f64::from(entry.weight));
        let (least, most) = (loads().fold(f64::MAX, f64::min), loads().fold(0.0, f64::max));
        assert!(
            most - least <= 0.01 + 1e-9,
            "after {call} calls one has {most} and another {least} for its weight"
        );
    }
}

#[test]
fn only_the_lowest_priority_is_chosen_from_while_it_has_a_routable_node() {
    let standby = |port| Sketch { priority: 5, ..healthy(port) };
    for policy in policies().into_iter().filter(|policy| policy.choice != Choice::Primary) {
        let first = plan(&policy, &[healthy(1), down(2), standby(3), healthy(4)]);
        assert_eq!(counts(&first, 1000).into_keys().collect::<Vec<_>>(), [1, 4], "{policy:?}");
        let second = plan(&policy, &[down(1), standby(3), standby(4), standby(5)]);
        assert_eq!(counts(&second, 1000).into_keys().collect::<Vec<_>>(), [3, 4, 5], "{policy:?}");
    }
}

#[test]
fn primary_spills_what_the_first_priority_cannot_carry() {
    let second = |port| Sketch { priority: 1, ..healthy(port) };
    let third = |port| Sketch { priority: 2, ..healthy(port) };
    let share_of_first = |firsts: &[Sketch]| {
        let rest = (11..=20).map(second).chain([third(31)]);
        let nodes: Vec<Sketch> = firsts.iter().copied().chain(rest).collect();
        let counts = counts(&plan(&Policy::primary(), &nodes), 100_000);
        assert!(!counts.contains_key(&31), "the second can carry the rest");
        f64::from(counts.range(..11).map(|(_, count)| count).sum::<u32>()) / 100_000.0
    };
    let firsts = |fit: u16| {
        (1..=10).map(|port| if port <= fit { healthy(port) } else { down(port) }).collect::<Vec<_>>()
    };
    for (fit, share) in [(10, 1.0), (7, 1.0), (6, 6.0 / 7.0), (3, 3.0 / 7.0), (1, 1.0 / 7.0)] {
        let found = share_of_first(&firsts(fit));
        assert!((found - share).abs() < 0.01, "{fit} of 10 fit: {found}, not {share}");
    }
}

#[test]
fn primary_shares_all_among_priorities_that_cannot_carry_it_together() {
    let nodes = [healthy(1), down(2), down(3), Sketch { priority: 1, ..healthy(4) }];
    // The first carries a third of 1 / 0.9, the second all: 0.37 and the rest of 0.63.
    let policy = Policy::primary().spill_below(0.9).panic_threshold(0.0);
    fits(&counts(&plan(&policy, &nodes), 100_000), &[(1, 10.0 / 27.0), (4, 17.0 / 27.0)]);
    // Both a third: each a half of what there is.
    let down_too = |port| Sketch { priority: 1, ..down(port) };
    let nodes = [nodes[0], nodes[1], nodes[2], nodes[3], down_too(5), down_too(6)];
    fits(&counts(&plan(&policy, &nodes), 100_000), &[(1, 0.5), (4, 0.5)]);
}

#[test]
fn a_zone_keeps_its_traffic_until_too_little_of_it_is_fit() {
    let far = |port| Sketch { zone: "z2", ..healthy(port) };
    for policy in policies() {
        let zoned = policy.prefer_zone("z1").spill_below(0.8);
        for (fit, share) in [(10_u16, 1.0), (8, 1.0), (6, 0.75), (2, 0.25), (0, 0.0)] {
            let near = (1..=10).map(|port| if port <= fit { healthy(port) } else { down(port) });
            let nodes: Vec<Sketch> = near.chain((11..=20).map(far)).collect();
            let plan = plan(&zoned, &nodes);
            assert!(!plan.panic);
            let counts = counts(&plan, 50_000);
            let found = f64::from(counts.range(..11).map(|(_, count)| count).sum::<u32>()) / 50_000.0;
            // A ring is as even as its points are.
            let bound = if zoned.choice == Choice::RingHash { 0.06 } else { 0.01 };
            assert!(
                (found - share).abs() < bound,
                "{:?}, {fit} of 10 fit: {found}, not {share}",
                zoned.choice
            );
        }
        let elsewhere = plan(&zoned.prefer_zone("z9"), &[healthy(1), far(2)]);
        assert_eq!(counts(&elsewhere, 1000).len(), 2, "a zone without nodes gets nothing");
    }
}

#[test]
fn a_zone_that_is_alone_keeps_everything() {
    let policy = Policy::round_robin().prefer_zone("z1").panic_threshold(0.0);
    let plan = plan(&policy, &[healthy(1), down(2), down(3), Sketch { zone: "z2", ..down(4) }]);
    assert_eq!(counts(&plan, 10), [(1, 10)].into());
}

#[test]
fn slow_start_ramps_a_node_up_from_a_tenth() {
    let start = Instant::now();
    let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
    for policy in [Policy::random(), Policy::weighted(), Policy::p2c(), Policy::maglev()] {
        let policy = policy.slow_start(Duration::from_secs(30));
        let first = view(&[healthy(1), healthy(2)], start);
        assert!(!plan_of(&policy, &first, start).ramping, "nodes that are there at the start are warm");
        let joined = Arc::new(first.next(state(&[healthy(1), healthy(2), healthy(3)]), start));
        for (seconds, warmth) in [(0.0, 0.1), (3.0, 0.1), (15.0, 0.5), (24.0, 0.8), (30.0, 1.0), (99.0, 1.0)]
        {
            let plan = plan_of(&policy, &joined, at(seconds));
            assert_eq!(plan.ramping, warmth < 1.0);
            fits(&counts(&plan, 30_000), &[(1, 1.0), (2, 1.0), (3, warmth)]);
        }
        // It fell and came back: it begins anew, and the others stay as they are.
        let fell = Arc::new(joined.next(state(&[healthy(1), healthy(2), down(3)]), at(100.0)));
        let back = Arc::new(fell.next(state(&[healthy(1), healthy(2), healthy(3)]), at(200.0)));
        fits(&counts(&plan_of(&policy, &back, at(215.0)), 30_000), &[(1, 2.0), (2, 2.0), (3, 1.0)]);
    }
}

#[test]
fn protection_opens_all_online_nodes_below_the_threshold_of_policy_or_cluster() {
    let offline = Sketch { online: false, ..down(9) };
    // The cluster's own threshold is a half.
    let nodes = [healthy(1), down(2), down(3), Sketch { priority: 3, zone: "z2", ..down(4) }, offline];
    for policy in policies() {
        let policy = policy.prefer_zone("z1").subset(1);
        let open = plan(&policy, &nodes);
        assert!(open.panic);
        assert_eq!(counts(&open, 1000).into_keys().collect::<Vec<_>>(), [1, 2, 3, 4], "{policy:?}");
        let bold = plan(&policy.clone().panic_threshold(0.2), &nodes);
        assert!(!bold.panic);
        assert_eq!(counts(&bold, 1000).into_keys().collect::<Vec<_>>(), [1], "{policy:?}");
        let timid =
            plan(&policy.panic_threshold(0.9), &[healthy(1), healthy(2), healthy(3), healthy(4), down(5)]);
        assert!(timid.panic);
        assert_eq!(counts(&timid, 1000).len(), 5);
    }
}

#[test]
fn a_policy_that_never_panics_may_have_no_node() {
    for policy in policies() {
        let plan = plan(&policy.panic_threshold(0.0), &[down(1), down(2)]);
        assert_eq!(hand(&plan, 1).choose(&plan, Micros::default), None);
        assert_eq!(Hand::choose_for(&plan, 1, Micros::default), None);
    }
}

#[test]
fn subsets_are_small_stable_and_spread_over_clients() {
    let nodes: Vec<Sketch> = (1..=100).map(healthy).collect();
    let subset_of = |client: u64, nodes: &[Sketch]| -> BTreeSet<u16> {
        let plan = plan(&Policy::round_robin().subset_of_client(10, client), nodes);
        counts(&plan, 100).into_keys().collect()
    };
    let mut shares: BTreeMap<u16, u32> = BTreeMap::new();
    for client in 0..500 {
        let chosen = subset_of(client, &nodes);
        assert_eq!(chosen.len(), 10);
        assert_eq!(chosen, subset_of(client, &nodes));
        for port in &chosen {
            *shares.entry(*port).or_default() += 1;
        }
        // A node of it fails: one other takes its place. A node joins: it takes at most one place.
        let lost = *chosen.first().unwrap();
        let without: Vec<Sketch> =
            nodes.iter().map(|node| if node.port == lost { down(lost) } else { *node }).collect();
        assert_eq!(subset_of(client, &without).difference(&chosen).count(), 1);
        let with: Vec<Sketch> = nodes.iter().copied().chain([healthy(101)]).collect();
        assert!(subset_of(client, &with).difference(&chosen).count() <= 1);
    }
    fits(&shares, &(1..=100).map(|port| (port, 1.0)).collect::<Vec<_>>());
}

#[test]
fn turns_come_in_the_order_of_their_table_over_and_over() {
    for heavy in 2..9 {
        let nodes = [Sketch { weight: heavy * 100, ..healthy(1) }, healthy(2), healthy(3)];
        let plan = plan(&Policy::weighted(), &nodes);
        let Table::Turns(turns) = &plan.table else { panic!("turns") };
        let hand = hand(&plan, 3);
        let picked: Vec<u32> = (0..60).map(|_| hand.choose(&plan, Micros::default).unwrap()).collect();
        let from = |start: u32| (0..60).map(move |turn| turns.get((start + turn) % turns.len()).unwrap());
        assert!((0..turns.len()).any(|start| from(start).eq(picked.iter().copied())), "{picked:?}");
        // Another plan with fewer turns is picked from by its own.
        let next = self::plan(&Policy::weighted(), &nodes[1..2]);
        hand.begin(&next);
        assert!((0..9).all(|_| hand.choose(&next, Micros::default) == Some(0)));
    }
}

#[test]
fn turns_go_on_in_their_order_when_an_equal_plan_follows() {
    // Three turns are fewer than are read ahead, so these wrap while they are taken back.
    for heavy in 2..9 {
        let nodes = [Sketch { weight: heavy * 100, ..healthy(1) }, healthy(2)];
        let plans = [(); 2].map(|()| plan(&Policy::weighted(), &nodes));
        let Table::Turns(turns) = &plans[0].table else { panic!("turns") };
        for picks_per_plan in 1..7 {
            let hand = hand(&plans[0], 3);
            let mut picked = Vec::new();
            for plan in plans.iter().cycle().take(60) {
                hand.begin(plan);
                picked.extend((0..picks_per_plan).map(|_| hand.choose(plan, Micros::default).unwrap()));
            }
            let from = |start: u32| (start..).map(|turn| turns.get(turn % turns.len()).unwrap());
            assert!(
                (0..turns.len()).any(|start| from(start).zip(&picked).all(|(turn, picked)| turn == *picked)),
                "{picks_per_plan} a plan: {picked:?} of {turns:?}"
            );
        }
    }
}

#[test]
fn one_pick_a_plan_has_its_shares_although_the_number_of_turns_changes() {
    let weighing = |weight| plan(&Policy::weighted(), &[Sketch { weight, ..healthy(1) }, healthy(2)]);
    let (first, second) = (weighing(300), weighing(100));
    let third = plan(&Policy::weighted(), &[Sketch { weight: 500, ..healthy(1) }, healthy(2), healthy(3)]);
    for plans in [vec![&first, &second], vec![&first, &third], vec![&third, &second, &first]] {
        let hand = hand(&third, 3);
        let mut counts = vec![BTreeMap::new(); plans.len()];
        for _ in 0..20_000 {
            for (plan, counts) in plans.iter().zip(&mut counts) {
                hand.begin(plan);
                let entry = hand.choose(plan, Micros::default).unwrap();
                *counts.entry(port(plan, entry)).or_default() += 1;
            }
        }
        for (plan, counts) in plans.iter().zip(&counts) {
            let weights =
                plan.entries.iter().zip(0..).map(|(entry, at)| (port(plan, at), entry.weight.into()));
            fits(counts, &weights.collect::<Vec<_>>());
        }
    }
}

#[test]
fn one_pick_a_plan_has_its_shares_while_a_node_ramps_up() {
    let start = Instant::now();
    let policy = Policy::weighted().slow_start(Duration::from_secs(1000));
    let first = view(&[healthy(1), healthy(2)], start);
    let joined = Arc::new(first.next(state(&[healthy(1), healthy(2), healthy(3)]), start));
    // A plan a second, as while a node ramps up, and the whole ramp over and over: once is too little to tell shares.
    let plans: Vec<Plan> =
        (100..1000).map(|second| plan_of(&policy, &joined, start + Duration::from_secs(second))).collect();
    let hand = hand(&plans[0], 3);
    let mut counts = BTreeMap::new();
    for plan in plans.iter().cycle().take(90_000) {
        hand.begin(plan);
        *counts.entry(port(plan, hand.choose(plan, Micros::default).unwrap())).or_default() += 1;
    }
    let mean = |node: usize| {
        plans.iter().map(|plan| f64::from(plan.entries[node].weight / plan.weight_sum)).sum::<f64>()
    };
    fits(&counts, &[(1, mean(0)), (2, mean(1)), (3, mean(2))]);
}

fn sketch() -> impl Strategy<Value = Sketch> {
    let verdict = prop_oneof![
        4 => Just(Verdict::Healthy),
        1 => Just(Verdict::Degraded),
        2 => Just(Verdict::Down),
        1 => Just(Verdict::Unknown),
    ];
    let zone = prop_oneof![Just("z1"), Just("z2"), Just("")];
    (1_u16..=1000, 0_u16..3, zone, prop::bool::weighted(0.9), verdict).prop_map(
        |(weight, priority, zone, online, verdict)| Sketch {
            port: 1,
            weight,
            priority,
            zone,
            online,
            verdict,
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let options = (0..9_usize, prop::option::of(Just("z1")), 0.1..=1.0_f64, prop::option::of(0.0..=1.0_f64));
    (options, prop::option::of(1..5_usize)).prop_map(|((which, zone, spill, panic), subset)| {
        let mut policy = policies()[which].clone().spill_below(spill);
        if let Some(zone) = zone {
            policy = policy.prefer_zone(zone);
        }
        if let Some(panic) = panic {
            policy = policy.panic_threshold(panic);
        }
        match subset {
            Some(nodes) => policy.subset(nodes),
            None => policy,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Of any cluster by any policy: never a node that is not routable unless protection is open, never one that is offline,
    /// never an excluded one, and every chosen node is reached.
    #[test]
    fn what_may_be_called_is_what_is_called(
        policy in policy(),
        mut sketches in prop::collection::vec(sketch(), 1..12),
        seed in any::<u64>(),
    ) {
        (1..).zip(&mut sketches).for_each(|(port, sketch)| sketch.port = port);
        let plan = plan(&policy, &sketches);
        let Content::State(_) = &plan.view.content else { panic!("a state") };
        let hand = hand(&plan, seed);
        let mut reached = BTreeSet::new();
        for _ in 0..300 {
            reached.extend(hand.choose(&plan, Micros::default));
        }
        for entry in &reached {
            let route = &plan.view.routing.nodes[plan.entries[*entry as usize].node as usize];
            prop_assert!(plan.panic || view::is_fit(*route), "{route:?}");
            prop_assert!(sketches[usize::from(port(&plan, *entry)) - 1].online);
        }
        let fit = plan.view.routing.nodes.iter().filter(|route| view::is_fit(**route)).count();
        prop_assert_eq!(reached.is_empty(), fit == 0 && !plan.panic);
        // With every other one excluded each is found, in whatever way the policy goes.
        for wanted in 0..u32::try_from(plan.entries.len()).unwrap() {
            let found = hand.choose_allowed(&plan, |entry| entry == wanted, Micros::default);
            prop_assert_eq!(found, Some(wanted));
            let other = hand.choose_allowed(&plan, |entry| entry != wanted, Micros::default);
            prop_assert!(other.is_some_and(|other| other != wanted) || plan.entries.len() == 1);
        }
        if !plan.panic {
            prop_assert_eq!(plan.entries.len(), fit, "all that are fit may be called");
        }
        // By keys, each is reached that is chosen among.
        let keys = (0..60_000).filter_map(|key| Hand::choose_for(&plan, mixed(seed ^ key), Micros::default));
        let reached: BTreeSet<u32> = keys.collect();
        let heavy_enough = |entry: &u32| plan.entries[*entry as usize].weight / plan.weight_sum > 0.001;
        for entry in (0..plan.chosen).filter(heavy_enough) {
            prop_assert!(reached.contains(&entry), "{entry} of {} is never reached", plan.chosen);
        }
    }
}
