//! Leases: what programs that registered themselves renew, and who knows of it. Soft state only: nothing of it is stored,
//! and none of it outlives this process.
//!
//! A program renews over the watch stream, through whichever server it is connected to. That server notes it, and tells every
//! server that follows it (see `peers/follow.rs`), a few times a second and in its place among the heartbeats. So each server
//! knows of every renewal, whoever checks the node next: a node that changes its checker loses nothing.
//!
//! What follows from it is decided elsewhere: the checker judges the nodes whose check is their lease
//! (`checker/leased.rs`), and the leader clears nodes away that nobody renews any more (`clearing.rs`).
//!
//! Invariant: everything is in one table with one lock, which is held for as long as it takes to note or to look up, and never
//! across an `.await`.

mod contact;
mod lapse;
mod standing;
mod table;
mod vacancy;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jcm_model::lease::TTL_MIN;
use jcm_model::{ClusterName, Lapsed, Lease, LeaseId, NodeId, ServerId};
use jcm_proto::v1;
use tokio::sync::broadcast;

use crate::snapshot::Snapshot;
pub(crate) use contact::{Around, Holders};
pub(crate) use lapse::{Look, Watch};
pub(crate) use standing::Kept;
use standing::standing;
pub(crate) use table::Renewal;
use table::Table;
#[cfg(test)]
pub(crate) use table::tests;
pub(crate) use vacancy::{Claims, Vacancies, Vacant};

/// Batches that a follower may be behind before it is told all again: some seconds' worth.
const BATCHES_MAX: usize = 32;

/// Renewals of this server's own clients, with the moment of each.
pub(crate) type Renewals = BTreeMap<ClusterName, Vec<(NodeId, LeaseId, Instant)>>;

/// What ties leases to the stream over which a program keeps them. Once that has ended this server holds them no more: a
/// program that lives keeps them elsewhere at once.
#[derive(Debug, Default)]
pub(crate) struct Tie(Arc<()>);

/// What this server knows of leases: a handle, of which all copies are the same.
#[derive(Debug, Clone)]
pub(crate) struct Leases(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    table: Mutex<Table>,
    batches: broadcast::Sender<Arc<Renewals>>,
    vacancies: Vacancies,
}

impl Leases {
    pub(crate) fn new(server: ServerId, now: Instant) -> Self {
        let table = Mutex::new(Table::new(server, now));
        let (batches, vacancies) = (broadcast::Sender::new(BATCHES_MAX), Vacancies::default());
        Self(Arc::new(Shared { table, batches, vacancies }))
    }

    /// Whose place another program may have.
    pub(crate) fn vacancies(&self) -> Vacancies {
        self.0.vacancies.clone()
    }

    /// A program wants to be where this node is: see [`Vacancies::claim`]. What was found counts only while nothing was heard since
    /// of whoever has the place, and this process has not stood still.
    pub(crate) fn claim(&self, cluster: &ClusterName, node: &NodeId, now: Instant) -> Option<(Lapsed, u64)> {
        let (lapsed, epoch, looked_at) = self.0.vacancies.claim(cluster, node, now)?;
        let table = self.table();
        let renewal = table.renewal(cluster, node, lapsed.lease);
        // No lease lasts for less than this: what was renewed so long before was looked at.
        let is_heard = renewal.is_some_and(|renewal| renewal.at + TTL_MIN > looked_at);
        (!is_heard && table.running_since() <= looked_at).then_some((lapsed, epoch))
    }

    /// A client says that it keeps these leases, over the stream of that tie. Answers those that are not there.
    pub(crate) fn keep(
        &self,
        tie: &Tie,
        kept: Vec<Kept>,
        snapshot: &Snapshot,
        now: Instant,
    ) -> Vec<v1::watch_response::LostLease> {
        let mut lost = Vec::new();
        let mut renewed = Vec::with_capacity(kept.len());
        let mut table = self.table();
        for kept in kept {
            let may_be_kept = |lease: &Lease| table.may_be_kept(&kept.cluster, &kept.node, lease, now);
            match standing(&kept, snapshot, may_be_kept) {
                None => renewed.push(kept),
                Some(reason) => lost.push(kept.lost(reason)),
            }
        }
        metrics::counter!("jcm_lease_renewals_total").increment(renewed.len() as u64);
        for kept in renewed {
            table.keep(tie, &kept.cluster, &kept.node, kept.lease, now);
        }
        lost
    }

    /// Where batches of renewals come, for whoever follows.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Renewals>> {
        self.0.batches.subscribe()
    }

    /// Publishes what was renewed here since the last time.
    pub(crate) fn hand_on(&self) {
        let mut table = self.table();
        let batch = table.take_fresh();
        if !batch.is_empty() {
            // Under the lock, so that batches come in the order in which they were taken. Nobody may follow.
            let _ = self.0.batches.send(Arc::new(batch));
        }
    }

    /// All that was renewed here, as far as it may still count.
    pub(crate) fn own(&self) -> Renewals {
        self.table().own()
    }

    /// Another server says what was renewed through it.
    pub(crate) fn hear(&self, from: &ServerId, renewals: &Renewals) {
        self.table().hear(from, renewals);
    }

    /// All that the server handed on up to now is here.
    pub(crate) fn contact(&self, from: &ServerId, now: Instant) {
        self.table().contact(from, now);
    }

    /// When each other server was heard last, as far as its renewals go.
    pub(crate) fn contacts(&self) -> BTreeMap<ServerId, Instant> {
        self.table().contacts().clone()
    }

    /// Looks at many nodes in one go.
    pub(crate) fn look_up(
        &self,
        mut look: impl FnMut(&dyn Fn(&ClusterName, &NodeId, LeaseId) -> Option<Renewal>),
    ) {
        let table = self.table();
        look(&|cluster, node, lease| table.renewal(cluster, node, lease).cloned());
    }

    /// The last renewal of a node's lease, through whichever server.
    pub(crate) fn renewal(&self, cluster: &ClusterName, node: &NodeId, lease: LeaseId) -> Option<Renewal> {
        self.table().renewal(cluster, node, lease).cloned()
    }

    /// Whether a client of this server renewed the lease within its time, and its stream goes on; or that may be so.
    pub(crate) fn holds(&self, cluster: &ClusterName, node: &NodeId, lease: &Lease, now: Instant) -> bool {
        self.table().holds(cluster, node, lease, now)
    }

    /// This process stood still, or just begins: whatever was renewed meanwhile, it does not know.
    pub(crate) fn begin_anew(&self, now: Instant) {
        self.table().begin_anew(now);
    }

    /// Forgets what no definition names any more.
    pub(crate) fn tidy(&self, snapshot: &Snapshot, now: Instant) {
        let mut table = self.table();
        table.tidy(snapshot, now);
        metrics::gauge!("jcm_leases_kept_here").set(u32::try_from(table.kept_count()).unwrap_or(u32::MAX));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
