//! What holds for every stream of a subscriber, whichever door it came through, and how many there are.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::app::App;
use crate::views::Inbox;

/// Most clusters of one stream.
pub(crate) const CLUSTERS_MAX: usize = 1000;

/// Pause after events were sent: what changes meanwhile is sent together. The first event after a quiet time waits
/// for nothing.
pub(crate) const COALESCE_FOR: Duration = Duration::from_millis(10);

/// How often a stream of events says something at least, so that both sides notice a dead connection.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The same for the watch stream, whose clients look elsewhere after three: a server that is cut off is left within 5 s,
/// and one that stutters for three seconds is not. A longer pause keeps only one of the two: with `n` missed ones
/// of `p` each, `n * p` is to be below 5 s and `(n - 1) * p` at least 3 s.
pub(crate) const WATCH_HEARTBEAT: Duration = Duration::from_millis(1500);

/// Heartbeats are said at multiples of so many milliseconds, so that those of the streams of one connection go out together.
const HEARTBEAT_GRID_MS: u64 = 50;

/// How long a client that was asked to leave may take to find another server and to take over from there.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(3);

/// Streams that are let in each second, over all clients: what a restart of a peer sends here is answered in the order in
/// which it came, and does not keep those who are here from hearing of changes.
const STREAMS_A_SECOND: u32 = 4000;

/// Bytes of whole views that are sent each second to those who are let in. Who resumes is sent what changed, which is nothing
/// beside it.
const VIEW_BYTES_A_SECOND: u64 = 256 * 1024 * 1024;

/// What may come at once after a quiet time.
const BURST: Duration = Duration::from_millis(100);

/// Longest wait for being let in. A program waits 3 s for its first view, and one that leaves another server has as long; ten
/// thousand are let in by then.
const LET_IN_MAX: Duration = Duration::from_millis(2_500);

/// How often it is looked whether this server is cut off.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The streams of subscribers that are open now.
#[derive(Debug)]
pub(crate) struct Subscribers {
    started: Instant,
    count: AtomicUsize,
    streams: Mutex<Slab<Arc<Inbox>>>,
    gate: Mutex<Gate>,
    /// Whether this server is cut off from its store and from every other server.
    cut_off: AtomicBool,
    /// Of streams that need one: server-sent events.
    tasks: TaskTracker,
}

/// When the next stream may come in. Pure.
#[derive(Debug, Default)]
struct Gate {
    free_at: Option<Instant>,
}

impl Gate {
    /// One more comes. Answers when it may.
    fn let_in(&mut self, now: Instant) -> Instant {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        // What a herd leaves undone beyond the longest wait would only keep those waiting who come after it.
        let at = self.free_at.map_or(earliest, |free_at| free_at.clamp(earliest, now + LET_IN_MAX));
        self.free_at = Some(at + Duration::from_secs(1) / STREAMS_A_SECOND);
        at.max(now)
    }

    /// One that came in is sent so much.
    fn send(&mut self, bytes: usize) {
        let time = Duration::from_nanos(bytes as u64 * 1_000_000_000 / VIEW_BYTES_A_SECOND);
        self.free_at = self.free_at.map(|free_at| free_at + time);
    }
}

/// Counts one subscriber while it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    subscribers: Arc<Subscribers>,
    key: Option<usize>,
}

impl Subscribers {
    /// One more, until the answer is dropped; with its stream, if that is one which wants to be told of the server's levels.
    pub(crate) fn enter(self: &Arc<Self>, stream: Option<&Arc<Inbox>>) -> Counted {
        self.count.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("jcm_subscribers").increment(1);
        let key = stream.map(|stream| self.streams().insert(Arc::clone(stream)));
        Counted { subscribers: Arc::clone(self), key }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Runs a stream in a task of its own. It ends with its connection, or when its reader is cut.
    pub(crate) fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(stream);
    }

    /// Waits until all these tasks have ended.
    pub(crate) async fn join(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// When a stream that spoke then is to speak again, if nothing happens.
    pub(crate) fn heartbeat_at(&self, spoke_at: Instant) -> Instant {
        let at = (spoke_at + WATCH_HEARTBEAT).saturating_duration_since(self.started);
        let at_ms = at.as_secs() * 1000 + u64::from(at.subsec_millis());
        self.started + Duration::from_millis(at_ms / HEARTBEAT_GRID_MS * HEARTBEAT_GRID_MS)
    }

    /// When a stream that has just come may be told of its clusters.
    pub(crate) fn let_in(&self, now: Instant) -> Instant {
        self.gate().let_in(now)
    }

    /// Whether this server learns nothing and can tell nobody anything: neither the store nor another server is in reach.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.cut_off.load(Ordering::Relaxed)
    }

    /// A stream is sent a whole view: those who come after it wait for longer.
    pub(crate) fn send(&self, bytes: usize) {
        self.gate().send(bytes);
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn streams(&self) -> MutexGuard<'_, Slab<Arc<Inbox>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn each(&self, mut tell: impl FnMut(&Inbox)) {
        self.streams().iter().for_each(|(_, stream)| tell(stream));
    }
}

impl Default for Subscribers {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            count: AtomicUsize::new(0),
            streams: Mutex::default(),
            gate: Mutex::default(),
            cut_off: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.subscribers.count.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("jcm_subscribers").decrement(1);
        if let Some(key) = self.key {
            self.subscribers.streams().remove(key);
        }
    }
}

/// Has every watch stream look when a level of the server changes, until told to stop.
/// Ten thousand streams that each waited for each of the levels would pay for it with every message.
pub(crate) async fn keep(app: App, stop: CancellationToken) {
    let subscribers = &app.subscribers;
    let (mut roster, mut stale) = (app.membership.roster(), app.views.stale());
    let (mut draining, mut cut) = (false, false);
    let mut look = tokio::time::interval(LOOK_PAUSE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = app.cut.cancelled(), if !cut => cut = true,
            () = app.draining.cancelled(), if !draining => draining = true,
            Ok(()) = stale.changed() => {}
            Ok(()) = roster.changed() => {}
            _ = look.tick() => {
                let is_cut_off = app.views.is_stale() && app.peers.liveness().borrow().hears_nobody();
                if subscribers.cut_off.swap(is_cut_off, Ordering::Relaxed) == is_cut_off {
                    continue;
                }
                if is_cut_off {
                    warn!("the store and every other server are out of reach: programs that keep leases here are asked to leave");
                }
            }
        }
        subscribers.each(Inbox::nudge);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_herd_is_let_in_at_a_rate_and_a_single_stream_at_once() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        assert_eq!(gate.let_in(now), now);
        let herd: Vec<Instant> = (0..10_000).map(|_| gate.let_in(now)).collect();
        let burst = herd.iter().filter(|at| **at == now).count();
        assert!((300..=500).contains(&burst), "{burst} of them at once");
        let last = herd[herd.len() - 1] - now;
        assert!(last > Duration::from_secs(2) && last < Duration::from_secs(3), "{last:?}");
        let later = now + Duration::from_mins(1);
        assert_eq!(gate.let_in(later), later);
    }

    #[test]
    fn whole_views_make_those_who_come_next_wait_but_not_for_ever() {
        let (now, mut gate) = (Instant::now(), Gate::default());
        gate.let_in(now);
        gate.send(256 * 1024 * 1024);
        let next = gate.let_in(now) - now;
        assert!(next > Duration::from_millis(800) && next < Duration::from_millis(1100), "{next:?}");
        (0..100).for_each(|_| gate.send(256 * 1024 * 1024));
        assert_eq!(gate.let_in(now), now + LET_IN_MAX);
        let after = now + LET_IN_MAX + BURST;
        assert_eq!(gate.let_in(after), after, "who comes after them waits for none of it");
    }
}
