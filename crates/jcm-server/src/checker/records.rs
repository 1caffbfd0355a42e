//! The records of all nodes that are checked here, and the engine that probes them.
//!
//! Invariant: the engine has a target for each record and no other. One whose node is still reached and asked in the
//! same way is not touched, so that neither its connection nor its place in the schedule is lost.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use jcm_health::{Engine, Report, Target, TargetKey};
use jcm_model::{Cluster, ClusterName, Judged, Node, NodeId, ServerId};
use slab::Slab;

use super::record::Record;

/// What is known by the key of a node. Keys are given out here, so nobody can choose ones that collide, and several of
/// these are asked for every result.
pub(super) type KeyMap<V> = HashMap<TargetKey, V, foldhash::fast::RandomState>;

/// The same of keys alone.
pub(super) type KeySet = HashSet<TargetKey, foldhash::fast::RandomState>;

/// The records of all nodes that are checked here.
pub(super) struct Records {
    server: ServerId,
    engine: Arc<dyn Engine>,
    /// Each in the place that its key names, so that a report finds its record without hashing. Boxed, because records
    /// are large and a slab is up to half empty.
    by_place: Slab<Box<Record>>,
    keys: HashMap<ClusterName, HashMap<NodeId, TargetKey>>,
    /// How many nodes there ever were: places are used again, keys never are.
    keys_given: u32,
}

impl Records {
    pub(super) fn new(server: ServerId, engine: Arc<dyn Engine>) -> Self {
        Self { server, engine, by_place: Slab::new(), keys: HashMap::new(), keys_given: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) fn key(&self, cluster: &ClusterName, node: &NodeId) -> Option<TargetKey> {
        self.keys.get(cluster)?.get(node).copied()
    }

    pub(super) fn by_key(&self, key: TargetKey) -> Option<&Record> {
        self.by_place.get(place(key)).map(Box::as_ref).filter(|record| record.key == key)
    }

    pub(super) fn by_key_mut(&mut self, key: TargetKey) -> Option<&mut Record> {
        self.by_place.get_mut(place(key)).map(Box::as_mut).filter(|record| record.key == key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = TargetKey> {
        self.by_place.iter().map(|(_, record)| record.key)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Record> {
        self.by_place.iter_mut().map(|(_, record)| record.as_mut())
    }

    /// Rounds that the engine began later than by their interval, since its start.
    pub(super) fn overdue_rounds(&self) -> u64 {
        self.engine.stats().overdue_rounds
    }

    /// The record that a report is about, unless that was of an earlier form of the target.
    pub(super) fn reported(&mut self, report: &Report) -> Option<&mut Record> {
        self.by_key_mut(report.key).filter(|record| record.generation == report.generation)
    }

    /// To be called before records are looked at one after the other: they lie anywhere in memory, and what is read of
    /// all of them here is waited for together.
    pub(super) fn warm(&self, reports: &[Report]) {
        let records = reports.iter().filter_map(|report| self.by_key(report.key));
        std::hint::black_box(records.filter(|record| record.warm()).count());
    }

    /// Clusters of which some node is checked here.
    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.keys.keys()
    }

    /// Nodes of a cluster that are checked here.
    pub(super) fn nodes(&self, cluster: &ClusterName) -> impl Iterator<Item = &NodeId> {
        self.keys.get(cluster).into_iter().flat_map(HashMap::keys)
    }

    /// Checks the node from now on, as it is defined now. `held` is asked for the verdict that stands, where the node
    /// in this form was not checked here before.
    pub(super) fn keep(&mut self, cluster: &Cluster, node: &Node, held: impl FnOnce() -> Option<Judged>) {
        let port = node.port(cluster.check.port.as_deref()).filter(|_| cluster.is_checked());
        let Some(port) = port else {
            self.forget(&cluster.name, &node.id);
            return;
        };
        let birth = cluster.birth(node);
        let key = match self.keys.get(&cluster.name).and_then(|keys| keys.get(&node.id)) {
            Some(key) => *key,
            None => self.add(cluster, node),
        };
        let record = self.by_place.get_mut(place(key)).expect("every key has its record");
        let is_new = record.generation == 0 || record.birth != birth;
        if !is_new && Arc::ptr_eq(&record.check, &cluster.check) {
            return;
        }
        let mut is_taken_over = false;
        if is_new {
            record.begin(birth);
            if let Some(held) = held().filter(|held| held.birth == birth) {
                is_taken_over = held.stamp.server != self.server;
                record.resume(&held);
            }
        } else if *record.check != *cluster.check {
            record.judge.repolicy(&cluster.check);
        }
        let same_target = !is_new && *record.check == *cluster.check;
        record.check = Arc::clone(&cluster.check);
        if same_target {
            return;
        }
        record.generation += 1;
        let target = Target {
            key,
            address: SocketAddr::new(node.address, port),
            check: Arc::clone(&cluster.check),
            generation: record.generation,
        };
        if is_taken_over {
            self.engine.take_over(target);
        } else {
            self.engine.set(target);
        }
    }

    /// Another server judged the node after this one did: what it found stands until results of this one turn it or
    /// agree with it.
    pub(super) fn overrule(&mut self, cluster: &ClusterName, node: &NodeId, held: &Judged) {
        let key = self.keys.get(cluster).and_then(|keys| keys.get(node));
        if let Some(record) = key.and_then(|key| self.by_place.get_mut(place(*key))) {
            record.overrule(held);
        }
    }

    /// Checks the node no longer.
    pub(super) fn forget(&mut self, cluster: &ClusterName, node: &NodeId) {
        let Some(keys) = self.keys.get_mut(cluster) else {
            return;
        };
        if let Some(key) = keys.remove(node) {
            self.engine.remove(key);
            self.by_place.remove(place(key));
        }
        if keys.is_empty() {
            self.keys.remove(cluster);
        }
    }

    /// Checks no node of the cluster any longer.
    pub(super) fn forget_cluster(&mut self, cluster: &ClusterName) {
        for key in self.keys.remove(cluster).into_iter().flat_map(HashMap::into_values) {
            self.engine.remove(key);
            self.by_place.remove(place(key));
        }
    }

    fn add(&mut self, cluster: &Cluster, node: &Node) -> TargetKey {
        self.keys_given = self.keys_given.wrapping_add(1);
        let vacant = self.by_place.vacant_entry();
        let place = u32::try_from(vacant.key()).expect("nodes are fewer than 2³²");
        let key = TargetKey((u64::from(self.keys_given) << 32) | u64::from(place));
        vacant.insert(Box::new(Record::new(
            key,
            cluster.name.clone(),
            node.id.clone(),
            cluster.birth(node),
            Arc::clone(&cluster.check),
        )));
        self.keys.entry(cluster.name.clone()).or_default().insert(node.id.clone(), key);
        key
    }
}

/// The place of the record in the slab: the lower half of its key.
fn place(key: TargetKey) -> usize {
    usize::try_from(key.0 & u64::from(u32::MAX)).expect("a place is an index")
}
