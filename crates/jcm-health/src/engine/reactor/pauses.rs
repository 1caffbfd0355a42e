//! Whether this thread was there to see what happened.
//!
//! A timeout means something only if the prober was looking the whole time. A process that was stopped, or that got no
//! processor, comes back to find every deadline over while the answers lie unread in its socket buffers. The reactor
//! therefore wakes at short steps while probes are under way and notes each time that it came much later than it meant
//! to; a probe in whose time such a pause lies is thrown away. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long the reactor sleeps at most while probes are under way.
pub(super) const STEP: Duration = Duration::from_millis(25);

/// A probe bears pauses up to this part of its timeout.
const BEARABLE_PART: u32 = 8;

/// And up to this in any case: on a busy machine threads wake some milliseconds late as a matter of course, and to throw
/// those rounds away would leave fast checks without any.
const BEARABLE_MIN: Duration = Duration::from_millis(20);

/// Nor pauses that together take this part of its timeout: a thread that gets a twentieth of a processor is never away for
/// long, and away nearly all the time.
const TOGETHER_PART: u32 = 2;

/// Pauses that are remembered. More within one probe's time make the oldest seem longer ago than they were, while the
/// newest still tell.
const PAUSES_MAX: usize = 64;

/// The pauses of one thread.
#[derive(Debug)]
pub(super) struct Pauses {
    expected: Instant,
    /// When each ended, and how long it was.
    recent: VecDeque<(Instant, Duration)>,
}

impl Pauses {
    pub(super) fn new(now: Instant) -> Self {
        Self { expected: now, recent: VecDeque::new() }
    }

    /// The thread is about to sleep until then at the latest.
    pub(super) fn sleep(&mut self, until: Instant) {
        self.expected = until;
    }

    /// The thread is awake. Called between any two pieces of work that take long.
    pub(super) fn wake(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.expected);
        if late > BEARABLE_MIN {
            if self.recent.len() == PAUSES_MAX {
                self.recent.pop_front();
            }
            self.recent.push_back((now, late));
        }
        self.expected = now;
    }

    /// Whether pauses that a probe with this timeout does not bear ended after `started`.
    pub(super) fn spoiled(&self, started: Instant, timeout: Duration) -> bool {
        let bearable = (timeout / BEARABLE_PART).max(BEARABLE_MIN);
        let together_max = (timeout / TOGETHER_PART).max(bearable);
        let mut together = Duration::ZERO;
        self.recent.iter().rev().take_while(|(ended, _)| *ended > started).any(|(_, late)| {
            together += *late;
            *late > bearable || together > together_max
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(800);

    /// A thread that wakes in steps, stands still for `pause` after `before`, and goes on.
    fn run(before: Duration, pause: Duration) -> (Pauses, Instant, Instant) {
        let start = Instant::now();
        let (mut pauses, mut now) = (Pauses::new(start), start);
        while now < start + TIMEOUT + pause {
            let until = now + STEP;
            pauses.sleep(until);
            let stands = now <= start + before && start + before < until;
            now = if stands { until.max(start + before + pause) } else { until };
            pauses.wake(now);
        }
        (pauses, start, now)
    }

    #[test]
    fn a_pause_anywhere_in_the_probe_spoils_it() {
        for before in (0..800).step_by(7).map(Duration::from_millis) {
            for pause in [Duration::from_secs(5), Duration::from_millis(150)] {
                let (pauses, start, _) = run(before, pause);
                assert!(pauses.spoiled(start, TIMEOUT), "{pause:?} after {before:?}");
            }
            let (pauses, start, _) = run(before, Duration::from_millis(50));
            assert!(!pauses.spoiled(start, TIMEOUT), "a hiccup after {before:?}");
        }
    }

    #[test]
    fn many_short_pauses_spoil_a_probe_like_a_long_one() {
        let start = Instant::now();
        for (away, step, expected) in [(95, 5, true), (30, 70, false)] {
            let (mut pauses, mut now) = (Pauses::new(start), start);
            while now < start + TIMEOUT {
                pauses.sleep(now + Duration::from_millis(step));
                now += Duration::from_millis(step + away);
                pauses.wake(now);
            }
            assert_eq!(pauses.spoiled(start, TIMEOUT), expected, "{away} ms of {}", step + away);
        }
    }

    #[test]
    fn a_pause_before_the_probe_began_is_none_of_its_business() {
        let (mut pauses, _, now) = run(Duration::from_millis(100), Duration::from_secs(5));
        assert!(!pauses.spoiled(now, TIMEOUT));
        pauses.sleep(now + STEP);
        pauses.wake(now + Duration::from_secs(1));
        assert!(pauses.spoiled(now, TIMEOUT), "one after it is");
    }
}
