//! The store in ZooKeeper.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use jcm_model::{Cluster, Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::watch;
use uuid::Uuid;

use super::session::Session;
use crate::{ChangeFeed, CommitError, LoadError, RestoreError, Snapshot, Store};

/// The store in ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeperStore {
    #[expect(dead_code, reason = "nothing is asked of it yet")]
    session: Session,
    stale_since: watch::Sender<Option<Instant>>,
}

impl ZooKeeperStore {
    pub(super) fn new(session: Session) -> Self {
        Self { session, stale_since: watch::Sender::new(Some(Instant::now())) }
    }

    /// Finds out which store this is, and binds to it. `expected` is the one whose definitions this server holds.
    ///
    /// Without one it takes what is there, and makes a new store where there is none. With one it refuses an ensemble
    /// that is empty, or holds another store that did not take the place of the expected one.
    ///
    /// `Unavailable`: ZooKeeper does not answer. What is expected is kept, and `load` does this again.
    #[expect(clippy::unused_async, reason = "nothing is asked of it yet")]
    pub async fn open(&self, _expected: Option<StoreId>) -> Result<StoreId, LoadError> {
        Err(LoadError::Unavailable { reason: NOT_YET.to_owned() })
    }
}

const NOT_YET: &str = "the store in ZooKeeper is not there yet";

#[async_trait]
impl Store for ZooKeeperStore {
    fn kind(&self) -> &'static str {
        "zookeeper"
    }

    fn id(&self) -> StoreId {
        StoreId(Uuid::nil())
    }

    fn replaced(&self) -> Vec<StoreId> {
        Vec::new()
    }

    async fn load(&self) -> Result<Snapshot, LoadError> {
        Err(LoadError::Unavailable { reason: NOT_YET.to_owned() })
    }

    async fn commit(&self, _transaction: Arc<Transaction>, _expected: Revision) -> Result<(), CommitError> {
        Err(CommitError::Unavailable { reason: NOT_YET.to_owned() })
    }

    async fn changes(&self, _from: Revision) -> Result<Box<dyn ChangeFeed>, LoadError> {
        Err(LoadError::Unavailable { reason: NOT_YET.to_owned() })
    }

    async fn head(&self) -> Result<Revision, LoadError> {
        Err(LoadError::Unavailable { reason: NOT_YET.to_owned() })
    }

    fn stale_since(&self) -> watch::Receiver<Option<Instant>> {
        self.stale_since.subscribe()
    }

    async fn restore(
        &self,
        _clusters: Vec<Arc<Cluster>>,
        _replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError> {
        Err(RestoreError::NotRestored { reason: NOT_YET.to_owned() })
    }
}
