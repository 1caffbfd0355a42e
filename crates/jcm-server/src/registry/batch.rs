//! Many writes worked out as one transaction on one head. Pure but for each write's own mark of how far it has come.
//!
//! Writes keep their order: each meets what the ones before it would leave. What is refused, or changes nothing, has its
//! answer too, and that holds only if the head does: it may rest on a write of the same batch, or on a memory that
//! is behind.

use std::collections::HashSet;
use std::time::Instant;

use jcm_model::{Head, Mutation, OperationId, Revision, TargetPolicy};
use jcm_proto::Entry;

use super::draft::{Action, Draft, Kept};
use super::queued::Queued;
use super::write::{Answer, Wish, WriteError, Written};
use crate::catalog::Known;
use crate::snapshot::Snapshot;

/// Bytes of a transaction, before packing, after which no further write joins it: well below what a store takes.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Writes worked out on one head.
#[derive(Debug)]
pub(super) struct Batch {
    /// The head that it was worked out on.
    pub(super) head: Head,
    pub(super) settled: Vec<Settled>,
    /// What the transaction would hold; may be empty.
    pub(super) entries: Vec<Entry>,
    /// What did not fit, in order.
    pub(super) rest: Vec<Queued>,
    /// What the next batch may begin with, if this one comes to be.
    pub(super) kept: Kept,
}

/// A write with the answer that it gets if the head holds.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) queued: Queued,
    pub(super) answer: Answer,
    pub(super) standing: Standing,
    /// An earlier submission, of which nobody knows what came.
    pub(super) before: Option<Head>,
}

/// What a settled write's answer rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// On the log, which does not change: it holds whatever becomes of the batch.
    Logged,
    /// On the head: it has nothing to commit.
    Resting,
    /// On the commit: its entries are in the transaction.
    Committing,
}

impl Batch {
    /// Works out as many writes as fit one transaction, at most `writes_max`, on the head that the snapshot is at.
    /// `known` finds operations that led to it.
    pub(super) fn compose(
        waiting: Vec<Queued>,
        snapshot: &Snapshot,
        known: impl Fn(OperationId) -> Option<Known>,
        targets: &TargetPolicy,
        writes_max: usize,
        kept: Kept,
    ) -> Self {
        let mut draft = Draft::new(snapshot, targets, kept);
        let mut batch = Self {
            head: snapshot.head(),
            settled: Vec::new(),
            entries: Vec::new(),
            rest: Vec::new(),
            kept: Kept::default(),
        };
        let mut in_batch = HashSet::new();
        let mut size_bytes = 0;
        let mut writes = 0;
        for queued in waiting {
            let is_full = size_bytes >= BATCH_BYTES_MAX || writes >= writes_max;
            // A repetition waits for what becomes of the first.
            if is_full || !in_batch.insert(queued.write.operation) {
                batch.rest.push(queued);
                continue;
            }
            // What was submitted on an earlier head can come to be no more: the log up to this one does not hold it.
            let before = queued.stage.submitted_on().filter(|on| !batch.head.settles(*on));
            if let Some(known) = known(queued.write.operation) {
                let answer = found(&queued, known);
                batch.settled.push(Settled { queued, answer, standing: Standing::Logged, before });
                continue;
            }
            if !queued.stage.submit(batch.head) {
                // Its client was told that nothing was submitted, and so it is.
                continue;
            }
            let count = batch.entries.len();
            let answer = settle(&mut draft, &queued, &mut batch.entries, &mut size_bytes);
            let standing = if batch.entries.len() > count {
                writes += 1;
                Standing::Committing
            } else {
                queued.stage.back_to(before);
                Standing::Resting
            };
            batch.settled.push(Settled { queued, answer, standing, before });
        }
        batch.kept = draft.into_kept();
        batch
    }

    /// When the last of its writes is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.settled.iter().map(|settled| settled.queued.deadline).max()
    }

    /// The epoch that it is for the leader of alone, where something of it is: the earliest, which is over first.
    pub(super) fn epoch(&self) -> Option<u64> {
        self.settled
            .iter()
            .filter(|settled| settled.standing == Standing::Committing)
            .filter_map(|settled| settled.queued.write.epoch)
            .min()
    }

    /// How many writes have something to commit.
    pub(super) fn committing(&self) -> usize {
        self.settled.iter().filter(|settled| settled.standing == Standing::Committing).count()
    }
}

impl Settled {
    /// Nothing came of this attempt: the write waits as before.
    pub(super) fn into_waiting(self, before: Option<Head>) -> Queued {
        self.queued.stage.back_to(before);
        self.queued
    }

    /// Whether an earlier submission of the write may still come to be, seen from a batch on this head.
    pub(super) fn is_in_doubt(&self, head: Head) -> bool {
        self.before.is_some_and(|on| !head.settles(on))
    }
}

fn found(queued: &Queued, known: Known) -> Answer {
    let operation = queued.write.operation;
    if known.fingerprint != queued.write.fingerprint {
        return Err(WriteError::OperationReused { operation });
    }
    Ok(Written { operation, revision: known.revision, created: known.created, outcomes: Vec::new() })
}

/// Works one write out on the draft. Its entries join the transaction, or it is refused as a whole.
fn settle(
    draft: &mut Draft<'_>,
    queued: &Queued,
    entries: &mut Vec<Entry>,
    size_bytes: &mut usize,
) -> Answer {
    let write = &queued.write;
    let attempt = draft.attempt(write)?;
    // A write of several mutations is at the last one's revision, also where the last cluster it names did not change.
    let revision = attempt.outcomes.iter().map(|outcome| outcome.revision).max().unwrap_or(Revision::ZERO);
    let adds_nodes = matches!(write.wishes.last(), Some(Wish { mutation: Mutation::PutNodes(_), .. }));
    let created = attempt.outcomes.last().is_some_and(|outcome| {
        outcome.action == Action::Created || (adds_nodes && !outcome.nodes_added.is_empty())
    });
    for change in attempt.changes {
        *size_bytes += jcm_proto::encoded_bytes(&change);
        entries.push(Entry {
            operation: write.operation,
            fingerprint: write.fingerprint,
            principal: write.principal.clone(),
            change,
            created,
        });
    }
    Ok(Written { operation: write.operation, revision, created, outcomes: attempt.outcomes })
}
