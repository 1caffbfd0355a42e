//! The one task that commits: it works waiting writes out in batches, on what this server's memory is at, and answers
//! each as soon as its fate is certain, or its time is over.
//!
//! Whatever goes wrong with a commit, the writes in it just wait on: they are worked out again on the newer state, where
//! each is looked for first. That is safe because a commit is conditional on the head: of two submissions on one head only
//! one can come to be, and whoever reads the log up to a later head knows that none will.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jcm_model::{Head, TargetPolicy};
use jcm_proto::Transaction;
use jcm_storage::{CommitError, Membership, Store};
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::WRITE_DEADLINE;
use super::batch::{Batch, Settled, Standing};
use super::draft::Kept;
use super::load::Load;
use super::queued::Queued;
use super::write::WriteError;
use crate::catalog::{Catalog, Known};
use crate::pause::Pulse;

/// Writes in one transaction: what a transaction costs beside them, here, in the store and on every server that follows,
/// is then small; and they are registered in some tens of milliseconds, so that none waits long.
pub(super) const BATCH_WRITES_MAX: usize = 2_048;

/// Longest pause before the second attempt after a conflict; it doubles with each further one, and a random part of it
/// is waited, so that servers which met once do not meet again.
const PAUSE: Duration = Duration::from_millis(5);

/// Longest pause of all: several attempts must fit a write's time.
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// The one task that commits.
pub(crate) struct Writer {
    pub(super) queue: mpsc::Receiver<Queued>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) store: Arc<dyn Store>,
    pub(super) membership: Arc<dyn Membership>,
    pub(super) targets: Arc<TargetPolicy>,
    pub(super) store_available: Arc<AtomicBool>,
    pub(super) pulse: Pulse,
    pub(super) load: Arc<Load>,
    pub(super) pace: Pace,
    pub(super) trouble: Trouble,
    /// What the last batch that came to be left for the next one.
    pub(super) kept: Kept,
    /// Taken from the queue, and not answered yet.
    pub(super) waiting: Vec<Queued>,
}

/// How large the next batch may be, and how long to wait before it.
#[derive(Debug)]
pub(super) struct Pace {
    writes_max: usize,
    failures: u32,
}

/// What is said of a store that takes no writes: once when that begins and once when it ends, however many writes come
/// meanwhile.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    since: Option<Instant>,
    /// Writes that were refused since.
    refused: usize,
}

impl Trouble {
    /// So many writes are refused for this. Answers whether it is news.
    fn refuse(&mut self, writes: usize, now: Instant) -> bool {
        self.refused += writes;
        let is_news = self.since.is_none();
        self.since.get_or_insert(now);
        is_news
    }

    /// The store takes writes. Answers for how long it did not, and how many were refused, where that is news.
    fn end(&mut self, now: Instant) -> Option<(Duration, usize)> {
        let since = self.since.take()?;
        Some((now.saturating_duration_since(since), std::mem::take(&mut self.refused)))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { writes_max: BATCH_WRITES_MAX, failures: 0 }
    }
}

impl Pace {
    fn succeeded(&mut self) {
        self.writes_max = (self.writes_max * 2).min(BATCH_WRITES_MAX);
        self.failures = 0;
    }

    /// A batch of so many writes was refused for one of them, or for their size: half of them next.
    fn halve(&mut self, writes: usize) {
        self.writes_max = (writes / 2).max(1);
    }

    /// How long to wait after another failure. The leader's first retry does not wait: it has the most to commit.
    fn failed(&mut self, leads: bool) -> Duration {
        let exponent = self.failures;
        self.failures += 1;
        if exponent == 0 && leads {
            return Duration::ZERO;
        }
        let longest = PAUSE.saturating_mul(1 << exponent.min(10)).min(PAUSE_MAX);
        longest.mul_f64(fastrand::f64())
    }
}

impl Writer {
    /// Commits batches until told to stop, then what is still waiting.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        while self.receive(&stop).await {
            self.shed();
            if !self.waiting.is_empty() {
                self.load.begin(Instant::now());
                self.step().await;
                self.load.end();
            }
        }
    }

    /// Takes what waits in the queue, as far as a batch goes; with nothing at hand it waits for more. Answers whether there
    /// is anything to do.
    async fn receive(&mut self, stop: &CancellationToken) -> bool {
        let room = BATCH_WRITES_MAX.saturating_sub(self.waiting.len());
        if !self.waiting.is_empty() {
            for _ in 0..room {
                let Ok(queued) = self.queue.try_recv() else { break };
                self.waiting.push(queued);
            }
            return true;
        }
        let count = tokio::select! {
            biased;
            count = self.queue.recv_many(&mut self.waiting, room) => count,
            () = stop.cancelled() => {
                self.queue.close();
                self.queue.recv_many(&mut self.waiting, room).await
            }
        };
        count > 0
    }

    /// Gives up what is too late, what will be by the time that it is reached, and what is from before a pause.
    fn shed(&mut self) {
        let (now, stretch) = (Instant::now(), self.pulse.stretch());
        for queued in std::mem::take(&mut self.waiting) {
            let left = queued.deadline.saturating_duration_since(now);
            let is_hopeless = || self.load.wait(self.waiting.len(), now) > left;
            if queued.stretch != stretch {
                let reason = "this server stood still, and others may have taken over";
                queued.give_up(reason, WriteError::unavailable(reason));
            } else if now >= queued.deadline {
                let reason = "the writes before it, or the store, took too long";
                let undone = if self.load.is_moving(now) {
                    WriteError::Busy { waiting: self.queue.len() }
                } else {
                    WriteError::unavailable(reason)
                };
                queued.give_up(reason, undone);
            } else if queued.stage.submitted_on().is_none() && is_hopeless() {
                // At once, so that its client comes back later, and those that can be done in time are.
                let undone = WriteError::Busy { waiting: self.queue.len() };
                queued.give_up("the writes before it take too long", undone);
            } else {
                self.waiting.push(queued);
            }
        }
    }

    /// Works one batch out and sees it through. What is not answered waits on.
    async fn step(&mut self) {
        let snapshot = self.catalog.get();
        let waiting = std::mem::take(&mut self.waiting);
        let known = |operation| self.catalog.operations().get(operation);
        let kept = std::mem::take(&mut self.kept);
        let mut batch = Batch::compose(waiting, &snapshot, known, &self.targets, self.pace.writes_max, kept);
        drop(snapshot);
        self.waiting = std::mem::take(&mut batch.rest);
        let (logged, settled) =
            batch.settled.into_iter().partition(|settled| settled.standing == Standing::Logged);
        batch.settled = settled;
        self.answer(logged, batch.head);
        let Some(deadline) = batch.deadline() else { return };
        // The last look at the clock: working it out took time, and time may have stood still.
        if batch.settled.iter().any(|settled| self.pulse.is_over(settled.queued.stretch)) {
            self.wait_on(batch.settled, |settled| settled.before);
            return;
        }
        if batch.entries.is_empty() {
            self.confirm(batch, deadline).await;
        } else {
            self.commit(batch, deadline).await;
        }
    }

    async fn commit(&mut self, mut batch: Batch, deadline: Instant) {
        let entries = std::mem::take(&mut batch.entries);
        let epoch = self.membership.roster().borrow().epoch;
        let transaction = Arc::new(Transaction { epoch, entries });
        let last = transaction.last();
        self.load.submitted();
        metrics::histogram!("jcm_commit_mutations")
            .record(u32::try_from(transaction.entries.len()).unwrap_or(u32::MAX));
        let store = &self.store;
        let submitted = async {
            let transaction = Arc::clone(&transaction);
            match batch.epoch() {
                Some(epoch) => store.commit_as_leader(transaction, batch.head, epoch).await,
                None => store.commit(transaction, batch.head).await,
            }
        };
        let committed = timeout_at(deadline.into(), submitted).await;
        let committed = committed.unwrap_or_else(|_| {
            Err(CommitError::Unknown { reason: "the store did not answer in time".to_owned() })
        });
        match committed {
            Ok(()) => {
                self.available();
                self.pace.succeeded();
                self.load.got_on(batch.settled.len(), !self.waiting.is_empty(), Instant::now());
                self.kept = batch.kept;
                // On the head after it, for which nothing that was submitted before can be in doubt.
                self.answer(batch.settled, batch.head.at(last));
                // On an older memory the next batch would only conflict.
                let _ = tokio::time::timeout(WRITE_DEADLINE, self.catalog.reached(last)).await;
            }
            Err(CommitError::Conflict { found, .. }) => {
                debug!(expected = %batch.head, %found, "another server committed first");
                metrics::counter!("jcm_commit_conflicts_total").increment(1);
                // Nothing came of this. Of what was submitted on this head before, something may have, and the log will
                // tell.
                self.wait_on(batch.settled, |settled| settled.before);
                let _ = timeout_at(deadline.into(), self.catalog.reached(found)).await;
                self.pause().await;
            }
            Err(CommitError::Replaced { expected, found }) => {
                debug!(%expected, %found, "the store was restored: its definitions are waited for");
                self.wait_on(batch.settled, |settled| settled.before);
                let _ = timeout_at(deadline.into(), self.catalog.holds(found)).await;
                self.pause().await;
            }
            Err(CommitError::Unknown { reason }) => {
                debug!(reason, "a commit's outcome is unknown");
                metrics::counter!("jcm_commits_unknown_total").increment(1);
                // Submitted, as far as anybody knows. The feed may bring it; else it is tried again on the same head.
                self.wait_on(batch.settled, |settled| settled.queued.stage.submitted_on());
                let pause = self.pace.failed(false).max(PAUSE);
                let _ = tokio::time::timeout(pause, self.catalog.reached(batch.head.revision.next())).await;
            }
            Err(error @ CommitError::Fenced { .. }) => {
                // Nothing of it is there. What others asked for is tried again without what was for the leader alone.
                let (fenced, others): (Vec<_>, Vec<_>) =
                    batch.settled.into_iter().partition(|settled| settled.queued.write.epoch.is_some());
                self.wait_on(others, |settled| settled.before);
                refuse(fenced, batch.head, || WriteError::unavailable(error.to_string()));
            }
            Err(CommitError::TooLarge { size_bytes, limit_bytes }) => {
                self.split(batch, || WriteError::TooLarge { size_bytes, limit_bytes });
            }
            Err(error @ CommitError::Refused { .. }) => {
                warn!(%error, "the store refused a transaction");
                self.split(batch, || WriteError::unavailable(error.to_string()));
            }
            Err(CommitError::Unavailable { reason }) => {
                self.unavailable(batch.settled, batch.head, &reason).await;
            }
        }
    }

    /// A batch with nothing to commit: its answers hold if the store's head is the one that they were worked out on. A
    /// memory that is behind would else call a condition broken that holds, or a write done that another undid.
    async fn confirm(&mut self, batch: Batch, deadline: Instant) {
        let head = timeout_at(deadline.into(), self.store.head()).await;
        match head {
            Ok(Ok(found)) if found == batch.head => {
                self.available();
                self.pace.succeeded();
                self.load.got_on(batch.settled.len(), !self.waiting.is_empty(), Instant::now());
                self.kept = batch.kept;
                self.answer(batch.settled, batch.head);
            }
            Ok(Ok(found)) => {
                debug!(expected = %batch.head, %found, "this server's memory is behind");
                self.wait_on(batch.settled, |settled| settled.before);
                let _ = timeout_at(deadline.into(), self.catalog.comes_to(found)).await;
                if found.store == batch.head.store && found.revision < batch.head.revision {
                    self.pause().await;
                }
            }
            Ok(Err(error)) => self.unavailable(batch.settled, batch.head, &error.to_string()).await,
            Err(_) => self.wait_on(batch.settled, |settled| settled.before),
        }
    }

    /// The store refused a transaction for one write in it, or for their sum: halves of it next, in order, down to the
    /// one that is at fault.
    fn split(&mut self, batch: Batch, error: impl Fn() -> WriteError) {
        let (head, committing) = (batch.head, batch.committing());
        if committing > 1 {
            self.pace.halve(committing);
            self.wait_on(batch.settled, |settled| settled.before);
            return;
        }
        let (at_fault, others): (Vec<_>, Vec<_>) =
            batch.settled.into_iter().partition(|settled| settled.standing == Standing::Committing);
        self.wait_on(others, |settled| settled.before);
        refuse(at_fault, head, error);
    }

    async fn unavailable(&mut self, settled: Vec<Settled>, head: Head, reason: &str) {
        self.store_available.store(false, Ordering::Relaxed);
        // Those of which something may still come to be are asked about again until their time is over.
        let (in_doubt, certain): (Vec<_>, Vec<_>) =
            settled.into_iter().partition(|settled| settled.is_in_doubt(head));
        if self.trouble.refuse(certain.len(), Instant::now()) {
            warn!(reason, "the store takes no writes");
        }
        refuse(certain, head, || WriteError::unavailable(reason));
        if !in_doubt.is_empty() {
            self.wait_on(in_doubt, |settled| settled.before);
            let _ = tokio::time::timeout(PAUSE_MAX, self.catalog.reached(head.revision.next())).await;
        }
    }

    fn available(&mut self) {
        self.store_available.store(true, Ordering::Relaxed);
        if let Some((after, refused)) = self.trouble.end(Instant::now()) {
            info!(?after, refused, "the store takes writes again");
        }
    }

    /// Puts writes back before those that wait, in order, each as far as `stage` says that it has come.
    fn wait_on(&mut self, settled: Vec<Settled>, stage: impl Fn(&Settled) -> Option<Head>) {
        let back = settled.into_iter().map(|settled| {
            let at = stage(&settled);
            settled.into_waiting(at)
        });
        let rest = std::mem::take(&mut self.waiting);
        self.waiting = back.chain(rest).collect();
    }

    /// The answers hold, because the head does, or because the log says so.
    fn answer(&self, settled: Vec<Settled>, head: Head) {
        for settled in settled {
            if settled.standing == Standing::Resting && settled.is_in_doubt(head) {
                in_doubt(settled);
                continue;
            }
            if let Ok(written) = &settled.answer {
                // What changed nothing is in no log: this memory of it keeps a late repetition from changing something.
                let known = Known {
                    fingerprint: settled.queued.write.fingerprint,
                    revision: written.revision,
                    created: written.created,
                };
                self.catalog.operations().note(written.operation, known, Instant::now());
            }
            settled.queued.answer(settled.answer);
        }
    }

    async fn pause(&mut self) {
        let pause = self.pace.failed(self.membership.leads());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Nothing of these was changed; unless they were submitted before, and nobody knows what came of that. What a write met
/// in a batch that came to nothing may never have been: its own answer says nothing.
fn refuse(settled: Vec<Settled>, head: Head, error: impl Fn() -> WriteError) {
    for settled in settled {
        if settled.is_in_doubt(head) {
            in_doubt(settled);
        } else {
            settled.queued.answer(Err(error()));
        }
    }
}

fn in_doubt(settled: Settled) {
    let reason = "it was submitted, and the store did not tell what came of it";
    let answer = WriteError::unknown(settled.queued.write.operation, reason, settled.before);
    settled.queued.answer(Err(answer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_takes_no_writes_is_told_once_and_its_return_with_what_it_cost() {
        let (mut trouble, start) = (Trouble::default(), Instant::now());
        assert_eq!(trouble.end(start), None);
        assert!(trouble.refuse(3, start));
        assert!(!trouble.refuse(4, start + Duration::from_secs(1)));
        assert_eq!(trouble.end(start + Duration::from_secs(2)), Some((Duration::from_secs(2), 7)));
        assert_eq!(trouble.end(start + Duration::from_secs(2)), None);
        assert!(trouble.refuse(1, start + Duration::from_secs(3)), "the next time is news again");
    }
}
