//! The table of renewals. Pure: the time is told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Lease, LeaseId, NodeId, ServerId};

use super::{Renewals, Tie};
use crate::snapshot::Snapshot;

/// Renewals of nodes that no definition names are kept for so long: their definition may be on its way.
const UNKNOWN_KEPT_FOR: Duration = Duration::from_secs(30);

/// Servers hand on what was renewed several times a second: one that has not for so long is not heard,
const UNHEARD_AFTER: Duration = Duration::from_secs(1);

/// and is none any more after so long.
const LEFT_AFTER: Duration = Duration::from_mins(1);

/// Renewals of this server's own clients, or of all, beyond which only those of nodes that are there already are noted. What no
/// definition names is forgotten soon, so only somebody who invents names gets there.
const RENEWALS_MAX: usize = 400_000;

/// The last renewal of a node's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) lease: LeaseId,
    pub(crate) at: Instant,
    /// The server that its program is connected to.
    pub(crate) through: ServerId,
}

/// The latest renewals of one node. Two, because a process whose place another one took may go on with its lease for a while,
/// through a server that does not know better: that must not hide the renewals of the lease that stands.
#[derive(Debug)]
struct Latest {
    newest: Renewal,
    /// The newest one of another lease.
    other: Option<Renewal>,
}

impl Latest {
    fn of(&self, lease: LeaseId) -> Option<&Renewal> {
        std::iter::once(&self.newest).chain(&self.other).find(|renewal| renewal.lease == lease)
    }

    fn note(&mut self, renewal: Renewal) {
        let of_it = |held: &&mut Renewal| held.lease == renewal.lease;
        if let Some(held) = std::iter::once(&mut self.newest).chain(&mut self.other).find(of_it) {
            if held.at <= renewal.at {
                *held = renewal;
            }
        } else if self.newest.at > renewal.at {
            self.other = Some(renewal);
        } else {
            self.other = Some(std::mem::replace(&mut self.newest, renewal));
        }
    }
}

#[derive(Debug)]
struct Own {
    lease: LeaseId,
    at: Instant,
    /// It is among those that are to be handed on.
    is_fresh: bool,
    /// There for as long as the stream over which it was renewed last.
    stream: Weak<()>,
}

type ByNode<T> = HashMap<ClusterName, HashMap<NodeId, T>>;

#[derive(Debug)]
pub(super) struct Table {
    server: ServerId,
    /// Since when this process has run without a pause.
    running_since: Instant,
    /// What clients of this server renewed.
    own: ByNode<Own>,
    /// Which of it is to be handed on.
    fresh: Vec<(ClusterName, NodeId)>,
    /// The latest renewals of each node, through whichever server.
    latest: ByNode<Latest>,
    contacts: BTreeMap<ServerId, Instant>,
    own_count: usize,
    latest_count: usize,
}

impl Table {
    pub(super) fn new(server: ServerId, now: Instant) -> Self {
        Self {
            server,
            running_since: now,
            own: HashMap::new(),
            fresh: Vec::new(),
            latest: HashMap::new(),
            contacts: BTreeMap::new(),
            own_count: 0,
            latest_count: 0,
        }
    }

    /// A client of this server renewed a lease.
    pub(super) fn keep(
        &mut self,
        tie: &Tie,
        cluster: &ClusterName,
        node: &NodeId,
        lease: LeaseId,
        now: Instant,
    ) {
        let stream = Arc::downgrade(&tie.0);
        let held = self.own.get_mut(cluster).and_then(|nodes| nodes.get_mut(node));
        let was_fresh = match held {
            Some(own) => {
                let was_fresh = std::mem::replace(&mut own.is_fresh, true);
                (own.lease, own.at, own.stream) = (lease, now, stream);
                was_fresh
            }
            None if self.own_count >= RENEWALS_MAX => return,
            None => {
                let own = Own { lease, at: now, is_fresh: true, stream };
                self.own.entry(cluster.clone()).or_default().insert(node.clone(), own);
                self.own_count += 1;
                false
            }
        };
        if !was_fresh {
            self.fresh.push((cluster.clone(), node.clone()));
        }
        let through = self.server.clone();
        self.note(cluster, node, Renewal { lease, at: now, through });
    }

    /// What was renewed here since the last time.
    pub(super) fn take_fresh(&mut self) -> Renewals {
        let mut batch = Renewals::new();
        for (cluster, node) in std::mem::take(&mut self.fresh) {
            let own = self.own.get_mut(&cluster).and_then(|nodes| nodes.get_mut(&node));
            let Some(own) = own else { continue };
            own.is_fresh = false;
            let renewal = (node, own.lease, own.at);
            batch.entry(cluster).or_default().push(renewal);
        }
        batch
    }

    pub(super) fn own(&self) -> Renewals {
        let list = |nodes: &HashMap<NodeId, Own>| {
            nodes.iter().map(|(node, own)| (node.clone(), own.lease, own.at)).collect()
        };
        self.own.iter().map(|(cluster, nodes)| (cluster.clone(), list(nodes))).collect()
    }

    /// How many leases are kept over streams that go on. Their programs may have let their time pass.
    pub(super) fn kept_count(&self) -> usize {
        let kept = |own: &&Own| own.stream.strong_count() > 0;
        self.own.values().flat_map(HashMap::values).filter(kept).count()
    }

    pub(super) fn hear(&mut self, from: &ServerId, renewals: &Renewals) {
        for (cluster, renewals) in renewals {
            for (node, lease, at) in renewals {
                let renewal = Renewal { lease: *lease, at: *at, through: from.clone() };
                self.note(cluster, node, renewal);
            }
        }
    }

    fn note(&mut self, cluster: &ClusterName, node: &NodeId, renewal: Renewal) {
        match self.latest.get_mut(cluster).and_then(|nodes| nodes.get_mut(node)) {
            Some(latest) => latest.note(renewal),
            None if self.latest_count >= RENEWALS_MAX => {}
            None => {
                self.latest
                    .entry(cluster.clone())
                    .or_default()
                    .insert(node.clone(), Latest { newest: renewal, other: None });
                self.latest_count += 1;
            }
        }
    }

    pub(super) fn contact(&mut self, from: &ServerId, now: Instant) {
        self.contacts.insert(from.clone(), now);
    }

    pub(super) fn contacts(&self) -> &BTreeMap<ServerId, Instant> {
        &self.contacts
    }

    /// The last renewal of this lease of the node.
    pub(super) fn renewal(&self, cluster: &ClusterName, node: &NodeId, lease: LeaseId) -> Option<&Renewal> {
        self.latest.get(cluster)?.get(node)?.of(lease)
    }

    /// Whether the lease was renewed within its time, through whichever server, or may have been: while this one did not run, or
    /// through one that it does not hear.
    pub(super) fn may_be_kept(
        &self,
        cluster: &ClusterName,
        node: &NodeId,
        lease: &Lease,
        now: Instant,
    ) -> bool {
        let is_within = |at: Instant| now.saturating_duration_since(at) < lease.ttl();
        let renewal = self.renewal(cluster, node, lease.id());
        let is_unheard = |at: &Instant| {
            let silent_for = now.saturating_duration_since(*at);
            silent_for > UNHEARD_AFTER && silent_for < lease.ttl() + LEFT_AFTER
        };
        is_within(self.running_since)
            || renewal.is_some_and(|renewal| is_within(renewal.at))
            || self.contacts.values().any(is_unheard)
    }

    /// Since when this process has run without a pause.
    pub(super) fn running_since(&self) -> Instant {
        self.running_since
    }

    /// What was renewed before it began to run, or during a pause, a server does not know: for a whole time from then on
    /// it may hold everything. What was renewed over a stream that has ended it does not hold: its program is gone, or elsewhere.
    pub(super) fn holds(&self, cluster: &ClusterName, node: &NodeId, lease: &Lease, now: Instant) -> bool {
        let is_within = |at: Instant| now.saturating_duration_since(at) < lease.ttl();
        let own = self.own.get(cluster).and_then(|nodes| nodes.get(node));
        let is_held =
            |own: &Own| own.lease == lease.id() && is_within(own.at) && own.stream.strong_count() > 0;
        is_within(self.running_since) || own.is_some_and(is_held)
    }

    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.running_since = now;
    }

    /// Forgets what no definition names, and what is of another lease than the one that is defined.
    pub(super) fn tidy(&mut self, snapshot: &Snapshot, now: Instant) {
        let defined = |cluster: &ClusterName, node: &NodeId| {
            let node = snapshot.clusters.get(cluster)?.node(node)?;
            node.attributes.lease().map(Lease::id)
        };
        let counts = |cluster: &ClusterName, node: &NodeId, lease: LeaseId, at: Instant| {
            defined(cluster, node) == Some(lease) || now.saturating_duration_since(at) < UNKNOWN_KEPT_FOR
        };
        for (cluster, nodes) in &mut self.own {
            nodes.retain(|node, own| counts(cluster, node, own.lease, own.at));
        }
        self.own.retain(|_, nodes| !nodes.is_empty());
        for (cluster, nodes) in &mut self.latest {
            nodes.retain(|node, Latest { newest, other }| {
                if let Some(kept) = other.take_if(|_| !counts(cluster, node, newest.lease, newest.at)) {
                    *newest = kept;
                }
                other.take_if(|other| !counts(cluster, node, other.lease, other.at));
                counts(cluster, node, newest.lease, newest.at)
            });
        }
        self.latest.retain(|_, nodes| !nodes.is_empty());
        self.own_count = self.own.values().map(HashMap::len).sum();
        self.latest_count = self.latest.values().map(HashMap::len).sum();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, LazyLock};

    use imbl::OrdMap;
    use jcm_model::{Cluster, Edit, Mutation, Precondition, Revision, StoreId, TargetPolicy};
    use serde_json::{Value, json};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A stream that never ends.
    static TIE: LazyLock<Tie> = LazyLock::new(Tie::default);

    pub(crate) fn cluster_name() -> ClusterName {
        ClusterName::parse("orders").unwrap()
    }

    pub(crate) fn node_id(id: &str) -> NodeId {
        NodeId::parse(id).unwrap()
    }

    pub(crate) fn lease_id(n: u8) -> LeaseId {
        LeaseId::new([n; 16])
    }

    /// A node as it is written, with a lease of ten seconds where one is named.
    pub(crate) fn leased(id: &str, lease: Option<u8>) -> Value {
        let port = 10_000 + id.bytes().map(u16::from).sum::<u16>();
        let mut node = json!({ "id": id, "address": "127.0.0.1", "ports": { "http": port } });
        if let Some(lease) = lease {
            node["lease"] = json!({ "id": lease_id(lease), "ttl": "10s" });
        }
        node
    }

    pub(crate) fn cluster(revision: u64, spec: Value) -> Arc<Cluster> {
        let put = Mutation::PutCluster(serde_json::from_value(spec).unwrap());
        let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
        let change = put.change(&cluster_name(), None, Precondition::default(), Revision(revision), &targets);
        let mut edit = Edit::new(None);
        edit.apply(&change.unwrap().unwrap());
        edit.to_cluster().unwrap()
    }

    pub(crate) fn snapshot(revision: u64, nodes: &[Value]) -> Snapshot {
        let cluster = cluster(revision, json!({ "nodes": nodes }));
        Snapshot {
            store: StoreId(uuid::Uuid::from_u128(1)),
            revision: Revision(revision),
            clusters: OrdMap::unit(cluster_name(), cluster),
            quarantined: OrdMap::new(),
        }
    }

    fn server(id: &str) -> ServerId {
        ServerId::parse(id).unwrap()
    }

    fn table() -> (Table, Instant) {
        let start = Instant::now();
        (Table::new(server("s1"), start), start)
    }

    #[test]
    fn what_was_renewed_is_handed_on_once_with_its_latest_moment() {
        let (mut table, start) = table();
        for seconds in 0..3 {
            table.keep(&TIE, &cluster_name(), &node_id("n1"), lease_id(1), start + seconds * SECOND);
        }
        table.keep(&TIE, &cluster_name(), &node_id("n2"), lease_id(2), start);
        let expected =
            vec![(node_id("n1"), lease_id(1), start + 2 * SECOND), (node_id("n2"), lease_id(2), start)];
        assert_eq!(table.take_fresh(), Renewals::from([(cluster_name(), expected)]));
        assert!(table.take_fresh().is_empty());
        table.keep(&TIE, &cluster_name(), &node_id("n2"), lease_id(2), start + 3 * SECOND);
        assert_eq!(table.take_fresh()[&cluster_name()].len(), 1);
        assert_eq!(table.own()[&cluster_name()].len(), 2, "all of it is told to who begins to follow");
    }

    #[test]
    fn the_later_renewal_counts_through_whichever_server() {
        let (mut table, start) = table();
        let told = |at| Renewals::from([(cluster_name(), vec![(node_id("n1"), lease_id(1), at)])]);
        table.keep(&TIE, &cluster_name(), &node_id("n1"), lease_id(1), start + 2 * SECOND);
        table.hear(&server("s2"), &told(start + SECOND));
        let renewal =
            |table: &Table| table.renewal(&cluster_name(), &node_id("n1"), lease_id(1)).unwrap().clone();
        assert_eq!(renewal(&table).through, server("s1"));
        table.hear(&server("s2"), &told(start + 3 * SECOND));
        assert_eq!((renewal(&table).through, renewal(&table).at), (server("s2"), start + 3 * SECOND));
        assert!(table.take_fresh()[&cluster_name()].iter().all(|(_, _, at)| *at == start + 2 * SECOND));
    }

    #[test]
    fn a_process_that_lost_its_place_does_not_hide_the_one_that_has_it() {
        let (mut table, start) = table();
        let (name, node) = (cluster_name(), node_id("n1"));
        let at = |table: &Table, lease| table.renewal(&name, &node, lease_id(lease)).map(|found| found.at);
        table.keep(&TIE, &name, &node, lease_id(2), start);
        table.keep(&TIE, &name, &node, lease_id(1), start + SECOND);
        assert_eq!((at(&table, 1), at(&table, 2)), (Some(start + SECOND), Some(start)));
        table.keep(&TIE, &name, &node, lease_id(2), start + 2 * SECOND);
        table.keep(&TIE, &name, &node, lease_id(1), start + 3 * SECOND);
        assert_eq!(at(&table, 2), Some(start + 2 * SECOND));
        // The oldest of three gives way.
        table.keep(&TIE, &name, &node, lease_id(3), start + 4 * SECOND);
        assert_eq!((at(&table, 3), at(&table, 1)), (Some(start + 4 * SECOND), Some(start + 3 * SECOND)));
        table.tidy(&snapshot(1, &[leased("n1", Some(1))]), start + 4 * SECOND + UNKNOWN_KEPT_FOR);
        assert_eq!((at(&table, 1), at(&table, 3)), (Some(start + 3 * SECOND), None));
    }

    #[test]
    fn a_lease_may_be_kept_while_a_renewal_lasts_or_may_have_been_missed() {
        let (mut table, start) = table();
        let lease = Lease::new(lease_id(1), 10 * SECOND).unwrap();
        let kept = |table: &Table, at| table.may_be_kept(&cluster_name(), &node_id("n1"), &lease, at);
        assert!(kept(&table, start + 9 * SECOND), "it began just now");
        assert!(!kept(&table, start + 10 * SECOND));
        let told =
            Renewals::from([(cluster_name(), vec![(node_id("n1"), lease_id(1), start + 10 * SECOND)])]);
        table.hear(&server("s2"), &told);
        assert!(kept(&table, start + 19 * SECOND));
        assert!(!kept(&table, start + 20 * SECOND));
    }

    #[test]
    fn a_server_holds_what_it_may_have_missed() {
        let (mut table, start) = table();
        let lease = Lease::new(lease_id(1), 10 * SECOND).unwrap();
        let holds = |table: &Table, at| table.holds(&cluster_name(), &node_id("n1"), &lease, at);
        assert!(holds(&table, start + 9 * SECOND), "it began just now");
        assert!(!holds(&table, start + 10 * SECOND));
        table.keep(&TIE, &cluster_name(), &node_id("n1"), lease_id(1), start + 10 * SECOND);
        assert!(holds(&table, start + 19 * SECOND));
        assert!(!holds(&table, start + 20 * SECOND));
        table.keep(&TIE, &cluster_name(), &node_id("n1"), lease_id(2), start + 20 * SECOND);
        assert!(!holds(&table, start + 21 * SECOND), "another lease of the same node");
        table.hear(
            &server("s2"),
            &Renewals::from([(cluster_name(), vec![(node_id("n1"), lease_id(1), start + 21 * SECOND)])]),
        );
        assert!(!holds(&table, start + 21 * SECOND), "what others hold is for them to say");
        table.begin_anew(start + 30 * SECOND);
        assert!(holds(&table, start + 39 * SECOND), "it stood still until then");
    }

    #[test]
    fn a_server_does_not_hold_what_was_renewed_over_a_stream_that_has_ended() {
        let (mut table, start) = table();
        let lease = Lease::new(lease_id(1), 10 * SECOND).unwrap();
        let now = start + 20 * SECOND;
        let holds = |table: &Table| table.holds(&cluster_name(), &node_id("n1"), &lease, now);
        let (before, after) = (Tie::default(), Tie::default());
        table.keep(&before, &cluster_name(), &node_id("n1"), lease_id(1), now);
        assert!(holds(&table));
        // It came over another one before the first has ended.
        table.keep(&after, &cluster_name(), &node_id("n1"), lease_id(1), now);
        drop(before);
        assert!(holds(&table));
        assert_eq!(table.kept_count(), 1);
        drop(after);
        assert!(!holds(&table));
        assert_eq!(table.kept_count(), 0);
        let renewal = table.renewal(&cluster_name(), &node_id("n1"), lease_id(1));
        assert_eq!(renewal.map(|renewal| renewal.at), Some(now), "it was renewed all the same");
    }

    #[test]
    fn what_is_not_defined_is_forgotten_after_a_while() {
        let (mut table, start) = table();
        let snapshot = snapshot(1, &[leased("n1", Some(1)), leased("n2", Some(2))]);
        for (node, lease) in [("n1", 1), ("n2", 1), ("n3", 1)] {
            table.keep(&TIE, &cluster_name(), &node_id(node), lease_id(lease), start);
        }
        table.tidy(&snapshot, start + SECOND);
        assert_eq!((table.own_count, table.latest_count), (3, 3), "a definition may be on its way");
        table.tidy(&snapshot, start + UNKNOWN_KEPT_FOR);
        assert_eq!((table.own_count, table.latest_count), (1, 1));
        assert!(table.renewal(&cluster_name(), &node_id("n1"), lease_id(1)).is_some());
        // What was to be handed on of it is no more.
        assert_eq!(table.take_fresh()[&cluster_name()].len(), 1);
    }
}
