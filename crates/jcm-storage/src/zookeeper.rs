//! ZooKeeper behind the contract of a store: several servers, one truth.
//!
//! One session serves everything that this process asks of ZooKeeper. [`ZooKeeper`] owns its tasks: whoever connects
//! also shuts down.

mod config;
mod session;

mod layout;
mod stored;

mod fetch;
mod identity;

mod loading;
mod mirror;

mod chunks;
mod draft;

mod commit;
mod feed;
mod follow;
mod inner;
mod restoring;
mod store;

mod membership;
mod trim;

#[cfg(test)]
mod testing;

use std::sync::Arc;
use std::time::Duration;

use jcm_model::Invalid;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::Config;
use inner::Inner;
pub use membership::ZooKeeperMembership;
pub use store::ZooKeeperStore;

/// How long shutting down waits for what is under way: a session that is not closed by then ends by its timeout.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// A connection with an ensemble, for as long as it is not shut down, through every loss of it.
#[derive(Debug)]
pub struct ZooKeeper {
    store: Arc<ZooKeeperStore>,
    membership: Arc<ZooKeeperMembership>,
    tasks: TaskTracker,
    stop: CancellationToken,
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
        let root = if config.root == "/" { String::new() } else { config.root.clone() };
        let session = session::keep(config, &tasks, stop.clone());
        let inner = Arc::new(Inner::new(session.clone(), &root));
        tasks.spawn(follow::follow(Arc::clone(&inner), stop.clone()));
        let judge = Arc::clone(&inner);
        let recognise = Arc::new(move |identity: Option<&[u8]>| judge.recognises(identity));
        let membership =
            ZooKeeperMembership::keep(session.clone(), recognise, session_timeout, &tasks, stop.clone());
        let membership = Arc::new(membership);
        tasks.spawn(trim::run(Arc::clone(&inner), Arc::clone(&membership), stop.clone()));
        // Without a shutdown the tasks end when whoever uses them is gone.
        let alive = Arc::new(stop.clone().drop_guard());
        let store = Arc::new(ZooKeeperStore::new(inner, tasks.clone(), alive));
        Ok(Self { store, membership, tasks, stop })
    }

    /// The store. One has to be bound to it first: see [`ZooKeeperStore::open`].
    pub fn store(&self) -> Arc<ZooKeeperStore> {
        Arc::clone(&self.store)
    }

    /// The servers. They are followed once the store is bound, and only while the ensemble holds that store.
    pub fn membership(&self) -> Arc<ZooKeeperMembership> {
        Arc::clone(&self.membership)
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
