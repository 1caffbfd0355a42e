//! A transaction that was found fit to be committed, with the bytes to store.
//!
//! Invariant: its revisions follow the head it was worked out on, one by one, and it is within the limits that all
//! backends share. Whether the head is still there is for the backend to find out.

use std::sync::Arc;

use jcm_model::{Head, OperationId, Revision};
use jcm_proto::{Transaction, record, v1};
use prost::Message;

use crate::CommitError;
use crate::store::{Operation, TRANSACTION_BYTES_MAX};

/// The largest transaction before it is packed. Repetitive nodes pack a hundred times smaller; a reader must still
/// unpack them within the limit that it sets against forged records.
const UNPACKED_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A transaction that was found fit to be committed.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) transaction: Arc<Transaction>,
    /// The record of the change log.
    pub(crate) record: Vec<u8>,
    /// What the transaction takes before it is packed: near to what it takes in memory, which the record is not.
    pub(crate) unpacked_bytes: usize,
    pub(crate) operations: Vec<Operation>,
}

impl Submission {
    /// Refuses what no backend may take. Nothing was touched.
    pub(crate) fn parse(transaction: Arc<Transaction>, expected: Revision) -> Result<Self, CommitError> {
        refuse_unless_follows(&transaction, expected)?;
        let message = v1::Transaction::from(transaction.as_ref());
        let unpacked_bytes = message.encoded_len();
        if unpacked_bytes > UNPACKED_BYTES_MAX {
            return Err(CommitError::TooLarge {
                size_bytes: unpacked_bytes,
                limit_bytes: UNPACKED_BYTES_MAX,
            });
        }
        let record = record::encode(&message);
        if record.len() > TRANSACTION_BYTES_MAX {
            return Err(CommitError::TooLarge {
                size_bytes: record.len(),
                limit_bytes: TRANSACTION_BYTES_MAX,
            });
        }
        let entries = transaction.entries.iter().map(|entry| Operation {
            id: entry.operation,
            fingerprint: entry.fingerprint,
            revision: entry.change.revision,
            created: entry.created,
        });
        let operations = remembered(entries);
        Ok(Self { transaction, record, unpacked_bytes, operations })
    }
}

/// A transaction with other revisions is a mistake of the program: it says so, and nothing is touched.
fn refuse_unless_follows(transaction: &Transaction, expected: Revision) -> Result<(), CommitError> {
    let mut due = expected;
    for entry in &transaction.entries {
        due = due.next();
        if entry.change.revision != due {
            let reason = format!(
                "the transaction has revision {} where {due} follows from head {expected}; nothing was submitted",
                entry.change.revision
            );
            return Err(CommitError::Refused { reason });
        }
    }
    if transaction.entries.is_empty() {
        let reason = "the transaction has no entries; nothing was submitted".to_owned();
        return Err(CommitError::Refused { reason });
    }
    Ok(())
}

/// What was worked out on another head than the one that is there is nothing to be committed.
pub(crate) fn refuse_unless_on(found: Head, expected: Head) -> Result<(), CommitError> {
    if found.store != expected.store {
        return Err(CommitError::Replaced { expected: expected.store, found: found.store });
    }
    if found.revision != expected.revision {
        return Err(CommitError::Conflict { expected: expected.revision, found: found.revision });
    }
    Ok(())
}

/// The operations of one transaction, oldest first. Of entries that share an operation the last one speaks.
fn remembered(entries: impl IntoIterator<Item = Operation>) -> Vec<Operation> {
    let mut operations: Vec<Operation> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for entry in entries {
        if let Some(earlier) = places.insert(entry.id, entry.revision) {
            operations.retain(|operation| operation.revision != earlier);
        }
        operations.push(entry);
    }
    operations
}

/// The operations in a stored transaction, without the cost of reading its nodes.
pub(crate) fn operations_of(message: &v1::Transaction) -> Vec<Operation> {
    let entries = message.entries.iter().filter_map(|entry| {
        let change = entry.change.as_ref()?;
        Some(Operation {
            id: OperationId(uuid::Uuid::from_slice(&entry.operation).ok()?),
            fingerprint: entry.fingerprint,
            revision: Revision(change.revision),
            created: entry.created,
        })
    });
    remembered(entries)
}
