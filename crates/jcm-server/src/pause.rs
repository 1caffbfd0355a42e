//! Whether this process stood still, for longer than a write may take.
//!
//! While it stood still, others took over, and told their clients so. What reached this process before, in its
//! queues or in the buffers of its sockets, is from another time: it must not be carried out now. So time is cut
//! into stretches without a pause; every connection and every write belongs to the one in which it came, and whoever is
//! about to use one looks at the clock first. A timer alone would come too late: after a pause everything that waits is
//! ready at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::registry::WRITE_DEADLINE;

/// How often the clock is looked at when nobody else does: several times within the shortest pause that matters.
const BEAT: Duration = Duration::from_millis(250);

/// Tells whether this process stood still. Clones share what they know.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Shared>);

/// A time without a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch(u64);

#[derive(Debug)]
struct Shared {
    started: Instant,
    /// When the clock was last looked at, in milliseconds since the start.
    beat_ms: AtomicU64,
    stretch: watch::Sender<u64>,
    /// The same number, for those who look at every turn.
    current: AtomicU64,
    /// Held by whoever begins a new stretch.
    turning: Mutex<()>,
}

tokio::task_local! {
    static CAME_IN: Stretch;
}

/// Runs what was asked for over a connection of this stretch: the writes in it belong to that stretch, however late
/// they are made.
pub(crate) async fn come_in<F: Future>(stretch: Stretch, request: F) -> F::Output {
    CAME_IN.scope(stretch, request).await
}

impl Pulse {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared {
            started: Instant::now(),
            beat_ms: AtomicU64::new(0),
            stretch: watch::Sender::new(0),
            current: AtomicU64::new(0),
            turning: Mutex::new(()),
        }))
    }

    /// Looks at the clock while nobody else does.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            self.stretch();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }

    /// The present stretch, by the clock as it is now.
    pub(crate) fn stretch(&self) -> Stretch {
        self.look(Instant::now())
    }

    /// The stretch of the request at hand; outside of one, the present.
    pub(crate) fn came_in(&self) -> Stretch {
        CAME_IN.try_with(|stretch| *stretch).unwrap_or_else(|_| self.stretch())
    }

    /// Whether there was a pause since, by the clock as it is now.
    pub(crate) fn is_over(&self, stretch: Stretch) -> bool {
        self.stretch() != stretch
    }

    /// Waits until there was a pause since. Whoever waits for this and for something else looks at the clock each time
    /// that either may have come.
    pub(crate) async fn over(&self, stretch: Stretch) {
        let mut stretches = self.0.stretch.subscribe();
        let turned = stretches.wait_for(|current| *current != stretch.0);
        tokio::pin!(turned);
        std::future::poll_fn(|context| {
            if self.is_over(stretch) {
                return std::task::Poll::Ready(());
            }
            turned.as_mut().poll(context).map(|_| ())
        })
        .await;
    }

    fn look(&self, now: Instant) -> Stretch {
        let shared = &self.0;
        let now_ms =
            u64::try_from(now.saturating_duration_since(shared.started).as_millis()).unwrap_or(u64::MAX);
        let is_pause = |beat_ms: u64| u128::from(now_ms.saturating_sub(beat_ms)) > WRITE_DEADLINE.as_millis();
        let beat_ms = shared.beat_ms.load(Ordering::Acquire);
        if is_pause(beat_ms) {
            let _turning = shared.turning.lock().unwrap_or_else(PoisonError::into_inner);
            let beat_ms = shared.beat_ms.load(Ordering::Acquire);
            if is_pause(beat_ms) {
                self.turn(now_ms - beat_ms);
            }
        }
        // After the new stretch: who sees this beat sees that one too. Not for each look within a millisecond: all threads
        // look at every turn.
        if now_ms > beat_ms {
            shared.beat_ms.fetch_max(now_ms, Ordering::AcqRel);
        }
        Stretch(shared.current.load(Ordering::Acquire))
    }

    fn turn(&self, pause_ms: u64) {
        #[cfg(feature = "planted")]
        if jcm_storage::planted::is_planted("no-pause-guard") {
            return;
        }
        warn!(pause_ms, "this process stood still: what waited is dropped, connections are closed unread");
        metrics::counter!("jcm_pauses_total").increment(1);
        let stretch = self.0.current.fetch_add(1, Ordering::AcqRel) + 1;
        self.0.stretch.send_replace(stretch);
    }

    /// Behaves as after a pause.
    #[cfg(test)]
    pub(crate) fn stand_still(&self) {
        self.turn(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_longer_than_a_write_may_take_begins_a_new_stretch() {
        let pulse = Pulse::new();
        let start = pulse.0.started;
        let first = pulse.look(start);
        assert_eq!(pulse.look(start + WRITE_DEADLINE), first, "as long as a write may take is no pause");
        let late = start + WRITE_DEADLINE * 2 + Duration::from_millis(1);
        let second = pulse.look(late);
        assert_ne!(second, first);
        assert_eq!(pulse.look(late + BEAT), second, "one pause is one turn");
    }

    #[test]
    fn a_look_at_an_older_clock_hides_no_pause() {
        let pulse = Pulse::new();
        let start = pulse.0.started;
        let first = pulse.look(start + Duration::from_secs(1));
        pulse.look(start);
        assert_eq!(pulse.look(start + Duration::from_secs(1) + WRITE_DEADLINE), first);
        assert_ne!(pulse.look(start + Duration::from_secs(6)), first);
    }

    #[tokio::test]
    async fn whoever_waits_for_the_end_of_a_stretch_is_woken() {
        let pulse = Pulse::new();
        let stretch = pulse.stretch();
        let waiting = tokio::spawn({
            let pulse = pulse.clone();
            async move { pulse.over(stretch).await }
        });
        pulse.stand_still();
        waiting.await.unwrap();
        assert!(pulse.is_over(stretch));
    }

    #[tokio::test]
    async fn a_write_belongs_to_the_stretch_of_its_connection() {
        let pulse = Pulse::new();
        let stretch = pulse.stretch();
        let came_in = come_in(stretch, async {
            pulse.stand_still();
            pulse.came_in()
        });
        assert_eq!(came_in.await, stretch);
        assert_ne!(pulse.came_in(), stretch);
    }
}
