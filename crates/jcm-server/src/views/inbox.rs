//! Where one reader learns which of its clusters changed.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use jcm_model::{ClusterName, Head, Revision, StoreId};
use smallvec::SmallVec;

use super::cell::Cell;
use super::{Event, Held, Views};
use crate::convergence::{Acknowledged, Count};

/// Clusters by the keys that a reader gave them: most readers have one, and no memory elsewhere for that.
pub(crate) type Keys = SmallVec<[u32; 4]>;

/// One reader's set of clusters that changed since it looked: bounded by the clusters it watches, whatever happens.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    inner: Mutex<Inner>,
    /// The reader was heard out, and has said nothing since: see [`Inbox::take_word`].
    heard_out: AtomicBool,
    /// Whose it is; nobody who waits for one answer only is a subscriber.
    subscriber: OnceLock<Subscriber>,
}

/// Who follows clusters.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// What it calls itself, and where it is.
    pub(crate) peer: Box<str>,
    /// Whether it says what it holds.
    pub(crate) acknowledges: bool,
}

#[derive(Debug, Default)]
struct Inner {
    /// Each key once. A list, because most readers watch one cluster and none more than a thousand.
    changed: Keys,
    /// Something that is no cluster of its own: see [`Inbox::nudge`].
    nudged: bool,
    reader: Option<Waker>,
    /// What was acknowledged, by key.
    acknowledged: Vec<Option<Acknowledged>>,
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && !self.nudged
    }

    /// Who is woken from now on.
    fn wake(&mut self, context: &Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(context.waker()),
            None => self.reader = Some(context.waker().clone()),
        }
    }
}

impl Inbox {
    /// Says whose it is, once.
    pub(crate) fn belongs_to(&self, subscriber: Subscriber) {
        let _ = self.subscriber.set(subscriber);
    }

    /// Notes what the subscriber holds of the cluster under this key.
    pub(crate) fn acknowledge(&self, key: u32, revision: Revision, store: Option<StoreId>) {
        let key = key as usize;
        let mut inner = self.inner();
        if inner.acknowledged.len() <= key {
            if key == 0 {
                // Most watch one cluster, and room would be made for four.
                inner.acknowledged.reserve_exact(1);
            }
            inner.acknowledged.resize(key + 1, None);
        }
        inner.acknowledged[key] = Some(Acknowledged { revision, store, at: Instant::now() });
    }

    /// Counts it, if it is a subscriber's.
    pub(super) fn count(&self, key: u32, wanted: Head, now: Instant, count: &mut Count) {
        let Some(subscriber) = self.subscriber.get() else { return };
        let nothing = Acknowledged { revision: Revision::ZERO, store: None, at: now };
        let acknowledged = self.inner().acknowledged.get(key as usize).copied().flatten().unwrap_or(nothing);
        count.add(&subscriber.peer, subscriber.acknowledges.then_some(acknowledged), wanted, now);
    }

    /// The cluster under this key changed.
    pub(crate) fn tell(&self, key: u32) {
        self.put(|inner| {
            if !inner.changed.contains(&key) {
                inner.changed.push(key);
            }
        });
    }

    /// The reader has to look at what holds for all streams: a level of the server has changed, or its time is over.
    pub(crate) fn nudge(&self) {
        self.put(|inner| inner.nudged = true);
    }

    fn put(&self, put: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner();
        let was_empty = inner.is_empty();
        put(&mut inner);
        // A reader that has not looked since it was woken knows already.
        if was_empty && let Some(reader) = &inner.reader {
            reader.wake_by_ref();
        }
    }

    /// Takes all keys that changed, and answers whether there was a nudge; waits while there is neither. Whatever comes
    /// after this wakes the reader, also where there was something to take: it may wait for something else next.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>, changed: &mut Keys) -> Poll<bool> {
        let mut inner = self.inner();
        inner.wake(context);
        if inner.is_empty() {
            return Poll::Pending;
        }
        changed.append(&mut inner.changed);
        Poll::Ready(std::mem::take(&mut inner.nudged))
    }

    /// Whether the reader may have said something since this was asked last: the inbox, as a waker, was woken.
    pub(crate) fn take_word(&self) -> bool {
        !self.heard_out.load(Ordering::Acquire) && !self.heard_out.swap(true, Ordering::AcqRel)
    }

    /// Whether there is nothing for the reader, who is woken by this waker as soon as there is.
    pub(crate) fn is_quiet(&self, waker: &Waker) -> bool {
        let inner = self.inner();
        inner.is_empty()
            && inner.reader.as_ref().is_some_and(|reader| reader.will_wake(waker))
            && self.heard_out.load(Ordering::Acquire)
    }

    /// Waits until something changed, and takes all that did. Cancelling the wait loses nothing.
    pub(crate) async fn take(&self) -> Keys {
        let mut changed = Keys::new();
        poll_fn(|context| self.poll_take(context, &mut changed)).await;
        changed
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for what the reader says, so that it is looked at only when there may be something: not for each message to it.
impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.heard_out.swap(false, Ordering::AcqRel)
            && let Some(reader) = &self.inner().reader
        {
            reader.wake_by_ref();
        }
    }
}

/// While this lives, an inbox is told of changes of the cluster.
#[derive(Debug)]
pub(crate) struct Watching {
    views: Arc<Views>,
    name: ClusterName,
    cell: Arc<Cell>,
    place: usize,
}

impl Watching {
    /// `place` is where the cluster's cell keeps the reader. While it does, the cluster has no other cell.
    pub(super) fn new(views: Arc<Views>, name: ClusterName, cell: Arc<Cell>, place: usize) -> Self {
        Self { views, name, cell, place }
    }

    /// What leads a reader from what it holds to what is published now; it counts as told. `None`: it holds that.
    pub(crate) fn event(&self, held: &mut Held) -> Option<Event> {
        self.views.event(&self.name, &self.cell, held)
    }

    pub(crate) fn name(&self) -> &ClusterName {
        &self.name
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.views.stop_watching(&self.name, &self.cell, self.place);
    }
}
