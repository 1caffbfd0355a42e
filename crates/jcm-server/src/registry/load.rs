//! How much there is to do here, and whether it gets done: what a write that comes now has to expect.
//!
//! A write that could not be carried out in time is refused at once, so that its client comes back later instead of
//! waiting for nothing, and so that those before it are not kept from being done by those behind. Times are
//! arguments, so that nothing here looks at a clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::writer::BATCH_WRITES_MAX;

/// After this time without a batch that was carried out it is not the load that keeps writes waiting.
const STANDS_AFTER: Duration = Duration::from_secs(1);

/// A batch that takes so many times the usual does not get on.
const LATE_TIMES: u32 = 4;

/// What a batch takes is a mean in which each new one counts for a quarter: one slow batch refuses nobody.
const MEMORY: u32 = 4;

/// What the writer gets done. Shared by it and by those who come.
#[derive(Debug, Default)]
pub(super) struct Load {
    progress: AtomicU64,
    pace: Mutex<Pace>,
}

#[derive(Debug, Default)]
struct Pace {
    /// When the batch at hand was begun.
    begun: Option<Instant>,
    /// When the last one was carried out.
    got_on: Option<Instant>,
    /// The mean time of a batch.
    batch: Duration,
    /// How many writes the last batch held that others had to wait for; 0: none had to.
    writes: usize,
}

impl Load {
    /// A batch is begun.
    pub(super) fn begin(&self, now: Instant) {
        self.pace().begun = Some(now);
    }

    /// It was worked out and went to the store.
    pub(super) fn submitted(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// It was carried out, with so many writes. Large ones are fewer in a batch, which shows only when not all fit.
    pub(super) fn got_on(&self, writes: usize, is_full: bool, now: Instant) {
        self.progress.fetch_add(1, Ordering::Relaxed);
        let mut pace = self.pace();
        if let Some(begun) = pace.begun.take() {
            let took = now.saturating_duration_since(begun);
            pace.batch =
                if pace.batch.is_zero() { took } else { (pace.batch * (MEMORY - 1) + took) / MEMORY };
        }
        pace.got_on = Some(now);
        pace.writes = if is_full { writes } else { 0 };
    }

    /// It is no longer at hand, whatever came of it.
    pub(super) fn end(&self) {
        self.pace().begun = None;
    }

    /// A number that rises while the writer gets on.
    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether the batch at hand may be thought to come to its end: it takes no longer than batches like it.
    pub(super) fn is_in_time(&self, now: Instant) -> bool {
        let pace = self.pace();
        let usual = pace.batch.saturating_mul(LATE_TIMES).min(STANDS_AFTER);
        pace.begun.is_some_and(|begun| now.saturating_duration_since(begun) < usual)
    }

    /// Whether writes are carried out, as far as the last second tells.
    pub(super) fn is_moving(&self, now: Instant) -> bool {
        self.pace().got_on.is_some_and(|at| now.saturating_duration_since(at) < STANDS_AFTER)
    }

    /// How long a write waits behind so many others. The batch at hand counts from the moment when it takes longer than
    /// usual: those that came before it was late are told as little as anybody could know.
    pub(super) fn wait(&self, waiting: usize, now: Instant) -> Duration {
        let pace = self.pace();
        let late = pace.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let writes = if pace.writes == 0 { BATCH_WRITES_MAX } else { pace.writes };
        pace.batch.max(late).saturating_mul(u32::try_from(waiting / writes).unwrap_or(u32::MAX))
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_told_what_it_has_to_expect_by_what_batches_took_lately() {
        let (load, start) = (Load::default(), Instant::now());
        assert_eq!(load.wait(usize::MAX, start), Duration::ZERO, "nothing is known yet");
        assert!(!load.is_moving(start));
        let mut now = start;
        for _ in 0..20 {
            load.begin(now);
            now += Duration::from_millis(100);
            load.got_on(1, false, now);
        }
        assert_eq!(load.wait(BATCH_WRITES_MAX - 1, now), Duration::ZERO);
        assert_eq!(load.wait(BATCH_WRITES_MAX * 7, now), Duration::from_millis(700));
        assert!(load.is_moving(now) && !load.is_moving(now + STANDS_AFTER));
        load.begin(now);
        load.got_on(1, false, now + Duration::from_millis(500));
        let slow = Duration::from_millis(200);
        assert_eq!(load.wait(BATCH_WRITES_MAX, now), slow, "one slow batch is one of several");
        load.got_on(8, true, now);
        assert_eq!(load.wait(16, now), slow * 2, "no more than eight go together");
        load.begin(now);
        let late = Duration::from_secs(3);
        assert_eq!(load.wait(8, now + late), late, "the one at hand is late");
        load.end();
        assert_eq!(load.wait(8, now + late), slow, "none is at hand");
    }

    #[test]
    fn a_batch_is_in_time_as_long_as_others_like_it_took_and_none_for_more_than_a_second() {
        let (load, mut now) = (Load::default(), Instant::now());
        load.begin(now);
        assert!(!load.is_in_time(now), "nothing is known yet");
        for (took, usual) in [(20, 80), (200, 800), (300, 1_000)] {
            for _ in 0..40 {
                load.begin(now);
                now += Duration::from_millis(took);
                load.got_on(1, false, now);
            }
            assert!(!load.is_in_time(now), "none is at hand");
            load.begin(now);
            assert!(load.is_in_time(now + Duration::from_millis(usual - 1)));
            assert!(!load.is_in_time(now + Duration::from_millis(usual)));
        }
    }

    #[test]
    fn progress_is_a_batch_that_was_worked_out_or_carried_out() {
        let (load, now) = (Load::default(), Instant::now());
        let before = load.progress();
        load.begin(now);
        assert_eq!(load.progress(), before);
        load.submitted();
        let submitted = load.progress();
        load.got_on(1, false, now);
        assert!(before < submitted && submitted < load.progress());
    }
}
