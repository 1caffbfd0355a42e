//! The front door for threads.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;

use crate::blocking::cluster::Cluster;
use crate::blocking::park;
use crate::blocking::registration::RegistrationBuilder;
use crate::me::Me;
use crate::outlier::Outliers;
use crate::policy::Policy;
use crate::subscriber::{self as inner, SubscribeError};

/// A connection to JCM for all clusters of a program, see [`blocking`](crate::blocking). Clones are cheap and share
/// everything.
#[derive(Debug, Clone)]
pub struct Subscriber {
    inner: inner::Subscriber,
    background: Background,
}

/// The thread that does the work.
#[derive(Debug, Clone)]
pub(super) struct Background {
    pub(super) runtime: Handle,
    /// `None` once somebody joins it.
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What a subscriber is built from.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder(inner::Builder);

/// A subscriber was not built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// It was given something that cannot work.
    #[error(transparent)]
    Input(#[from] inner::BuildError),
    /// The background thread could not be started.
    #[error("the background thread cannot be started")]
    Thread(#[source] std::io::Error),
}

/// How a cluster is to be subscribed.
#[derive(Debug, Clone)]
#[must_use = "nothing is subscribed until `subscribe` is called"]
pub struct ClusterBuilder {
    inner: inner::ClusterBuilder,
    background: Background,
}

impl Subscriber {
    /// Starts describing a subscriber.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Starts describing the subscription of a cluster.
    pub fn cluster(&self, name: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder { inner: self.inner.cluster(name), background: self.background.clone() }
    }

    /// Starts describing a registration of this program as a node of a cluster.
    pub fn register(&self, cluster: impl Into<String>, me: Me) -> RegistrationBuilder {
        RegistrationBuilder::new(self.inner.register(cluster, me), self.background.clone())
    }

    /// Stops the background thread and waits until it is gone and the last views are on disk, at most 5 seconds.
    /// Handles of clusters can still be picked from; they stay what they are.
    pub fn shutdown(self) {
        let Self { inner, background } = self;
        // An error is that it was shut down before.
        let _ = park::wait(background.runtime.spawn(inner.shutdown()));
        let thread = background.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It does nothing that panics, and ends because its tasks have.
            let _ = thread.join();
        }
    }
}

impl Builder {
    /// See [`servers`](crate::Builder::servers).
    pub fn servers<S: Into<String>>(self, servers: impl IntoIterator<Item = S>) -> Self {
        Self(self.0.servers(servers))
    }

    /// See [`snapshot_dir`](crate::Builder::snapshot_dir).
    pub fn snapshot_dir(self, directory: impl Into<PathBuf>) -> Self {
        Self(self.0.snapshot_dir(directory))
    }

    /// See [`ready_timeout`](crate::Builder::ready_timeout).
    pub fn ready_timeout(self, timeout: Duration) -> Self {
        Self(self.0.ready_timeout(timeout))
    }

    /// See [`client_name`](crate::Builder::client_name).
    pub fn client_name(self, name: impl Into<String>) -> Self {
        Self(self.0.client_name(name))
    }

    /// Starts the background thread. It fails for bad input, never for servers that cannot be reached.
    pub fn build(self) -> Result<Subscriber, BuildError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(BuildError::Thread)?;
        let handle = runtime.handle().clone();
        let (done, built) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            runtime.block_on(async move {
                let subscriber = self.0.build().await;
                let over = subscriber.as_ref().ok().map(inner::Subscriber::over);
                // The caller waits for it, and drops it at once where it is an error.
                let _ = done.send(subscriber);
                if let Some(over) = over {
                    over.await;
                }
            });
        };
        let thread = std::thread::Builder::new().name("jcm-subscriber".to_owned()).spawn(work);
        let thread = thread.map_err(BuildError::Thread)?;
        let inner = built.recv().expect("the thread says what came of it")?;
        let background = Background { runtime: handle, thread: Arc::new(Mutex::new(Some(thread))) };
        Ok(Subscriber { inner, background })
    }
}

impl ClusterBuilder {
    /// See [`policy`](crate::ClusterBuilder::policy).
    pub fn policy(mut self, policy: Policy) -> Self {
        self.inner = self.inner.policy(policy);
        self
    }

    /// See [`outliers`](crate::ClusterBuilder::outliers).
    pub fn outliers(mut self, outliers: Outliers) -> Self {
        self.inner = self.inner.outliers(outliers);
        self
    }

    /// Follows the cluster from now on, see [`subscribe`](crate::ClusterBuilder::subscribe).
    pub fn subscribe(self) -> Result<Cluster, SubscribeError> {
        let Self { inner, background } = self;
        let cluster = inner.name()?;
        // Only with its thread does a task end before it is done.
        let subscribed = park::wait(background.runtime.spawn(inner.subscribe()));
        let inner = subscribed.map_err(|_| SubscribeError::Stopped { cluster })??;
        Ok(Cluster::new(inner))
    }
}
