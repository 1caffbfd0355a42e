//! When a target is probed: at fixed instants that do not drift, spread over the interval by the target's key.

use std::time::{Duration, Instant};

use super::TargetKey;

/// A target with a long interval is first probed within this time all the same: nobody wants to wait an hour for the
/// first verdict, and 100,000 of them started over 8 s are within what one server can open.
const FIRST_WITHIN_MAX: Duration = Duration::from_secs(8);

/// A target that is taken over is first probed within this part of its interval: it may not have been probed for long,
/// and thousands may be taken over at once.
const TAKE_OVER_PART: u32 = 4;

/// A round may begin late by half an interval, and by this much in any case.
const LATE_MIN: Duration = Duration::from_millis(500);

/// When a target is probed next, and what became of the instants before that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Next {
    /// When its next round is to begin.
    pub(crate) due: Instant,
    /// When it would have begun had the one before it begun in time.
    pub(crate) owed: Instant,
    /// Rounds between these two, which nobody makes up for.
    pub(crate) skipped: u64,
}

/// The instants at which one target is probed: `origin + k × interval`.
///
/// The origin is the same for the same key however often the target is replaced, so changing targets all the time
/// neither bunches their probes nor keeps them from being probed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    origin: Instant,
    interval: Duration,
}

impl Schedule {
    /// `epoch` is the start of the engine.
    pub(crate) fn new(epoch: Instant, key: TargetKey, interval: Duration) -> Self {
        Self::from_origin(epoch + part_of(at_least(interval), scatter(key.0)), interval)
    }

    /// The same again, from where it began.
    pub(crate) fn from_origin(origin: Instant, interval: Duration) -> Self {
        Self { origin, interval: at_least(interval) }
    }

    pub(crate) fn origin(&self) -> Instant {
        self.origin
    }

    /// The instant of the first probe of a target that is set now.
    pub(crate) fn first(&self, key: TargetKey, now: Instant) -> Instant {
        if self.interval <= FIRST_WITHIN_MAX {
            self.after(now)
        } else {
            now + part_of(FIRST_WITHIN_MAX, scatter(key.0))
        }
    }

    /// The instant of the first probe of a target that somebody else probed until now.
    pub(crate) fn soon(&self, key: TargetKey, now: Instant) -> Instant {
        now + part_of(self.interval.min(FIRST_WITHIN_MAX) / TAKE_OVER_PART, scatter(key.0))
    }

    /// What follows a round that was due at `due`, was `begun` then, and is over `now`.
    pub(crate) fn next(&self, due: Instant, begun: Instant, now: Instant) -> Next {
        let next = due + self.interval;
        if !self.is_on_grid(due) {
            let next = self.onto_grid(due);
            let next = if next > now { next } else { self.after(now) };
            return Next { due: next, owed: next, skipped: 0 };
        }
        // As nearly always.
        if now < next {
            return Next { due: next, owed: next, skipped: 0 };
        }
        let took = now.saturating_duration_since(begun);
        let (due, owed) = (self.after(now), self.after(due + took));
        Next { due, owed: owed.min(due), skipped: self.between(owed, due) }
    }

    /// What follows a round that was due at `due` and is not begun any more. It stays owed since `owed`.
    pub(crate) fn next_instead(&self, due: Instant, owed: Instant, now: Instant) -> Next {
        let next = self.after(now);
        Next { due: next, owed, skipped: self.between(self.after(due), next) }
    }

    /// The instant after a first round that was not on the grid: never right behind it, because two results are to be of two
    /// times, and never more than an interval after it. One more instant off the grid may be needed for that.
    fn onto_grid(&self, due: Instant) -> Instant {
        let next = self.after(due);
        if next - due >= self.interval / 2 { next } else { due + (next + self.interval - due) / 2 }
    }

    fn is_on_grid(&self, instant: Instant) -> bool {
        let since_origin = instant.checked_duration_since(self.origin);
        since_origin.is_some_and(|since| nanos(since).is_multiple_of(nanos(self.interval)))
    }

    /// How many intervals lie between two instants of the grid.
    fn between(&self, from: Instant, to: Instant) -> u64 {
        let intervals = to.saturating_duration_since(from).as_nanos() / self.interval.as_nanos();
        u64::try_from(intervals).unwrap_or(u64::MAX)
    }

    /// By how much a round may come after its time before its server has to ask itself whether it is fit to check anything:
    /// whether what is lost is the round itself, or those that were skipped before it.
    pub(crate) fn is_overdue(&self, due: Instant, owed: Instant, now: Instant) -> bool {
        let late = |instant| now.saturating_duration_since(instant);
        // A single round that is skipped costs an interval, and happens to a round that began a little late and timed out.
        late(due) > self.interval || late(owed) > self.interval + self.interval / 2
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

fn at_least(interval: Duration) -> Duration {
    interval.max(Duration::from_millis(1))
}

/// The part `spread / 2^64` of a duration.
fn part_of(duration: Duration, spread: u64) -> Duration {
    let nanos = (duration.as_nanos() * u128::from(spread)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).expect("a part of an interval, which is hours at most"))
}

/// A machine word divides several times faster than the 128 bits that any duration would need.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("less than five hundred years")
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
        let mut slot = schedule.first(TargetKey(7), epoch);
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
    fn rounds_that_are_skipped_are_counted_and_owed() {
        let epoch = Instant::now();
        let schedule = Schedule::new(epoch, TargetKey(7), SECOND);
        let due = schedule.first(TargetKey(7), epoch);
        let at = |millis| due + Duration::from_millis(millis);
        for (begun, now, comes, owed) in [
            // In time, and slow by itself: that is the node's affair.
            (0, 800, 1_000, 1_000),
            (0, 1_200, 2_000, 2_000),
            // Late, and over before the next one is due.
            (400, 900, 1_000, 1_000),
            // Late, and not over.
            (400, 1_200, 2_000, 1_000),
            (3_100, 3_200, 4_000, 1_000),
            (3_100, 4_500, 5_000, 2_000),
        ] {
            let expected = Next { due: at(comes), owed: at(owed), skipped: (comes - owed) / 1_000 };
            assert_eq!(schedule.next(due, at(begun), at(now)), expected, "begun at {begun}, over at {now}");
        }
        // Never begun: that round is counted by itself, and it stays owed.
        for (now, comes, skipped) in [(600, 1_000, 0), (2_600, 3_000, 2)] {
            let expected = Next { due: at(comes), owed: due, skipped };
            assert_eq!(schedule.next_instead(due, due, at(now)), expected, "given up at {now}");
        }
    }

    #[test]
    fn what_is_late_by_more_than_an_interval_is_overdue() {
        let due = Instant::now();
        let schedule = Schedule::new(due, TargetKey(7), SECOND);
        for (owed_before, now, expected) in [
            (0, 10, false),
            (0, 900, false),
            (0, 1_100, true),
            (1_000, 10, false),
            (1_000, 600, true),
            (3_000, 10, true),
        ] {
            let owed = due.checked_sub(Duration::from_millis(owed_before)).unwrap();
            let now = due + Duration::from_millis(now);
            assert_eq!(schedule.is_overdue(due, owed, now), expected, "{owed_before} {:?}", now - due);
        }
    }

    #[test]
    fn a_target_that_is_replaced_keeps_its_slots() {
        let epoch = Instant::now();
        let first = Schedule::new(epoch, TargetKey(7), SECOND).first(TargetKey(7), epoch);
        for later in (0..900).map(Duration::from_millis) {
            let again = Schedule::new(epoch, TargetKey(7), SECOND).first(TargetKey(7), epoch + later);
            assert!(again == first || again == first + SECOND);
        }
    }

    #[test]
    fn targets_are_spread_evenly_over_the_interval() {
        let epoch = Instant::now();
        for first_key in [0, 1_000, u64::MAX - 300] {
            let mut tenths = [0; 10];
            for key in (0..600).map(|n| TargetKey(u64::wrapping_add(first_key, n))) {
                let offset = Schedule::new(epoch, key, SECOND).first(key, epoch) - epoch;
                tenths[usize::try_from(offset.as_millis() / 100).unwrap().min(9)] += 1;
            }
            assert!(tenths.iter().all(|count| (50..=70).contains(count)), "{tenths:?}");
        }
    }

    #[test]
    fn a_target_that_is_taken_over_is_probed_soon_and_then_on_the_grid() {
        let epoch = Instant::now();
        let took = Duration::from_millis(3);
        for key in (0..1_000).map(TargetKey) {
            for interval in [SECOND, Duration::from_mins(1)] {
                let schedule = Schedule::new(epoch, key, interval);
                let now = epoch + Duration::from_millis(12_345);
                let first = schedule.soon(key, now);
                assert!(first >= now && first <= now + interval.min(FIRST_WITHIN_MAX) / 4);
                let mut due = first;
                let mut on_grid = 0;
                for _ in 0..5 {
                    let next = schedule.next(due, due, due + took);
                    assert_eq!((next.owed, next.skipped), (next.due, 0));
                    let between = next.due - due;
                    assert!(between >= interval / 2 && between <= interval, "{between:?}");
                    on_grid += u32::from(schedule.is_on_grid(next.due));
                    due = next.due;
                }
                assert!(on_grid >= 4, "{on_grid}");
            }
        }
    }

    #[test]
    fn a_long_interval_does_not_delay_the_first_probe() {
        let epoch = Instant::now();
        for key in (0..100).map(TargetKey) {
            let schedule = Schedule::new(epoch, key, Duration::from_hours(1));
            assert!(schedule.first(key, epoch) <= epoch + FIRST_WITHIN_MAX);
            assert!(schedule.after(epoch + FIRST_WITHIN_MAX) > epoch);
        }
    }
}
