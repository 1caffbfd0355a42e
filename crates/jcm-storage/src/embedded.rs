//! The embedded store: one file, one server.
//!
//! Invariant: a commit is durable before it is acknowledged, and whole: definitions, change log and head move in one
//! transaction of the file, with the check of the head inside. The process that has the file open is its only writer;
//! what it keeps in memory (the head, the latest commits) is behind the file for the moment between a commit and its
//! publication, which is one turn of the writer, and nothing that was read in that moment is told before it is over.
//!
//! A commit rewrites the header of each cluster it touches and the nodes it names; it costs nothing for the other
//! nodes and clusters. What is absent on purpose: batching, which is the caller's, and any cache of definitions.
//!
//! Work on the file runs on tokio's threads for blocking work, one commit at a time: the next one waits without a
//! thread. A thread of its own would hand over just as often and add a way to stop. Once handed over, a commit ends
//! whether or not anybody still waits for it.

mod feed;
mod file;
mod reading;
mod retention;
mod tables;
#[cfg(test)]
mod tests;
mod writing;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use jcm_model::{Cluster, Head, Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::watch;

use crate::restoration::{InForce, Restoration};
use crate::submission::{Submission, refuse_unless_on};
use crate::tail::Tail;
use crate::{ChangeFeed, CommitError, LoadError, RestoreError, Snapshot, Store};
use feed::EmbeddedFeed;
use file::DataFile;
use reading::Quarantine;
use retention::{Limits, Retention};
use tables::Identity;
use writing::Writer;

/// How many of the latest commits are kept in memory: what a follower may be behind before it costs reads of the file.
const TAIL_TRANSACTIONS_MAX: usize = 1024;
/// What their records may add up to; in memory they take a few times as much.
const TAIL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The embedded store.
#[derive(Debug)]
pub struct EmbeddedStore {
    inner: Arc<Inner>,
    /// Whoever holds it commits.
    writer: Arc<tokio::sync::Mutex<Writer>>,
}

#[derive(Debug)]
struct Inner {
    file: DataFile,
    current: Mutex<Current>,
    /// The head, for feeds to wait on. It moves after `tail`.
    head: watch::Sender<Revision>,
    /// The clusters that the last load could not read.
    quarantine: Mutex<Quarantine>,
    stale_since: watch::Sender<Option<Instant>>,
}

/// What the file holds, as far as it is kept in memory.
#[derive(Debug)]
struct Current {
    identity: Identity,
    tail: Tail,
}

impl Current {
    fn head(&self) -> Head {
        Head { store: self.identity.store, revision: self.tail.head() }
    }
}

impl EmbeddedStore {
    /// Opens the store in a file, or makes a new one where there is none.
    ///
    /// Blocks until the file is checked, and repaired after a crash. A file that is damaged, was written by a later
    /// version or is no store at all is refused; so is one that another process has open.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        Self::assemble(DataFile::open(path)?, Limits::default())
    }

    fn assemble(file: DataFile, limits: Limits) -> Result<Self, LoadError> {
        let (identity, head) = file.read(tables::identity)?;
        let tail = Tail::new(head, TAIL_TRANSACTIONS_MAX, TAIL_BYTES_MAX);
        let inner = Inner {
            file,
            current: Mutex::new(Current { identity, tail }),
            head: watch::Sender::new(head),
            quarantine: Mutex::default(),
            stale_since: watch::Sender::new(None),
        };
        let writer = Writer::new(Retention::new(limits, head, Instant::now()));
        Ok(Self { inner: Arc::new(inner), writer: Arc::new(tokio::sync::Mutex::new(writer)) })
    }
}

impl Inner {
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quarantine(&self) -> MutexGuard<'_, Quarantine> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_force(&self) -> InForce {
        let current = self.current();
        let Identity { store, replaced } = current.identity.clone();
        InForce { store: Some(store), replaced, head: current.tail.head() }
    }

    /// Tells everybody about a commit that is in the file.
    fn publish(&self, submission: Submission) {
        let head = submission.transaction.last();
        let mut current = self.current();
        // A reader that opened the file again meanwhile has seen it there already.
        if current.tail.head() < head {
            current.tail.push(submission.transaction, submission.unpacked_bytes);
        }
        drop(current);
        self.head.send_replace(head);
    }

    /// Closes the file and opens it again, which is how it recovers from a failed write, and answers the head in it.
    fn reopen(&self) -> Result<Revision, LoadError> {
        self.file.reopen()?;
        let (identity, head) = self.file.read(tables::identity)?;
        self.adopt(identity, head);
        Ok(head)
    }

    /// Takes over what was found in the file, where that is something else than what is in memory.
    fn adopt(&self, identity: Identity, head: Revision) {
        let mut current = self.current();
        if current.tail.head() != head || current.identity != identity {
            current.identity = identity;
            current.tail.restart(head);
            drop(current);
            self.head.send_replace(head);
        }
    }

    /// Reads from the file, after opening it again where a failed write has closed it.
    fn read<T>(&self, read: impl Fn(&redb::Database) -> Result<T, redb::Error>) -> Result<T, LoadError> {
        match self.file.read(&read) {
            Err(_) => {
                self.reopen()?;
                self.file.read(read)
            }
            done => done,
        }
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    fn kind(&self) -> &'static str {
        "embedded"
    }

    fn id(&self) -> StoreId {
        self.inner.current().identity.store
    }

    fn replaced(&self) -> Vec<StoreId> {
        self.inner.current().identity.replaced.clone()
    }

    async fn load(&self) -> Result<Snapshot, LoadError> {
        let inner = Arc::clone(&self.inner);
        let snapshot = blocking(move || {
            let snapshot = inner.read(reading::snapshot)?;
            *inner.quarantine() = snapshot.quarantined.iter().cloned().collect();
            Ok(snapshot)
        })
        .await
        .unwrap_or_else(|reason| Err(LoadError::Unavailable { reason }))?;
        let published = self.inner.current().head();
        if published.store != snapshot.store || published.revision < snapshot.revision {
            // The writer has committed it and not told the feeds: one that began there now would seem to be ahead.
            drop(self.writer.lock().await);
        }
        Ok(snapshot)
    }

    async fn commit(&self, transaction: Arc<Transaction>, expected: Head) -> Result<(), CommitError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let submission = Submission::parse(transaction, expected.revision)?;
            writer.commit(&inner, submission, expected, Instant::now())
        })
        .await
        .unwrap_or_else(|reason| Err(CommitError::Unknown { reason }))
    }

    /// Commits are carried out one after the other: whoever has the turn knows that those before are over. The file is
    /// asked, because a commit that failed may be in it although nobody could look.
    async fn settle(&self, on: Head) -> Result<(), CommitError> {
        let writer = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let _turn = writer;
            let (identity, revision) = inner
                .read(tables::identity)
                .map_err(|error| CommitError::Unavailable { reason: error.to_string() })?;
            refuse_unless_on(Head { store: identity.store, revision }, on)
        })
        .await
        .unwrap_or_else(|reason| Err(CommitError::Unavailable { reason }))
    }

    async fn changes(&self, from: Head) -> Result<Box<dyn ChangeFeed>, LoadError> {
        Ok(Box::new(EmbeddedFeed::new(&self.inner, from)))
    }

    async fn head(&self) -> Result<Head, LoadError> {
        // Nobody else writes to the file, and a commit is answered after it has moved this.
        Ok(self.inner.current().head())
    }

    /// Never: whoever can read at all reads the file.
    fn stale_since(&self) -> watch::Receiver<Option<Instant>> {
        self.inner.stale_since.subscribe()
    }

    async fn restore(
        &self,
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError> {
        let mut writer = Arc::clone(&self.writer).lock_owned().await;
        let inner = Arc::clone(&self.inner);
        blocking(move || {
            let now = inner.in_force();
            let restoration = Restoration::work_out(clusters, replaces, now)?;
            writer.restore(&inner, &restoration, Instant::now())
        })
        .await
        .unwrap_or_else(|reason| Err(RestoreError::Unknown { reason }))
    }
}

/// Runs work on the file beside the runtime. An error is a panic in there, or a runtime that is going away.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| format!("work on the store file did not end: {error}"))
}
