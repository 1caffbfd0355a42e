//! Which nodes are checked here: worked out anew whenever something changes that it follows from, and seen to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use jcm_health::ring::Place;
use jcm_model::{CheckKind, Cluster, ClusterName, Node, NodeId, ServerId, Timestamp};
use tracing::debug;

use super::Checker;
use super::duty::Seen;
use crate::peers::SILENT_AFTER;

impl Checker {
    /// Looks at the ring, at who is heard, and at the store.
    pub(super) fn look(&mut self) {
        let roster = Arc::clone(&self.around.roster.borrow_and_update());
        let liveness = Arc::clone(&self.around.liveness.borrow_and_update());
        let seen = Seen {
            silences: liveness.others().map(|server| (server.clone(), liveness.silence(server))).collect(),
            silent_after: SILENT_AFTER,
            store_is_out: self.around.store_stale_since.borrow_and_update().is_some(),
            draining: self.around.peers.standing().draining,
            latest_epoch: self.latest_epoch,
        };
        self.duty.observe(&roster.ring, seen, Instant::now());
        self.remark();
        if self.duty.signature(&self.intervals) != self.assessed {
            self.assess_everything();
        }
    }

    /// Works out for every node whose turn it is. Some milliseconds for twenty thousand nodes; those that stay are not
    /// touched.
    pub(super) fn assess_everything(&mut self) {
        let clusters = self.defined.clone();
        let checked = || clusters.values().filter(|cluster| cluster.is_checked());
        self.intervals = checked().map(|cluster| cluster.check.interval).collect();
        self.assessed = self.duty.signature(&self.intervals);
        let (before, started) = (self.records.len(), Instant::now());
        for cluster in checked() {
            for node in &cluster.nodes {
                self.assess(cluster, node);
            }
        }
        self.count();
        self.shown.duty.send_replace(Arc::new(self.duty.clone()));
        debug!(
            ring_epoch = self.duty.ring().epoch(),
            servers = self.duty.ring().servers().len(),
            checked_before = before,
            checked = self.records.len(),
            micros = started.elapsed().as_micros(),
            "checks shared out"
        );
    }

    /// Takes the node over, keeps it or lets it go, as its turn is.
    pub(super) fn assess(&mut self, cluster: &Cluster, node: &Node) {
        if !cluster.is_checked() {
            self.forget(&cluster.name, &node.id);
            return;
        }
        let held = self.views.judged(&cluster.name, &node.id);
        let stamp = held.as_ref().map(|held| &held.stamp);
        let is_checked = self.records.key(&cluster.name, &node.id).is_some()
            || self.leased.contains(&cluster.name, &node.id);
        let place = Place::of(&cluster.name, &node.id);
        if !self.duty.is_mine(place, cluster.check.interval, stamp, is_checked) {
            self.forget(&cluster.name, &node.id);
            return;
        }
        if !is_checked && self.duty.ring().owner(&cluster.name, &node.id).is_some_and(|id| *id != self.server)
        {
            self.shown.takeovers.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("jcm_takeovers_total").increment(1);
        }
        if cluster.check.kind == CheckKind::Lease {
            self.records.forget(&cluster.name, &node.id);
            self.leased.keep(cluster, node, held, Instant::now());
        } else {
            self.leased.forget(&cluster.name, &node.id);
            self.records.keep(cluster, node, || held);
        }
    }

    pub(super) fn assess_by_name(&mut self, cluster: &ClusterName, node: &NodeId) {
        if let Some(cluster) = self.defined.get(cluster).cloned()
            && let Some(node) = cluster.node(node)
        {
            self.assess(&cluster, node);
        }
    }

    /// Says how many nodes are checked here.
    pub(super) fn count(&self) {
        let count = self.records.len() + self.leased.len();
        self.shown.owned.store(count, Ordering::Relaxed);
        metrics::gauge!("jcm_nodes_checked").set(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// Notes on the board which verdicts are the last ones of a server that is not heard, or no longer so.
    fn remark(&mut self) {
        let silent = self.silent_since();
        let heard: BTreeSet<ServerId> = self.duty.heard().cloned().collect();
        let is_news = |server: &&ServerId| self.silent.contains(*server) != silent.contains_key(*server);
        let changed: BTreeMap<ServerId, Option<Timestamp>> = silent
            .keys()
            .chain(&heard)
            .filter(|server| is_news(server) || !self.remarked.contains(*server))
            .map(|server| (server.clone(), silent.get(server).copied()))
            .collect();
        if changed.is_empty() {
            return;
        }
        self.views.remark(&changed);
        self.remarked = silent.keys().cloned().chain(heard).collect();
        self.silent = silent.into_keys().collect();
    }

    /// The servers that are not heard, and since when.
    pub(super) fn silent_since(&self) -> BTreeMap<ServerId, Timestamp> {
        let now = Timestamp::now();
        let since = |(server, silence)| (server, now.checked_sub(silence).unwrap_or(now));
        self.duty.silent().into_iter().map(since).collect()
    }
}
