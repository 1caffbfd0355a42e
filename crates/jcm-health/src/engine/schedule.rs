//! When a target is probed: at fixed instants that do not drift, spread over the interval by the target's key.

use std::time::{Duration, Instant};

use super::TargetKey;

/// A target with a long interval is first probed within this time all the same: nobody wants to wait an hour for the
/// first verdict, and 100,000 of them started over 8 s are within what one server can open.
const FIRST_WITHIN_MAX: Duration = Duration::from_secs(8);

/// A round may begin late by half an interval, and by this much in any case.
const LATE_MIN: Duration = Duration::from_millis(500);

/// The instants at which one target is probed: `origin + k × interval`.
///
/// The origin is the same for the same key however often the target is replaced, so changing targets all the time
/// neither bunches their probes nor keeps them from being probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    origin: Instant,
    interval: Duration,
    spread: u64,
}

impl Schedule {
    /// `epoch` is the start of the engine.
    pub(crate) fn new(epoch: Instant, key: TargetKey, interval: Duration) -> Self {
        let interval = interval.max(Duration::from_millis(1));
        let spread = scatter(key.0);
        Self { origin: epoch + part_of(interval, spread), interval, spread }
    }

    /// The instant of the first probe of a target that is set now.
    pub(crate) fn first(&self, now: Instant) -> Instant {
        if self.interval <= FIRST_WITHIN_MAX {
            self.after(now)
        } else {
            now + part_of(FIRST_WITHIN_MAX, self.spread)
        }
    }

    /// The first instant of the grid after `now`.
    pub(crate) fn after(&self, now: Instant) -> Instant {
        let Some(elapsed) = now.checked_duration_since(self.origin) else {
            return self.origin;
        };
        let into = elapsed.as_nanos() % self.interval.as_nanos();
        let into =
            Duration::from_nanos(u64::try_from(into).expect("less than an interval, which is hours at most"));
        now + self.interval.saturating_sub(into)
    }

    /// By how much a round may begin late. One that is later is thrown away: either this process was away, or it has so
    /// much to do that all of its rounds bunch up, and both must not be made worse by probing everything at once.
    pub(crate) fn late_max(&self) -> Duration {
        LATE_MIN.max(self.interval / 2)
    }
}

/// The part `spread / 2^64` of a duration.
fn part_of(duration: Duration, spread: u64) -> Duration {
    let nanos = (duration.as_nanos() * u128::from(spread)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).expect("a part of an interval, which is hours at most"))
}

/// Scatters keys that are counted up evenly over all values: the golden ratio's multiples, which never cluster, so that
/// any run of keys is spread more evenly than chance would (Knuth, volume 3, section 6.4).
pub(super) fn scatter(key: u64) -> u64 {
    key.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn slots_are_on_a_grid_that_does_not_drift() {
        let epoch = Instant::now();
        let schedule = Schedule::new(epoch, TargetKey(7), SECOND);
        let mut slot = schedule.first(epoch);
        assert!(slot <= epoch + SECOND);
        for _ in 0..1_000 {
            // However late the previous round ended within its interval, the next slot is where it was going to be.
            for late in [0, 1, 400, 999] {
                assert_eq!(schedule.after(slot + Duration::from_millis(late)), slot + SECOND);
            }
            slot += SECOND;
        }
        assert_eq!(schedule.after(slot + Duration::from_millis(3_500)), slot + 4 * SECOND);
    }

    #[test]
    fn a_target_that_is_replaced_keeps_its_slots() {
        let epoch = Instant::now();
        let first = Schedule::new(epoch, TargetKey(7), SECOND).first(epoch);
        for later in (0..900).map(Duration::from_millis) {
            let again = Schedule::new(epoch, TargetKey(7), SECOND).first(epoch + later);
            assert!(again == first || again == first + SECOND);
        }
    }

    #[test]
    fn targets_are_spread_evenly_over_the_interval() {
        let epoch = Instant::now();
        for first_key in [0, 1_000, u64::MAX - 300] {
            let mut tenths = [0; 10];
            for key in (0..600).map(|n| TargetKey(u64::wrapping_add(first_key, n))) {
                let offset = Schedule::new(epoch, key, SECOND).first(epoch) - epoch;
                tenths[usize::try_from(offset.as_millis() / 100).unwrap().min(9)] += 1;
            }
            assert!(tenths.iter().all(|count| (50..=70).contains(count)), "{tenths:?}");
        }
    }

    #[test]
    fn a_long_interval_does_not_delay_the_first_probe() {
        let epoch = Instant::now();
        for key in (0..100).map(TargetKey) {
            let schedule = Schedule::new(epoch, key, Duration::from_hours(1));
            assert!(schedule.first(epoch) <= epoch + FIRST_WITHIN_MAX);
            assert!(schedule.after(epoch + FIRST_WITHIN_MAX) > epoch);
        }
    }
}
