//! This server's memory of definitions: an immutable snapshot that is swapped whole.
//!
//! Invariant: it changes only through the store's change feed, this server's own writes included. Whoever wrote waits
//! for [`Catalog::reached`]; nobody else may put anything in.

mod operations;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use imbl::OrdMap;
use jcm_model::{Change, Cluster, ClusterName, Revision, StoreId};
use jcm_proto::Transaction;
use jcm_storage::{ChangeFeed, Feed, LoadError, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub(crate) use operations::{Known, Operations};

/// How long to wait before asking a store again that did not answer.
const RELOAD_PAUSE: Duration = Duration::from_millis(500);

/// All definitions at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) store: StoreId,
    pub(crate) revision: Revision,
    pub(crate) clusters: OrdMap<ClusterName, Arc<Cluster>>,
    /// Clusters that are in the store and cannot be read, with the reason. They are not "not there": nobody who holds
    /// one may be told that it is gone, and only a deletion may touch it.
    pub(crate) quarantined: OrdMap<ClusterName, Arc<str>>,
}

/// Somebody who must hear of every change of definitions, in order, before readers can see that it was reached.
pub(crate) trait Audience: Send + 'static {
    /// Everything is new: the snapshot replaces all that was said before.
    fn loaded(&mut self, snapshot: &Snapshot) -> impl Future<Output = ()> + Send;
    /// One cluster changed; `after` is `None` when it is gone.
    fn changed(&mut self, change: &Change, after: Option<&Arc<Cluster>>) -> impl Future<Output = ()> + Send;
}

/// This server's memory of definitions.
#[derive(Debug)]
pub(crate) struct Catalog {
    current: ArcSwap<Snapshot>,
    head: watch::Sender<Revision>,
    operations: Mutex<Operations>,
}

impl Catalog {
    /// Reads everything once and answers the catalog with the task that keeps it up to date.
    pub(crate) async fn load<A: Audience>(
        store: Arc<dyn Store>,
        mut audience: A,
    ) -> Result<(Arc<Self>, Follower<A>), LoadError> {
        let (snapshot, operations) = read(store.as_ref()).await?;
        let feed = store.changes(snapshot.revision).await?;
        audience.loaded(&snapshot).await;
        let catalog = Arc::new(Self {
            head: watch::Sender::new(snapshot.revision),
            operations: Mutex::new(operations),
            current: ArcSwap::from_pointee(snapshot),
        });
        let follower = Follower {
            catalog: Arc::clone(&catalog),
            store,
            feed,
            audience,
        };
        Ok((catalog, follower))
    }

    /// The definitions as this server has them now.
    pub(crate) fn get(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// One cluster as this server has it now.
    pub(crate) fn cluster(&self, name: &ClusterName) -> Option<Arc<Cluster>> {
        self.current.load().clusters.get(name).cloned()
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

async fn read(store: &dyn Store) -> Result<(Snapshot, Operations), LoadError> {
    let loaded = store.load().await?;
    for (cluster, reason) in &loaded.quarantined {
        error!(%cluster, reason, "cluster cannot be read from the store and is not served");
    }
    metrics::gauge!("jcm_clusters_quarantined")
        .set(u32::try_from(loaded.quarantined.len()).unwrap_or(u32::MAX));
    let now = Instant::now();
    let mut operations = Operations::default();
    for operation in &loaded.operations {
        let known = Known {
            fingerprint: operation.fingerprint,
            revision: operation.revision,
            created: operation.created,
        };
        operations.note(operation.id, known, now);
    }
    let quarantined = loaded
        .quarantined
        .into_iter()
        .map(|(name, reason)| (name, Arc::from(reason.as_str())))
        .collect();
    let clusters = loaded
        .clusters
        .into_iter()
        .map(|cluster| (cluster.name.clone(), cluster))
        .collect();
    Ok((
        Snapshot {
            store: loaded.store,
            revision: loaded.revision,
            clusters,
            quarantined,
        },
        operations,
    ))
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
        let mut next = Snapshot::clone(&self.catalog.current.load());
        for entry in &transaction.entries {
            let change = &entry.change;
            if change.revision <= next.revision {
                continue;
            }
            let before = next.clusters.get(&change.cluster);
            let after = change.apply(before);
            match &after {
                Some(cluster) => next.clusters.insert(change.cluster.clone(), Arc::clone(cluster)),
                None => next.clusters.remove(&change.cluster),
            };
            next.quarantined.remove(&change.cluster);
            next.revision = change.revision;
            self.audience.changed(change, after.as_ref()).await;
        }
        let revision = next.revision;
        self.catalog.current.store(Arc::new(next));
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
        self.audience.loaded(&snapshot).await;
        self.catalog.current.store(Arc::new(snapshot));
        *self.catalog.operations() = operations;
        self.catalog.head.send_replace(revision);
        info!(%revision, "definitions loaded");
        Ok(())
    }
}
