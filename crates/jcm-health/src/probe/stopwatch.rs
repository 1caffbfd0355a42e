//! The one deadline of a probe, and the proof that this process was there to keep it.
//!
//! A timeout means something only if the prober was looking the whole time. A process that was stopped, or that got
//! no processor, comes back to find every deadline over while the answers lie unread in its socket buffers. So every
//! wait of a probe wakes up at checkpoints, and when a checkpoint, the deadline or a result is noticed much later than
//! its instant, the round is late: whatever it came to is thrown away.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use crate::outcome::{Outcome, Phase};

/// Checkpoints in one probe. A pause of more than two eighths of the probe's time cannot pass unnoticed.
const CHECKPOINTS: u32 = 8;

/// Checkpoints are not closer than this: on a busy machine timers fire some milliseconds late as a matter of course,
/// and to throw those rounds away would leave fast checks without any.
const CHECKPOINT_STEP_MIN: Duration = Duration::from_millis(20);

/// Measures one probe.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    started: Instant,
    deadline: Instant,
    checkpoint: Instant,
    step: Duration,
    aside_max: Duration,
    late: bool,
}

impl Stopwatch {
    /// Starts now. `aside_max` is how long the probe may stand aside before its round counts as late.
    pub(crate) fn start(probe_timeout: Duration, aside_max: Duration) -> Self {
        let started = Instant::now();
        let step = (probe_timeout / CHECKPOINTS).max(CHECKPOINT_STEP_MIN);
        let deadline = started + probe_timeout;
        Self { started, deadline, checkpoint: deadline.min(started + step), step, aside_max, late: false }
    }

    /// Waits for `work`, but not beyond the deadline: then the outcome is a timeout in `phase`.
    pub(crate) async fn within<F: Future>(&mut self, phase: Phase, work: F) -> Result<F::Output, Outcome> {
        let mut work = pin!(work);
        loop {
            let done = timeout_at(self.checkpoint, work.as_mut()).await;
            let now = Instant::now();
            self.late |= now > self.checkpoint + self.step;
            match done {
                Ok(output) => return Ok(output),
                Err(_) if now >= self.deadline => return Err(Outcome::TimedOut(phase)),
                Err(_) => self.checkpoint = self.deadline.min(now + self.step),
            }
        }
    }

    /// Waits for leave to go on, with the clock of the probe stopped: to queue for this machine's own limits must not
    /// eat the node's time. `None` when that takes so long that the round is late.
    pub(crate) async fn aside<F: Future>(&mut self, leave: F) -> Option<F::Output> {
        let since = Instant::now();
        let given = timeout(self.aside_max, leave).await;
        let stood = since.elapsed();
        self.started += stood;
        self.deadline += stood;
        self.checkpoint += stood;
        self.late |= given.is_err() || stood > self.aside_max;
        given.ok()
    }

    /// Time since the start, less what was spent aside.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether this process was away for so long that the outcome says nothing.
    pub(crate) fn is_late(&self) -> bool {
        self.late
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::{advance, sleep};

    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(800);
    const ASIDE: Duration = Duration::from_millis(500);

    #[tokio::test(start_paused = true)]
    async fn the_deadline_is_one_for_all_waits() {
        let mut watch = Stopwatch::start(TIMEOUT, ASIDE);
        for _ in 0..7 {
            assert_eq!(watch.within(Phase::Reading, sleep(Duration::from_millis(100))).await, Ok(()));
        }
        let last = watch.within(Phase::Reading, sleep(Duration::from_millis(200))).await;
        assert_eq!(last, Err(Outcome::TimedOut(Phase::Reading)));
        assert!(watch.elapsed() >= TIMEOUT && watch.elapsed() < TIMEOUT + Duration::from_millis(5));
        assert!(!watch.is_late());
    }

    /// Runs a wait without end, stops the process for `pause` after `before`, and tells whether that was noticed.
    async fn noticed(before: Duration, pause: Duration) -> bool {
        let mut watch = Stopwatch::start(TIMEOUT, ASIDE);
        let wait = async {
            assert_eq!(
                watch.within(Phase::Waiting, pending::<()>()).await,
                Err(Outcome::TimedOut(Phase::Waiting))
            );
        };
        let stop = async {
            sleep(before).await;
            // The clock jumps while nothing runs, which is what a stopped process sees.
            advance(pause).await;
        };
        tokio::join!(wait, stop);
        watch.is_late()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_anywhere_in_the_probe_makes_the_round_late() {
        for before in (1..800).step_by(7).map(Duration::from_millis) {
            for pause in [Duration::from_secs(5), Duration::from_millis(210)] {
                assert!(noticed(before, pause).await, "{pause:?} after {before:?}");
            }
            assert!(!noticed(before, Duration::from_millis(50)).await, "a hiccup after {before:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_result_that_was_found_after_a_pause_is_late_too() {
        let mut watch = Stopwatch::start(TIMEOUT, ASIDE);
        advance(Duration::from_secs(5)).await;
        assert_eq!(watch.within(Phase::Waiting, ready(7)).await, Ok(7));
        assert!(watch.is_late());
    }

    #[tokio::test(start_paused = true)]
    async fn standing_aside_does_not_eat_the_time_of_the_node() {
        let mut watch = Stopwatch::start(TIMEOUT, ASIDE);
        assert_eq!(watch.aside(sleep(Duration::from_millis(400))).await, Some(()));
        assert_eq!(watch.within(Phase::Connecting, sleep(Duration::from_millis(700))).await, Ok(()));
        assert!(!watch.is_late());
        assert!(watch.elapsed() < TIMEOUT);
        assert_eq!(watch.aside(pending::<()>()).await, None);
        assert!(watch.is_late());
    }
}
