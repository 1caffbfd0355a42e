//! This server's memory of definitions, and the one task that changes it.
//!
//! Invariant: it changes only through the store's change feed, this server's own writes included. Whoever wrote waits
//! for [`Catalog::reached`]; nobody else may put anything in. What is there before the store was reached (see `saved`)
//! is replaced as a whole when it is, and takes no writes until then: it does not know the operations of the last minutes.

mod operations;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jcm_model::{Change, Cluster, ClusterName, Edit, Head, OperationId, Revision, StoreId};
use jcm_proto::Transaction;
use jcm_storage::{ChangeFeed, Feed, LoadError, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::data_dir::{DataDir, DataDirError};
use crate::snapshot::Snapshot;
use crate::views::Views;
pub(crate) use operations::{Known, OPERATIONS_KEPT_FOR, Operations};

/// How long to wait before asking a store again that did not answer.
const RELOAD_PAUSE: Duration = Duration::from_millis(500);

/// How often it is said that this still fails.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// Where the store is followed from, and the operations that led there, oldest first.
pub(crate) type Followed = (Box<dyn ChangeFeed>, Vec<(OperationId, Known)>);

/// The data directory, which names the store that this server belongs to.
pub(crate) type Binding = Arc<Mutex<DataDir>>;

/// Whoever must hear of every change of definitions, in order, before the revision counts as reached.
pub(crate) trait Audience: Send + 'static {
    /// Everything is new: the snapshot replaces all that was said before.
    fn loaded(&mut self, snapshot: Arc<Snapshot>) -> impl Future<Output = ()> + Send;
    /// One transaction was committed; `snapshot` is what it led to, and each change comes with what all of them left of its
    /// cluster.
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
    /// Since when it does not follow the store; `None`: it does.
    behind_since: watch::Sender<Option<Instant>>,
    /// Why definitions could not be loaded, while it does not follow the store.
    behind_because: Mutex<Option<Arc<str>>>,
}

impl Catalog {
    /// Reads everything once, and where to go on from there.
    pub(crate) async fn fetch(store: &dyn Store) -> Result<(Snapshot, Followed), LoadError> {
        let (snapshot, operations) = read(store).await?;
        let feed = store.changes(snapshot.head()).await?;
        Ok((snapshot, (feed, operations)))
    }

    /// Both at once, bound to a directory that nobody else has.
    #[cfg(test)]
    pub(crate) async fn load<A: Audience>(
        store: Arc<dyn Store>,
        views: Arc<Views>,
        audience: A,
    ) -> Result<(Arc<Self>, Follower<A>), LoadError> {
        let (snapshot, followed) = Self::fetch(store.as_ref()).await?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data_dir = DataDir::open(directory.path(), None).expect("a directory of its own");
        let binding = Arc::new(Mutex::new(data_dir));
        Ok(Self::begin(store, binding, views, audience, snapshot, Ok(followed)).await)
    }

    /// The memory of these definitions, with the task that keeps it up to date. The audience publishes to `views`.
    ///
    /// Without a place to follow the store from, but the reason for that, they were saved on disk, and the task loads
    /// everything as soon as it can.
    pub(crate) async fn begin<A: Audience>(
        store: Arc<dyn Store>,
        binding: Binding,
        views: Arc<Views>,
        mut audience: A,
        snapshot: Snapshot,
        followed: Result<Followed, Arc<str>>,
    ) -> (Arc<Self>, Follower<A>) {
        let head = watch::Sender::new(snapshot.revision);
        let behind_since = watch::Sender::new(followed.is_err().then(Instant::now));
        audience.loaded(Arc::new(snapshot)).await;
        let mut remembered = Operations::default();
        let (feed, behind_because) = match followed {
            Ok((feed, operations)) => {
                remembered.note_all(operations);
                (Some(feed), None)
            }
            Err(because) => (None, Some(because)),
        };
        let catalog = Arc::new(Self {
            views,
            head,
            operations: Mutex::new(remembered),
            behind_since,
            behind_because: Mutex::new(behind_because),
        });
        let follower = Follower { catalog: Arc::clone(&catalog), store, binding, feed, audience };
        (catalog, follower)
    }

    /// Waits until this memory is of the given store. The caller bounds the wait.
    pub(crate) async fn holds(&self, store: StoreId) {
        // Every load moves the head, or sends the same one again.
        let _ = self.head.subscribe().wait_for(|_| self.get().store == store).await;
    }

    /// Since when this memory does not follow the store, as a level; `None`: it does, though the store may be silent.
    pub(crate) fn behind_since(&self) -> watch::Receiver<Option<Instant>> {
        self.behind_since.subscribe()
    }

    /// Whether this memory follows the store, and with it knows the operations that a write must not repeat.
    pub(crate) fn is_following(&self) -> bool {
        self.behind_since.borrow().is_none()
    }

    /// Why it does not, as far as that is known.
    pub(crate) fn behind_because(&self) -> Option<Arc<str>> {
        self.behind_because.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_behind_because(&self, reason: Option<Arc<str>>) {
        *self.behind_because.lock().unwrap_or_else(PoisonError::into_inner) = reason;
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

    /// Waits until this memory is of that store, and has come to that head. The caller bounds the wait.
    pub(crate) async fn comes_to(&self, head: Head) {
        let is_there = |told: &Revision| {
            let held = self.get().head();
            held.store == head.store && held.revision.min(*told) >= head.revision
        };
        let _ = self.head.subscribe().wait_for(is_there).await;
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
    binding: Binding,
    /// `None`: everything has to be loaded first.
    feed: Option<Box<dyn ChangeFeed>>,
    audience: A,
}

impl<A: Audience> Follower<A> {
    /// Follows the change feed until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            let Some(feed) = self.feed.as_mut() else {
                if self.reload(&stop).await {
                    continue;
                }
                return;
            };
            let step = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                step = feed.next() => step,
            };
            match step {
                Some(Feed::Committed(transaction)) => self.apply(&transaction).await,
                Some(Feed::Reset) | None => {
                    info!("the change feed has a gap, loading everything again");
                    self.feed = None;
                }
            }
        }
    }

    async fn apply(&mut self, transaction: &Transaction) {
        let mut next = Snapshot::clone(&self.catalog.get());
        let mut changes = Vec::with_capacity(transaction.entries.len());
        let mut by_cluster: BTreeMap<&ClusterName, Vec<&Change>> = BTreeMap::new();
        for entry in &transaction.entries {
            let change = &entry.change;
            if change.revision <= next.revision {
                continue;
            }
            by_cluster.entry(&change.cluster).or_default().push(change);
            next.quarantined.remove(&change.cluster);
            next.revision = change.revision;
            changes.push(change);
        }
        for (name, changes) in by_cluster {
            match self.after(&next, name, &changes) {
                Some(cluster) => next.clusters.insert(name.clone(), cluster),
                None => next.clusters.remove(name),
            };
        }
        let left = |change: &Change| (change.clone(), next.clusters.get(&change.cluster).cloned());
        let changes = changes.into_iter().map(left).collect();
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

    /// What these changes leave of a cluster that is in the snapshot as it was before them.
    fn after(&self, before: &Snapshot, name: &ClusterName, changes: &[&Change]) -> Option<Arc<Cluster>> {
        let last = changes.last()?.revision;
        self.store.held(before.store, name, last).or_else(|| {
            let mut edit = Edit::new(before.clusters.get(name).cloned());
            for change in changes {
                edit.apply(change);
            }
            edit.to_cluster()
        })
    }

    /// Answers whether to go on.
    async fn reload(&mut self, stop: &CancellationToken) -> bool {
        let mut said: Option<(String, Instant)> = None;
        loop {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                outcome = self.load_again() => outcome,
            };
            let Err(reason) = outcome else { return true };
            self.catalog.set_behind_because(Some(Arc::from(reason.as_str())));
            // What is held goes on being served, and takes no writes.
            self.catalog.behind_since.send_if_modified(|since| {
                let turned = since.is_none();
                since.get_or_insert_with(Instant::now);
                turned
            });
            let is_news =
                said.as_ref().is_none_or(|(text, at)| *text != reason || at.elapsed() > REMIND_AFTER);
            if is_news {
                warn!(
                    reason,
                    "definitions could not be loaded; the last ones are served, and this is tried on"
                );
                said = Some((reason, Instant::now()));
            }
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(RELOAD_PAUSE) => {}
            }
        }
    }

    async fn load_again(&mut self) -> Result<(), String> {
        let failed = |error: LoadError| error.to_string();
        let (snapshot, (feed, operations)) = Catalog::fetch(self.store.as_ref()).await.map_err(failed)?;
        let (store, revision) = (snapshot.store, snapshot.revision);
        if store != self.catalog.get().store {
            let (binding, replaced) = (Arc::clone(&self.binding), self.store.replaced());
            follow(binding, store, replaced).await.map_err(|error| error.to_string())?;
            // Operations of another store led to nothing here.
            *self.catalog.operations() = Operations::default();
        }
        self.catalog.operations().note_all(operations);
        self.audience.loaded(Arc::new(snapshot)).await;
        self.catalog.head.send_replace(revision);
        self.feed = Some(feed);
        self.catalog.set_behind_because(None);
        self.catalog.behind_since.send_if_modified(|since| since.take().is_some());
        info!(%store, %revision, "definitions loaded");
        Ok(())
    }
}

/// The store has another identity: where it took the place of the one that this server belongs to, the server belongs
/// to that from now on, also after a restart.
async fn follow(binding: Binding, store: StoreId, replaced: Vec<StoreId>) -> Result<(), DataDirError> {
    let follow = move || {
        let mut data_dir = binding.lock().unwrap_or_else(PoisonError::into_inner);
        data_dir.follow(store, &replaced)
    };
    // The other error is a runtime that is going away.
    tokio::task::spawn_blocking(follow).await.unwrap_or(Ok(()))
}
