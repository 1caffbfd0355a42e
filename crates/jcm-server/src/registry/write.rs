//! A write: what is asked for, what it led to, or why it was not acknowledged.

use std::io;

use jcm_model::{ClusterName, Head, Mutation, OperationId, Precondition, Refusal, Revision};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::Outcome;

/// What is asked for, in one write: all of it happens, or none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Write {
    /// What makes it recognisable when it is sent again.
    pub(crate) operation: OperationId,
    /// Digest of what is asked for.
    pub(crate) fingerprint: u64,
    /// Who asks.
    pub(crate) principal: String,
    /// The wishes, in order.
    pub(crate) wishes: Vec<Wish>,
    /// Whether clusters that no wish names shall be gone.
    pub(crate) prune: bool,
    /// Only for the leader of this epoch to carry out. It is asked of no other server.
    #[serde(skip)]
    pub(crate) epoch: Option<u64>,
}

/// One cluster's part of a write.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) cluster: ClusterName,
    pub(crate) mutation: Mutation,
    pub(crate) precondition: Precondition,
}

/// What a write led to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) operation: OperationId,
    /// The revision of its last mutation, or of the cluster when nothing changed.
    pub(crate) revision: Revision,
    /// Whether its last mutation created something: a cluster, or a node in it.
    pub(crate) created: bool,
    /// What happened to each cluster; empty when the answer was found in the log.
    pub(crate) outcomes: Vec<Outcome>,
}

/// Why a write was not acknowledged.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WriteError {
    /// Nothing was changed: it may not be.
    #[error("{refusal}")]
    Refused {
        /// The wish that was refused, by its place in the write.
        index: usize,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing was changed: the operation id was used for something else.
    #[error("operation {operation} was used for another request")]
    OperationReused {
        /// The id.
        operation: OperationId,
    },
    /// Nothing was changed: what the store holds of the cluster cannot be read.
    #[error("cluster `{cluster}` cannot be read from the store: {reason}")]
    Quarantined {
        /// The cluster.
        cluster: ClusterName,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing was changed: too many writes are waiting.
    #[error("{waiting} writes are waiting, which is more than can be carried out in time")]
    Busy {
        /// How many.
        waiting: usize,
    },
    /// Nothing was changed: it is larger than a store takes.
    #[error("the change is {size_bytes} bytes when stored, the limit is {limit_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Nothing was submitted, or nothing of it can come to be.
    #[error("the store takes no writes: {reason}")]
    Unavailable {
        /// What was tried and failed.
        reason: String,
    },
    /// It may or may not have happened.
    #[error("the outcome of operation {operation} is unknown: {reason}")]
    OutcomeUnknown {
        /// Under which it can be asked for, and safely sent again.
        operation: OperationId,
        /// What happened.
        reason: String,
        /// The head on which it was submitted, where that is the only way in which it can still come to be.
        on: Option<Head>,
    },
}

/// A write's answer.
pub(crate) type Answer = Result<Written, WriteError>;

impl Write {
    /// A write under the operation that the principal's key names, or else under a new one. What it is a digest of is
    /// what is asked for, not how it was written: a repetition through another door is the same write.
    pub(crate) fn new(principal: &str, key: Option<&str>, wishes: Vec<Wish>, prune: bool) -> Self {
        let operation = match key {
            Some(key) => OperationId::from_key(principal, key),
            None => OperationId(Uuid::now_v7()),
        };
        let mut digest = Digest(Xxh3::new());
        serde_json::to_writer(&mut digest, &(&wishes, prune)).expect("a write is JSON");
        Self {
            operation,
            fingerprint: digest.0.digest(),
            principal: principal.to_owned(),
            wishes,
            prune,
            epoch: None,
        }
    }
}

impl WriteError {
    pub(crate) fn unavailable(reason: impl Into<String>) -> Self {
        Self::Unavailable { reason: reason.into() }
    }

    pub(super) fn unknown(operation: OperationId, reason: impl Into<String>, on: Option<Head>) -> Self {
        Self::OutcomeUnknown { operation, reason: reason.into(), on }
    }
}

struct Digest(Xxh3);

impl io::Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
