//! What leases mean for definitions: who may change a node that has one, and what leaves it alone.

use std::sync::Arc;

use jcm_model::{
    Cluster, ClusterName, Edit, Lapsed, LeaseId, Mutation, NodeId, Precondition, Refusal, Revision,
    TargetPolicy,
};
use serde_json::{Value, json};

/// A cluster and what is done to it, one change after the other.
struct History {
    cluster: Option<Arc<Cluster>>,
    revision: Revision,
}

fn name() -> ClusterName {
    ClusterName::parse("orders").expect("a name")
}

fn lease(n: u8) -> LeaseId {
    LeaseId::new([n; 16])
}

fn id(n: u16) -> NodeId {
    NodeId::parse(&format!("n{n}")).expect("an id")
}

fn node(n: u16, held: Option<u8>) -> Value {
    let mut node = json!({ "id": id(n), "address": "127.0.0.1", "ports": { "http": 18000 + n } });
    if let Some(held) = held {
        node["lease"] = json!({ "id": lease(held), "ttl": "10s" });
    }
    node
}

fn put_nodes(nodes: Value) -> Mutation {
    Mutation::PutNodes(serde_json::from_value(nodes).expect("nodes"))
}

impl History {
    fn new(spec: Value) -> Self {
        let mut history = Self { cluster: None, revision: Revision::ZERO };
        history.done(
            &Mutation::PutCluster(serde_json::from_value(spec).expect("a cluster")),
            Precondition::default(),
        );
        history
    }

    /// Answers whether anything changed.
    fn try_on(&mut self, mutation: &Mutation, precondition: Precondition) -> Result<bool, Refusal> {
        let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
        let next = self.revision.next();
        let change = mutation.change(&name(), self.cluster.as_ref(), precondition, next, &targets)?;
        let Some(change) = change else { return Ok(false) };
        let mut edit = Edit::new(self.cluster.take());
        edit.apply(&change);
        (self.cluster, self.revision) = (edit.to_cluster(), next);
        Ok(true)
    }

    fn done(&mut self, mutation: &Mutation, precondition: Precondition) -> bool {
        self.try_on(mutation, precondition).expect("it is not refused")
    }

    fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("it is there")
    }

    fn ids(&self) -> Vec<&str> {
        self.cluster().nodes.iter().map(|node| node.id.as_str()).collect()
    }

    fn birth(&self, n: u16) -> Revision {
        self.cluster().node(&id(n)).expect("it is there").birth
    }
}

fn held_by(n: u8) -> Precondition {
    Precondition { lease: Some(lease(n)), ..Precondition::default() }
}

#[test]
fn another_lease_leaves_the_node_what_it_was() {
    let mut history = History::new(json!({ "nodes": [node(1, Some(1))] }));
    let born = history.birth(1);
    assert!(history.done(&put_nodes(json!([node(1, Some(2))])), Precondition::default()));
    assert!(history.done(&Mutation::PatchNode(id(1), json!({ "lease": null })), Precondition::default()));
    assert_eq!(history.birth(1), born);
    assert!(history.cluster.unwrap().nodes[0].attributes.lease().is_none());
}

#[test]
fn a_write_on_a_lease_touches_only_nodes_that_have_it() {
    let mut history = History::new(json!({ "nodes": [node(1, Some(1)), node(2, None)] }));
    let refused = |found, n| Refusal::Lease { cluster: name(), node: id(n), found };
    for (mutation, by, expected) in [
        (put_nodes(json!([node(1, Some(2))])), 2, Err(refused(Some(lease(1)), 1))),
        (Mutation::PatchNode(id(1), json!({ "weight": 7 })), 2, Err(refused(Some(lease(1)), 1))),
        (Mutation::DeleteNodes(vec![id(1)]), 2, Err(refused(Some(lease(1)), 1))),
        (Mutation::DeleteNodes(vec![id(2)]), 2, Err(refused(None, 2))),
        (Mutation::DeleteNodes(vec![id(3)]), 2, Err(Refusal::NoNode { cluster: name(), node: id(3) })),
        // One that is not there may be put.
        (put_nodes(json!([node(3, Some(3))])), 3, Ok(true)),
        (put_nodes(json!([node(3, Some(3))])), 3, Ok(false)),
        (Mutation::PatchNode(id(3), json!({ "weight": 7 })), 3, Ok(true)),
        (Mutation::DeleteNodes(vec![id(3)]), 3, Ok(true)),
    ] {
        assert_eq!(history.try_on(&mutation, held_by(by)), expected, "{mutation:?}");
    }
    for mutation in [Mutation::DeleteCluster, Mutation::PatchCluster(json!({ "online": false }))] {
        let refused = history.try_on(&mutation, held_by(1)).unwrap_err().to_string();
        assert!(refused.contains("a write that names nodes"), "{mutation:?}: {refused}");
    }
    assert_eq!(history.ids(), ["n1", "n2"]);
}

#[test]
fn clearing_away_leaves_alone_what_is_not_as_it_was_found() {
    let nodes: Vec<Value> = (1..=6).map(|n| node(n, Some(1))).collect();
    let mut history = History::new(json!({ "nodes": nodes }));
    let found: Vec<Lapsed> =
        (1..=6).map(|n| Lapsed { node: id(n), birth: history.birth(n), lease: lease(1) }).collect();
    // Registered again, moved, adopted by people, taken away.
    history.done(&put_nodes(json!([node(2, Some(2))])), Precondition::default());
    let moved = json!({ "id": id(3), "address": "127.0.0.1", "ports": { "http": 19000 }, "lease": node(3, Some(1))["lease"] });
    history.done(&put_nodes(json!([moved])), Precondition::default());
    history.done(&Mutation::PatchNode(id(4), json!({ "lease": null })), Precondition::default());
    history.done(&Mutation::DeleteNodes(vec![id(5)]), Precondition::default());
    let clear = Mutation::ClearAway(found);
    assert!(history.done(&clear, Precondition::default()));
    assert_eq!(history.ids(), ["n2", "n3", "n4"]);
    assert!(!history.done(&clear, Precondition::default()), "the second time there is nothing to do");
}

#[test]
fn where_the_lease_is_the_check_every_node_has_one() {
    let mut history = History::new(json!({ "check": { "kind": "lease" }, "nodes": [node(1, Some(1))] }));
    for mutation in [
        put_nodes(json!([node(2, None)])),
        Mutation::PatchNode(id(1), json!({ "lease": null })),
        Mutation::PutCluster(
            serde_json::from_value(json!({ "check": { "kind": "lease" }, "nodes": [node(1, None)] }))
                .unwrap(),
        ),
    ] {
        let refusal = history.try_on(&mutation, Precondition::default()).unwrap_err();
        assert!(matches!(&refusal, Refusal::Invalid(invalid) if invalid.field == "lease"), "{refusal:?}");
    }
    // The kind is refused where some node that stays has none.
    let mut plain =
        History::new(json!({ "check": { "kind": "http", "path": "/up" }, "nodes": [node(1, None)] }));
    let to_lease = Mutation::PatchCluster(json!({ "check": { "kind": "lease" } }));
    assert!(plain.try_on(&to_lease, Precondition::default()).is_err());
    plain.done(&put_nodes(json!([node(1, Some(1))])), Precondition::default());
    assert!(plain.done(&to_lease, Precondition::default()));
    let filled = serde_json::to_value(plain.cluster.unwrap().to_filled()).unwrap();
    assert_eq!(filled["check"], json!({ "kind": "lease" }));
    assert_eq!(filled["nodes"][0]["lease"], node(1, Some(1))["lease"]);
}
