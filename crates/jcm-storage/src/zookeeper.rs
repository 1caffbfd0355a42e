//! ZooKeeper behind the contract of a store: several servers, one truth.
//!
//! One session serves everything that this process asks of ZooKeeper. [`ZooKeeper`] owns its tasks: whoever connects
//! also shuts down.

mod config;
#[expect(dead_code, reason = "the store asks")]
mod session;

#[expect(dead_code, reason = "the store reads and writes there")]
mod layout;

mod store;

mod membership;

use std::sync::Arc;
use std::time::Duration;

use jcm_model::Invalid;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::Store;
pub use config::Config;
pub use membership::ZooKeeperMembership;
use session::Session;
pub use store::ZooKeeperStore;

/// How long shutting down waits for what is under way: a session that is not closed by then ends by its timeout.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// A connection with an ensemble, for as long as it is not shut down, through every loss of it.
#[derive(Debug)]
pub struct ZooKeeper {
    session: Session,
    store: Arc<ZooKeeperStore>,
    membership: Arc<ZooKeeperMembership>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Without a shutdown the tasks end when this goes.
    _stop_when_dropped: DropGuard,
}

impl ZooKeeper {
    /// Begins to connect, and does not wait for it: it goes on for as long as it takes. Must be called in a runtime.
    ///
    /// Fails only for a configuration that can never work.
    pub fn connect(config: Config) -> Result<Self, Invalid> {
        config.check()?;
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let session_timeout = config.session_timeout;
        let session = session::keep(config, &tasks, stop.clone());
        let store = Arc::new(ZooKeeperStore::new(session.clone()));
        let bound = Arc::clone(&store);
        let recognise = Arc::new(move |_identity: Option<&[u8]>| {
            let store = bound.id();
            (!store.0.is_nil()).then_some(store)
        });
        let membership =
            ZooKeeperMembership::keep(session.clone(), recognise, session_timeout, &tasks, stop.clone());
        let membership = Arc::new(membership);
        Ok(Self { session, store, membership, tasks, _stop_when_dropped: stop.clone().drop_guard(), stop })
    }

    /// The store. One has to be bound to it first: see [`ZooKeeperStore::open`].
    pub fn store(&self) -> Arc<ZooKeeperStore> {
        Arc::clone(&self.store)
    }

    /// The servers. They are followed once the store is bound, and only while the ensemble holds that store.
    pub fn membership(&self) -> Arc<ZooKeeperMembership> {
        Arc::clone(&self.membership)
    }

    /// The one session, for whatever else is kept in the ensemble.
    #[expect(dead_code, reason = "the membership takes it")]
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Ends every task, then the session, so that ZooKeeper forgets this server at once. Bounded in time.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN_PATIENCE, self.tasks.wait()).await.is_err() {
            tracing::warn!("the session with ZooKeeper did not end in time; it ends by its timeout");
        }
    }
}
