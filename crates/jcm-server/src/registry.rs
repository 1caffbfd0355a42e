//! Writes: where each is carried out, and what became of it.
//!
//! A write has one deadline and ends in one of three ways: it is committed; nothing of it is, nor ever will be; or nobody
//! knows, and its operation tells. On its way it may be tried by two servers, the one that took it and one that it was
//! forwarded to: always under the same operation, which a server commits only on a log that does not hold it. A write
//! runs in a task of its own, so a client that goes away cancels nothing.

mod attempts;
mod batch;
mod draft;
mod load;
mod others;
mod queued;
mod route;
mod succession;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jcm_model::{OperationId, Refusal, Revision, ServerId, TargetPolicy};
use jcm_storage::{Membership, Store};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::catalog::{Catalog, OPERATIONS_KEPT_FOR};
use crate::leases::Leases;
use crate::pause::{Pulse, Stretch};
use attempts::{Attempts, Standing};
use draft::Draft;
pub(crate) use draft::Outcome;
use load::Load;
pub(crate) use others::{Others, Patience};
use queued::{Queued, Stage};
use route::{Route, Router, Seen};
use write::Answer;
pub(crate) use write::{Wish, Write, WriteError, Written};
pub(crate) use writer::Writer;

/// Total time of a write, from its request to its answer: with the way back that is less than the two seconds in which a
/// client is promised one.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_millis(1_900);

/// Time for another server to carry a write out, or to say that it gets on: several times what it takes, and most of the
/// write's own time is left when it is silent.
const FORWARD_DEADLINE: Duration = Duration::from_millis(400);

/// How long a server that was told of a commit waits for its own memory to show it.
const SHOW_DEADLINE: Duration = Duration::from_secs(1);

/// Time for the store to say where the head is, when somebody asks what became of an operation.
const FATE_DEADLINE: Duration = Duration::from_secs(1);

/// Pause before a store that just went out of reach is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Writes that may wait: two seconds' worth at the pace of a slow disk, so that a longer queue could only time out.
pub(crate) const QUEUE_DEPTH_MAX: usize = 16_384;

/// The way in for writes.
#[derive(Debug, Clone)]
pub(crate) struct Registry(Arc<Shared>);

/// What a registry works with.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) targets: Arc<TargetPolicy>,
    pub(crate) others: Arc<dyn Others>,
    /// Whether the place of a dead program may be had by one that registers itself.
    pub(crate) leases: Leases,
    /// Tells whether this process stood still.
    pub(crate) pulse: Pulse,
}

#[derive(Debug)]
struct Shared {
    parts: Parts,
    queue: mpsc::Sender<Queued>,
    router: Mutex<Router>,
    attempts: Mutex<Attempts>,
    load: Arc<Load>,
    store_available: Arc<AtomicBool>,
    tasks: TaskTracker,
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was carried out.
    Applied(Revision),
    /// It was not, and will not be unless it is sent again.
    NotApplied,
    /// This server cannot tell.
    Unknown,
    /// It is older than what is remembered.
    Forgotten,
}

/// What came of asking another server.
enum Hop {
    /// It knows the write's fate.
    Answered(Answer),
    /// It did nothing, and will not.
    Undone,
    /// It may have carried the write out, or may still.
    InDoubt(String),
}

impl Registry {
    /// The way in, and the task behind it.
    pub(crate) fn new(parts: Parts) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(QUEUE_DEPTH_MAX);
        let store_available = Arc::new(AtomicBool::new(true));
        let load = Arc::new(Load::default());
        let writer = Writer {
            queue,
            catalog: Arc::clone(&parts.catalog),
            store: Arc::clone(&parts.store),
            membership: Arc::clone(&parts.membership),
            targets: Arc::clone(&parts.targets),
            store_available: Arc::clone(&store_available),
            pulse: parts.pulse.clone(),
            load: Arc::clone(&load),
            pace: writer::Pace::default(),
            trouble: writer::Trouble::default(),
            kept: draft::Kept::default(),
            waiting: Vec::new(),
        };
        let shared = Shared {
            parts,
            queue: sender,
            router: Mutex::default(),
            attempts: Mutex::default(),
            load,
            store_available,
            tasks: TaskTracker::new(),
        };
        (Self(Arc::new(shared)), writer)
    }

    /// Carries out a write, durably, here or by another server, and waits until this server's memory shows it.
    pub(crate) async fn write(&self, write: Write) -> Answer {
        let operation = write.operation;
        let task = self.clone().see_through(Arc::new(write), self.0.parts.pulse.came_in());
        let answer = self.0.tasks.spawn(task).await;
        answer.unwrap_or_else(|_| Err(WriteError::unknown(operation, "this server is stopping", None)))
    }

    /// The same by this server itself, whoever leads, within a time of at most [`WRITE_DEADLINE`]: what a peer forwarded
    /// is not forwarded again.
    pub(crate) async fn carry_out(&self, write: Write, within: Duration) -> Answer {
        let (write, stretch) = (Arc::new(write), self.0.parts.pulse.came_in());
        let deadline = Instant::now() + within.min(WRITE_DEADLINE);
        let attempt = self.attempts().begin(write.operation);
        let answer = self.here(&write, deadline, stretch).await;
        self.attempts().end(write.operation, attempt, &answer, Instant::now());
        answer
    }

    /// Runs what a write needs done, also when nobody waits for it any more, and before this server has finished.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.spawn(task);
    }

    /// Waits for the writes that were taken on; new ones may still come.
    pub(crate) async fn finished(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Tells whether this process stood still, which no write outlives.
    pub(crate) fn pulse(&self) -> Pulse {
        self.0.parts.pulse.clone()
    }

    /// A number that rises while this server gets on with the writes that it has in hand.
    pub(crate) fn progress(&self) -> u64 {
        self.0.load.progress()
    }

    /// Whether the writes that it is at now take no longer than others did lately.
    pub(crate) fn is_in_time(&self) -> bool {
        self.0.load.is_in_time(Instant::now())
    }

    /// Whether the store is in reach, and took the last commit that it was given.
    pub(crate) fn is_store_available(&self) -> bool {
        self.0.store_available.load(Ordering::Relaxed) && self.stale_since().is_none()
    }

    /// Since when what this server knows may be behind the store, because that is out of reach.
    pub(crate) fn stale_since(&self) -> Option<Instant> {
        let Parts { store, catalog, .. } = &self.0.parts;
        (*store.stale_since().borrow()).or(*catalog.behind_since().borrow())
    }

    /// What a write would lead to now. Nothing is changed.
    pub(crate) fn try_out(&self, write: &Write) -> Result<Vec<Outcome>, WriteError> {
        let snapshot = self.0.parts.catalog.get();
        let mut draft = Draft::new(&snapshot, &self.0.parts.targets, draft::Kept::default());
        Ok(draft.attempt(write)?.outcomes)
    }

    /// What became of an operation, as far as this server can find out within a second or two.
    pub(crate) async fn fate(&self, operation: OperationId) -> Fate {
        self.fate_at(operation, Instant::now()).await
    }

    async fn fate_at(&self, operation: OperationId, now: Instant) -> Fate {
        let Parts { catalog, store, membership, others, .. } = &self.0.parts;
        let applied = || catalog.operations().get(operation).map(|known| Fate::Applied(known.revision));
        if let Some(applied) = applied() {
            return applied;
        }
        // A server that is gone can commit no more: its session was over before its name was.
        let is_alone = membership.roster().borrow().members.len() <= 1 && others.connected().is_empty();
        // Another server may have committed it a moment ago.
        let is_confirmed = match timeout(FATE_DEADLINE, store.head()).await {
            Ok(Ok(head)) => timeout(FATE_DEADLINE, catalog.comes_to(head)).await.is_ok(),
            _ => false,
        };
        // In this order: what leads to a revision is remembered before anybody can meet that revision.
        let head = catalog.get().head();
        if let Some(applied) = applied() {
            return applied;
        }
        let standing = {
            let attempts = self.attempts();
            if !attempts.knows(operation) && is_older_than_the_log(operation) {
                return Fate::Forgotten;
            }
            attempts.standing(operation, head, is_alone, now)
        };
        match standing {
            Standing::CameToNothing if is_confirmed || is_alone => Fate::NotApplied,
            Standing::Unsettled { attempt } if is_confirmed => {
                let settled = timeout(FATE_DEADLINE, store.settle(head)).await;
                let is_settled = matches!(settled, Ok(Ok(()))) && self.attempts().settle(operation, attempt);
                if is_settled { Fate::NotApplied } else { Fate::Unknown }
            }
            _ => Fate::Unknown,
        }
    }

    async fn see_through(self, write: Arc<Write>, stretch: Stretch) -> Answer {
        let deadline = Instant::now() + WRITE_DEADLINE;
        let attempt = self.attempts().begin(write.operation);
        let answer = self.anywhere(&write, deadline, stretch).await;
        self.attempts().end(write.operation, attempt, &answer, Instant::now());
        self.shown(&answer, deadline).await;
        answer
    }

    /// Committed is committed, but whoever asks this server next shall see it, if that can be had in time.
    async fn shown(&self, answer: &Answer, deadline: Instant) {
        if let Ok(written) = answer
            && self.stale_since().is_none()
        {
            let deadline = deadline.min(Instant::now() + SHOW_DEADLINE);
            let _ = timeout_at(deadline.into(), self.0.parts.catalog.reached(written.revision)).await;
        }
    }

    /// By the server that does it best, else by this one, else by any that can.
    async fn anywhere(&self, write: &Arc<Write>, deadline: Instant, stretch: Stretch) -> Answer {
        let mut doubt = None;
        let mut was_forwarded = false;
        if let Route::Forward(server) = self.route() {
            was_forwarded = true;
            match self.forward(&server, write, deadline, stretch).await {
                Hop::Answered(answer) => return answer,
                Hop::Undone => {}
                Hop::InDoubt(reason) => doubt = Some(reason),
            }
        }
        loop {
            let answer = self.here(write, deadline, stretch).await;
            let Err(WriteError::Unavailable { .. }) = answer else {
                return doubtful(write, answer, doubt);
            };
            if !was_forwarded && let Some(server) = self.anybody() {
                was_forwarded = true;
                match self.forward(&server, write, deadline, stretch).await {
                    Hop::Answered(answer) => return answer,
                    Hop::Undone => {}
                    Hop::InDoubt(reason) => doubt = Some(reason),
                }
            }
            if !self.comes_back(deadline).await {
                return doubtful(write, answer, doubt);
            }
        }
    }

    /// Waits for a store that went out of reach only now: most such breaks are shorter than a write's time. Answers
    /// whether trying again is worth it.
    async fn comes_back(&self, deadline: Instant) -> bool {
        let mut stale = self.0.parts.store.stale_since();
        let since = *stale.borrow();
        let is_new = since.is_some_and(|since| since.elapsed() < WRITE_DEADLINE);
        let pause_over = Instant::now() + RETRY_PAUSE;
        if !is_new || pause_over >= deadline {
            return false;
        }
        tokio::time::sleep_until(pause_over.into()).await;
        let back = timeout_at(deadline.into(), stale.wait_for(Option::is_none)).await;
        matches!(back, Ok(Ok(_)))
    }

    async fn forward(&self, to: &ServerId, write: &Write, deadline: Instant, stretch: Stretch) -> Hop {
        let in_all = deadline.saturating_duration_since(Instant::now());
        let patience = Patience { without_a_sign: FORWARD_DEADLINE, in_all };
        if in_all.is_zero() || self.0.parts.pulse.is_over(stretch) {
            return Hop::Undone;
        }
        metrics::counter!("jcm_writes_forwarded_total").increment(1);
        let hop = match self.0.parts.others.forward(to, write, patience).await {
            Ok(Err(error @ WriteError::Unavailable { .. })) => {
                debug!(server = %to, %error, "the server that was asked cannot write");
                Hop::Undone
            }
            Ok(Err(error @ WriteError::OutcomeUnknown { .. })) => Hop::InDoubt(error.to_string()),
            Ok(answer) => {
                self.router().answered(to);
                return Hop::Answered(answer);
            }
            Err(error) => {
                debug!(server = %to, %error, "a write could not be forwarded");
                if error.is_undone() { Hop::Undone } else { Hop::InDoubt(error.to_string()) }
            }
        };
        metrics::counter!("jcm_writes_forward_failed_total").increment(1);
        let seen = self.seen();
        if self.router().failed(to, &seen, Instant::now()) {
            warn!(leader = %to, epoch = seen.epoch, "the leader did not carry a write out: it is passed by until it does");
        }
        hop
    }

    /// By this server itself; where it leads, a program that registers itself has the place of a dead one.
    async fn here(&self, write: &Arc<Write>, deadline: Instant, stretch: Stretch) -> Answer {
        let (mut write, mut added) = (Arc::clone(write), 0);
        loop {
            let answer = self.as_it_is(&write, deadline, stretch).await;
            let Some((cluster, other)) = succession::wanted(&write, &answer) else {
                if added > 0 && answer.is_ok() {
                    metrics::counter!("jcm_lease_nodes_replaced_total").increment(added as u64);
                }
                return succession::as_asked(answer, added);
            };
            let vacancy = self.0.parts.leases.claim(cluster, other, Instant::now());
            let Some((lapsed, epoch)) = vacancy else { return succession::as_asked(answer, added) };
            info!(%cluster, node = %other, "nobody keeps the node's lease: a program that registers itself has its place");
            write = Arc::new(succession::instead_of(&write, lapsed, epoch));
            added += 1;
        }
    }

    async fn as_it_is(&self, write: &Arc<Write>, deadline: Instant, stretch: Stretch) -> Answer {
        if !self.0.parts.catalog.is_following() {
            let reason = "this server serves what it held when it lost its store, and waits for that";
            return Err(WriteError::unavailable(match self.0.parts.catalog.behind_because() {
                Some(because) => format!("{reason}: {because}"),
                None => reason.to_owned(),
            }));
        }
        let operation = write.operation;
        let (answer, result) = oneshot::channel();
        let stage = Arc::new(Stage::default());
        let queued =
            Queued { write: Arc::clone(write), deadline, stretch, stage: Arc::clone(&stage), answer };
        // Those that were taken from the queue make up less than a batch.
        let waiting = QUEUE_DEPTH_MAX - self.0.queue.capacity();
        let now = Instant::now();
        if self.0.load.wait(waiting, now) > deadline.saturating_duration_since(now) {
            return Err(WriteError::Busy { waiting });
        }
        self.0.queue.try_send(queued).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy { waiting },
            mpsc::error::TrySendError::Closed(_) => WriteError::unavailable("this server is stopping"),
        })?;
        let reason = match timeout_at(deadline.into(), result).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(_)) => "this server is stopping",
            Err(_) => "the store, or the writes before it, took too long",
        };
        Err(match stage.give_up() {
            Ok(()) if self.0.load.is_moving(Instant::now()) => WriteError::Busy { waiting },
            Ok(()) => WriteError::unavailable(reason),
            Err(on) => WriteError::unknown(operation, reason, Some(on)),
        })
    }

    fn route(&self) -> Route {
        let seen = self.seen();
        self.router().decide(&seen, Instant::now())
    }

    fn anybody(&self) -> Option<ServerId> {
        let seen = self.seen();
        self.router().anybody(&seen)
    }

    fn seen(&self) -> Seen {
        let Parts { membership, others, .. } = &self.0.parts;
        let roster = Arc::clone(&membership.roster().borrow());
        Seen {
            leads: membership.leads(),
            leader: roster.leader.clone(),
            epoch: roster.epoch,
            connected: others.connected(),
            cut_off: self.stale_since().is_some(),
        }
    }

    fn router(&self) -> MutexGuard<'_, Router> {
        self.0.router.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.0.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This server's answer to a write that another one may have carried out, or may still.
fn doubtful(write: &Write, answer: Answer, doubt: Option<String>) -> Answer {
    let (Err(error), Some(doubt)) = (&answer, doubt) else { return answer };
    let is_settled = match error {
        // The log holds the operation, for something else.
        WriteError::OperationReused { .. } => true,
        // A revision that has passed does not come back, whoever tries.
        WriteError::Refused { index, refusal: Refusal::Condition { .. } } => {
            write.wishes.get(*index).is_some_and(|wish| wish.precondition.revision.is_some())
        }
        _ => false,
    };
    if is_settled {
        return answer;
    }
    Err(WriteError::unknown(write.operation, format!("{doubt}; and here: {error}"), None))
}

/// Whether an operation that is not remembered is too old to be. Only ids that servers made tell their time; the clock
/// decides nothing here but which word is answered.
fn is_older_than_the_log(operation: OperationId) -> bool {
    /// An id that says it is older is a key's digest that happens to look like a time: JCM was not there.
    const EARLIEST: Duration = Duration::from_hours(482_136);
    let Some(made) = operation.0.get_timestamp().filter(|_| operation.0.get_version_num() == 7) else {
        return false;
    };
    let (seconds, nanos) = made.to_unix();
    let made = Duration::new(seconds, nanos);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    made >= EARLIEST && now.saturating_sub(made) > OPERATIONS_KEPT_FOR
}
