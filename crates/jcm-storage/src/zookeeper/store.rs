//! The store in ZooKeeper, as the contract has it.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use jcm_model::{Cluster, ClusterName, Head, Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;
use tokio_util::task::TaskTracker;

use super::feed::ZooKeeperFeed;
use super::fetch::{self, REQUEST_PATIENCE};
use super::inner::Inner;
use crate::{ChangeFeed, CommitError, LoadError, RestoreError, Snapshot, Store};

/// The store in ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeperStore {
    pub(super) inner: Arc<Inner>,
    tasks: TaskTracker,
    /// The tasks end with the last of those who hold it.
    _alive: Arc<DropGuard>,
}

impl ZooKeeperStore {
    pub(super) fn new(inner: Arc<Inner>, tasks: TaskTracker, alive: Arc<DropGuard>) -> Self {
        Self { inner, tasks, _alive: alive }
    }

    /// Finds out which store this is, and binds to it. `held` is what this server holds: the store that it belongs to,
    /// and the revision of its definitions; zero where it has none of them.
    ///
    /// Without one it takes what is there, and makes a new store where there is none. With one it refuses an ensemble
    /// that is empty, or holds another store that did not take the place of that one; and `load` refuses what is older
    /// than what this server holds.
    ///
    /// `Unavailable`: ZooKeeper does not answer. What is expected is kept, and `load` does this again.
    pub async fn open(&self, held: Option<Head>) -> Result<StoreId, LoadError> {
        self.inner.expect(held);
        Ok(self.inner.recognise().await?.identity.store)
    }
}

#[async_trait]
impl Store for ZooKeeperStore {
    fn kind(&self) -> &'static str {
        "zookeeper"
    }

    fn id(&self) -> StoreId {
        self.inner.id()
    }

    fn replaced(&self) -> Vec<StoreId> {
        let state = self.inner.state();
        state.bound.as_ref().map(|bound| bound.identity.replaces.clone()).unwrap_or_default()
    }

    async fn load(&self) -> Result<Snapshot, LoadError> {
        self.inner.load().await
    }

    /// In a task of its own, so that it goes on when nobody waits for it.
    async fn commit(&self, transaction: Arc<Transaction>, expected: Head) -> Result<(), CommitError> {
        let inner = Arc::clone(&self.inner);
        let commit = self.tasks.spawn(async move { inner.commit(transaction, expected, None).await });
        commit.await.unwrap_or_else(|error| Err(CommitError::Unknown { reason: error.to_string() }))
    }

    async fn commit_as_leader(
        &self,
        transaction: Arc<Transaction>,
        expected: Head,
        epoch: u64,
    ) -> Result<(), CommitError> {
        let inner = Arc::clone(&self.inner);
        let commit = self.tasks.spawn(async move { inner.commit(transaction, expected, Some(epoch)).await });
        commit.await.unwrap_or_else(|error| Err(CommitError::Unknown { reason: error.to_string() }))
    }

    async fn settle(&self, on: Head) -> Result<(), CommitError> {
        self.inner.settle(on).await
    }

    async fn changes(&self, from: Head) -> Result<Box<dyn ChangeFeed>, LoadError> {
        if self.inner.state().held.is_none() {
            return Err(LoadError::Unavailable { reason: "its definitions are not loaded yet".to_owned() });
        }
        Ok(Box::new(ZooKeeperFeed::new(&self.inner, from)))
    }

    async fn head(&self) -> Result<Head, LoadError> {
        let session = &self.inner.session;
        let head = session.as_one(async {
            fetch::sync(session, Instant::now() + REQUEST_PATIENCE).await?;
            let bound = self.inner.recognise().await?;
            let revision = self.inner.read_head(&bound).await?.revision;
            Ok(bound.identity.head(revision))
        });
        let lost = "the session with ZooKeeper was lost while the head was read; ask again";
        head.await.unwrap_or_else(|| Err(LoadError::Unavailable { reason: lost.to_owned() }))
    }

    fn held(&self, store: StoreId, name: &ClusterName, revision: Revision) -> Option<Arc<Cluster>> {
        let mut state = self.inner.state();
        let cluster = state.held_of(store)?.mirror.clusters.get(name)?;
        (cluster.revision == revision).then(|| Arc::clone(cluster))
    }

    fn stale_since(&self) -> watch::Receiver<Option<Instant>> {
        self.inner.stale_since.subscribe()
    }

    /// In a task of its own, like a commit.
    async fn restore(
        &self,
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError> {
        let inner = Arc::clone(&self.inner);
        let restore = self.tasks.spawn(async move { inner.restore(clusters, replaces).await });
        restore.await.unwrap_or_else(|error| Err(RestoreError::Unknown { reason: error.to_string() }))
    }
}
