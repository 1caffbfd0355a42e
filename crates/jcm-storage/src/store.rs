//! The contract of a store.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use jcm_model::{Cluster, ClusterName, Head, Invalid, OperationId, Revision, StoreId};
use jcm_proto::{Malformed, Transaction};
use tokio::sync::watch;

/// How many operations are remembered at most; older ones are forgotten, and so are those that are too old.
pub const OPERATIONS_KEPT_MAX: usize = 200_000;

/// All definitions at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Which store this is.
    pub store: StoreId,
    /// The head that all of it agrees with.
    pub revision: Revision,
    /// Every cluster that could be read.
    pub clusters: Vec<Arc<Cluster>>,
    /// Clusters whose bytes could not be read, with the reason: left alone, not served, named for the operator.
    ///
    /// A store refuses every commit that touches one, but for its deletion. A server refuses such a wish beforehand:
    /// it would take the rest of its batch with it.
    pub quarantined: Vec<(ClusterName, String)>,
    /// The operations still remembered, oldest first.
    pub operations: Vec<Operation>,
}

impl Snapshot {
    /// The head that all of it agrees with.
    pub fn head(&self) -> Head {
        Head { store: self.store, revision: self.revision }
    }
}

/// A remembered operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// Digest of what was asked for.
    pub fingerprint: u64,
    /// The revision of its last mutation.
    pub revision: Revision,
    /// Whether its last mutation created what it was about.
    pub created: bool,
}

/// One step of the change feed.
#[derive(Debug, Clone)]
pub enum Feed {
    /// The next commit. Its first revision follows the one before without a gap.
    Committed(Arc<Transaction>),
    /// What follows cannot be given without a gap: load again, and follow from there. Nothing else comes after it.
    Reset,
}

/// Commits in order, from a revision on. Dropping it ends the subscription.
#[async_trait]
pub trait ChangeFeed: Send {
    /// Waits for the next step. `None`: the store was closed. Whoever stops waiting loses nothing.
    async fn next(&mut self) -> Option<Feed>;
}

/// Where definitions live.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// What kind it is, as in the configuration: `embedded`, `zookeeper`, `memory`.
    fn kind(&self) -> &'static str;

    /// Which store this is. A restore changes it.
    fn id(&self) -> StoreId;

    /// The identities whose place this store has taken, latest last: who is bound to one of them may follow to it.
    fn replaced(&self) -> Vec<StoreId>;

    /// All definitions at one revision: a reader never sees half a commit.
    async fn load(&self) -> Result<Snapshot, LoadError>;

    /// Commits, if the head is still `expected`: all of the transaction, durably, or nothing.
    ///
    /// The transaction's revisions must be `expected.revision + 1` and on. What was worked out on a store that was
    /// replaced meanwhile is refused, whatever the revisions. A commit that was handed over goes on when its sender
    /// stops waiting. On success the transaction also comes back through every change feed, which is the only way it
    /// may enter a server's memory.
    async fn commit(&self, transaction: Arc<Transaction>, expected: Head) -> Result<(), CommitError>;

    /// The same for what only the leader of this epoch may do: refused, in the same step, once another has begun a later
    /// one. A store that one server has alone knows no other.
    async fn commit_as_leader(
        &self,
        transaction: Arc<Transaction>,
        expected: Head,
        _epoch: u64,
    ) -> Result<(), CommitError> {
        self.commit(transaction, expected).await
    }

    /// Makes sure that what was submitted on this head and is not there will never be: after it the log up to the head
    /// tells what became of every commit that was handed over before, by whichever server. No revision is taken.
    ///
    /// `Conflict`: the head has moved, which settles it as well.
    async fn settle(&self, on: Head) -> Result<(), CommitError>;

    /// Every commit after `from`, then those to come. Where that is no head of this store, the feed begins with its reset.
    async fn changes(&self, from: Head) -> Result<Box<dyn ChangeFeed>, LoadError>;

    /// The head as the store itself has it now, for reads that must not be served from a memory that may be behind.
    async fn head(&self) -> Result<Head, LoadError>;

    /// A cluster as it is at exactly this revision, where the store has it in memory already: then whoever follows need
    /// not work out the same from the change, and both share it.
    fn held(&self, _store: StoreId, _name: &ClusterName, _revision: Revision) -> Option<Arc<Cluster>> {
        None
    }

    /// Since when what its feeds told may be behind the store, because the store is out of reach; `None`: it is not.
    /// A level: it changes with every loss and return.
    fn stale_since(&self) -> watch::Receiver<Option<Instant>>;

    /// Puts other definitions in the place of all that is there, under a new identity, which it answers. Every feed is
    /// reset. Whoever is bound to an identity in `replaces`, or to the one that is there now, may follow to the new one.
    ///
    /// Each cluster is as it is given but for its revisions and births, which begin anew above the head that was there.
    /// Operations are forgotten.
    async fn restore(
        &self,
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError>;
}

/// Why a store was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Nothing of it counts: what was there before is in force.
    #[error("nothing was restored: {reason}")]
    NotRestored {
        /// What was tried and failed.
        reason: String,
    },
    /// It may or may not be in force: the store's identity tells.
    #[error("nobody knows whether it was restored: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// Why definitions could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store does not answer; trying again may help.
    #[error("the store does not answer: {reason}")]
    Unavailable {
        /// What was tried and failed.
        reason: String,
    },
    /// The store holds less than this server: it was wiped, was put back from an old copy, or is another place. What the
    /// server holds may be all there is of it.
    #[error("the store cannot be used: {reason}")]
    Lost {
        /// What is missing, and what to do.
        reason: String,
    },
    /// The store was written by a later version, or is not one of ours; trying again does not help.
    #[error("the store cannot be used: {reason}")]
    Unusable {
        /// What is wrong with it, and what to do.
        reason: String,
    },
}

/// Why a commit was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Somebody else committed first. Nothing was changed.
    #[error("the head is at {found}, not at {expected}")]
    Conflict {
        /// The head that the commit was worked out on.
        expected: Revision,
        /// The head that is there.
        found: Revision,
    },
    /// The store was restored: what the commit was worked out on is not what is there. Nothing was changed.
    #[error("the store is {found} now, and was {expected}")]
    Replaced {
        /// The store that the commit was worked out on.
        expected: StoreId,
        /// The store that is there.
        found: StoreId,
    },
    /// Another server leads, and this was for the leader alone. Nothing was changed.
    #[error("another server leads: epoch {epoch} is over")]
    Fenced {
        /// The epoch that the commit was made in.
        epoch: u64,
    },
    /// The transaction is not one that this store can take: misnumbered, or about a cluster that it cannot read.
    /// Nothing was changed.
    #[error("the transaction is refused: {reason}")]
    Refused {
        /// What is wrong with it.
        reason: String,
    },
    /// The transaction breaks a limit. Nothing was changed.
    #[error("a transaction of {size_bytes} bytes is over the limit of {limit_bytes}")]
    TooLarge {
        /// Its encoded size.
        size_bytes: usize,
        /// What a store takes.
        limit_bytes: usize,
    },
    /// Nothing was submitted, or nothing of it is there: the disk is full, the store does not answer, a cluster of the
    /// transaction is quarantined, its revisions do not follow.
    #[error("the store takes no such write: {reason}")]
    Unavailable {
        /// What was tried and failed.
        reason: String,
    },
    /// It was submitted and no answer came: the log will tell, by operation id.
    #[error("the outcome is unknown: {reason}")]
    Unknown {
        /// What happened.
        reason: String,
    },
}

/// The largest transaction that a store takes, encoded and packed as it is stored: alike for every backend, so that a
/// cluster that fits one fits all.
pub const TRANSACTION_BYTES_MAX: usize = 900 * 1024;

impl From<Malformed> for LoadError {
    fn from(error: Malformed) -> Self {
        Self::Unusable { reason: chain(&error) }
    }
}

impl From<Invalid> for LoadError {
    fn from(error: Invalid) -> Self {
        Self::Unusable { reason: error.to_string() }
    }
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
