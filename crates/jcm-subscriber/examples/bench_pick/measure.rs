//! CPU time of a pick. A file of its own, because pingora's balancer is measured by it in another program.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Picks of one thread in one measurement: a few milliseconds, so that the clock's own cost is nothing and a busy machine
/// still has stretches in which all threads run.
pub(crate) const PICKS: u32 = 200_000;

/// CPU nanoseconds of one pick, the mean of all threads; `None` when the machine is too busy to tell.
///
/// Threads that did not run at the same time say nothing about what they cost one another, so such a measurement is made
/// again, and given up in the end.
pub(crate) fn measure(threads: usize, pick: impl Fn() + Sync) -> Option<f64> {
    const TRIES_MAX: usize = 15;
    const AT_ONCE_MIN: f64 = 0.85;
    (0..TRIES_MAX)
        .map(|_| measure_once(threads, &pick))
        .find(|(_, at_once)| threads == 1 || *at_once > AT_ONCE_MIN)
        .map(|(nanoseconds, _)| nanoseconds)
}

/// The cost of a pick, and how much of the time all threads were running.
fn measure_once(threads: usize, pick: &(impl Fn() + Sync)) -> (f64, f64) {
    const WARM_UP: u32 = 20_000;
    let start = Barrier::new(threads);
    let each = || {
        for _ in 0..WARM_UP {
            pick();
        }
        start.wait();
        let (began, before) = (Instant::now(), clock_gettime(ClockId::ThreadCPUTime));
        for _ in 0..PICKS {
            pick();
        }
        let after = clock_gettime(ClockId::ThreadCPUTime);
        let spent = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
        let spent = Duration::from_nanos(u64::try_from(spent).expect("a clock goes forward"));
        (spent.as_secs_f64(), began, Instant::now())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        let done: Vec<_> =
            workers.into_iter().map(|worker| worker.join().expect("a pick does not panic")).collect();
        let spent: f64 = done.iter().map(|(spent, ..)| spent).sum();
        let span =
            done.iter().map(|(_, began, _)| *began).min().zip(done.iter().map(|(.., ended)| *ended).max());
        let elapsed = span.map_or(Duration::ZERO, |(began, ended)| ended - began);
        let threads = f64::from(u32::try_from(threads).expect("threads are few"));
        (spent / threads / f64::from(PICKS) * 1e9, spent / threads / elapsed.as_secs_f64())
    })
}
