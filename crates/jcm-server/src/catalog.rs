//! This server's memory of definitions, and the one task that changes it.
//!
//! Invariant: it changes only through the store's change feed, this server's own writes included. Whoever wrote waits
//! for [`Catalog::reached`]; nobody else may put anything in.

mod operations;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jcm_model::{Change, Cluster, ClusterName, OperationId, Revision};
use jcm_proto::Transaction;
use jcm_storage::{ChangeFeed, Feed, LoadError, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::snapshot::Snapshot;
use crate::views::Views;
pub(crate) use operations::{Known, OPERATIONS_KEPT_FOR, Operations};

/// How long to wait before asking a store again that did not answer.
const RELOAD_PAUSE: Duration = Duration::from_millis(500);

/// Whoever must hear of every change of definitions, in order, before the revision counts as reached.
pub(crate) trait Audience: Send + 'static {
    /// Everything is new: the snapshot replaces all that was said before.
    fn loaded(&mut self, snapshot: Arc<Snapshot>) -> impl Future<Output = ()> + Send;
    /// One transaction was committed; `snapshot` is what it led to, and each change comes with what it left.
    fn committed(
        &mut self,
        snapshot: Arc<Snapshot>,
        changes: Vec<(Change, Option<Arc<Cluster>>)>,
    ) -> impl Future<Output = ()> + Send;
}

/// This server's memory of definitions: what is published, up to which revision, and the operations behind it.
#[derive(Debug)]
pub(crate) struct Catalog {
    views: Arc<Views>,
    head: watch::Sender<Revision>,
    operations: Mutex<Operations>,
}

impl Catalog {
    /// Reads everything once and answers the catalog with the task that keeps it up to date. The audience publishes to
    /// `views`.
    pub(crate) async fn load<A: Audience>(
        store: Arc<dyn Store>,
        views: Arc<Views>,
        mut audience: A,
    ) -> Result<(Arc<Self>, Follower<A>), LoadError> {
        let (snapshot, operations) = read(store.as_ref()).await?;
        let feed = store.changes(snapshot.revision).await?;
        let head = watch::Sender::new(snapshot.revision);
        audience.loaded(Arc::new(snapshot)).await;
        let mut remembered = Operations::default();
        remembered.note_all(operations);
        let catalog = Arc::new(Self { views, head, operations: Mutex::new(remembered) });
        let follower = Follower { catalog: Arc::clone(&catalog), store, feed, audience };
        Ok((catalog, follower))
    }

    /// The definitions as this server has them now.
    pub(crate) fn get(&self) -> Arc<Snapshot> {
        self.views.snapshot()
    }

    /// One cluster as this server has it now.
    pub(crate) fn cluster(&self, name: &ClusterName) -> Option<Arc<Cluster>> {
        self.get().clusters.get(name).cloned()
    }

    /// Waits until this memory holds the revision. The caller bounds the wait.
    pub(crate) async fn reached(&self, revision: Revision) {
        // The sender lives as long as `self`, so this cannot fail.
        let _ = self.head.subscribe().wait_for(|head| *head >= revision).await;
    }

    /// The operations that are remembered. The lock is held for single look-ups only.
    pub(crate) fn operations(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything in the store, and the operations it remembers, oldest first.
async fn read(store: &dyn Store) -> Result<(Snapshot, Vec<(OperationId, Known)>), LoadError> {
    let loaded = store.load().await?;
    for (cluster, reason) in &loaded.quarantined {
        error!(%cluster, reason, "cluster cannot be read from the store and is not served");
    }
    let quarantined_count = u32::try_from(loaded.quarantined.len()).unwrap_or(u32::MAX);
    metrics::gauge!("jcm_clusters_quarantined").set(quarantined_count);
    let known = |operation: &jcm_storage::store::Operation| {
        let (fingerprint, revision) = (operation.fingerprint, operation.revision);
        (operation.id, Known { fingerprint, revision, created: operation.created })
    };
    let operations = loaded.operations.iter().map(known).collect();
    let quarantined =
        loaded.quarantined.into_iter().map(|(name, reason)| (name, Arc::from(reason.as_str()))).collect();
    let clusters = loaded.clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect();
    Ok((Snapshot { store: loaded.store, revision: loaded.revision, clusters, quarantined }, operations))
}

/// The one task that changes the catalog.
pub(crate) struct Follower<A> {
    catalog: Arc<Catalog>,
    store: Arc<dyn Store>,
    feed: Box<dyn ChangeFeed>,
    audience: A,
}

impl<A: Audience> Follower<A> {
    /// Follows the change feed until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                step = self.feed.next() => step,
            };
            match step {
                Some(Feed::Committed(transaction)) => self.apply(&transaction).await,
                Some(Feed::Reset) | None => {
                    warn!("the change feed has a gap, loading everything again");
                    if !self.reload(&stop).await {
                        return;
                    }
                }
            }
        }
    }

    async fn apply(&mut self, transaction: &Transaction) {
        let mut next = Snapshot::clone(&self.catalog.get());
        let mut changes = Vec::with_capacity(transaction.entries.len());
        for entry in &transaction.entries {
            let change = &entry.change;
            if change.revision <= next.revision {
                continue;
            }
            let after = change.apply(next.clusters.get(&change.cluster));
            match &after {
                Some(cluster) => next.clusters.insert(change.cluster.clone(), Arc::clone(cluster)),
                None => next.clusters.remove(&change.cluster),
            };
            next.quarantined.remove(&change.cluster);
            next.revision = change.revision;
            changes.push((change.clone(), after));
        }
        let revision = next.revision;
        // Before anybody can meet the new head: whoever works on it must find the operations that led to it.
        {
            let mut operations = self.catalog.operations();
            let now = Instant::now();
            for entry in &transaction.entries {
                let known = Known {
                    fingerprint: entry.fingerprint,
                    revision: entry.change.revision,
                    created: entry.created,
                };
                operations.note(entry.operation, known, now);
            }
        }
        self.audience.committed(Arc::new(next), changes).await;
        self.catalog.head.send_replace(revision);
    }

    /// Answers whether to go on.
    async fn reload(&mut self, stop: &CancellationToken) -> bool {
        loop {
            match self.load_again().await {
                Ok(()) => return true,
                Err(reason) => warn!(%reason, "definitions could not be loaded"),
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RELOAD_PAUSE) => {}
            }
        }
    }

    async fn load_again(&mut self) -> Result<(), LoadError> {
        let (snapshot, operations) = read(self.store.as_ref()).await?;
        self.feed = self.store.changes(snapshot.revision).await?;
        let revision = snapshot.revision;
        self.catalog.operations().note_all(operations);
        self.audience.loaded(Arc::new(snapshot)).await;
        self.catalog.head.send_replace(revision);
        info!(%revision, "definitions loaded");
        Ok(())
    }
}
