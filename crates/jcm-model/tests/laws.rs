//! Laws that hold for any sequence of mutations and verdicts.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its place")]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use jcm_model::routing::{Reason, reroute, route};
use jcm_model::{
    Change, CheckKind, Cluster, ClusterName, ClusterSpec, ClusterState, Edit, Effect, Judged, Mutation, Node,
    NodeId, NodeSpec, Precondition, Refusal, Revision, ServerId, Stamp, TargetPolicy, Timestamp, Verdict,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn policy() -> TargetPolicy {
    TargetPolicy { loopback_allowed: true, own: Vec::new() }
}

fn name() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

fn node(n: u16, weight: Option<u16>) -> Value {
    let mut node = json!({ "address": "127.0.0.1", "ports": { "http": 18000 + n } });
    if let Some(weight) = weight {
        node["weight"] = json!(weight);
    }
    node
}

fn spec(json: Value) -> ClusterSpec {
    serde_json::from_value(json).unwrap()
}

/// A cluster with its history, changed only as servers change it.
#[derive(Default)]
struct History {
    cluster: Option<Arc<Cluster>>,
    /// What should be there by the changes alone.
    nodes: BTreeMap<NodeId, Arc<Node>>,
    revision: Revision,
}

impl History {
    fn try_on(&mut self, mutation: &Mutation, precondition: Precondition) -> Result<Option<Change>, Refusal> {
        let next = self.revision.next();
        let change = mutation.change(&name(), self.cluster.as_ref(), precondition, next, &policy())?;
        if let Some(change) = &change {
            self.cluster = change.apply(self.cluster.as_ref());
            self.revision = next;
            match &change.effect {
                Effect::Deleted => self.nodes.clear(),
                Effect::Updated { put, removed, .. } => {
                    self.nodes.retain(|id, _| !removed.contains(id));
                    self.nodes.extend(put.iter().map(|node| (node.id.clone(), Arc::clone(node))));
                }
            }
        }
        Ok(change)
    }

    fn put(&mut self, json: Value) -> Option<Change> {
        self.try_on(&Mutation::PutCluster(spec(json)), Precondition::default()).unwrap()
    }

    fn cluster(&self) -> &Arc<Cluster> {
        self.cluster.as_ref().unwrap()
    }
}

fn judged(cluster: &Cluster, id: &NodeId, verdict: Verdict, sequence: u64) -> Judged {
    Judged {
        verdict,
        birth: cluster.birth(cluster.node(id).unwrap()),
        stamp: Stamp {
            ring_epoch: 0,
            term: 0,
            server: ServerId::parse("s1").unwrap(),
            incarnation: 1,
            sequence,
        },
        since: Timestamp::UNIX_EPOCH,
        single_vantage: false,
        stale_since: None,
    }
}

fn mutations() -> impl Strategy<Value = Mutation> {
    let nodes = prop::collection::btree_map(0_u16..8, prop::option::of(1_u16..=1000), 0..6);
    let list = |nodes: BTreeMap<u16, Option<u16>>| -> Vec<Value> {
        nodes.into_iter().map(|(n, weight)| node(n, weight)).collect()
    };
    let specs = move |values: Vec<Value>| -> Vec<NodeSpec> {
        values.into_iter().map(|v| serde_json::from_value(v).unwrap()).collect()
    };
    prop_oneof![
        (nodes.clone(), any::<bool>(), 0_u8..3).prop_map(move |(nodes, online, kind)| {
            let check = match kind {
                0 => json!({ "kind": "none" }),
                1 => json!({ "kind": "http", "interval": "1s" }),
                _ => json!({ "kind": "http", "interval": "2s" }),
            };
            Mutation::PutCluster(spec(json!({ "online": online, "check": check, "nodes": list(nodes) })))
        }),
        nodes.prop_map(move |nodes| Mutation::PutNodes(specs(list(nodes)))),
        (0_u16..8).prop_map(|n| Mutation::DeleteNodes(vec![id(n)])),
        (0_u16..8, 1_u16..=1000)
            .prop_map(|(n, weight)| Mutation::PatchNode(id(n), json!({ "weight": weight }))),
        Just(Mutation::PatchCluster(json!({ "properties": { "a": "b" } }))),
        Just(Mutation::DeleteCluster),
    ]
}

fn nodes_of(history: &History) -> Vec<Arc<Node>> {
    history.cluster.as_ref().map_or_else(Vec::new, |cluster| cluster.nodes.clone())
}

/// No two nodes share a place, and each has the port that is to be checked.
fn is_sound(history: &History) -> bool {
    let mut places = HashMap::new();
    nodes_of(history).iter().all(|node| {
        let check = &history.cluster().check;
        let is_checkable = check.kind == CheckKind::None || node.port(check.port.as_deref()).is_some();
        let mut ports = node.ports.iter().map(|(_, port)| (node.address, *port));
        is_checkable && ports.all(|place| *places.entry(place).or_insert(node.id.clone()) == node.id)
    })
}

/// The same, with nodes that crowd each other out: few ids, few ports, several in one change, some that lack the port to
/// be checked.
fn crowded() -> impl Strategy<Value = Mutation> {
    let node = (prop::option::of(0_u8..4), 0_u16..4, prop::option::of(0_u16..4), prop::bool::weighted(0.1))
        .prop_map(|(id, port, other, is_plain)| {
            let mut ports = json!({ "http": 18000 + port });
            if let Some(other) = other {
                ports["admin"] = json!(18000 + other);
            }
            if is_plain {
                ports = json!({ "plain": 18000 + port });
            }
            let mut node = json!({ "address": "127.0.0.1", "ports": ports });
            if let Some(id) = id {
                node["id"] = json!(format!("n{id}"));
            }
            serde_json::from_value::<NodeSpec>(node).unwrap()
        });
    let named = (0_u8..4).prop_map(|n| NodeId::parse(&format!("n{n}")).unwrap());
    prop_oneof![
        2 => mutations(),
        8 => prop::collection::vec(node, 1..4).prop_map(Mutation::PutNodes),
        1 => prop::collection::vec(named, 1..3).prop_map(Mutation::DeleteNodes),
        1 => Just(Mutation::PatchCluster(json!({ "check": { "kind": "tcp", "port": "http" } }))),
        1 => Just(Mutation::PatchCluster(json!({ "check": null, "nodes": [] }))),
    ]
}

fn id(n: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{}", 18000 + n)).unwrap()
}

proptest! {
    #[test]
    fn what_is_read_can_be_written_back_and_changes_nothing(mutations in prop::collection::vec(mutations(), 1..20)) {
        let mut history = History::default();
        for mutation in &mutations {
            let _ = history.try_on(mutation, Precondition::default());
            if let Some(cluster) = history.cluster.clone() {
                let filled = serde_json::to_value(cluster.to_filled()).unwrap();
                let back = Mutation::PutCluster(serde_json::from_value(filled).unwrap());
                prop_assert_eq!(history.try_on(&back, Precondition::default()).unwrap(), None);
                let written = Mutation::PutCluster(cluster.to_spec());
                prop_assert_eq!(history.try_on(&written, Precondition::default()).unwrap(), None);
            }
        }
    }

    #[test]
    fn a_change_applied_twice_is_applied_once(mutations in prop::collection::vec(mutations(), 1..20)) {
        let mut history = History::default();
        for mutation in &mutations {
            let before = history.cluster.clone();
            if let Ok(Some(change)) = history.try_on(mutation, Precondition::default()) {
                let after = change.apply(before.as_ref());
                if change.effect != Effect::Deleted {
                    prop_assert_eq!(change.apply(after.as_ref()), after.clone());
                }
                if let Some(cluster) = after {
                    prop_assert!(cluster.nodes.is_sorted_by(|a, b| a.id < b.id));
                    prop_assert!(cluster.nodes.iter().all(|node| cluster.birth(node) <= cluster.revision));
                }
            }
        }
    }

    #[test]
    fn many_changes_made_at_once_lead_where_they_lead_one_by_one(
        start in prop::collection::vec(crowded(), 0..4),
        steps in prop::collection::vec(
            (crowded(), prop::bool::weighted(0.3), prop::bool::weighted(0.2)), 1..60,
        ),
    ) {
        let mut history = History::default();
        history.put(json!({}));
        for mutation in &start {
            let _ = history.try_on(mutation, Precondition::default());
        }
        let mut edit = Edit::new(history.cluster.clone());
        let creation = Mutation::PutCluster(spec(json!({})));
        for (mutation, is_taken_back, is_resumed) in &steps {
            if *is_resumed {
                edit = match (edit.to_cluster(), edit.into_places()) {
                    (Some(cluster), Some(places)) => Edit::resumed(cluster, places),
                    (cluster, _) => Edit::new(cluster),
                };
            }
            let mutation = if edit.is_there() { mutation } else { &creation };
            let next = history.revision.next();
            let change = mutation.change_in(&edit, &name(), Precondition::default(), next, &policy());
            if *is_taken_back {
                // As if it had never been.
                if let Ok(Some(change)) = &change {
                    let undo = edit.apply(change);
                    edit.undo(undo);
                }
                prop_assert_eq!(
                    mutation.change_in(&edit, &name(), Precondition::default(), next, &policy()),
                    change
                );
            } else {
                prop_assert_eq!(&change, &history.try_on(mutation, Precondition::default()));
                if let Ok(Some(change)) = &change {
                    edit.apply(change);
                }
            }
            prop_assert_eq!(edit.to_cluster(), history.cluster.clone());
            prop_assert_eq!(history.nodes.values().cloned().collect::<Vec<_>>(), nodes_of(&history));
            prop_assert!(is_sound(&history));
            prop_assert_eq!(edit.node_count(), history.cluster.as_ref().map_or(0, |cluster| cluster.nodes.len()));
        }
    }

    #[test]
    fn a_delta_leads_exactly_where_its_sender_is(
        steps in prop::collection::vec((mutations(), 0_u16..8, 1_u8..4), 1..20),
        hold in 0_usize..20,
    ) {
        let mut history = History::default();
        history.put(json!({ "check": { "kind": "tcp" }, "nodes": [node(0, None), node(1, None)] }));
        let mut state = ClusterState::new(Arc::clone(history.cluster()));
        let mut held = state.clone();
        let mut routing = route(&state);
        for (sequence, (mutation, n, verdict)) in (1_u64..).zip(steps) {
            let earlier = state.clone();
            if !matches!(mutation, Mutation::DeleteCluster) {
                let _ = history.try_on(&mutation, Precondition::default());
                state = state.redefined(Arc::clone(history.cluster()));
            }
            if history.cluster().node(&id(n)).is_some() {
                let verdict = [Verdict::Healthy, Verdict::Degraded, Verdict::Down][usize::from(verdict) - 1];
                state.judge(&id(n), judged(history.cluster(), &id(n), verdict, sequence));
            }
            if sequence == hold as u64 {
                held = state.clone();
            }
            let delta = state.since(&held);
            prop_assert_eq!(held.after(&delta).map(|after| after.digest()), Some(state.digest()));
            prop_assert_eq!(held.after(&delta), Some(state.clone()));
            let verdicts = state.nodes().filter_map(|(node, judged)| Some((node.id.clone(), judged?.clone())));
            let anew = ClusterState::with_verdicts(Arc::clone(state.cluster()), verdicts.collect::<Vec<_>>());
            prop_assert_eq!(&anew, &state, "what changed by steps is what stands there, with its digest");
            routing = reroute(&state, &earlier, &routing);
            prop_assert_eq!(&routing, &route(&state));
            prop_assert_eq!(routing.nodes.len(), state.cluster().nodes.len());
        }
    }

    #[test]
    fn a_list_is_empty_only_on_purpose(verdicts in prop::collection::vec(0_u8..4, 1..12), panic_below in 0.01_f64..=1.0) {
        let mut history = History::default();
        let nodes: Vec<Value> = (0..verdicts.len()).map(|n| node(u16::try_from(n).unwrap(), None)).collect();
        history.put(json!({ "check": { "kind": "tcp" }, "protection": { "panic_below": panic_below }, "nodes": nodes }));
        let mut state = ClusterState::new(Arc::clone(history.cluster()));
        for (n, verdict) in (0_u16..).zip(&verdicts) {
            let verdict = match verdict { 0 => continue, 1 => Verdict::Healthy, 2 => Verdict::Degraded, _ => Verdict::Down };
            state.judge(&id(n), judged(history.cluster(), &id(n), verdict, 1));
        }
        let routing = route(&state);
        prop_assert!(routing.nodes.iter().any(|route| route.routable));
        let fit = verdicts.iter().filter(|verdict| matches!(verdict, 1 | 2)).count();
        let judged = verdicts.iter().any(|verdict| *verdict != 0);
        #[expect(clippy::cast_precision_loss, reason = "a dozen nodes")]
        let expected = judged && (fit as f64) < panic_below * verdicts.len() as f64;
        prop_assert_eq!(routing.panic, expected);
    }
}

#[test]
fn a_stale_condition_reports_the_found_revision() {
    let mut history = History::default();
    history.put(json!({ "nodes": [node(0, None)] }));
    let at = |revision| Precondition { revision: Some(Revision(revision)), ..Precondition::default() };
    let mutation = Mutation::PatchNode(id(0), json!({ "weight": 5 }));
    assert_eq!(
        history.try_on(&mutation, at(7)),
        Err(Refusal::Condition { cluster: name(), found: Some(Revision(1)) })
    );
    assert!(history.try_on(&mutation, at(1)).unwrap().is_some());
    let create = Precondition { absent: true, ..Precondition::default() };
    let put = Mutation::PutCluster(spec(json!({})));
    assert_eq!(
        history.try_on(&put, create),
        Err(Refusal::Condition { cluster: name(), found: Some(Revision(2)) })
    );
}

#[test]
fn a_node_without_an_id_is_the_node_that_has_its_place() {
    let mut history = History::default();
    history.put(json!({ "nodes": [{ "address": "127.0.0.1", "ports": { "http": 18000 } }] }));
    history.put(json!({ "nodes": [{ "address": "127.0.0.1", "ports": { "admin": 9000, "http": 18000 } }] }));
    let ids: Vec<&str> = history.cluster().nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["127.0.0.1:18000"]);
    let clash = Mutation::PutNodes(vec![
        serde_json::from_value(json!({ "id": "x", "address": "127.0.0.1", "ports": { "a": 9000 } })).unwrap(),
    ]);
    assert!(matches!(
        history.try_on(&clash, Precondition::default()),
        Err(Refusal::Clash { port: 9000, .. })
    ));
}

#[test]
fn a_node_without_an_id_never_takes_anothers_place_away() {
    let mut history = History::default();
    history.put(json!({ "nodes": [{ "address": "127.0.0.1", "ports": { "http": 18000 } }] }));
    let moved = Mutation::PatchNode(id(0), json!({ "ports": { "http": 18001 } }));
    history.try_on(&moved, Precondition::default()).unwrap();
    let newcomer: NodeSpec = serde_json::from_value(node(0, None)).unwrap();
    let refused = history.try_on(&Mutation::PutNodes(vec![newcomer]), Precondition::default());
    assert_eq!(refused, Err(Refusal::IdTaken { cluster: name(), node: id(0) }));
    assert_eq!(history.cluster().nodes.len(), 1);
}

#[test]
fn a_verdict_of_another_form_of_the_node_is_dropped() {
    let mut history = History::default();
    history.put(json!({ "check": { "kind": "http" }, "nodes": [node(0, None)] }));
    let mut state = ClusterState::new(Arc::clone(history.cluster()));
    let old = judged(history.cluster(), &id(0), Verdict::Down, 9);
    assert!(state.judge(&id(0), old.clone()));
    history.put(json!({ "check": { "kind": "http", "interval": "5s" }, "nodes": [node(0, Some(7))] }));
    state = state.redefined(Arc::clone(history.cluster()));
    assert_eq!(state.judged(&id(0)), Some(&old), "new timing and weight keep the verdict");
    history.put(json!({ "check": { "kind": "http", "path": "/other" }, "nodes": [node(0, Some(7))] }));
    state = state.redefined(Arc::clone(history.cluster()));
    assert_eq!(state.judged(&id(0)), None, "a new question starts anew");
    assert!(!state.judge(&id(0), old));
}

#[test]
fn a_patch_to_another_kind_of_check_leaves_behind_what_that_does_not_have() {
    let mut history = History::default();
    let check = json!({ "kind": "http", "path": "/live", "body_contains": "up", "interval": "5s" });
    history.put(json!({ "check": check, "nodes": [node(0, None)] }));
    let mut patched = |patch: Value| {
        let patch = Mutation::PatchCluster(json!({ "check": patch }));
        history.try_on(&patch, Precondition::default()).map(|change| change.map(|change| change.effect))
    };
    let Ok(Some(Effect::Updated { header: Some(header), .. })) = patched(json!({ "kind": "tcp" })) else {
        panic!("not patched");
    };
    let written = serde_json::to_value(&header.check).unwrap();
    assert_eq!(written, json!({ "kind": "tcp", "interval": "5s" }));
    for patch in [json!({ "kind": "tcp", "path": "/a" }), json!({ "service": "a" })] {
        assert!(matches!(patched(patch), Err(Refusal::Invalid(_))));
    }
}

#[test]
fn routing_says_why() {
    let mut history = History::default();
    let mut nodes: Vec<Value> = (0..6).map(|n| node(n, None)).collect();
    nodes[4]["online"] = json!(false);
    nodes[5]["draining"] = json!(true);
    history.put(json!({ "check": { "kind": "tcp" }, "nodes": nodes }));
    let cluster = Arc::clone(history.cluster());
    let mut state = ClusterState::new(Arc::clone(&cluster));
    let reasons = |state: &ClusterState| -> Vec<Option<Reason>> {
        route(state).nodes.iter().map(|route| route.reason).collect()
    };
    let (unchecked, offline, draining) =
        (Some(Reason::NotYetChecked), Some(Reason::Offline), Some(Reason::Draining));
    assert_eq!(reasons(&state), [unchecked, unchecked, unchecked, unchecked, offline, draining]);
    assert!(!route(&state).panic, "nobody looked yet: that is no emergency");

    for (n, verdict) in
        [(0, Verdict::Healthy), (1, Verdict::Degraded), (2, Verdict::Down), (5, Verdict::Down)]
    {
        state.judge(&id(n), judged(&cluster, &id(n), verdict, 1));
    }
    let down = Some(Reason::Down { single_vantage: false });
    assert_eq!(reasons(&state), [None, Some(Reason::Degraded), down, unchecked, offline, draining]);
    let weights: Vec<u16> = route(&state).nodes.iter().map(|route| route.effective_weight).collect();
    assert_eq!(weights, [100, 25, 0, 0, 0, 0]);

    state.judge(&id(0), judged(&cluster, &id(0), Verdict::Down, 2));
    let routing = route(&state);
    assert!(routing.panic);
    assert_eq!(
        routing.nodes.iter().filter(|route| route.routable).count(),
        4,
        "every node in use, and no other"
    );
    assert_eq!(routing.nodes[2].reason.unwrap().to_string(), "panic: down");
}
