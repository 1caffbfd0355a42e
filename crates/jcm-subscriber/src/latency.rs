//! What a call to a node is expected to take: Finagle's peak EWMA (`com.twitter.finagle.loadbalancer.PeakEwma`).
//!
//! A slower call than expected is believed at once, a faster one slowly: the estimate falls by e in [`DECAY`]. It falls as
//! well while nobody calls, so that a node that was slow is tried again. One word holds estimate and time, so that no
//! reader sees half of an update.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an estimate takes to fall to 1/e of what it was: Finagle's default.
const DECAY: Duration = Duration::from_secs(10);
/// Microseconds that a node with calls under way and none finished is taken to need for each: nobody knows what it is
/// like, and one that hangs from the beginning must not look fast. Finagle has the like.
const UNKNOWN_BUSY: f32 = 1e6;

/// Microseconds on a clock of this process that wraps after 71 minutes. Only differences mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Micros(pub(crate) u32);

impl Micros {
    pub(crate) fn now() -> Self {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        #[expect(clippy::cast_possible_truncation, reason = "it wraps on purpose")]
        Self(START.elapsed().as_micros() as u32)
    }

    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "a latency is known to one part in a million at best")]
    fn since(self, earlier: Self) -> f32 {
        let elapsed = self.0.wrapping_sub(earlier.0);
        // Another thread may have read the clock later and written earlier.
        if elapsed > u32::MAX / 2 { 0.0 } else { elapsed as f32 }
    }
}

/// An estimate in microseconds as `f32` bits, and the [`Micros`] it was made at. 0 is none.
#[derive(Debug, Default)]
pub(crate) struct Latency(AtomicU64);

impl Latency {
    /// A call that began then succeeded now.
    pub(crate) fn observe(&self, began: Micros, now: Micros) {
        let took = now.since(began).max(1.0);
        self.update(
            |estimate, age| {
                if took >= estimate || estimate == 0.0 {
                    return Some(took);
                }
                let kept = remaining(age);
                Some(estimate * kept + took * (1.0 - kept))
            },
            now,
        );
    }

    /// A call that began then has not succeeded until now: it would have taken at least so long.
    pub(crate) fn at_least(&self, began: Micros, now: Micros) {
        let took = now.since(began);
        // Nearly always it is far below, and what is left of the estimate need not be known exactly: e^-x ≥ 1 - x.
        let (estimate, at) = unpack(self.0.load(Ordering::Relaxed));
        if took < estimate * (1.0 - now.since(at) / (DECAY.as_secs_f32() * 1e6)) {
            return;
        }
        self.update(|estimate, age| (took > estimate * remaining(age)).then_some(took), now);
    }

    /// What a further call would cost beside `in_flight` others: microseconds.
    #[inline]
    pub(crate) fn cost(&self, in_flight: u32, now: Micros) -> f32 {
        let (estimate, at) = unpack(self.0.load(Ordering::Relaxed));
        #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
        let in_flight = in_flight as f32;
        if estimate == 0.0 {
            return UNKNOWN_BUSY * in_flight;
        }
        estimate * remaining(now.since(at)) * (in_flight + 1.0)
    }

    /// The estimate as it was last made; `None` before the first call.
    pub(crate) fn estimate(&self) -> Option<Duration> {
        let (estimate, _) = unpack(self.0.load(Ordering::Relaxed));
        (estimate > 0.0).then(|| Duration::from_secs_f32(estimate / 1e6))
    }

    fn update(&self, change: impl Fn(f32, f32) -> Option<f32>, now: Micros) {
        let new = |held| {
            let (estimate, at) = unpack(held);
            Some(pack(change(estimate, now.since(at))?, now))
        };
        // An error is that nothing is to change.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    }
}

/// What is left of an estimate after so many microseconds.
#[inline]
fn remaining(age: f32) -> f32 {
    (-age / 1e6 / DECAY.as_secs_f32()).exp()
}

#[inline]
fn pack(estimate: f32, at: Micros) -> u64 {
    u64::from(estimate.to_bits()) << 32 | u64::from(at.0)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "halves of a word")]
fn unpack(held: u64) -> (f32, Micros) {
    (f32::from_bits((held >> 32) as u32), Micros(held as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: u32 = 1000;

    fn micros(latency: &Latency) -> f32 {
        latency.estimate().unwrap_or_default().as_secs_f32() * 1e6
    }

    #[test]
    fn a_slow_call_is_believed_at_once_and_a_fast_one_slowly() {
        let latency = Latency::default();
        latency.observe(Micros(0), Micros(10 * MILLI));
        latency.observe(Micros(10 * MILLI), Micros(110 * MILLI));
        assert!((micros(&latency) - 100_000.0).abs() < 1.0);
        // Ten seconds later a call of 10 ms: 1/e of the old, the rest of the new.
        latency.observe(Micros(10_100 * MILLI), Micros(10_110 * MILLI));
        let wanted = 100_000.0 / std::f32::consts::E + 10_000.0 * (1.0 - 1.0 / std::f32::consts::E);
        assert!((micros(&latency) - wanted).abs() < 10.0, "{}", micros(&latency));
    }

    #[test]
    fn an_estimate_falls_while_nobody_calls() {
        let latency = Latency::default();
        latency.observe(Micros(0), Micros(100 * MILLI));
        let cost = |at: u32| latency.cost(0, Micros(at));
        assert!((cost(10_100 * MILLI) / cost(100 * MILLI) - 1.0 / std::f32::consts::E).abs() < 1e-4);
        assert!((latency.cost(3, Micros(100 * MILLI)) / cost(100 * MILLI) - 4.0).abs() < 1e-4);
    }

    #[test]
    fn a_call_that_did_not_succeed_never_makes_a_node_look_faster() {
        let latency = Latency::default();
        latency.observe(Micros(0), Micros(10 * MILLI));
        latency.at_least(Micros(10 * MILLI), Micros(10 * MILLI + 50));
        assert!((micros(&latency) - 10_000.0).abs() < 1.0);
        latency.at_least(Micros(0), Micros(30 * MILLI));
        assert!((micros(&latency) - 30_000.0).abs() < 1.0);
    }

    #[test]
    fn an_unknown_node_is_free_until_it_is_busy_with_its_first_call() {
        let latency = Latency::default();
        assert!(latency.cost(0, Micros(0)) == 0.0 && latency.cost(1, Micros(0)) >= UNKNOWN_BUSY);
    }

    #[test]
    fn the_clock_may_wrap_and_run_a_little_backwards() {
        let latency = Latency::default();
        latency.observe(Micros(u32::MAX - 500), Micros(499));
        assert!((micros(&latency) - 1000.0).abs() < 1.0);
        assert!((latency.cost(0, Micros(400)) - 1000.0).abs() < 1.0);
    }
}
