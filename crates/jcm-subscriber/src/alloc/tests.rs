//! Picks from views that are published by hand.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::core::Core;
use crate::policy::Policy;
use crate::sketch::{Sketch, core, healthy, id, orders, publish, state};

/// A core with one handle.
struct Field {
    core: Core,
    balancer: Arc<Balancer>,
}

fn field(policy: Policy, sketches: &[Sketch]) -> Field {
    let core = core(sketches);
    let balancer = core.balance(policy, None);
    Field { core, balancer }
}

impl Field {
    fn pick(&self) -> Result<Picked, AllocError> {
        pick(&self.balancer)
    }

    fn pick_excluding(&self, excluded: &[&NodeId]) -> Result<Picked, AllocError> {
        pick_wanted(&self.balancer, Want { key: None, excluded })
    }

    fn publish(&self, content: Content) {
        publish(&self.core, content);
    }

    fn in_flight(&self) -> Vec<u32> {
        let plan = self.balancer.plan();
        plan.calls_of(self.core.view().nodes()).map(|calls| calls.unwrap().in_flight()).collect()
    }

    /// How often each port comes up when calls end at once.
    fn counts(&self, picks: usize) -> BTreeMap<u16, usize> {
        let mut counts = BTreeMap::new();
        for _ in 0..picks {
            let node = self.pick().unwrap();
            *counts.entry(node.addr("http").unwrap().port()).or_default() += 1;
        }
        counts
    }
}

#[test]
fn a_handle_picks_by_its_own_policy() {
    let heavy = Sketch { weight: 200, ..healthy(2) };
    let field = field(Policy::round_robin(), &[healthy(1), heavy]);
    assert_eq!(field.counts(300), BTreeMap::from([(1, 100), (2, 200)]));
    let other = field.core.balance(Policy::p2c(), None);
    let calls: Vec<Picked> = (0..30).map(|_| pick(&other).unwrap()).collect();
    let plan = other.plan();
    let in_flight: Vec<u32> =
        plan.calls_of(field.core.view().nodes()).map(|calls| calls.unwrap().in_flight()).collect();
    // Chance draws the two that are compared, and may draw the same one twice at the end.
    assert_eq!(in_flight.iter().sum::<u32>(), 30);
    assert!(in_flight[0].abs_diff(10) <= 2, "by weight: {in_flight:?}");
    assert_eq!(field.in_flight(), [0, 0], "each handle counts its own calls");
    drop(calls);
}

#[test]
fn p2c_avoids_a_node_that_does_not_answer() {
    let field = field(Policy::p2c(), &[healthy(1), healthy(2), healthy(3), healthy(4)]);
    let mut hung = Vec::new();
    let mut answered = 0;
    for _ in 0..4000 {
        let node = field.pick().unwrap();
        if node.id() == &id(1) {
            hung.push(node);
        } else {
            answered += 1;
        }
    }
    assert!(answered > 3990, "{} calls went to the node that hangs", hung.len());
    assert_eq!(field.in_flight()[0] as usize, hung.len());
    drop(hung);
    assert_eq!(field.in_flight()[0], 0);
}

#[test]
fn calls_in_flight_are_counted_across_views() {
    let field = field(Policy::p2c(), &[healthy(1)]);
    let first = field.pick().unwrap();
    field.publish(state(&[healthy(1), healthy(2)]));
    assert_eq!(field.in_flight(), [1, 0]);
    first.report(&Err::<(), ()>(()));
    assert_eq!(field.in_flight(), [0, 0]);
    assert_eq!(field.core.view().seats()[0].outcomes.tally().failures, 1);
}

#[test]
fn a_call_that_is_dropped_is_neither_a_success_nor_a_failure() {
    for policy in [Policy::p2c(), Policy::peak_ewma(), Policy::round_robin()] {
        let field = field(policy, &[healthy(1)]);
        drop(field.pick().unwrap());
        assert_eq!(field.core.view().seats()[0].outcomes.tally(), crate::calls::Tally::default());
        field.pick().unwrap().report(&Ok::<(), ()>(()));
        assert_eq!(field.core.view().seats()[0].outcomes.tally().successes, 1);
    }
}

#[test]
fn a_node_that_moved_begins_with_no_calls() {
    let field = field(Policy::p2c(), &[healthy(1)]);
    let _call = field.pick().unwrap();
    let Content::State(held) = state(&[healthy(1)]) else { panic!("a state") };
    let mut cluster = held.cluster().as_ref().clone();
    let mut moved = cluster.nodes[0].as_ref().clone();
    moved.address = "127.0.0.2".parse().unwrap();
    cluster.nodes[0] = Arc::new(moved);
    field.publish(Content::State(Arc::new(jcm_model::ClusterState::new(Arc::new(cluster)))));
    assert_eq!(field.in_flight(), [0]);
}

#[test]
fn a_node_in_hand_outlives_the_view_it_came_from_on_any_thread() {
    let field = field(Policy::p2c(), &[healthy(1)]);
    let node = field.pick().unwrap();
    field.publish(state(&[healthy(2)]));
    drop(field);
    std::thread::spawn(move || {
        assert_eq!(node.id(), &id(1));
        assert_eq!(node.addr("http").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!((node.zone(), node.label("port"), node.label("rack")), ("z1", Some("1"), None));
        let refused = node.addr("grpc").unwrap_err().to_string();
        assert_eq!(refused, "node `127.0.0.1:1` of cluster `orders` has no port `grpc`: it offers http");
    })
    .join()
    .unwrap();
}

/// Picks once more when its thread ends.
struct Last {
    balancer: Arc<Balancer>,
    kept: Vec<Picked>,
    /// How many of them go after the slots of their thread.
    late: Arc<AtomicUsize>,
}

impl Drop for Last {
    fn drop(&mut self) {
        if FURTHER.try_with(|_| ()).is_err() {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        self.kept.push(pick(&self.balancer).unwrap());
    }
}

/// Lets a thread end that picks from this handle of two nodes, and holds nodes of it, before and after its slots go.
fn end_a_thread_that_picks_from(balancer: &Arc<Balancer>, core: &Core) {
    thread_local! {
        static BEFORE: RefCell<Option<Last>> = const { RefCell::new(None) };
        static AFTER: RefCell<Option<Last>> = const { RefCell::new(None) };
    }
    let late = Arc::<AtomicUsize>::default();
    let last = || Last { balancer: Arc::clone(balancer), kept: Vec::new(), late: Arc::clone(&late) };
    let (mut one, other) = (last(), last());
    // One is made before the thread has slots and one after, so that one of them goes after they are gone.
    let ending = std::thread::spawn(move || {
        BEFORE.with_borrow_mut(|last| *last = Some(other));
        drop(pick(&one.balancer).unwrap());
        let three = || (0..3).map(|_| pick(&one.balancer).unwrap()).collect();
        BEFORE.with_borrow_mut(|last| last.as_mut().unwrap().kept = three());
        one.kept = three();
        AFTER.with_borrow_mut(|last| *last = Some(one));
    });
    ending.join().unwrap();
    assert_eq!(late.load(Ordering::Relaxed), 1);
    let plan = balancer.plan();
    assert!(plan.calls_of(core.view().nodes()).all(|calls| calls.unwrap().in_flight() == 0));
    // Nothing of that thread holds on to the plan.
    assert_eq!(Arc::strong_count(&plan), 2);
}

#[test]
fn a_thread_that_ends_may_still_pick_and_let_go_of_nodes() {
    for policy in [Policy::round_robin(), Policy::p2c()] {
        let field = field(policy, &[healthy(1), healthy(2)]);
        end_a_thread_that_picks_from(&field.balancer, &field.core);
    }
}

#[test]
fn a_thread_that_ends_may_let_go_of_nodes_of_a_further_slot() {
    for policy in [Policy::round_robin(), Policy::p2c()] {
        let core = core(&[healthy(1), healthy(2)]);
        let balancers: Vec<_> = (0..=FIRST).map(|_| core.balance(policy.clone(), None)).collect();
        let further = balancers.iter().find(|balancer| balancer.slot() >= FIRST).unwrap();
        end_a_thread_that_picks_from(further, &core);
    }
}

#[test]
fn a_thread_has_a_slot_for_each_of_many_handles_and_lets_go_of_all_of_them() {
    let fields: Vec<Field> = (1..=200).map(|port| field(Policy::round_robin(), &[healthy(port)])).collect();
    let pick_from_all = || {
        for _ in 0..3 {
            for (port, field) in (1..).zip(&fields) {
                let nodes = [field.pick().unwrap(), field.pick().unwrap()];
                assert!(nodes.iter().all(|node| node.id() == &id(port)));
            }
        }
    };
    std::thread::scope(|scope| scope.spawn(pick_from_all).join()).unwrap();
    for field in &fields {
        assert_eq!(Arc::strong_count(&field.balancer.plan()), 2);
    }
}

#[test]
fn handles_without_a_slot_are_picked_from_all_the_same_and_take_no_number() {
    let core = core(&[healthy(1), healthy(2)]);
    let balancers: Vec<_> = (0..SLOTS_MAX + 2).map(|_| core.balance(Policy::p2c(), None)).collect();
    // Other tests take numbers and give them back meanwhile, so it may be any.
    let without = balancers.iter().find(|balancer| balancer.slot() == SLOTS_MAX).unwrap();
    let nodes = [(); 3].map(|()| pick(without).unwrap());
    assert_eq!(
        without.plan().calls_of(core.view().nodes()).map(|calls| calls.unwrap().in_flight()).sum::<u32>(),
        3
    );
    drop(nodes);
    assert_eq!(Arc::strong_count(&without.plan()), 2);
    // A use that panics leaves nothing behind either.
    let panicked =
        catch_unwind(AssertUnwindSafe(|| with_slot(without, |_| panic!("in the middle of a pick"))));
    assert!(panicked.is_err());
    assert_eq!(Arc::strong_count(&without.plan()), 2);
    drop(balancers);
    let numbers = [(); 50].map(|()| SlotNumber::take());
    assert_eq!(numbers.iter().map(SlotNumber::get).collect::<BTreeSet<_>>().len(), 50);
}

#[test]
fn a_new_view_is_picked_from_at_once_by_every_thread() {
    let fields: Vec<Field> = [Policy::round_robin(), Policy::p2c(), Policy::maglev()]
        .map(|policy| field(policy, &[healthy(1)]))
        .into();
    let check = |port| {
        for field in &fields {
            assert_eq!(field.pick().unwrap().id(), &id(port));
        }
    };
    std::thread::scope(|scope| {
        check(1);
        scope.spawn(|| check(1)).join().unwrap();
        for field in &fields {
            field.publish(state(&[healthy(2)]));
        }
        check(2);
        scope.spawn(|| check(2)).join().unwrap();
    });
}

#[test]
fn plans_of_handles_that_took_over_a_slot_are_never_mixed_up() {
    for port in 1..50 {
        let field = field(Policy::round_robin(), &[healthy(port)]);
        let node = field.pick().unwrap();
        assert_eq!(node.id(), &id(port));
        // The node outlives its handle, and is given back into whatever has the slot then.
        drop(field);
        let next = self::field(Policy::round_robin(), &[healthy(port + 100)]);
        assert_eq!(next.pick().unwrap().id(), &id(port + 100));
        drop(node);
        assert_eq!(next.pick().unwrap().id(), &id(port + 100));
    }
}

#[test]
fn many_calls_at_once_pick_from_the_same_plan() {
    let field = field(Policy::p2c(), &[healthy(1), healthy(2)]);
    let nodes: Vec<Picked> = (0..STOCK_MAX * 3).map(|_| field.pick().unwrap()).collect();
    assert_eq!(field.in_flight().iter().sum::<u32>(), u32::try_from(nodes.len()).unwrap());
    drop(nodes);
    assert_eq!(field.in_flight(), [0, 0]);
}

#[test]
fn excluded_nodes_are_not_picked_and_standbys_are_better_than_none() {
    let standby = Sketch { priority: 1, ..healthy(9) };
    for policy in crate::sketch::policies() {
        let field = field(policy, &[healthy(1), healthy(2), healthy(3), standby]);
        for _ in 0..100 {
            assert_eq!(field.pick_excluding(&[&id(1), &id(3)]).unwrap().id(), &id(2));
        }
        let node = field.pick_excluding(&[&id(1), &id(2), &id(3)]).unwrap();
        assert_eq!(node.id(), &id(9));
        drop(node);
        let error = field.pick_excluding(&[&id(1), &id(2), &id(3), &id(9)]).unwrap_err();
        assert_eq!(error, AllocError::AllExcluded { cluster: orders(), candidates: 4 });
        assert_eq!(field.in_flight(), [0; 4], "a call that was never made is still counted");
    }
}

#[test]
fn a_key_whose_node_is_excluded_comes_to_another() {
    let field = field(Policy::ring_hash(), &[healthy(1), healthy(2), healthy(3)]);
    let at = |excluded: &[&NodeId]| {
        let want = Want { key: Some(7), excluded };
        pick_wanted(&field.balancer, want).unwrap().id().clone()
    };
    let own = at(&[]);
    assert!((0..50).all(|_| at(&[]) == own && at(&[&own]) != own));
}

#[test]
fn a_refusal_says_why_and_names_the_cluster() {
    let core = crate::sketch::empty_core();
    for policy in crate::sketch::policies() {
        let field = core.balance(policy, None);
        let refusal = || pick(&field).unwrap_err().to_string();
        publish(&core, Content::Nothing);
        assert!(refusal().starts_with("cluster `orders` is unknown: no server has answered"));
        publish(&core, Content::Removed(Revision(7)));
        assert_eq!(refusal(), "cluster `orders` is unknown: it was not there at revision 7");
        publish(&core, state(&[]));
        assert_eq!(refusal(), "cluster `orders` has no node to call: it is defined without nodes");
    }
}
