//! Definitions by hand: a plain map to which changes are applied, and transactions that take a store there.

use std::collections::BTreeMap;
use std::sync::Arc;

use jcm_model::{
    Change, Cluster, ClusterName, ClusterSpec, Head, Mutation, NodeId, NodeSpec, OperationId, Precondition,
    Revision, StoreId, TargetPolicy,
};
use jcm_proto::{Entry, Transaction};
use jcm_storage::{Snapshot, Store};
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) fn name(text: &str) -> ClusterName {
    ClusterName::parse(text).expect("a valid name")
}

pub(crate) fn node_id(text: &str) -> NodeId {
    NodeId::parse(text).expect("a valid node id")
}

pub(crate) fn operation(number: u64) -> OperationId {
    OperationId(Uuid::from_u128(u128::from(number)))
}

pub(crate) fn cluster(json: Value) -> Mutation {
    let spec: ClusterSpec = serde_json::from_value(json).expect("a valid cluster");
    Mutation::PutCluster(spec)
}

/// A node at an address of its own.
pub(crate) fn node(number: u32) -> Value {
    let [_, a, b, c] = number.to_be_bytes();
    json!({ "id": format!("n{number:06}"), "address": format!("10.{a}.{b}.{c}"), "ports": { "http": 8080 } })
}

pub(crate) fn put_nodes(numbers: impl IntoIterator<Item = u32>) -> Mutation {
    let spec = |number| serde_json::from_value::<NodeSpec>(node(number)).expect("a valid node");
    Mutation::PutNodes(numbers.into_iter().map(spec).collect())
}

/// What a store should hold: changes applied to a plain map.
#[derive(Debug, Default, Clone)]
pub(crate) struct Expected {
    pub(crate) head: Revision,
    pub(crate) clusters: BTreeMap<ClusterName, Arc<Cluster>>,
}

impl Expected {
    /// The change that a mutation makes here, applied. Every mutation of a test changes something.
    pub(crate) fn change(&mut self, cluster: &str, mutation: &Mutation) -> Change {
        let cluster = name(cluster);
        let change = mutation
            .change(
                &cluster,
                self.clusters.get(&cluster),
                Precondition::default(),
                self.head.next(),
                &TargetPolicy::default(),
            )
            .expect("the mutation holds")
            .expect("the mutation changes something");
        self.take(&change);
        change
    }

    /// Applies a change.
    pub(crate) fn take(&mut self, change: &Change) {
        self.head = change.revision;
        match change.apply(self.clusters.get(&change.cluster)) {
            Some(cluster) => self.clusters.insert(change.cluster.clone(), cluster),
            None => self.clusters.remove(&change.cluster),
        };
    }

    /// Mutates the store and this alike, in one transaction.
    pub(crate) async fn commit(&mut self, store: &dyn Store, mutations: &[(&str, Mutation)]) {
        let head = self.head;
        let changes = mutations.iter().map(|(cluster, mutation)| self.change(cluster, mutation)).collect();
        store.commit(transaction(changes), at(store.id(), head)).await.expect("the commit is acknowledged");
    }

    /// Asserts that a store holds exactly this.
    pub(crate) async fn expect_in(&self, store: &dyn Store) -> Snapshot {
        let snapshot = store.load().await.expect("the store loads");
        self.expect_equal(&snapshot);
        assert_eq!(snapshot.store, store.id());
        assert_eq!(store.head().await.expect("the store has a head"), at(store.id(), self.head));
        snapshot
    }

    pub(crate) fn expect_equal(&self, snapshot: &Snapshot) {
        assert_eq!(snapshot.revision, self.head);
        assert!(snapshot.quarantined.is_empty(), "quarantined: {:?}", snapshot.quarantined);
        let mut found = snapshot.clusters.clone();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        let expected: Vec<_> = self.clusters.values().cloned().collect();
        assert_eq!(found, expected);
    }
}

/// The head of a store at a revision.
pub(crate) fn at(store: StoreId, revision: Revision) -> Head {
    Head { store, revision }
}

/// A transaction of these changes, each of an operation of its own that is named by its revision.
pub(crate) fn transaction(changes: Vec<Change>) -> Arc<Transaction> {
    let entry = |change: Change| Entry {
        operation: operation(change.revision.0),
        fingerprint: change.revision.0 * 1_000,
        principal: "tester".to_owned(),
        created: matches!(change.effect, jcm_model::Effect::Updated { created: true, .. }),
        change,
    };
    Arc::new(Transaction { epoch: 1, entries: changes.into_iter().map(entry).collect() })
}

/// A transaction that creates a cluster of a few nodes on a head.
pub(crate) fn creation(cluster_name: &str, head: Revision) -> Arc<Transaction> {
    let mut expected = Expected { head, clusters: BTreeMap::new() };
    let change = expected.change(cluster_name, &cluster(json!({ "nodes": [node(1), node(2)] })));
    transaction(vec![change])
}
