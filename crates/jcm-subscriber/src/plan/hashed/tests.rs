//! A large cluster's plan between two tables.

use std::collections::BTreeSet;
use std::time::Instant;

use super::*;
use crate::latency::Micros;
use crate::plan::tests::{plan_after, plan_of, view};
use crate::plan::{Hand, Plan};
use crate::policy::Policy;
use crate::random::mixed;
use crate::sketch::{Sketch, down, healthy};

const NODES: u16 = 400;
const KEYS: u64 = 20_000;

fn policies() -> [Policy; 2] {
    [Policy::ring_hash(), Policy::maglev()]
}

/// Which port each of many keys comes to.
fn owners(plan: &Plan) -> Vec<u16> {
    let owner = |key| Hand::choose_for(plan, mixed(key), Micros::default).unwrap();
    (0..KEYS).map(|key| plan.node(owner(key)).port(Some("http")).unwrap()).collect()
}

fn table(plan: &Plan) -> Arc<Hashed> {
    Arc::new(plan.draft().expect("it looks up in a table of others").make())
}

/// Lays out `before`, then `after`, which finds the table of the first.
fn plans(policy: &Policy, before: &[Sketch], after: &[Sketch]) -> (Plan, Plan) {
    let now = Instant::now();
    let first = plan_of(policy, &view(before, now), now);
    let second = plan_after(policy, Some(&first), &view(after, now), now);
    (first, second)
}

#[test]
fn who_left_or_went_down_is_not_looked_up_in_the_former_table_and_keys_of_others_stay() {
    let before: Vec<Sketch> = (1..=NODES).map(healthy).collect();
    // The first ten left, the next ten went down, and ten came.
    let after: Vec<Sketch> = (11..=20).map(down).chain((21..=NODES + 10).map(healthy)).collect();
    for policy in policies() {
        let (first, second) = plans(&policy, &before, &after);
        assert!(first.draft().is_none() && second.draft().is_some());
        for (old, new) in owners(&first).into_iter().zip(owners(&second)) {
            assert!((21..=NODES).contains(&new), "{policy:?}: a key came to {new}");
            assert!(old <= 20 || old == new, "{policy:?}: a key of {old} moved to {new}");
        }
    }
}

#[test]
fn with_its_own_table_a_plan_is_the_one_that_would_have_been_made_at_once() {
    let before: Vec<Sketch> = (1..=NODES).map(healthy).collect();
    let after: Vec<Sketch> = (11..=NODES + 10).map(healthy).collect();
    let now = Instant::now();
    for policy in policies() {
        let (_, second) = plans(&policy, &before, &after);
        let settled = second.with_table(&table(&second)).unwrap();
        assert!(settled.draft().is_none() && settled.generation > second.generation);
        let at_once = plan_of(&policy, &view(&after, now), now);
        assert!(owners(&settled) == owners(&at_once), "{policy:?}");
    }
}

#[test]
fn a_table_that_came_too_late_serves_without_who_left_since() {
    let all: Vec<Sketch> = (1..=NODES).map(healthy).collect();
    let now = Instant::now();
    for policy in policies() {
        let (_, second) = plans(&policy, &all, &all[5..]);
        let third = plan_after(&policy, Some(&second), &view(&all[10..], now), now);
        let late = third.with_table(&table(&second)).unwrap();
        assert!(late.draft().is_some());
        let owners: BTreeSet<u16> = owners(&late).into_iter().collect();
        assert_eq!(owners, (11..=NODES).collect(), "{policy:?}");
    }
}

#[test]
fn a_table_that_would_serve_badly_is_not_gone_on_with() {
    let all: Vec<Sketch> = (1..=NODES * 2).map(healthy).collect();
    let (some, most) = (&all[..usize::from(NODES)], &all[..]);
    for policy in policies() {
        for (before, after) in [(some, most), (most, &some[..300])] {
            let (_, second) = plans(&policy, before, after);
            assert!(second.draft().is_none(), "{policy:?}");
        }
    }
}

#[test]
fn under_load_every_call_finds_a_node_with_room_in_the_former_table() {
    let before: Vec<Sketch> = (1..=NODES).map(healthy).collect();
    let after: Vec<Sketch> = (1..=NODES + 40).map(healthy).collect();
    let (_, plan) = plans(&Policy::ring_hash(), &before, &after);
    assert!(plan.draft().is_some());
    let mut in_flight = std::collections::BTreeMap::<u32, u32>::new();
    for key in 0..u64::from(NODES) * 20 {
        let entry = Hand::choose_for(&plan, mixed(key), Micros::default).unwrap();
        plan.begin(entry);
        *in_flight.entry(entry).or_default() += 1;
    }
    // 1.25 times the mean over all 440 nodes, rounded up.
    assert!(in_flight.values().all(|calls| *calls <= 23), "{:?}", in_flight.values().max());
}
