//! One cluster's place: how its view came about lately, what readers were told of it, and who wants to hear.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jcm_model::{Change, Effect, Head, NodeId};
use slab::Slab;

use super::event::{Event, EventKind, Held, Place};
use super::inbox::Inbox;
use super::published::Published;
use super::step::Step;
use crate::convergence::Count;

/// Steps that are remembered: a reader that is further behind gets the whole view, which is cheaper by then.
const STEPS_MAX: usize = 64;

/// Encoded events that are kept for other readers who hold the same: they rarely hold more than a few different states.
const EVENTS_MAX: usize = 16;

/// Two locks, because telling ten thousand readers takes a while, and the first of them ask meanwhile.
#[derive(Debug, Default)]
pub(super) struct Cell {
    inner: Mutex<Inner>,
    readers: Mutex<Slab<(Arc<Inbox>, u32)>>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The ways over the last publications. It may be one ahead of the board while that is being swapped.
    steps: VecDeque<Step>,
    /// Events to one publication.
    events: HashMap<Asked, Event>,
    /// Which publication `events` lead to.
    events_to: u64,
}

/// What makes events to one publication differ.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Asked {
    kind: EventKind,
    in_doubt: bool,
    told_elsewhere: bool,
    /// The sequence they start from; `None`: from nothing.
    from: Option<u64>,
    /// Whether they say that the store is out of reach.
    stale: bool,
}

impl Cell {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, Slab<(Arc<Inbox>, u32)>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No way leads over what happened: it was created, deleted, or is not known.
    pub(super) fn start_anew(&self) {
        self.inner().steps.clear();
    }

    /// The way over changes of the definition.
    pub(super) fn define(&self, before: &Published, after: &Published, changes: &[&Change]) {
        let mut step = Step::between(before, after);
        for change in changes {
            if let Effect::Updated { header, put, removed, .. } = &change.effect {
                step.header |= header.is_some();
                step.define(put.iter().map(|node| node.id.clone()).chain(removed.iter().cloned()));
            }
        }
        self.inner().remember(step, after.state.cluster().nodes.len());
    }

    /// The way over changes that nobody told of one by one.
    pub(super) fn redefine(&self, before: &Published, after: &Published) {
        let delta = after.state.since(&before.state);
        let mut step = Step::between(before, after);
        step.header = delta.header.is_some();
        step.define(delta.put.iter().map(|node| node.id.clone()).chain(delta.removed));
        step.judge(before, after, delta.judged.into_iter().map(|(id, _)| id));
        self.inner().remember(step, after.state.cluster().nodes.len());
    }

    /// The way over new verdicts.
    pub(super) fn judge(&self, before: &Published, after: &Published, judged: Vec<NodeId>) {
        let mut step = Step::between(before, after);
        step.judge(before, after, judged);
        self.inner().remember(step, after.state.cluster().nodes.len());
    }

    /// What leads the reader to `published`; the reader counts as told.
    pub(super) fn event(&self, published: &Arc<Published>, stale: bool, held: &mut Held) -> Option<Event> {
        let name = &published.state.cluster().name;
        let told_elsewhere = held.note_origin(&published.token);
        let from = match held.place(&published.token) {
            Place::Same if held.is_in_doubt() => {
                let steps = std::iter::empty();
                let event = Event::delta(held.kind(), true, told_elsewhere, published, stale, steps);
                held.advance(&event);
                return Some(event);
            }
            Place::Same => {
                held.adopt(published.token);
                return None;
            }
            Place::Ahead => {
                let event = Event::behind(name, held)?;
                held.advance(&event);
                return Some(event);
            }
            Place::Here(sequence) => Some(sequence),
            Place::Elsewhere => None,
        };
        let to = published.token.sequence;
        let mut inner = self.inner();
        if inner.events_to < to {
            inner.events.clear();
            inner.events_to = to;
        }
        // The step that starts at what the reader holds: it may have been told of a later publication of other clusters.
        let from = from
            .and_then(|at| inner.steps.iter().find(|step| step.from <= at && at < step.to))
            .map(|step| step.from);
        let (kind, in_doubt) = (held.kind(), held.is_in_doubt());
        let key = Asked { kind, in_doubt, told_elsewhere, from, stale };
        // A reader that was overtaken by the next publication is told of its own; that is not worth keeping.
        let keep = inner.events_to == to;
        let event = match (inner.events.get(&key), from) {
            (Some(event), _) if keep => event.clone(),
            (_, Some(from)) => {
                let steps = inner.steps.iter().filter(|step| step.from >= from && step.from < to);
                Event::delta(kind, in_doubt, told_elsewhere, published, stale, steps)
            }
            (_, None) => Event::view(kind, published, stale),
        };
        if keep && inner.events.len() < EVENTS_MAX {
            inner.events.entry(key).or_insert_with(|| event.clone());
        }
        held.advance(&event);
        Some(event)
    }

    /// Tells the inbox from now on, under the given key. The answer takes it out again.
    pub(super) fn add(&self, inbox: &Arc<Inbox>, key: u32) -> usize {
        self.readers().insert((Arc::clone(inbox), key))
    }

    pub(super) fn remove(&self, place: usize) {
        self.readers().remove(place);
    }

    pub(super) fn has_readers(&self) -> bool {
        !self.readers().is_empty()
    }

    /// Counts its subscribers.
    pub(super) fn count(&self, wanted: Head, count: &mut Count) {
        let now = Instant::now();
        for (_, (inbox, key)) in self.readers().iter() {
            inbox.count(*key, wanted, now, count);
        }
    }

    /// The cluster is published anew.
    pub(super) fn tell(&self) {
        for (_, (inbox, key)) in self.readers().iter() {
            inbox.tell(*key);
        }
    }
}

impl Inner {
    /// Keeps a step, and forgets old ones: also all of them when they name more than a whole view would.
    fn remember(&mut self, step: Step, node_count: usize) {
        self.steps.push_back(step);
        let named = |steps: &VecDeque<Step>| steps.iter().map(|step| step.nodes().len()).sum::<usize>();
        while self.steps.len() > STEPS_MAX
            || (self.steps.len() > 1 && named(&self.steps) > node_count + STEPS_MAX)
        {
            self.steps.pop_front();
        }
    }
}
