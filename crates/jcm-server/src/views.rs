//! What this server publishes: all definitions and, of each cluster, verdicts and routing, as one immutable board; and
//! the events that lead a reader from what it holds to what stands there.
//!
//! Two tasks write here, each its own half: the catalog's follower defines, the checker judges. Each writes a whole
//! transaction or a whole batch of verdicts, and swaps the board once: no reader sees half of either, and no two ways of
//! reading disagree about the order. A reader that falls behind is not sent a backlog: it is told that a cluster
//! changed, and asks for the way from what it holds to the latest. That answer is encoded once for all who hold the same.

mod cell;
mod event;
mod inbox;
mod published;
mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use imbl::{HashMap, OrdMap};
use jcm_model::{
    Change, Cluster, ClusterName, ClusterState, Head, Judged, NodeId, Revision, ServerId, Stamp, StoreId,
    Timestamp,
};
use tokio::sync::watch;

use crate::convergence::Count;
use crate::snapshot::Snapshot;
use cell::Cell;
pub(crate) use event::{Event, EventKind, Held, general};
pub(crate) use inbox::{Inbox, Keys, Subscriber, Watching};
pub(crate) use published::Published;

/// Names that are watched without being defined, over all readers: enough for every program that starts before its
/// cluster is created, and a bound on what strangers can make this server remember.
const ABSENT_WATCHED_MAX: usize = 100_000;

/// Verdicts on nodes, by cluster.
pub(crate) type Verdicts = BTreeMap<ClusterName, Vec<(NodeId, Judged)>>;

/// All clusters as this server publishes them.
#[derive(Debug)]
pub(crate) struct Views {
    board: ArcSwap<Board>,
    /// Where readers of a cluster are found, and how its view came about lately.
    cells: ArcSwap<HashMap<ClusterName, Arc<Cell>>>,
    /// Held by whoever swaps the board or the cells.
    writing: Mutex<Writing>,
    origin: Origin,
    /// Every publication up to this one stands on the board, and its readers were told.
    settled: AtomicU64,
    /// What was published up to here is of another store than what is on the board.
    swapped_at: AtomicU64,
    /// Whether all of this may be behind the store, because that is out of reach.
    stale: watch::Sender<bool>,
}

/// What all readers see at one moment.
#[derive(Debug, Clone)]
struct Board {
    snapshot: Arc<Snapshot>,
    published: HashMap<ClusterName, Arc<Published>>,
}

#[derive(Debug)]
struct Writing {
    /// The revision that was loaded at start: clusters created later need no time to be judged first.
    loaded: Option<Revision>,
    /// When definitions were first there, and checks could begin.
    started: Instant,
}

/// Counts publications over all clusters of this run, so that no two ever share a number.
#[derive(Debug)]
struct Origin {
    id: u64,
    sequence: AtomicU64,
}

impl Origin {
    fn next(&self) -> (u64, u64) {
        (self.id, self.sequence.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// What a reader gets when it asks for a cluster.
#[derive(Debug)]
pub(crate) enum Answer {
    /// As it is now.
    Published(Arc<Published>),
    /// It is not there, and this server would know.
    Absent,
    /// It is there, but this server cannot show it: its nodes were not judged yet since the start, or it is damaged.
    NotReady,
}

impl Views {
    /// Nothing yet. `origin` tells this run of this server from every other.
    pub(crate) fn new(origin: u64) -> Self {
        let snapshot = Snapshot {
            store: StoreId(uuid::Uuid::nil()),
            revision: Revision::ZERO,
            clusters: OrdMap::new(),
            quarantined: OrdMap::new(),
        };
        Self {
            board: ArcSwap::from_pointee(Board { snapshot: Arc::new(snapshot), published: HashMap::new() }),
            cells: ArcSwap::default(),
            writing: Mutex::new(Writing { loaded: None, started: Instant::now() }),
            origin: Origin { id: origin, sequence: AtomicU64::new(0) },
            settled: AtomicU64::new(0),
            swapped_at: AtomicU64::new(0),
            stale: watch::Sender::new(false),
        }
    }

    /// Whether all of this may be behind the store, as a level.
    pub(crate) fn stale(&self) -> watch::Receiver<bool> {
        self.stale.subscribe()
    }

    /// The same for a moment.
    pub(crate) fn is_stale(&self) -> bool {
        *self.stale.borrow()
    }

    /// Everything published from now on may be behind the store, or no longer.
    pub(crate) fn set_stale(&self, stale: bool) {
        self.stale.send_if_modified(|held| std::mem::replace(held, stale) != stale);
    }

    /// All definitions as they are published now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.board.load().snapshot)
    }

    /// The cluster as it is published now.
    pub(crate) fn get(&self, name: &ClusterName) -> Answer {
        let board = self.board.load();
        match board.published.get(name) {
            Some(published) if published.is_ready() => Answer::Published(Arc::clone(published)),
            Some(_) => Answer::NotReady,
            None if board.snapshot.quarantined.contains_key(name) => Answer::NotReady,
            None => Answer::Absent,
        }
    }

    /// What leads a reader of the cluster from what it holds to what is published now; it counts as told.
    fn event(&self, name: &ClusterName, cell: &Cell, held: &mut Held) -> Option<Event> {
        let board = self.board.load();
        let event = match board.published.get(name) {
            Some(published) if published.is_ready() => {
                return cell.event(published, self.is_stale(), held);
            }
            Some(_) => Event::unknown(name, held),
            None if board.snapshot.quarantined.contains_key(name) => Event::unknown(name, held),
            // Who resumes from before the store was replaced was told of clusters of that one.
            None if held.is_settled_by(self.swapped_at.load(Ordering::Acquire)) => Event::unknown(name, held),
            None => Event::absent(name, board.snapshot.store, board.snapshot.revision, held),
        }?;
        held.advance(&event);
        Some(event)
    }

    /// Takes over all definitions. Verdicts on nodes that kept their form stay.
    pub(crate) fn load(&self, snapshot: Arc<Snapshot>) {
        let mut writing = self.writing();
        if self.board.load().snapshot.store != snapshot.store {
            if writing.loaded.is_none() {
                writing.started = Instant::now();
            }
            // Revisions of another store compare with nothing that was loaded before.
            writing.loaded = Some(snapshot.revision);
            self.swapped_at.store(self.sequence(), Ordering::Release);
        }
        let mut edit = self.edit(&writing);
        let names: Vec<ClusterName> =
            edit.published.keys().chain(snapshot.clusters.keys()).cloned().collect();
        for name in &names {
            if !edit.holds(name, &snapshot) {
                edit.define(name, &snapshot, &[]);
            }
        }
        edit.publish(Some(snapshot));
    }

    /// Takes over one committed transaction; `snapshot` is what it led to.
    pub(crate) fn apply<'a>(&self, snapshot: Arc<Snapshot>, changes: impl IntoIterator<Item = &'a Change>) {
        let mut by_cluster: BTreeMap<&ClusterName, Vec<&Change>> = BTreeMap::new();
        for change in changes {
            by_cluster.entry(&change.cluster).or_default().push(change);
        }
        let writing = self.writing();
        let mut edit = self.edit(&writing);
        for (name, changes) in by_cluster {
            edit.define(name, &snapshot, &changes);
        }
        edit.publish(Some(snapshot));
    }

    /// Takes over verdicts. Answers those that say more than what stood there.
    pub(crate) fn judge(&self, verdicts: Verdicts) -> Verdicts {
        let writing = self.writing();
        let mut edit = self.edit(&writing);
        let mut taken = Verdicts::new();
        for (name, verdicts) in verdicts {
            let judged = edit.judge(&name, verdicts);
            if !judged.is_empty() {
                taken.insert(name, judged);
            }
        }
        edit.publish(None);
        taken
    }

    /// Notes of every verdict of these servers since when its judge has been silent; `None`: it is heard.
    pub(crate) fn remark(&self, judges: &BTreeMap<ServerId, Option<Timestamp>>) {
        let writing = self.writing();
        let mut edit = self.edit(&writing);
        let names: Vec<ClusterName> = edit.published.keys().cloned().collect();
        for name in &names {
            edit.remark(name, judges);
        }
        edit.publish(None);
    }

    /// The verdict that stands on a node.
    pub(crate) fn judged(&self, cluster: &ClusterName, node: &NodeId) -> Option<Judged> {
        self.board.load().published.get(cluster)?.state.judged(node).cloned()
    }

    /// Tells the inbox of every change of the cluster, under the given key, until the answer is dropped.
    /// `None`: too many names are watched that nobody defined.
    pub(crate) fn watch(
        self: &Arc<Self>,
        name: &ClusterName,
        inbox: &Arc<Inbox>,
        key: u32,
    ) -> Option<Watching> {
        let writing = self.writing();
        let cells = self.cells.load();
        if !cells.contains_key(name) && cells.len() >= ABSENT_WATCHED_MAX + self.board.load().published.len()
        {
            return None;
        }
        let cell = self.cell(&writing, name);
        let place = cell.add(inbox, key);
        Some(Watching::new(Arc::clone(self), name.clone(), cell, place))
    }

    /// How many subscribers of the cluster hold this revision, on this server.
    pub(crate) fn count(&self, name: &ClusterName, wanted: Head) -> Count {
        let mut count = Count::default();
        if let Some(cell) = self.cells.load().get(name) {
            cell.count(wanted, &mut count);
        }
        count.cut();
        count
    }

    /// Wakes the readers of clusters whose nodes have had their time to be judged. Answers when to come again.
    pub(crate) fn ripen(&self, now: Instant) -> Option<Instant> {
        let (board, cells) = (self.board.load(), self.cells.load());
        let mut next: Option<Instant> = None;
        for (name, published) in &board.published {
            match published.ready_at {
                Some(at) if at > now => next = Some(next.map_or(at, |next| next.min(at))),
                Some(_) => {
                    if let Some(cell) = cells.get(name) {
                        cell.tell();
                    }
                }
                None => {}
            }
        }
        next
    }

    /// Every cluster's verdicts, each cluster's through `lay_out`.
    pub(crate) fn verdicts<T>(
        &self,
        lay_out: impl Fn(&ClusterName, &mut dyn Iterator<Item = (&NodeId, &Judged)>) -> T,
    ) -> Vec<T> {
        let board = self.board.load();
        let checked = board.published.iter().filter(|(_, published)| published.state.cluster().is_checked());
        checked
            .map(|(name, published)| {
                let mut verdicts =
                    published.state.nodes().filter_map(|(node, judged)| Some((&node.id, judged?)));
                lay_out(name, &mut verdicts)
            })
            .collect()
    }

    /// Which run of which server counts publications here.
    pub(crate) fn origin(&self) -> u64 {
        self.origin.id
    }

    /// The publication up to which every reader was told. Read before an inbox is emptied: what it holds covers this.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// Rises with everything that is published.
    pub(crate) fn sequence(&self) -> u64 {
        self.origin.sequence.load(Ordering::Relaxed)
    }

    fn writing(&self) -> MutexGuard<'_, Writing> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit<'a>(&'a self, writing: &'a MutexGuard<'a, Writing>) -> Edit<'a> {
        let board = self.board.load();
        Edit {
            views: self,
            writing,
            published: board.published.clone(),
            snapshot: Arc::clone(&board.snapshot),
            touched: Vec::new(),
        }
    }

    /// The place of a cluster, made where there is none. The guard shows that the caller may swap.
    fn cell(&self, _writing: &MutexGuard<'_, Writing>, name: &ClusterName) -> Arc<Cell> {
        if let Some(cell) = self.cells.load().get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(Cell::default());
        let mut cells = HashMap::clone(&self.cells.load());
        cells.insert(name.clone(), Arc::clone(&cell));
        self.cells.store(Arc::new(cells));
        cell
    }

    /// Drops the place of a cluster that is neither published nor watched.
    fn forget_if_idle(&self, _writing: &MutexGuard<'_, Writing>, name: &ClusterName) {
        let cells = self.cells.load();
        let is_idle = cells.get(name).is_some_and(|cell| !cell.has_readers());
        if is_idle && !self.board.load().published.contains_key(name) {
            let mut cells = HashMap::clone(&cells);
            cells.remove(name);
            self.cells.store(Arc::new(cells));
        }
    }

    fn stop_watching(&self, name: &ClusterName, cell: &Cell, place: usize) {
        let writing = self.writing();
        cell.remove(place);
        self.forget_if_idle(&writing, name);
    }
}

/// The next board, as far as it is worked out: swapped in one step, and readers are told afterwards.
struct Edit<'a> {
    views: &'a Views,
    writing: &'a MutexGuard<'a, Writing>,
    snapshot: Arc<Snapshot>,
    published: HashMap<ClusterName, Arc<Published>>,
    touched: Vec<(ClusterName, Arc<Cell>)>,
}

impl Edit<'_> {
    /// Whether the cluster is published just as it is in `snapshot`: whoever watches it need not hear of it.
    fn holds(&self, name: &ClusterName, snapshot: &Snapshot) -> bool {
        let (Some(held), Some(cluster)) = (self.published.get(name), snapshot.clusters.get(name)) else {
            return false;
        };
        held.token.store == snapshot.store && held.state.cluster() == cluster
    }

    /// One cluster as it is in `snapshot`, after the given changes; without changes it is found out what they did.
    fn define(&mut self, name: &ClusterName, snapshot: &Snapshot, changes: &[&Change]) {
        let cell = self.views.cell(self.writing, name);
        self.touched.push((name.clone(), Arc::clone(&cell)));
        let Some(cluster) = snapshot.clusters.get(name) else {
            self.published.remove(name);
            cell.start_anew();
            return;
        };
        let ready_at = ready_at(self.writing, cluster);
        let before = self.published.get(name);
        let same = before.filter(|before| {
            before.token.store == snapshot.store && before.state.cluster().created == cluster.created
        });
        let after = if let Some(before) = same {
            let state = before.state.redefined(Arc::clone(cluster));
            let ready_at = before.ready_at.and(ready_at);
            let after = Published::new(&self.views.origin, snapshot.store, state, ready_at, Some(before));
            if changes.is_empty() {
                cell.redefine(before, &after);
            } else {
                cell.define(before, &after, changes);
            }
            after
        } else {
            cell.start_anew();
            let state = match before {
                Some(before) if before.token.store != snapshot.store => carried(&before.state, cluster),
                _ => ClusterState::new(Arc::clone(cluster)),
            };
            Published::new(&self.views.origin, snapshot.store, state, ready_at, None)
        };
        self.published.insert(name.clone(), Arc::new(after));
    }

    /// Verdicts on nodes of one cluster. Answers those that say something new; the others change nothing.
    fn judge(&mut self, name: &ClusterName, verdicts: Vec<(NodeId, Judged)>) -> Vec<(NodeId, Judged)> {
        let Some(before) = self.published.get(name) else {
            return Vec::new();
        };
        let mut state = before.state.clone();
        let taken: Vec<_> =
            verdicts.into_iter().filter(|(id, judged)| state.judge(id, judged.clone())).collect();
        self.change(name, state, taken.iter().map(|(id, _)| id.clone()).collect());
        taken
    }

    fn remark(&mut self, name: &ClusterName, judges: &BTreeMap<ServerId, Option<Timestamp>>) {
        let Some(before) = self.published.get(name) else {
            return;
        };
        let mut state = before.state.clone();
        let mut changed = Vec::new();
        for (node, judged) in before.state.nodes() {
            let Some(judged) = judged else { continue };
            let Some(silent_since) = judges.get(&judged.stamp.server) else { continue };
            // What is stale already has been so since then.
            let stale_since = silent_since.map(|since| judged.stale_since.unwrap_or(since));
            if state.remark(&node.id, &judged.stamp, stale_since) {
                changed.push(node.id.clone());
            }
        }
        self.change(name, state, changed);
    }

    /// The state of one cluster in which these verdicts are new.
    fn change(&mut self, name: &ClusterName, state: jcm_model::ClusterState, judged: Vec<NodeId>) {
        let Some(before) = self.published.get(name).filter(|_| !judged.is_empty()) else {
            return;
        };
        let (store, ready_at) = (before.token.store, before.ready_at);
        let after = Published::new(&self.views.origin, store, state, ready_at, Some(before));
        let cell = self.views.cell(self.writing, name);
        cell.judge(before, &after, judged);
        self.touched.push((name.clone(), cell));
        self.published.insert(name.clone(), Arc::new(after));
    }

    fn publish(self, snapshot: Option<Arc<Snapshot>>) {
        let snapshot = snapshot.unwrap_or(self.snapshot);
        self.views.board.store(Arc::new(Board { snapshot, published: self.published }));
        // Only now: whoever is told must find what it is told of.
        for (name, cell) in self.touched {
            cell.tell();
            self.views.forget_if_idle(self.writing, &name);
        }
        self.views.settled.store(self.views.sequence(), Ordering::Release);
    }
}

/// A cluster of another store with what was found of its nodes before the store was replaced, as far as they are asked
/// the same at the same place. It is marked stale, and stamped so low that whatever is found from now on counts more.
fn carried(before: &ClusterState, cluster: &Arc<Cluster>) -> ClusterState {
    if !before.cluster().check.same_question(&cluster.check) {
        return ClusterState::new(Arc::clone(cluster));
    }
    let verdicts = before.nodes().filter_map(|(held, judged)| {
        let judged = judged?;
        let node = cluster.node(&held.id).filter(|node| node.same_form(held))?;
        let stamp = Stamp {
            ring_epoch: 0,
            term: 0,
            server: judged.stamp.server.clone(),
            incarnation: 0,
            sequence: 0,
        };
        let stale_since = judged.stale_since.or_else(|| Some(Timestamp::now()));
        let birth = cluster.birth(node);
        Some((held.id.clone(), Judged { birth, stamp, stale_since, ..judged.clone() }))
    });
    ClusterState::with_verdicts(Arc::clone(cluster), verdicts.collect::<Vec<_>>())
}

/// When a view of this cluster may be served: at once, or when its checks have had the time to find every node down.
fn ready_at(writing: &Writing, cluster: &Cluster) -> Option<Instant> {
    if !cluster.is_checked() || writing.loaded.is_none_or(|loaded| cluster.created > loaded) {
        return None;
    }
    let check = &cluster.check;
    let detection: Duration = check.interval.max(check.timeout) * check.fall + check.timeout;
    Some(writing.started + detection)
}
