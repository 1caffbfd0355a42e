//! The reference store, in memory: what the other backends must equal, and what a simulation runs on.
//!
//! It does what the contract says in the plainest way, and fails on demand: see [`Faults`]. Nothing survives it.

mod faults;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use async_trait::async_trait;
use jcm_model::{Cluster, ClusterName, Edit, Head, Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::watch;
use uuid::Uuid;

pub use faults::{Faults, Outcome};

use crate::restoration::{InForce, Restoration};
use crate::store::{OPERATIONS_KEPT_MAX, Operation};
use crate::submission::{Submission, refuse_unless_on};
use crate::tail::{Next, Tail};
use crate::{ChangeFeed, CommitError, Feed, LoadError, RestoreError, Snapshot, Store};

/// What the log of changes may take: more than any test writes.
const LOG_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The reference store.
#[derive(Debug)]
pub struct MemoryStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Rises with everything that a feed may wait for.
    ticks: watch::Sender<u64>,
    stale_since: watch::Sender<Option<Instant>>,
}

#[derive(Debug)]
struct State {
    id: StoreId,
    replaced: Vec<StoreId>,
    clusters: BTreeMap<ClusterName, Arc<Cluster>>,
    operations: VecDeque<Operation>,
    log: Tail,
    /// What it was told to do wrong.
    faults: faults::Orders,
}

impl MemoryStore {
    /// An empty store with an id of its own.
    #[expect(clippy::new_without_default, reason = "two stores are never equal: each has a new identity")]
    pub fn new() -> Self {
        let state = State {
            id: StoreId(Uuid::new_v4()),
            replaced: Vec::new(),
            clusters: BTreeMap::new(),
            operations: VecDeque::new(),
            log: Tail::new(Revision::ZERO, OPERATIONS_KEPT_MAX, LOG_BYTES_MAX),
            faults: faults::Orders::default(),
        };
        let inner = Inner {
            state: Mutex::new(state),
            ticks: watch::Sender::new(0),
            stale_since: watch::Sender::new(None),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The handle that makes it fail.
    pub fn faults(&self) -> Faults {
        Faults::new(&self.inner)
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        self.ticks.send_modify(|ticks| *ticks += 1);
    }
}

impl State {
    fn head(&self) -> Head {
        Head { store: self.id, revision: self.log.head() }
    }

    fn apply(&mut self, submission: Submission) {
        let mut edits: BTreeMap<&ClusterName, Edit> = BTreeMap::new();
        for entry in &submission.transaction.entries {
            let name = &entry.change.cluster;
            let edit = edits.entry(name).or_insert_with(|| Edit::new(self.clusters.get(name).cloned()));
            edit.apply(&entry.change);
        }
        for (name, edit) in edits {
            match edit.to_cluster() {
                Some(cluster) => self.clusters.insert(name.clone(), cluster),
                None => self.clusters.remove(name),
            };
        }
        self.operations.extend(submission.operations);
        let forgotten = self.operations.len().saturating_sub(OPERATIONS_KEPT_MAX);
        self.operations.drain(..forgotten);
        self.log.push(submission.transaction, submission.unpacked_bytes);
    }

    fn restore(&mut self, restoration: Restoration) {
        self.id = restoration.store;
        self.replaced = restoration.replaced;
        self.clusters = restoration.clusters;
        self.operations.clear();
        self.log.restart(restoration.head);
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn id(&self) -> StoreId {
        self.inner.state().id
    }

    fn replaced(&self) -> Vec<StoreId> {
        self.inner.state().replaced.clone()
    }

    async fn load(&self) -> Result<Snapshot, LoadError> {
        let state = self.inner.state();
        state.faults.refuse_read()?;
        Ok(Snapshot {
            store: state.id,
            revision: state.log.head(),
            clusters: state.clusters.values().cloned().collect(),
            quarantined: Vec::new(),
            operations: state.operations.iter().copied().collect(),
        })
    }

    async fn commit(&self, transaction: Arc<Transaction>, expected: Head) -> Result<(), CommitError> {
        let submission = Submission::parse(transaction, expected.revision)?;
        let mut state = self.inner.state();
        state.faults.refuse_commit()?;
        refuse_unless_on(state.head(), expected)?;
        let outcome = state.faults.take_outcome();
        if outcome != Some(Outcome::UnknownLost) {
            state.apply(submission);
        }
        drop(state);
        self.inner.tick();
        match outcome {
            None => Ok(()),
            Some(_) => Err(CommitError::Unknown { reason: "told to lose the answer".to_owned() }),
        }
    }

    /// A commit is carried out when it is handed over.
    async fn settle(&self, on: Head) -> Result<(), CommitError> {
        let state = self.inner.state();
        state.faults.refuse_commit()?;
        refuse_unless_on(state.head(), on)
    }

    async fn changes(&self, from: Head) -> Result<Box<dyn ChangeFeed>, LoadError> {
        let state = self.inner.state();
        state.faults.refuse_read()?;
        Ok(Box::new(MemoryFeed {
            inner: Arc::downgrade(&self.inner),
            ticks: self.inner.ticks.subscribe(),
            store: from.store,
            at: from.revision,
            resets_seen: state.faults.resets(),
            is_lost: false,
        }))
    }

    async fn head(&self) -> Result<Head, LoadError> {
        let state = self.inner.state();
        state.faults.refuse_read()?;
        Ok(state.head())
    }

    fn stale_since(&self) -> watch::Receiver<Option<Instant>> {
        self.inner.stale_since.subscribe()
    }

    async fn restore(
        &self,
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError> {
        let mut state = self.inner.state();
        state
            .faults
            .refuse_read()
            .map_err(|error| RestoreError::NotRestored { reason: error.to_string() })?;
        let now = InForce { store: Some(state.id), replaced: state.replaced.clone(), head: state.log.head() };
        let restoration = Restoration::work_out(clusters, replaces, now)?;
        let id = restoration.store;
        state.restore(restoration);
        drop(state);
        self.inner.tick();
        Ok(id)
    }
}

struct MemoryFeed {
    /// A feed does not keep the store open.
    inner: Weak<Inner>,
    ticks: watch::Receiver<u64>,
    /// The identity it follows: under another one it has nothing to say.
    store: StoreId,
    at: Revision,
    resets_seen: u64,
    is_lost: bool,
}

impl MemoryFeed {
    /// What can be said now, without waiting.
    fn step(&mut self, state: &State) -> Option<Feed> {
        if state.faults.holds_feeds() {
            return None;
        }
        if self.is_lost || self.store != state.id || self.resets_seen != state.faults.resets() {
            self.is_lost = true;
            return Some(Feed::Reset);
        }
        match state.log.after(self.at) {
            Next::Nothing => None,
            Next::Committed(transaction) => {
                self.at = transaction.last();
                Some(Feed::Committed(transaction))
            }
            Next::Older | Next::Gap => {
                self.is_lost = true;
                Some(Feed::Reset)
            }
        }
    }
}

#[async_trait]
impl ChangeFeed for MemoryFeed {
    async fn next(&mut self) -> Option<Feed> {
        loop {
            let inner = self.inner.upgrade()?;
            // Marked as seen before looking: what happens after the look wakes the wait.
            self.ticks.borrow_and_update();
            let step = self.step(&inner.state());
            drop(inner);
            if step.is_some() {
                return step;
            }
            self.ticks.changed().await.ok()?;
        }
    }
}
