//! Picks from views that are published by hand.

use std::collections::BTreeMap;
use std::time::Instant;

use jcm_model::node::Node;
use jcm_model::{Change, ClusterState, Effect, Judged, ServerId, Stamp, Timestamp, Verdict};

use super::*;
use crate::status::Standing;

/// A node of a test: what is written, and its verdict.
#[derive(Debug, Clone, Copy)]
struct Sketch {
    port: u16,
    weight: u16,
    priority: u16,
    verdict: Verdict,
}

fn healthy(port: u16) -> Sketch {
    Sketch { port, weight: 100, priority: 0, verdict: Verdict::Healthy }
}

fn orders() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

fn state(sketches: &[Sketch]) -> Content {
    let nodes = sketches.iter().map(|sketch| {
        serde_json::json!({ "address": "127.0.0.1", "ports": { "http": sketch.port }, "weight": sketch.weight,
            "priority": sketch.priority, "zone": "z1", "labels": { "port": sketch.port.to_string() } })
    });
    let json = serde_json::json!({ "check": { "kind": "http" }, "nodes": nodes.collect::<Vec<_>>() });
    let spec: jcm_model::ClusterSpec = serde_json::from_value(json).unwrap();
    let put = spec.nodes.iter().map(|node| {
        Arc::new(Node {
            id: node.default_id(),
            address: node.address,
            ports: node.ports.clone(),
            attributes: node.attributes.clone(),
            birth: Revision(1),
        })
    });
    let effect = Effect::Updated {
        created: true,
        header: Some(Arc::new(spec.header)),
        put: put.collect(),
        removed: vec![],
    };
    let cluster = Change { cluster: orders(), revision: Revision(1), effect }.apply(None).unwrap();
    let mut state = ClusterState::new(cluster);
    for sketch in sketches {
        let judged = Judged {
            verdict: sketch.verdict,
            birth: Revision(1),
            stamp: Stamp {
                ring_epoch: 1,
                term: 1,
                server: ServerId::parse("s").unwrap(),
                incarnation: 1,
                sequence: 1,
            },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: false,
            stale_since: None,
        };
        state.judge(&id(sketch.port), judged);
    }
    Content::State(Arc::new(state))
}

fn id(port: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{port}")).unwrap()
}

fn core(sketches: &[Sketch]) -> Core {
    let core = Core::new(orders());
    publish(&core, state(sketches));
    core
}

fn publish(core: &Core, content: Content) {
    core.publish(Some(content), Standing::Stale { since: Instant::now() });
}

/// How often each port comes up when calls end at once.
fn counts(core: &Core, choice: Choice, picks: usize) -> BTreeMap<u16, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..picks {
        let node = pick(core, choice).unwrap();
        *counts.entry(node.addr("http").unwrap().port()).or_default() += 1;
    }
    counts
}

#[test]
fn round_robin_gives_every_node_the_same_number_of_turns() {
    let core = core(&[healthy(1), healthy(2), healthy(3)]);
    assert_eq!(counts(&core, Choice::RoundRobin, 300), BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn round_robin_gives_turns_by_weight_and_a_degraded_node_a_quarter() {
    let degraded = Sketch { verdict: Verdict::Degraded, ..healthy(3) };
    let heavy = Sketch { weight: 200, ..healthy(2) };
    let core = core(&[healthy(1), heavy, degraded]);
    assert_eq!(counts(&core, Choice::RoundRobin, 1300), BTreeMap::from([(1, 400), (2, 800), (3, 100)]));
}

#[test]
fn p2c_at_rest_follows_the_weights() {
    let degraded = Sketch { verdict: Verdict::Degraded, ..healthy(3) };
    let core = core(&[healthy(1), healthy(2), degraded]);
    let counts = counts(&core, Choice::P2c, 90_000);
    for (port, share) in [(1, 40_000), (2, 40_000), (3, 10_000)] {
        // More than ten standard deviations: a wrong share is far outside, chance is not.
        assert!(counts[&port].abs_diff(share) < 2_000, "{counts:?}");
    }
}

#[test]
fn p2c_avoids_a_node_that_does_not_answer() {
    let core = core(&[healthy(1), healthy(2), healthy(3), healthy(4)]);
    let mut hung = Vec::new();
    let mut answered = 0;
    for _ in 0..4000 {
        let node = pick(&core, Choice::P2c).unwrap();
        if node.id() == &id(1) {
            hung.push(node);
        } else {
            answered += 1;
        }
    }
    assert!(answered > 3990, "{} calls went to the node that hangs", hung.len());
    let view = core.view();
    assert_eq!(view.load(0).in_flight() as usize, hung.len());
    drop(hung);
    assert_eq!(view.load(0).in_flight(), 0);
}

#[test]
fn calls_in_flight_are_counted_across_views() {
    let core = core(&[healthy(1)]);
    let first = pick(&core, Choice::P2c).unwrap();
    publish(&core, state(&[healthy(1), healthy(2)]));
    assert_eq!(core.view().load(0).in_flight(), 1);
    first.report(&Err::<(), ()>(()));
    assert_eq!((core.view().load(0).in_flight(), core.view().load(0).failures()), (0, 1));
}

#[test]
fn a_node_that_moved_begins_with_no_calls() {
    let core = core(&[healthy(1)]);
    let _call = pick(&core, Choice::P2c).unwrap();
    let Content::State(held) = state(&[healthy(1)]) else { panic!("a state") };
    let mut cluster = held.cluster().as_ref().clone();
    let mut moved = cluster.nodes[0].as_ref().clone();
    moved.address = "127.0.0.2".parse().unwrap();
    cluster.nodes[0] = Arc::new(moved);
    publish(&core, Content::State(Arc::new(ClusterState::new(Arc::new(cluster)))));
    assert_eq!(core.view().load(0).in_flight(), 0);
}

#[test]
fn a_node_in_hand_outlives_the_view_it_came_from_on_any_thread() {
    let core = core(&[healthy(1)]);
    let node = pick(&core, Choice::P2c).unwrap();
    publish(&core, state(&[healthy(2)]));
    drop(core);
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

#[test]
fn a_new_view_is_picked_from_at_once_by_every_thread() {
    let core = core(&[healthy(1)]);
    let check = |port| {
        for choice in [Choice::RoundRobin, Choice::P2c] {
            assert_eq!(pick(&core, choice).unwrap().id(), &id(port));
        }
    };
    std::thread::scope(|scope| {
        check(1);
        scope.spawn(|| check(1)).join().unwrap();
        publish(&core, state(&[healthy(2)]));
        check(2);
        scope.spawn(|| check(2)).join().unwrap();
    });
}

#[test]
fn views_of_clusters_that_took_over_a_slot_are_never_mixed_up() {
    for port in 1..50 {
        let core = core(&[healthy(port)]);
        let node = pick(&core, Choice::RoundRobin).unwrap();
        assert_eq!(node.id(), &id(port));
        // The node outlives its cluster, and is given back into whatever has the slot then.
        drop(core);
        let next = self::core(&[healthy(port + 100)]);
        assert_eq!(pick(&next, Choice::RoundRobin).unwrap().id(), &id(port + 100));
        drop(node);
        assert_eq!(pick(&next, Choice::RoundRobin).unwrap().id(), &id(port + 100));
    }
}

#[test]
fn many_calls_at_once_pick_the_same_view() {
    let core = core(&[healthy(1), healthy(2)]);
    let nodes: Vec<Picked> = (0..STOCK_MAX * 3).map(|_| pick(&core, Choice::P2c).unwrap()).collect();
    let view = core.view();
    assert_eq!(view.load(0).in_flight() + view.load(1).in_flight(), u32::try_from(nodes.len()).unwrap());
    drop(nodes);
    assert_eq!(view.load(0).in_flight() + view.load(1).in_flight(), 0);
}

#[test]
fn only_the_first_choice_is_picked_while_it_has_a_routable_node() {
    let standby = Sketch { priority: 5, ..healthy(3) };
    let down = Sketch { verdict: Verdict::Down, ..healthy(2) };
    let chosen = core(&[healthy(1), down, standby, healthy(4)]);
    for choice in [Choice::RoundRobin, Choice::P2c] {
        assert_eq!(counts(&chosen, choice, 100).keys().copied().collect::<Vec<_>>(), [1, 4]);
    }
    let down = |port| Sketch { verdict: Verdict::Down, ..healthy(port) };
    let standbys = [3, 4, 5].map(|port| Sketch { priority: 5, ..healthy(port) });
    let left = core(&[down(1), standbys[0], standbys[1], standbys[2]]);
    assert_eq!(counts(&left, Choice::RoundRobin, 9), BTreeMap::from([(3, 3), (4, 3), (5, 3)]));
}

#[test]
fn with_too_few_fit_nodes_all_are_picked_and_the_view_says_so() {
    let down = |port| Sketch { verdict: Verdict::Down, ..healthy(port) };
    let core = core(&[healthy(1), down(2), down(3)]);
    assert!(core.view().routing.panic);
    assert_eq!(counts(&core, Choice::RoundRobin, 3), BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
}

#[test]
fn excluded_nodes_are_not_picked_and_standbys_are_better_than_none() {
    let standby = Sketch { priority: 1, ..healthy(9) };
    let core = core(&[healthy(1), healthy(2), healthy(3), standby]);
    for choice in [Choice::RoundRobin, Choice::P2c] {
        for _ in 0..100 {
            assert_eq!(pick_excluding(&core, choice, &[&id(1), &id(3)]).unwrap().id(), &id(2));
        }
        let node = pick_excluding(&core, choice, &[&id(1), &id(2), &id(3)]).unwrap();
        assert_eq!(node.id(), &id(9));
        drop(node);
        let error = pick_excluding(&core, choice, &[&id(1), &id(2), &id(3), &id(9)]).unwrap_err();
        assert_eq!(error, AllocError::AllExcluded { cluster: orders(), candidates: 4 });
    }
    let view = core.view();
    assert!((0..4).all(|at| view.load(at).in_flight() == 0), "a call that was never made is still counted");
}

#[test]
fn a_refusal_says_why_and_names_the_cluster() {
    let core = Core::new(orders());
    let refusal = |core: &Core| pick(core, Choice::P2c).unwrap_err().to_string();
    assert!(refusal(&core).starts_with("cluster `orders` is unknown: no server has answered"));
    publish(&core, Content::Removed(Revision(7)));
    assert_eq!(refusal(&core), "cluster `orders` is unknown: it was not there at revision 7");
    publish(&core, state(&[]));
    assert_eq!(refusal(&core), "cluster `orders` has no node to call: it is defined without nodes");
}
