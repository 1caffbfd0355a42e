//! What the board holds, by the server that stamped it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use jcm_model::{ClusterName, Head, Judged, NodeId, ServerId, StoreId};
use xxhash_rust::xxh3::Xxh3;

use crate::convergence::Count;
use crate::views::{Verdicts, Views};

/// Reads the board for the other servers.
#[derive(Debug)]
pub(super) struct Stock {
    views: Arc<Views>,
    /// As they were at a publication: with many followers, nothing is summed up twice.
    digests: Mutex<Option<(u64, Arc<Digests>)>>,
}

/// One sum for each server that stamped what the board holds.
#[derive(Debug)]
pub(super) struct Digests {
    pub(super) store: StoreId,
    pub(super) by_server: BTreeMap<ServerId, u64>,
}

/// All that some servers stamped.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) store: StoreId,
    pub(super) verdicts: Verdicts,
}

impl Stock {
    pub(super) fn new(views: Arc<Views>) -> Self {
        Self { views, digests: Mutex::new(None) }
    }

    /// The store whose definitions are on the board.
    pub(super) fn store(&self) -> StoreId {
        self.views.snapshot().store
    }

    /// How many subscribers of the cluster hold this revision, on this server.
    pub(super) fn subscribers(&self, cluster: &ClusterName, wanted: Head) -> Count {
        self.views.count(cluster, wanted)
    }

    /// The digests of all that stands on the board. Two boards have the same digest of a server when they hold the same
    /// verdicts of it.
    pub(super) async fn digests(self: &Arc<Self>) -> Arc<Digests> {
        let stock = Arc::clone(self);
        off_the_reactor(move || stock.sum_up()).await
    }

    /// Every verdict on the board that these servers stamped.
    pub(super) async fn whole(self: &Arc<Self>, servers: BTreeSet<ServerId>) -> Whole {
        let views = Arc::clone(&self.views);
        let read = move || {
            let clusters = views.verdicts(|cluster, verdicts| {
                let wanted = verdicts.filter(|(_, judged)| servers.contains(&judged.stamp.server));
                (cluster.clone(), wanted.map(|(id, judged)| (id.clone(), judged.clone())).collect::<Vec<_>>())
            });
            clusters.into_iter().filter(|(_, verdicts)| !verdicts.is_empty()).collect()
        };
        let (store, verdicts) = off_the_reactor({
            let views = Arc::clone(&self.views);
            move || of_one_store(&views, read)
        })
        .await;
        Whole { store, verdicts }
    }

    fn sum_up(&self) -> Arc<Digests> {
        let mut kept = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        // Read first: what is summed up holds this publication, if not a later one.
        let sequence = self.views.sequence();
        if let Some((of, digests)) = &*kept
            && *of == sequence
        {
            return Arc::clone(digests);
        }
        let (store, clusters) = of_one_store(&self.views, || self.views.verdicts(of_cluster));
        let mut by_server = BTreeMap::<ServerId, u64>::new();
        for (server, digest) in clusters.into_iter().flatten() {
            let sum = by_server.entry(server).or_default();
            *sum = sum.wrapping_add(digest);
        }
        let digests = Arc::new(Digests { store, by_server });
        *kept = Some((sequence, Arc::clone(&digests)));
        digests
    }
}

/// What was read, and the store that it belongs to: after a restore both change together.
fn of_one_store<T>(views: &Views, read: impl Fn() -> T) -> (StoreId, T) {
    loop {
        let store = views.snapshot().store;
        let value = read();
        if views.snapshot().store == store {
            return (store, value);
        }
    }
}

/// Sums that do not depend on the order, one for each server.
fn of_cluster(
    cluster: &ClusterName,
    verdicts: &mut dyn Iterator<Item = (&NodeId, &Judged)>,
) -> BTreeMap<ServerId, u64> {
    let mut sums = BTreeMap::<ServerId, u64>::new();
    let mut hasher = Xxh3::new();
    for (node, judged) in verdicts {
        let stamp = &judged.stamp;
        hasher.reset();
        hasher.update(cluster.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(node.as_str().as_bytes());
        hasher.update(&[0]);
        hasher.update(judged.verdict.as_str().as_bytes());
        for number in [judged.birth.0, stamp.ring_epoch, stamp.term, stamp.incarnation, stamp.sequence] {
            hasher.update(&number.to_le_bytes());
        }
        let digest = hasher.digest();
        if let Some(sum) = sums.get_mut(&stamp.server) {
            *sum = sum.wrapping_add(digest);
        } else {
            sums.insert(stamp.server.clone(), digest);
        }
    }
    sums
}

/// A hundred thousand verdicts take tens of milliseconds: heartbeats must not wait for them.
async fn off_the_reactor<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .expect("it neither panics nor is it cancelled while the runtime lives")
}
