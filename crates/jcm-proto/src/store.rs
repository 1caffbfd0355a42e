//! The records of the change log.

use jcm_model::{Change, OperationId, Revision};
use uuid::Uuid;

use crate::{Malformed, v1};

/// One commit: mutations with consecutive revisions, all carried out or none.
#[derive(Debug, Clone, PartialEq)]
pub struct Transaction {
    /// The epoch of the leader that committed it.
    pub epoch: u64,
    /// At least one, in the order of their revisions.
    pub entries: Vec<Entry>,
}

/// One mutation of a commit, with what makes it recognisable when it is sent again.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Mutations that were asked for together share one.
    pub operation: OperationId,
    /// Digest of what was asked for.
    pub fingerprint: u64,
    /// Who asked.
    pub principal: String,
    /// What it did.
    pub change: Change,
    /// Whether it created what it was about: its answer says so, also when it is asked for again.
    pub created: bool,
}

impl Transaction {
    /// The revision of its first mutation.
    pub fn first(&self) -> Revision {
        self.entries.first().map_or(Revision::ZERO, |entry| entry.change.revision)
    }

    /// The revision of its last mutation, by which it is named.
    pub fn last(&self) -> Revision {
        self.entries.last().map_or(Revision::ZERO, |entry| entry.change.revision)
    }
}

impl From<&Transaction> for v1::Transaction {
    fn from(transaction: &Transaction) -> Self {
        let entry = |entry: &Entry| v1::Entry {
            operation: entry.operation.0.as_bytes().to_vec(),
            fingerprint: entry.fingerprint,
            principal: entry.principal.clone(),
            change: Some((&entry.change).into()),
            created: entry.created,
        };
        Self { epoch: transaction.epoch, entries: transaction.entries.iter().map(entry).collect() }
    }
}

impl TryFrom<v1::Transaction> for Transaction {
    type Error = Malformed;

    fn try_from(message: v1::Transaction) -> Result<Self, Malformed> {
        let entry = |entry: v1::Entry| -> Result<Entry, Malformed> {
            Ok(Entry {
                operation: OperationId(
                    Uuid::from_slice(&entry.operation).map_err(|_| Malformed::Missing("operation"))?,
                ),
                fingerprint: entry.fingerprint,
                principal: entry.principal,
                change: entry.change.ok_or(Malformed::Missing("change"))?.try_into()?,
                created: entry.created,
            })
        };
        let entries: Vec<Entry> = message.entries.into_iter().map(entry).collect::<Result<_, _>>()?;
        let contiguous =
            entries.windows(2).all(|pair| pair[1].change.revision == pair[0].change.revision.next());
        if entries.is_empty() || !contiguous {
            return Err(Malformed::Shape("a transaction holds consecutive revisions, at least one"));
        }
        Ok(Self { epoch: message.epoch, entries })
    }
}

/// How many bytes a change takes in a transaction, before packing.
pub fn encoded_bytes(change: &Change) -> usize {
    prost::Message::encoded_len(&v1::Change::from(change))
}
