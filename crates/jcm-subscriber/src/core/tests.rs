//! What reports of calls lead to, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::alloc::pick;
use crate::sketch::{Sketch, core, down, healthy, id, publish, state};

const OK: Result<(), ()> = Ok(());
const FAILED: Result<(), ()> = Err(());

fn ten() -> Vec<Sketch> {
    (1..=10).map(healthy).collect()
}

/// Makes calls until one of the node failed so often in a row, while all others succeed.
fn fail(balancer: &Balancer, port: u16, failures: usize) {
    let mut failed = 0;
    while failed < failures {
        let node = pick(balancer).unwrap();
        let bad = node.id() == &id(port);
        failed += usize::from(bad);
        node.report(if bad { &FAILED } else { &OK });
    }
}

fn picked(balancer: &Balancer) -> BTreeSet<u16> {
    (0..300).map(|_| pick(balancer).unwrap().addr("http").unwrap().port()).collect()
}

#[tokio::test]
async fn a_node_that_fails_in_a_row_is_left_at_once_and_comes_back() {
    let core = core(&ten());
    let now = Instant::now();
    let outliers = Outliers::default().times(Duration::from_secs(30), Duration::from_mins(5));
    let balancer = core.balance(Policy::round_robin(), Some(outliers));
    let other = core.balance(Policy::p2c(), None);
    fail(&balancer, 4, 5);
    // The report of the fifth failure asks to be judged.
    core.judge.notified().await;
    core.tend(now);
    for balancer in [&balancer, &other] {
        assert!(!picked(balancer).contains(&4), "each handle of the cluster leaves it");
    }
    let view = core.view();
    let ejected: Vec<&jcm_model::NodeId> = view
        .nodes()
        .iter()
        .zip(view.seats())
        .filter_map(|(node, seat)| seat.ejected().is_some().then_some(&node.id))
        .collect();
    assert_eq!(ejected, [&id(4)]);
    core.tend(now + Duration::from_secs(29));
    assert!(!picked(&balancer).contains(&4));
    core.tend(now + Duration::from_secs(30));
    assert!(picked(&balancer).contains(&4));
}

#[test]
fn what_is_remembered_of_a_node_outlives_views() {
    let core = core(&ten());
    let now = Instant::now();
    let balancer = core.balance(Policy::round_robin(), None);
    fail(&balancer, 4, 3);
    publish(&core, state(&[ten(), vec![healthy(11)]].concat()));
    fail(&balancer, 4, 2);
    core.tend(now);
    assert!(!picked(&balancer).contains(&4));
    publish(&core, state(&[ten(), vec![down(12)]].concat()));
    assert!(!picked(&balancer).contains(&4));
}

#[test]
fn ejected_nodes_are_taken_back_where_too_few_would_be_left() {
    let core = core(&[healthy(1), healthy(2)]);
    let now = Instant::now();
    let careful = core.balance(Policy::round_robin().panic_threshold(0.9), None);
    let bold = core.balance(Policy::round_robin(), None);
    fail(&bold, 1, 5);
    core.tend(now);
    assert_eq!(picked(&bold), [2].into());
    assert_eq!(picked(&careful), [1, 2].into(), "half is too few for it");
    publish(&core, state(&[healthy(1), down(2)]));
    assert_eq!(picked(&bold), [1].into(), "better than none");
}

#[test]
fn nobody_is_told_of_an_interval_in_which_nothing_turned() {
    let core = core(&ten());
    let now = Instant::now();
    let balancer = core.balance(Policy::round_robin(), None);
    let mut published = core.subscribe();
    published.mark_unchanged();
    let generation = balancer.generation();
    fail(&balancer, 4, 2);
    core.tend(now + INTERVAL);
    assert!(!published.has_changed().unwrap() && balancer.generation() == generation);
    fail(&balancer, 4, 5);
    core.tend(now + INTERVAL);
    assert!(published.has_changed().unwrap() && balancer.generation() != generation);
}

#[test]
fn a_slow_start_moves_on_as_time_passes() {
    let core = core(&[healthy(1)]);
    let now = Instant::now();
    let window = Duration::from_secs(30);
    let balancer = core.balance(Policy::weighted().slow_start(window), None);
    publish(&core, state(&[healthy(1), healthy(2)]));
    let share = |at| {
        core.tend(at);
        let second = (0..1100).filter(|_| pick(&balancer).unwrap().id() == &id(2)).count();
        second * 100 / 1100
    };
    assert_eq!((share(now), share(now + window / 2), share(now + window * 2)), (9, 33, 50));
    let generation = balancer.generation();
    core.tend(now + window * 3);
    assert_eq!(balancer.generation(), generation, "warm, it is left as it is");
}

#[test]
fn a_handle_that_is_gone_is_not_followed() {
    let core = core(&ten());
    drop(core.balance(Policy::maglev(), None));
    publish(&core, state(&[healthy(1)]));
    assert!(core.tended().followers.is_empty());
}

#[test]
fn one_table_is_made_at_a_time_and_the_latest_wins() {
    let nodes: Vec<Sketch> = (1..=400).map(healthy).collect();
    let core = Arc::new(core(&nodes));
    let balancer = core.balance(Policy::maglev(), None);
    assert!(core.work().is_empty(), "a first table is made at once");
    publish(&core, state(&nodes[1..]));
    let first = core.work().pop().unwrap();
    publish(&core, state(&nodes[2..]));
    assert!(core.work().is_empty(), "one is in the making");
    assert!(balancer.plan().draft().is_some());
    first.carry_out(&Arc::downgrade(&core));
    assert!(balancer.plan().draft().is_none() && core.work().is_empty());
}

#[test]
fn a_table_whose_making_came_to_nothing_is_made_by_somebody_else() {
    let nodes: Vec<Sketch> = (1..=400).map(healthy).collect();
    let core = Arc::new(core(&nodes));
    let balancer = core.balance(Policy::maglev(), None);
    publish(&core, state(&nodes[1..]));
    // As a panic leaves it.
    drop(core.work().pop().unwrap());
    core.work().pop().unwrap().carry_out(&Arc::downgrade(&core));
    assert!(balancer.plan().draft().is_none());
}

#[test]
fn a_table_for_a_view_that_did_not_last_is_not_used() {
    let nodes: Vec<Sketch> = (1..=400).map(healthy).collect();
    let core = Arc::new(core(&nodes));
    let balancer = core.balance(Policy::maglev(), None);
    publish(&core, state(&nodes[1..]));
    let work = core.work().pop().unwrap();
    publish(&core, state(&nodes));
    let generation = balancer.generation();
    work.carry_out(&Arc::downgrade(&core));
    assert!(balancer.generation() == generation && core.work().is_empty());
}

#[test]
fn a_table_for_a_handle_that_is_gone_is_dropped() {
    let nodes: Vec<Sketch> = (1..=400).map(healthy).collect();
    let core = Arc::new(core(&nodes));
    let balancer = core.balance(Policy::ring_hash(), None);
    publish(&core, state(&nodes[1..]));
    let work = core.work().pop().unwrap();
    drop(balancer);
    work.carry_out(&Arc::downgrade(&core));
    assert!(core.work().is_empty());
}
