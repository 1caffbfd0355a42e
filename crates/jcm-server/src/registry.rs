//! Writes: many mutations become one transaction, conditional on the head, and each gets its own answer.
//!
//! One task owns the queue. It works each batch out on this server's memory, commits it on the head that memory is
//! at, and answers when the memory has caught up with what was committed. A write lives here and not in its
//! request's task, so a client that goes away cancels nothing. Refusals wait for the batch they were worked out
//! in: they may rest on a write that is not committed yet.

mod draft;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Mutation, OperationId, Precondition, Refusal, Revision, TargetPolicy};
use jcm_proto::{Entry, Transaction};
use jcm_storage::{CommitError, Membership, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::catalog::{Catalog, Known};
use draft::Draft;
pub(crate) use draft::{Action, Outcome};

/// Total time of a write, from its request to its answer.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(2);

/// Writes that may wait: two seconds' worth at the pace of a slow disk, so that a longer queue could only time out.
const QUEUE_DEPTH_MAX: usize = 16_384;

/// Writes in one transaction: enough to make the disk's share of each small, few enough that none waits long.
const BATCH_WRITES_MAX: usize = 512;

/// Bytes of a transaction, before packing, after which no further write joins it: well below what a store takes.
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// Pause before the second attempt after a conflict; the first retry does not wait.
const CONFLICT_PAUSE: Duration = Duration::from_millis(5);

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
    #[error("{QUEUE_DEPTH_MAX} writes are waiting, which is the limit")]
    Busy,
    /// Nothing was changed: it is larger than a store takes.
    #[error("the change is {size_bytes} bytes when stored, the limit is {limit_bytes}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        limit_bytes: usize,
    },
    /// Nothing was submitted.
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
    },
}

type Answer = Result<Written, WriteError>;

/// Whether a write may still be given up as never submitted, or may still be submitted: only one of both happens.
#[derive(Debug, Default)]
struct Stage(AtomicU8);

impl Stage {
    const WAITING: u8 = 0;
    const TAKEN: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// It goes to the store, perhaps again. Answers whether it may.
    fn take(&self) -> bool {
        let taken = self.0.compare_exchange(Self::WAITING, Self::TAKEN, Ordering::AcqRel, Ordering::Acquire);
        taken.is_ok() || taken == Err(Self::TAKEN)
    }

    /// Its client is told that nothing was submitted. Answers whether that is true.
    fn give_up(&self) -> bool {
        self.0.compare_exchange(Self::WAITING, Self::GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

fn unavailable(reason: &str) -> WriteError {
    WriteError::Unavailable { reason: reason.to_owned() }
}

struct Queued {
    write: Write,
    deadline: Instant,
    stage: Arc<Stage>,
    answer: oneshot::Sender<Answer>,
}

/// The way in for writes.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    queue: mpsc::Sender<Queued>,
    catalog: Arc<Catalog>,
    targets: Arc<TargetPolicy>,
    store_available: Arc<AtomicBool>,
}

/// The one task that commits.
pub(crate) struct Writer {
    queue: mpsc::Receiver<Queued>,
    catalog: Arc<Catalog>,
    store: Arc<dyn Store>,
    membership: Arc<dyn Membership>,
    targets: Arc<TargetPolicy>,
    store_available: Arc<AtomicBool>,
}

impl Registry {
    /// The way in, and the task behind it.
    pub(crate) fn new(
        catalog: Arc<Catalog>,
        store: Arc<dyn Store>,
        membership: Arc<dyn Membership>,
        targets: Arc<TargetPolicy>,
    ) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE_DEPTH_MAX);
        let store_available = Arc::new(AtomicBool::new(true));
        let registry = Self {
            queue: sender,
            catalog: Arc::clone(&catalog),
            targets: Arc::clone(&targets),
            store_available: Arc::clone(&store_available),
        };
        (registry, Writer { queue, catalog, store, membership, targets, store_available })
    }

    /// Carries out a write, durably, and waits until this server's memory shows it.
    pub(crate) async fn write(&self, write: Write) -> Answer {
        self.carry_out(write, WRITE_DEADLINE).await
    }

    /// The same by this server itself, whoever leads, within a time of at most [`WRITE_DEADLINE`]: what a peer forwarded
    /// is not forwarded again.
    pub(crate) async fn carry_out(&self, write: Write, within: Duration) -> Answer {
        let within = within.min(WRITE_DEADLINE);
        let operation = write.operation;
        let (answer, result) = oneshot::channel();
        let stage = Arc::new(Stage::default());
        let queued = Queued { write, deadline: Instant::now() + within, stage: Arc::clone(&stage), answer };
        self.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy,
            mpsc::error::TrySendError::Closed(_) => unavailable("this server is stopping"),
        })?;
        let unknown = |reason: &str| Err(WriteError::OutcomeUnknown { operation, reason: reason.to_owned() });
        match tokio::time::timeout(within, result).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => unknown("this server is stopping"),
            Err(_) if stage.give_up() => Err(unavailable("the writes before it took too long")),
            Err(_) => unknown("the store did not answer in time"),
        }
    }

    /// Whether the store took the last commit that it was given.
    pub(crate) fn is_store_available(&self) -> bool {
        self.store_available.load(Ordering::Relaxed)
    }

    /// What a write would lead to now. Nothing is changed.
    pub(crate) fn try_out(&self, write: &Write) -> Result<Vec<Outcome>, WriteError> {
        let snapshot = self.catalog.get();
        let mut draft = Draft::new(&snapshot, &self.targets);
        Ok(draft.attempt(write)?.outcomes)
    }
}

/// A write that was worked out and waits for its batch to be committed.
struct Settled {
    queued: Queued,
    answer: Answer,
}

impl Writer {
    /// Commits batches until told to stop, then what is still waiting.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_WRITES_MAX);
        loop {
            let count = tokio::select! {
                biased;
                count = self.queue.recv_many(&mut batch, BATCH_WRITES_MAX) => count,
                () = stop.cancelled() => {
                    self.queue.close();
                    self.queue.recv_many(&mut batch, BATCH_WRITES_MAX).await
                }
            };
            if count == 0 {
                return;
            }
            let mut waiting = std::mem::take(&mut batch);
            while !waiting.is_empty() {
                waiting = self.commit_some(waiting).await;
            }
        }
    }

    /// Commits as many of the waiting writes as fit one transaction and answers them; answers the rest back.
    async fn commit_some(&self, waiting: Vec<Queued>) -> Vec<Queued> {
        let mut waiting = waiting;
        let mut attempt = 0_u32;
        loop {
            let head = self.catalog.get();
            let mut draft = Draft::new(&head, &self.targets);
            let mut settled = Vec::with_capacity(waiting.len());
            let mut entries = Vec::new();
            let mut rest = Vec::new();
            let mut in_batch = HashSet::new();
            let mut size_bytes = 0;
            for queued in waiting {
                if size_bytes >= BATCH_BYTES_MAX || in_batch.contains(&queued.write.operation) {
                    rest.push(queued);
                    continue;
                }
                let answer = self.settle(&mut draft, &queued, &mut entries, &mut size_bytes);
                in_batch.insert(queued.write.operation);
                settled.push(Settled { queued, answer });
            }
            if entries.is_empty() {
                // A repetition may have found an operation that this memory is about to show.
                let found =
                    settled.iter().filter_map(|settled| Some(settled.answer.as_ref().ok()?.revision)).max();
                let found = found.unwrap_or(Revision::ZERO);
                let _ = tokio::time::timeout(WRITE_DEADLINE, self.catalog.reached(found)).await;
                self.answer(settled);
                return rest;
            }
            let transaction =
                Arc::new(Transaction { epoch: self.membership.roster().borrow().epoch, entries });
            let last = transaction.last();
            metrics::histogram!("jcm_commit_mutations")
                .record(u32::try_from(transaction.entries.len()).unwrap_or(u32::MAX));
            match self.store.commit(Arc::clone(&transaction), head.revision).await {
                Ok(()) => {
                    self.store_available.store(true, Ordering::Relaxed);
                    // Committed is committed, even when memory is late.
                    let _ = tokio::time::timeout(WRITE_DEADLINE, self.catalog.reached(last)).await;
                    self.answer(settled);
                    return rest;
                }
                Err(CommitError::Conflict { found, .. }) => {
                    debug!(expected = %head.revision, %found, "another server committed first");
                    let _ = tokio::time::timeout(WRITE_DEADLINE, self.catalog.reached(found)).await;
                    if attempt > 0 {
                        tokio::time::sleep(CONFLICT_PAUSE * attempt.min(20)).await;
                    }
                    attempt += 1;
                    waiting = settled.into_iter().map(|s| s.queued).chain(rest).collect();
                }
                Err(CommitError::TooLarge { size_bytes, limit_bytes }) => {
                    if settled.len() == 1 {
                        refuse(settled, |_| WriteError::TooLarge { size_bytes, limit_bytes });
                        return rest;
                    }
                    // One of them is too large for any transaction: each gets one of its own, in order.
                    let mut left = Vec::new();
                    for settled in settled {
                        left.extend(Box::pin(self.commit_some(vec![settled.queued])).await);
                    }
                    return left.into_iter().chain(rest).collect();
                }
                Err(CommitError::Unknown { reason }) => {
                    warn!(reason, "a commit's outcome is unknown");
                    refuse(settled, |write| WriteError::OutcomeUnknown {
                        operation: write.operation,
                        reason: reason.clone(),
                    });
                    return rest;
                }
                Err(CommitError::Unavailable { reason }) => {
                    self.store_available.store(false, Ordering::Relaxed);
                    warn!(reason, "the store takes no writes");
                    refuse(settled, |_| unavailable(&reason));
                    return rest;
                }
                Err(error @ (CommitError::Fenced | CommitError::Refused { .. })) => {
                    warn!(%error, "the store refused a transaction");
                    refuse(settled, |_| unavailable(&error.to_string()));
                    return rest;
                }
            }
        }
    }

    /// Works one write out on the draft. Its entries join the transaction, or it is refused as a whole.
    fn settle(
        &self,
        draft: &mut Draft<'_>,
        queued: &Queued,
        entries: &mut Vec<Entry>,
        size_bytes: &mut usize,
    ) -> Answer {
        let write = &queued.write;
        if Instant::now() > queued.deadline || !queued.stage.take() {
            return Err(unavailable("the writes before it took too long"));
        }
        if let Some(known) = self.catalog.operations().get(write.operation) {
            return if known.fingerprint == write.fingerprint {
                Ok(Written {
                    operation: write.operation,
                    revision: known.revision,
                    created: known.created,
                    outcomes: Vec::new(),
                })
            } else {
                Err(WriteError::OperationReused { operation: write.operation })
            };
        }
        let attempt = draft.attempt(write)?;
        // A write of several mutations is at the last one's revision, also where the last cluster it names did not change.
        let revision =
            attempt.outcomes.iter().map(|outcome| outcome.revision).max().unwrap_or(Revision::ZERO);
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

    fn answer(&self, settled: Vec<Settled>) {
        for Settled { queued, answer } in settled {
            if let Ok(written) = &answer {
                // What changed nothing is in no log: this memory of it keeps a late repetition from changing something.
                let known = Known {
                    fingerprint: queued.write.fingerprint,
                    revision: written.revision,
                    created: written.created,
                };
                self.catalog.operations().note(written.operation, known, Instant::now());
            }
            // A client that went away has no use for the answer.
            let _ = queued.answer.send(answer);
        }
    }
}

fn refuse(settled: Vec<Settled>, error: impl Fn(&Write) -> WriteError) {
    for Settled { queued, answer } in settled {
        // A write that was refused for itself did not depend on the commit's success more than on its failure, but
        // what it met may never have been: the failure of the batch is the honest answer.
        drop(answer);
        let error = error(&queued.write);
        let _ = queued.answer.send(Err(error));
    }
}
