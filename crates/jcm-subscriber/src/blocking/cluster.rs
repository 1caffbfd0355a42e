//! The handle of one cluster for threads.

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, NodeId, Revision};

use crate::alloc::AllocError;
use crate::blocking::park;
use crate::call::{Attempts, CallError, Next, Settled};
use crate::change::{self, Change};
use crate::cluster::{self as inner, Counts, NodeStatus, Properties};
use crate::fault::Faulty;
use crate::key;
use crate::picked::Picked;
use crate::retry::Retry;
use crate::status::Status;

/// One cluster, kept up to date while any handle of it lives, see [`blocking`](crate::blocking). Clones are cheap and
/// share everything.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: inner::Cluster,
}

impl Cluster {
    pub(super) fn new(inner: inner::Cluster) -> Self {
        Self { inner }
    }

    /// A node to call, see [`alloc`](crate::Cluster::alloc).
    #[inline]
    pub fn alloc(&self) -> Result<Picked, AllocError> {
        self.inner.alloc()
    }

    /// A node to call for a key, see [`alloc_for`](crate::Cluster::alloc_for).
    pub fn alloc_for<K: Hash + ?Sized>(&self, key: &K) -> Result<Picked, AllocError> {
        self.inner.alloc_for(key)
    }

    /// A node to call that is none of the given ones, see [`alloc_excluding`](crate::Cluster::alloc_excluding).
    pub fn alloc_excluding(&self, excluded: &[&NodeId]) -> Result<Picked, AllocError> {
        self.inner.alloc_excluding(excluded)
    }

    /// Makes a call on this thread, and at another node when it fails, as far as `retry` allows, see
    /// [`call`](crate::Cluster::call).
    ///
    /// Nothing can break an attempt off, so the deadline is looked at only when one has failed: give the attempts
    /// time-outs of their own.
    pub fn call<T, E: Faulty>(
        &self,
        retry: Retry,
        attempt: impl FnMut(&Picked) -> Result<T, E>,
    ) -> Result<T, CallError<E>> {
        self.make(None, retry, attempt)
    }

    /// The same for a key, see [`call_for`](crate::Cluster::call_for).
    pub fn call_for<K: Hash + ?Sized, T, E: Faulty>(
        &self,
        key: &K,
        retry: Retry,
        attempt: impl FnMut(&Picked) -> Result<T, E>,
    ) -> Result<T, CallError<E>> {
        self.make(Some(key::hash_of(key)), retry, attempt)
    }

    fn make<T, E: Faulty>(
        &self,
        key: Option<u64>,
        retry: Retry,
        mut attempt: impl FnMut(&Picked) -> Result<T, E>,
    ) -> Result<T, CallError<E>> {
        let (mut attempts, mut picked) = Attempts::begin(self.inner.balancer(), key, retry)?;
        loop {
            let outcome = attempts.span(&picked).in_scope(|| attempt(&picked));
            match attempts.ended(Arc::new(picked), Some(outcome), Settled::ByAnswer) {
                Next::Over(result) => return result,
                Next::Again(next) => picked = next,
            }
        }
    }

    /// Its name.
    pub fn name(&self) -> ClusterName {
        self.inner.name()
    }

    /// How far what is held can be relied on.
    pub fn status(&self) -> Status {
        self.inner.status()
    }

    /// The revision of the definition that is held; `None` while there is none.
    pub fn revision(&self) -> Option<Revision> {
        self.inner.revision()
    }

    /// Whether too few nodes are fit, see [`is_panicking`](crate::Cluster::is_panicking).
    pub fn is_panicking(&self) -> bool {
        self.inner.is_panicking()
    }

    /// Every node with what is known of it, at one moment, in the order of ids.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        self.inner.nodes()
    }

    /// What was counted from the beginning on, see [`counts`](crate::Cluster::counts).
    pub fn counts(&self) -> Counts {
        self.inner.counts()
    }

    /// The cluster's free configuration, at one moment.
    pub fn properties(&self) -> Properties {
        self.inner.properties()
    }

    /// Waits until anything is known of the cluster, see [`ready`](crate::Cluster::ready). Answers whether it is.
    pub fn ready(&self, timeout: Duration) -> bool {
        Self::within(timeout, self.inner.ready())
    }

    /// Waits until the definition held is at least of the given revision. Answers whether it is.
    pub fn reached(&self, revision: Revision, timeout: Duration) -> bool {
        Self::within(timeout, self.inner.reached(revision))
    }

    /// A time-out beyond what the clock can say is none.
    fn within(timeout: Duration, reached: impl Future<Output = bool>) -> bool {
        park::wait_until(reached, Instant::now().checked_add(timeout)).unwrap_or(false)
    }

    /// The changes of this cluster, the latest only, for a thread that waits for them. The first is what is held now;
    /// it ends when the subscriber is shut down.
    ///
    /// ```no_run
    /// # fn run(orders: jcm_subscriber::blocking::Cluster) {
    /// std::thread::spawn(move || {
    ///     for change in orders.changes() {
    ///         println!("{}: {}", change.cluster(), change.status());
    ///     }
    /// });
    /// # }
    /// ```
    pub fn changes(&self) -> Changes {
        Changes(self.inner.stream())
    }

    /// The same handle for `async` code.
    pub fn as_async(&self) -> &inner::Cluster {
        &self.inner
    }
}

/// The changes of a cluster, see [`Cluster::changes`].
#[derive(Debug)]
pub struct Changes(change::Changes);

impl Iterator for Changes {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        park::wait(self.0.next())
    }
}
