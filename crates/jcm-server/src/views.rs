//! What this server publishes of each cluster: definition, verdicts and routing as one immutable value, and the
//! events that lead a reader from what it holds to that value.
//!
//! Two tasks write here, each its own half: the catalog's follower defines, the checker judges. Both go through one
//! short lock per cluster, and readers through none. A reader that falls behind is not sent a backlog: it is told that
//! a cluster changed, and asks for the way from what it holds to the latest. That answer is encoded once for all
//! readers who hold the same.

mod cell;
mod event;
mod inbox;
mod published;
mod step;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use imbl::{HashMap, OrdMap};
use jcm_model::{Change, Cluster, ClusterName, Judged, NodeId, Revision, StoreId};

use crate::catalog::Snapshot;
use cell::Cell;
pub(crate) use event::{Event, EventKind, Held, general};
pub(crate) use inbox::{Inbox, Watching};
pub(crate) use published::Published;

/// Names that are watched without being defined, over all readers: enough for every program that starts before its
/// cluster is created, and a bound on what strangers can make this server remember.
const ABSENT_WATCHED_MAX: usize = 100_000;

/// All clusters as this server publishes them.
#[derive(Debug)]
pub(crate) struct Views {
    cells: ArcSwap<HashMap<ClusterName, Arc<Cell>>>,
    /// Guards adding and removing of cells, and what holds for all of them.
    general: Mutex<General>,
    origin: Origin,
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

#[derive(Debug, Clone)]
struct General {
    store: StoreId,
    /// The catalog's revision: what is not there is not there at this revision.
    revision: Revision,
    /// The revision that was loaded at start: clusters created later need no time to be judged first.
    loaded: Revision,
    started: Instant,
    /// Clusters that are in the store and cannot be read: nobody is told that they are gone.
    quarantined: OrdMap<ClusterName, Arc<str>>,
}

/// What a reader gets when it asks for a cluster.
#[derive(Debug)]
pub(crate) enum Answer {
    /// As it is now.
    Published(Arc<Published>),
    /// It is not there, and this server would know.
    Absent,
    /// It is there, but its nodes were not judged yet since this server started.
    NotReady,
}

impl Views {
    /// Nothing yet. `origin` tells this run of this server from every other.
    pub(crate) fn new(origin: u64) -> Self {
        let general = General {
            store: StoreId(uuid::Uuid::nil()),
            revision: Revision::ZERO,
            loaded: Revision::ZERO,
            started: Instant::now(),
            quarantined: OrdMap::new(),
        };
        Self {
            cells: ArcSwap::default(),
            general: Mutex::new(general),
            origin: Origin {
                id: origin,
                sequence: AtomicU64::new(0),
            },
        }
    }

    fn general(&self) -> MutexGuard<'_, General> {
        self.general.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over all definitions. Verdicts on nodes that kept their form stay.
    pub(crate) fn load(&self, snapshot: &Snapshot) {
        let mut general = self.general();
        if general.store.0.is_nil() {
            general.loaded = snapshot.revision;
        }
        general.store = snapshot.store;
        general.revision = snapshot.revision;
        general.quarantined = snapshot.quarantined.clone();
        let gone: Vec<ClusterName> = self
            .cells
            .load()
            .keys()
            .filter(|name| !snapshot.clusters.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.undefine(&general, &name);
        }
        for cluster in snapshot.clusters.values() {
            let cell = self.cell(&general, &cluster.name);
            cell.define(
                &self.origin,
                general.store,
                cluster,
                None,
                ready_at(&general, cluster),
            );
        }
    }

    /// Takes over one committed change.
    pub(crate) fn apply(&self, change: &Change, after: Option<&Arc<Cluster>>) {
        // Held throughout: a cell must not be forgotten as idle between being found and being defined.
        let mut general = self.general();
        general.revision = change.revision;
        general.quarantined.remove(&change.cluster);
        match after {
            Some(cluster) => {
                let cell = self.cell(&general, &change.cluster);
                cell.define(
                    &self.origin,
                    general.store,
                    cluster,
                    Some(change),
                    ready_at(&general, cluster),
                );
            }
            None => self.undefine(&general, &change.cluster),
        }
    }

    /// Takes over verdicts on nodes of one cluster.
    pub(crate) fn judge(&self, name: &ClusterName, verdicts: Vec<(NodeId, Judged)>) {
        if let Some(cell) = self.cells.load().get(name) {
            cell.judge(&self.origin, verdicts);
        }
    }

    /// The cluster as it is published now.
    pub(crate) fn get(&self, name: &ClusterName) -> Answer {
        match self.cells.load().get(name).and_then(|cell| cell.get()) {
            Some(published) if published.is_ready(Instant::now()) => Answer::Published(published),
            Some(_) => Answer::NotReady,
            None if self.general().quarantined.contains_key(name) => Answer::NotReady,
            None => Answer::Absent,
        }
    }

    /// What leads a reader from what it holds to what is published now; it counts as told. `None`: it holds that.
    pub(crate) fn event(&self, name: &ClusterName, held: &mut Held) -> Option<Event> {
        let cell = self.cells.load().get(name).cloned();
        if let Some(cell) = cell
            && let Some(published) = cell.get()
        {
            if published.is_ready(Instant::now()) {
                return cell.event(&published, held);
            }
            let event = Event::unknown(name, held)?;
            held.advance(&event);
            return Some(event);
        }
        let event = {
            let general = self.general();
            if general.quarantined.contains_key(name) {
                Event::unknown(name, held)
            } else {
                Event::absent(name, general.store, general.revision, held)
            }
        }?;
        held.advance(&event);
        Some(event)
    }

    /// Tells the inbox of every change of the cluster, under the given key, until the answer is dropped.
    /// `None`: too many names are watched that nobody defined.
    pub(crate) fn watch(
        self: &Arc<Self>,
        name: &ClusterName,
        inbox: &Arc<Inbox>,
        key: u32,
    ) -> Option<Watching> {
        let general = self.general();
        let cells = self.cells.load();
        if !cells.contains_key(name) && cells.len() >= ABSENT_WATCHED_MAX + defined_count(&cells) {
            return None;
        }
        self.cell(&general, name).add(inbox, key);
        Some(Watching::new(
            Arc::clone(self),
            name.clone(),
            Arc::clone(inbox),
            key,
        ))
    }

    /// Wakes the readers of clusters whose nodes have had their time to be judged. Answers when to come again.
    pub(crate) fn ripen(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for cell in self.cells.load().values() {
            if let Some(at) = cell.ripen(now) {
                next = Some(next.map_or(at, |next| next.min(at)));
            }
        }
        next
    }

    /// Every cluster's verdicts, each cluster's through `lay_out`.
    pub(crate) fn verdicts<T>(
        &self,
        lay_out: impl Fn(&ClusterName, &mut dyn Iterator<Item = (&NodeId, &Judged)>) -> T,
    ) -> Vec<T> {
        let cells = self.cells.load();
        let published = cells
            .values()
            .filter_map(|cell| cell.get())
            .filter(|published| published.state.cluster().is_checked());
        published
            .map(|published| {
                let state = &published.state;
                let mut verdicts = state
                    .nodes()
                    .filter_map(|(node, judged)| Some((&node.id, judged?)));
                lay_out(&state.cluster().name, &mut verdicts)
            })
            .collect()
    }

    /// Rises with everything that is published.
    pub(crate) fn sequence(&self) -> u64 {
        self.origin.sequence.load(Ordering::Relaxed)
    }

    /// Which store the revisions belong to.
    pub(crate) fn store(&self) -> StoreId {
        self.general().store
    }

    /// The place of a cluster, made where there is none. The guard shows that the caller holds the lock.
    fn cell(&self, _held: &MutexGuard<'_, General>, name: &ClusterName) -> Arc<Cell> {
        if let Some(cell) = self.cells.load().get(name) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(Cell::default());
        let mut cells = HashMap::clone(&self.cells.load());
        cells.insert(name.clone(), Arc::clone(&cell));
        self.cells.store(Arc::new(cells));
        cell
    }

    fn undefine(&self, held: &MutexGuard<'_, General>, name: &ClusterName) {
        let cell = self.cells.load().get(name).cloned();
        if let Some(cell) = cell {
            cell.undefine();
            self.forget_if_idle(held, name);
        }
    }

    /// Drops a cell that is neither defined nor watched.
    fn forget_if_idle(&self, _held: &MutexGuard<'_, General>, name: &ClusterName) {
        let cells = self.cells.load();
        if cells.get(name).is_some_and(|cell| cell.is_idle()) {
            let mut cells = HashMap::clone(&cells);
            cells.remove(name);
            self.cells.store(Arc::new(cells));
        }
    }

    fn stop_watching(&self, name: &ClusterName, inbox: &Arc<Inbox>, key: u32) {
        let general = self.general();
        let cell = self.cells.load().get(name).cloned();
        if let Some(cell) = cell {
            cell.remove(inbox, key);
            self.forget_if_idle(&general, name);
        }
    }
}

fn defined_count(cells: &HashMap<ClusterName, Arc<Cell>>) -> usize {
    // Counting is needed only near the bound.
    if cells.len() < ABSENT_WATCHED_MAX {
        0
    } else {
        cells.values().filter(|cell| cell.get().is_some()).count()
    }
}

/// When a view of this cluster may be served: at once, or when its checks have had the time to find every node down.
fn ready_at(general: &General, cluster: &Cluster) -> Option<Instant> {
    if !cluster.is_checked() || cluster.created > general.loaded {
        return None;
    }
    let check = &cluster.check;
    let detection: Duration = check.interval.max(check.timeout) * check.fall + check.timeout;
    Some(general.started + detection)
}
