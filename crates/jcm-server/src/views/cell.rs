//! One cluster's place: what is published, how it came about lately, and who wants to hear of it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use jcm_model::{Change, Cluster, ClusterState, Effect, Judged, NodeId, StoreId};

use super::Origin;
use super::event::{Event, EventKind, Held, Place};
use super::inbox::Inbox;
use super::published::Published;
use super::step::Step;

/// Steps that are remembered: a reader that is further behind gets the whole view, which is cheaper by then.
const STEPS_MAX: usize = 64;

/// Encoded events that are kept for other readers who hold the same: they rarely hold more than a few different states.
const EVENTS_MAX: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Cell {
    current: ArcSwapOption<Published>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    steps: VecDeque<Step>,
    /// Events to the current publication, by the sequence they start from (`None`: from nothing).
    events: HashMap<(EventKind, Option<u64>), Event>,
    readers: Vec<(Arc<Inbox>, u32)>,
}

impl Cell {
    pub(super) fn get(&self) -> Option<Arc<Published>> {
        self.current.load_full()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn define(
        &self,
        origin: &Origin,
        store: StoreId,
        cluster: &Arc<Cluster>,
        change: Option<&Change>,
        ready_at: Option<Instant>,
    ) {
        let mut inner = self.inner();
        let before = self.get().filter(|before| {
            before.token.store == store && before.state.cluster().created == cluster.created
        });
        let Some(before) = before else {
            inner.steps.clear();
            inner.publish(
                self,
                Published::new(origin, store, ClusterState::new(Arc::clone(cluster)), ready_at),
            );
            return;
        };
        let state = before.state.redefined(Arc::clone(cluster));
        let after = Published::new(origin, store, state, before.ready_at.and(ready_at));
        let mut step = Step::between(&before, &after);
        match change.map(|change| &change.effect) {
            Some(Effect::Updated {
                header, put, removed, ..
            }) => {
                step.header = header.is_some();
                step.defined.extend(
                    put.iter()
                        .map(|node| node.id.clone())
                        .chain(removed.iter().cloned()),
                );
                inner.remember(step, cluster.nodes.len());
            }
            // Loaded again after a gap: how it came about is not known.
            _ => inner.steps.clear(),
        }
        inner.publish(self, after);
    }

    pub(super) fn judge(&self, origin: &Origin, verdicts: Vec<(NodeId, Judged)>) {
        let mut inner = self.inner();
        let Some(before) = self.get() else { return };
        let mut state = before.state.clone();
        let judged: BTreeSet<NodeId> = verdicts
            .into_iter()
            .filter_map(|(id, judged)| state.judge(&id, judged).then_some(id))
            .collect();
        if judged.is_empty() {
            return;
        }
        let after = Published::new(origin, before.token.store, state, before.ready_at);
        let mut step = Step::between(&before, &after);
        step.judged = judged;
        inner.remember(step, after.state.cluster().nodes.len());
        inner.publish(self, after);
    }

    pub(super) fn undefine(&self) {
        let mut inner = self.inner();
        inner.steps.clear();
        inner.events.clear();
        self.current.store(None);
        inner.tell();
    }

    /// Wakes readers if the time to be judged is over. Answers when it will be, otherwise.
    pub(super) fn ripen(&self, now: Instant) -> Option<Instant> {
        let ready_at = self.get()?.ready_at?;
        if now < ready_at {
            return Some(ready_at);
        }
        self.inner().tell();
        None
    }

    /// What leads the reader to `published`; the reader counts as told.
    pub(super) fn event(&self, published: &Arc<Published>, held: &mut Held) -> Option<Event> {
        let name = &published.state.cluster().name;
        let from = match held.place(&published.token) {
            Place::Same => {
                held.adopt(published.token);
                return None;
            }
            Place::Ahead => {
                let event = Event::unknown(name, held)?;
                held.advance(&event);
                return Some(event);
            }
            Place::Here(sequence) => Some(sequence),
            Place::Elsewhere => None,
        };
        let mut inner = self.inner();
        let from = from.filter(|from| inner.steps.iter().any(|step| step.from == *from));
        // `published` may be older than what is current by now: then its events are not worth keeping.
        let keep = self.get().is_some_and(|current| Arc::ptr_eq(&current, published));
        let key = (held.kind(), from);
        let event = match (inner.events.get(&key), from) {
            (Some(event), _) if keep => event.clone(),
            (_, Some(from)) => {
                let steps = inner
                    .steps
                    .iter()
                    .filter(|step| step.from >= from && step.from < published.token.sequence);
                Event::delta(held.kind(), published, steps)
            }
            (_, None) => Event::view(held.kind(), published),
        };
        if keep && inner.events.len() < EVENTS_MAX {
            inner.events.entry(key).or_insert_with(|| event.clone());
        }
        held.advance(&event);
        Some(event)
    }

    pub(super) fn add(&self, inbox: &Arc<Inbox>, key: u32) {
        self.inner().readers.push((Arc::clone(inbox), key));
    }

    pub(super) fn remove(&self, inbox: &Arc<Inbox>, key: u32) {
        let mut inner = self.inner();
        if let Some(at) = inner
            .readers
            .iter()
            .position(|(reader, k)| Arc::ptr_eq(reader, inbox) && *k == key)
        {
            inner.readers.swap_remove(at);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.get().is_none() && self.inner().readers.is_empty()
    }
}

impl Inner {
    fn publish(&mut self, cell: &Cell, published: Published) {
        self.events.clear();
        cell.current.store(Some(Arc::new(published)));
        self.tell();
    }

    fn tell(&self) {
        for (inbox, key) in &self.readers {
            inbox.tell(*key);
        }
    }

    /// Keeps a step, and forgets old ones: also all of them when they name more than a whole view would.
    fn remember(&mut self, step: Step, node_count: usize) {
        self.steps.push_back(step);
        let named = |steps: &VecDeque<Step>| steps.iter().map(Step::named_count).sum::<usize>();
        while self.steps.len() > STEPS_MAX
            || (self.steps.len() > 1 && named(&self.steps) > 2 * node_count + STEPS_MAX)
        {
            self.steps.pop_front();
        }
    }
}
