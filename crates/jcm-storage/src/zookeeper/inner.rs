//! What the store knows, and how it comes to know what others wrote.
//!
//! Invariant: `held` is one state: the definitions, the tail of the log and the head belong together, and move forward
//! only. Whatever tears them apart (a gap, another store) drops all three, and every feed is reset.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jcm_model::{Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};
use zookeeper_client as zk;

use super::fetch::{self, LogError, REQUEST_PATIENCE, ReadError};
use super::identity::{Verdict, judge, make};
use super::layout::Layout;
use super::loading::{self, Loaded};
use super::mirror::{After, Mirror};
use super::session::{CallError, Session};
use super::stored::{Head, Identity};
use crate::store::{Operation, chain};
use crate::tail::Tail;
use crate::{LoadError, Snapshot};

/// How many of the latest commits are kept in memory: what a follower may be behind before it costs reads.
const TAIL_TRANSACTIONS_MAX: usize = 1024;
/// What their records may add up to; in memory they take a few times as much.
const TAIL_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Transactions that are taken at a time when many are missing.
const STEP_TRANSACTIONS_MAX: usize = 64;
/// How often the identity is asked for while somebody else makes it.
const RECOGNITIONS_MAX: usize = 5;

/// What the store knows.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) session: Session,
    state: Mutex<State>,
    /// Rises with everything that a feed may wait for.
    ticks: watch::Sender<u64>,
    pub(super) stale_since: watch::Sender<Option<Instant>>,
    /// Asks the follower to look now.
    pub(super) hint: Notify,
    /// Whoever holds it takes what others wrote: one at a time.
    looking: tokio::sync::Mutex<()>,
    /// Whoever holds it commits: two at a time would be worked out on the same head, and one refused.
    pub(super) writer: tokio::sync::Mutex<()>,
    pub(super) root_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether somebody said which store is expected: nothing is bound or made before.
    pub(super) is_open: bool,
    /// What this server holds, or has held last: an older state of the same store is not taken for it. `None`: it has held
    /// nothing.
    floor: Option<jcm_model::Head>,
    pub(super) bound: Option<Bound>,
    /// Why the ensemble is not the one that this server is bound to.
    alien: Option<String>,
    /// Why what the ensemble holds cannot be followed.
    rewound: Option<String>,
    pub(super) held: Option<Held>,
    pub(super) resets: u64,
}

/// The store that was recognised.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    pub(super) identity: Identity,
    /// The version of the identity's znode: a commit is conditional on it too.
    pub(super) version: i32,
    pub(super) layout: Layout,
}

/// What was loaded, and followed since.
#[derive(Debug)]
pub(super) struct Held {
    /// The store that it is of. Who asked for the state of another one, before it was replaced, must not touch it.
    pub(super) store: StoreId,
    pub(super) tail: Tail,
    pub(super) mirror: Mirror,
    pub(super) head: Head,
    /// The bytes of all records by which the log grew since it was loaded.
    pub(super) log_bytes: u64,
}

impl State {
    /// Why nothing may be written or followed.
    pub(super) fn refusal(&self) -> Option<&String> {
        self.alien.as_ref().or(self.rewound.as_ref())
    }

    /// What is held, if it is of that store.
    pub(super) fn held_of(&mut self, store: StoreId) -> Option<&mut Held> {
        self.held.as_mut().filter(|held| held.store == store)
    }

    /// Notes where the log of a store ends.
    pub(super) fn note_head(&mut self, store: StoreId, head: Head) {
        if let Some(held) = self.held_of(store) {
            held.note_head(head);
        }
    }

    /// Drops what is held: every feed is reset.
    fn drop_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.floor = Some(jcm_model::Head { store: held.store, revision: held.tail.head() });
        }
        self.resets += 1;
    }

    /// The store that this server is bound to, or holds definitions of.
    fn expected(&self) -> Option<StoreId> {
        let bound = self.bound.as_ref().map(|bound| bound.identity.store);
        bound.or(self.floor.map(|floor| floor.store))
    }

    /// The latest revision that this server has held of any store.
    pub(super) fn latest_held(&self) -> Revision {
        let held = self.held.as_ref().map_or(Revision::ZERO, |held| held.head.revision);
        held.max(self.floor.map_or(Revision::ZERO, |floor| floor.revision))
    }
}

impl Held {
    /// Takes the next transaction; `false`: it is not the next one. One that is there already is left alone.
    fn take(&mut self, transaction: &Arc<Transaction>, size_bytes: usize) -> bool {
        if transaction.last() <= self.tail.head() {
            return true;
        }
        if transaction.first() != self.tail.head().next() {
            return false;
        }
        self.mirror.take(transaction);
        self.tail.push(Arc::clone(transaction), size_bytes);
        self.log_bytes += size_bytes as u64;
        true
    }

    /// Notes where the log ends. A reading that was overtaken is left alone: versions wrap, and are near each other.
    fn note_head(&mut self, head: Head) {
        if head.version.wrapping_sub(self.head.version) > 0 {
            self.head = head;
        }
    }
}

impl Inner {
    pub(super) fn new(session: Session, root: &str) -> Self {
        Self {
            session,
            state: Mutex::default(),
            ticks: watch::Sender::new(0),
            stale_since: watch::Sender::new(Some(Instant::now())),
            hint: Notify::new(),
            looking: tokio::sync::Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            root_bytes: root.len(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ticks(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    fn tick(&self) {
        self.ticks.send_modify(|ticks| *ticks += 1);
    }

    pub(super) fn expect(&self, held: Option<jcm_model::Head>) {
        let mut state = self.state();
        state.floor = held;
        state.is_open = true;
        drop(state);
        self.hint.notify_one();
    }

    pub(super) fn id(&self) -> StoreId {
        self.expected().unwrap_or(StoreId(uuid::Uuid::nil()))
    }

    /// The store that this server is bound to, or holds definitions of.
    pub(super) fn expected(&self) -> Option<StoreId> {
        self.state().expected()
    }

    /// Which store an identity is of, if that is ours or took its place. `None`: it is not, or nothing is bound yet.
    pub(super) fn recognises(&self, identity: Option<&[u8]>) -> Option<StoreId> {
        let identity = Identity::decode(identity?).ok()?;
        let state = self.state();
        let ours = state.expected()?;
        (identity.store == ours || identity.replaces.contains(&ours)).then_some(identity.store)
    }

    /// Finds out which store is there, and binds to it.
    pub(super) async fn recognise(&self) -> Result<Bound, LoadError> {
        for _ in 0..RECOGNITIONS_MAX {
            let found = fetch::identity(&self.session).await?;
            let verdict = judge(self.expected(), found);
            match verdict {
                Verdict::Ours { identity, version } => return Ok(self.bind(identity, version)),
                Verdict::Alien(reason) => {
                    self.refuse(&reason);
                    return Err(LoadError::Unusable { reason });
                }
                Verdict::Emptied(reason) => {
                    self.refuse(&reason);
                    return Err(LoadError::Lost { reason });
                }
                Verdict::Make => match make(&self.session).await {
                    // Whoever made it, this server or another: it is there to be read.
                    Ok(()) => {}
                    Err(CallError::Refused(error))
                        if zk::Error::from(error.clone()) == zk::Error::NodeExists => {}
                    Err(error) => return Err(LoadError::Unavailable { reason: chain(&error) }),
                },
            }
        }
        Err(LoadError::Unavailable { reason: "the identity of the store changes all the time".to_owned() })
    }

    /// The store that was recognised, as long as nothing speaks against it.
    pub(super) fn bound(&self) -> Option<Bound> {
        let state = self.state();
        state.bound.clone().filter(|_| state.refusal().is_none())
    }

    /// Nothing is written or followed until it is the right ensemble.
    fn refuse(&self, reason: &str) {
        let mut state = self.state();
        if state.alien.as_deref() != Some(reason) {
            error!(reason, "the ZooKeeper ensemble is not the one that this server is bound to");
            state.alien = Some(reason.to_owned());
        }
    }

    fn bind(&self, identity: Identity, version: i32) -> Bound {
        let mut state = self.state();
        if state.alien.take().is_some() {
            info!(store = %identity.store, "the ZooKeeper ensemble is the right one again");
        }
        let layout = Layout::of(identity.store);
        let before = state.bound.replace(Bound { identity, version, layout });
        let bound = state.bound.clone().expect("it was set just now");
        if let Some(before) = before
            && before.identity.store != bound.identity.store
        {
            warn!(before = %before.identity.store, now = %bound.identity.store, "the store was restored");
            state.drop_held();
            state.rewound = None;
            drop(state);
            self.tick();
        }
        bound
    }

    /// Reads all definitions, and goes on from there.
    pub(super) async fn load(&self) -> Result<Snapshot, LoadError> {
        let bound = self.recognise().await?;
        let floor = self.state().floor.filter(|floor| floor.store == bound.identity.store);
        let Loaded { head, mirror, operations } = loading::load(&self.session, &bound.layout).await?;
        if let Some(floor) = floor.filter(|floor| head.revision < floor.revision) {
            return Err(self.went_back(floor.revision, head.revision));
        }
        let snapshot = snapshot(bound.identity.store, head.revision, &mirror, operations);
        {
            let mut state = self.state();
            // What was lost is there again, or others went on without it: there is nothing that it could be mixed with.
            if state.held.is_none() {
                state.rewound = None;
            }
            if let Some(reason) = state.refusal() {
                return Err(LoadError::Unusable { reason: reason.clone() });
            }
        }
        let _one = self.looking.lock().await;
        {
            let mut state = self.state();
            if state.bound.as_ref().is_none_or(|now| now.identity.store != bound.identity.store) {
                return Err(LoadError::Unavailable { reason: "the store was restored meanwhile".to_owned() });
            }
            if state.held.is_none() {
                let tail = Tail::new(head.revision, TAIL_TRANSACTIONS_MAX, TAIL_BYTES_MAX);
                state.held = Some(Held { store: bound.identity.store, tail, mirror, head, log_bytes: 0 });
                return Ok(snapshot);
            }
        }
        // What is followed may be behind what was just read: a feed from there must find its place.
        self.catch_up(&bound, head).await?;
        Ok(snapshot)
    }

    /// Reads the head as it is now, and takes what is missing. The watch fires when the head moves on.
    pub(super) async fn look(&self, bound: &Bound) -> Result<zk::OneshotWatcher, LoadError> {
        let _one = self.looking.lock().await;
        let floor = self.state().held_of(bound.identity.store).map(|held| held.head.clone());
        let (head, watch) = fetch::watched_head(&self.session, &bound.layout).await?;
        let head = self.readable(bound, head).await?;
        if let Some(floor) = floor {
            self.refuse_rewound(&floor, &head)?;
        }
        self.catch_up(bound, head).await?;
        Ok(watch)
    }

    /// The head as it is now.
    pub(super) async fn read_head(&self, bound: &Bound) -> Result<Head, LoadError> {
        let head = fetch::head(&self.session, &bound.layout, Instant::now() + REQUEST_PATIENCE).await?;
        self.readable(bound, head).await
    }

    async fn readable(&self, bound: &Bound, head: Option<Result<Head, String>>) -> Result<Head, LoadError> {
        match head {
            Some(Ok(head)) => Ok(head),
            Some(Err(reason)) => {
                Err(LoadError::Unusable { reason: format!("its head cannot be read: {reason}") })
            }
            None => {
                // The identity says why.
                self.recognise().await?;
                Err(LoadError::Unusable { reason: format!("`{}` is not there", bound.layout.head()) })
            }
        }
    }

    /// What was there before it was asked cannot be gone: the ensemble lost writes, as by an old copy of its data.
    fn refuse_rewound(&self, floor: &Head, head: &Head) -> Result<(), LoadError> {
        let mut state = self.state();
        if head.version.wrapping_sub(floor.version) >= 0 && head.revision >= floor.revision {
            let went_back = state.rewound.take().is_some();
            drop(state);
            if went_back {
                // Others wrote on what was left: it leads to this head, and what is held does not.
                self.lose("the ensemble lost writes, and went on without them");
            }
            return Ok(());
        }
        drop(state);
        Err(self.went_back(floor.revision, head.revision))
    }

    /// Nothing is written or followed: what the ensemble holds is older than what this server holds.
    fn went_back(&self, was: Revision, is: Revision) -> LoadError {
        let mut state = self.state();
        let reason =
            format!("its head was at {was} and is at {is}: the ensemble lost writes; restore a snapshot");
        if state.rewound.as_ref() != Some(&reason) {
            error!(reason, "the ZooKeeper ensemble went back");
            state.rewound = Some(reason.clone());
        }
        LoadError::Lost { reason }
    }

    /// Takes what is missing up to a head.
    async fn catch_up(&self, bound: &Bound, head: Head) -> Result<(), LoadError> {
        let mut at = {
            let mut state = self.state();
            let Some(held) = state.held_of(bound.identity.store) else { return Ok(()) };
            if head.revision <= held.tail.head() {
                held.note_head(head);
                return Ok(());
            }
            held.tail.head()
        };
        if let Some(latest) = head.latest_after(at) {
            at = head.revision;
            if !self.take_all(bound.identity.store, vec![latest], &head) {
                self.lose("what follows does not join what is there");
            }
        }
        while at < head.revision {
            let ends = if let Some(ends) = head.since(at) {
                ends.to_vec()
            } else {
                let max = STEP_TRANSACTIONS_MAX;
                fetch::ends(&self.session, &bound.layout, at, head.revision, max).await?
            };
            let step = &ends[..ends.len().min(STEP_TRANSACTIONS_MAX)];
            let transactions = match fetch::transactions(&self.session, &bound.layout, at, step).await {
                Ok(transactions) => transactions,
                Err(LogError::Read(error)) => return Err(error.into()),
                Err(gap @ LogError::Gap { .. }) => {
                    self.lose(&chain(&gap));
                    return Ok(());
                }
            };
            let Some((last, _)) = transactions.last() else {
                self.lose(&format!("nothing follows {at}, and the head is at {}", head.revision));
                return Ok(());
            };
            at = last.last();
            if !self.take_all(bound.identity.store, transactions, &head) {
                self.lose("what follows does not join what is there");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes transactions in order. `false`: one is not the next. With the last one the head is known, in the same step:
    /// whoever hears of it may commit on it.
    fn take_all(&self, store: StoreId, transactions: Vec<(Transaction, usize)>, head: &Head) -> bool {
        let mut state = self.state();
        let Some(held) = state.held_of(store) else { return true };
        let mut fits = true;
        for (transaction, size_bytes) in transactions {
            fits &= held.take(&Arc::new(transaction), size_bytes);
        }
        if held.tail.head() == head.revision {
            held.note_head(head.clone());
        }
        drop(state);
        self.tick();
        fits
    }

    /// What is held cannot be followed any further: whoever follows it has to load again.
    pub(super) fn lose(&self, reason: &str) {
        warn!(reason, "the change log cannot be followed without a gap: definitions are loaded again");
        self.state().drop_held();
        self.tick();
    }

    /// Takes what was just committed from here, unless the follower was faster.
    pub(super) fn publish(&self, committed: Committed) {
        let mut state = self.state();
        let Some(held) = state.held_of(committed.on.store) else { return };
        if held.tail.head() == committed.on.revision {
            held.mirror.install(committed.after);
            held.tail.push(committed.transaction, committed.size_bytes);
            held.log_bytes += committed.record_bytes as u64;
        }
        held.note_head(committed.head);
        drop(state);
        self.tick();
    }

    /// Some of the transactions after a revision, in order.
    pub(super) async fn log_after(&self, at: Revision) -> Result<Vec<Arc<Transaction>>, LogError> {
        let (layout, until) = {
            let state = self.state();
            match (&state.bound, &state.held, state.refusal()) {
                (Some(bound), Some(held), None) => (bound.layout.clone(), held.tail.head()),
                _ => return Err(ReadError::NotOurs.into()),
            }
        };
        let ends = fetch::ends(&self.session, &layout, at, until, STEP_TRANSACTIONS_MAX).await?;
        let transactions = fetch::transactions(&self.session, &layout, at, &ends).await?;
        Ok(transactions.into_iter().map(|(transaction, _)| Arc::new(transaction)).collect())
    }

    /// What feeds tell may be behind, since then at the latest.
    pub(super) fn set_stale(&self, since: Instant) {
        self.stale_since.send_if_modified(|stale| {
            let is_new = stale.is_none();
            stale.get_or_insert(since);
            is_new
        });
    }

    /// What feeds tell is what is there.
    pub(super) fn set_fresh(&self) {
        self.stale_since.send_if_modified(|stale| stale.take().is_some());
    }
}

/// What was committed from here.
pub(super) struct Committed {
    pub(super) on: jcm_model::Head,
    pub(super) transaction: Arc<Transaction>,
    pub(super) size_bytes: usize,
    pub(super) record_bytes: usize,
    pub(super) head: Head,
    pub(super) after: Vec<After>,
}

fn snapshot(store: StoreId, revision: Revision, mirror: &Mirror, operations: Vec<Operation>) -> Snapshot {
    let quarantined = mirror.quarantine.iter().map(|(name, found)| (name.clone(), found.reason.clone()));
    Snapshot {
        store,
        revision,
        clusters: mirror.clusters.values().cloned().collect(),
        quarantined: quarantined.collect(),
        operations,
    }
}

#[cfg(test)]
mod tests;
