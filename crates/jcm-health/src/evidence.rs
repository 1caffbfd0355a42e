//! The last results of one node, so that "why?" has an answer.
//!
//! A ring of fixed size and 16 bytes a result: it is kept for every checked node, so it must not grow with time.

use std::time::Duration;

use jiff::Timestamp;

use crate::Outcome;

/// How many results are kept: enough to see a default window of them, and no more.
pub const RESULTS_MAX: usize = 10;

/// One result of one probe, in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    at_ms: i64,
    latency_us: u32,
    outcome: Outcome,
}

impl Sample {
    /// A probe that ended at `at` by the wall clock.
    pub fn new(at: Timestamp, latency: Duration, outcome: Outcome) -> Self {
        Self {
            at_ms: at.as_millisecond(),
            // A probe lasts a minute at most, so this holds; should it not, an hour is as telling as two.
            latency_us: u32::try_from(latency.as_micros()).unwrap_or(u32::MAX),
            outcome,
        }
    }

    /// When the probe ended, by the wall clock, to the millisecond. For people only: nothing is decided by it.
    pub fn at(&self) -> Timestamp {
        // The last second of the range has no milliseconds: only there the way back fails.
        Timestamp::from_millisecond(self.at_ms).unwrap_or(Timestamp::MAX)
    }

    /// How long the probe took, to the microsecond.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.into())
    }

    /// What it came to.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// The last [`RESULTS_MAX`] results of one node.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    kept: [Option<Sample>; RESULTS_MAX],
    /// Where the next result goes, which is also where the oldest one is.
    next: u8,
}

impl Evidence {
    /// Keeps a result, and forgets the oldest one when there is no room.
    pub fn push(&mut self, sample: Sample) {
        self.kept[usize::from(self.next)] = Some(sample);
        let next = usize::from(self.next) + 1;
        self.next = u8::try_from(next % RESULTS_MAX).expect("the ring has fewer than 256 places");
    }

    /// Whether the next result makes the oldest one forgotten.
    pub fn is_full(&self) -> bool {
        self.kept[usize::from(self.next)].is_some()
    }

    /// The results, newest first.
    pub fn iter(&self) -> impl Iterator<Item = Sample> + '_ {
        let (newer, older) = self.kept.split_at(usize::from(self.next));
        newer.iter().rev().chain(older.iter().rev()).flatten().copied()
    }

    /// The newest result.
    pub fn latest(&self) -> Option<Sample> {
        self.iter().next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n: i64) -> Sample {
        let at = Timestamp::from_millisecond(1_700_000_000_000 + n).unwrap();
        Sample::new(at, Duration::from_micros(n.unsigned_abs()), Outcome::Answered(200))
    }

    #[test]
    fn the_newest_result_comes_first_and_the_oldest_is_forgotten() {
        let mut evidence = Evidence::default();
        assert_eq!(evidence.latest(), None);
        for pushed in 1..=25 {
            evidence.push(sample(pushed));
            assert_eq!(evidence.is_full(), pushed >= 10);
            let expected: Vec<_> = (1..=pushed).rev().take(RESULTS_MAX).map(sample).collect();
            assert_eq!(evidence.iter().collect::<Vec<_>>(), expected);
            assert_eq!(evidence.latest(), Some(sample(pushed)));
        }
    }

    #[test]
    fn a_node_costs_no_more_than_a_few_cache_lines() {
        assert!(size_of::<Evidence>() <= 192, "{} bytes", size_of::<Evidence>());
    }

    #[test]
    fn the_far_ends_of_time_do_not_panic() {
        let mut evidence = Evidence::default();
        for at in [Timestamp::MIN, Timestamp::MAX, Timestamp::UNIX_EPOCH] {
            evidence.push(Sample::new(at, Duration::MAX, Outcome::Refused));
        }
        assert_eq!(evidence.iter().filter(|sample| sample.at() <= Timestamp::MAX).count(), 3);
    }
}
