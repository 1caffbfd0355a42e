//! What this program has going on with one node: what picks compare, and what reports are judged by.
//!
//! Both outlive views: calls that began under one end under another. Everything is relaxed: the counts order nothing, and
//! a pick that misses the latest one is only slightly worse.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::latency::Latency;

/// Calls of one handle to one node.
///
/// Threads that call different nodes must not slow one another down, so no two of these share a cache line of 64 bytes: in
/// an `Arc` each follows 32 bytes of counts that only a new view writes, and takes 32 bytes itself.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(crate) struct Calls {
    in_flight: AtomicU32,
    pub(crate) latency: Latency,
}

impl Calls {
    #[inline]
    pub(crate) fn start(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// How reported calls of this program to one node came out, those of all handles together.
#[derive(Debug, Default)]
#[repr(align(32))]
pub(crate) struct Outcomes {
    successes: AtomicU64,
    failures: AtomicU64,
    /// Failures since the last success.
    in_a_row: AtomicU32,
}

/// The counts at one moment, from the beginning of the node on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) successes: u64,
    pub(crate) failures: u64,
    pub(crate) in_a_row: u32,
}

impl Outcomes {
    pub(crate) fn succeed(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        // Read first: a line that nobody writes is cheap to read.
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a failure; answers how many in a row it makes.
    pub(crate) fn fail(&self) -> u32 {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1)
    }

    /// A new row begins: the node was ejected for this one.
    pub(crate) fn forgive(&self) {
        self.in_a_row.store(0, Ordering::Relaxed);
    }

    pub(crate) fn tally(&self) -> Tally {
        Tally {
            successes: self.successes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            in_a_row: self.in_a_row.load(Ordering::Relaxed),
        }
    }
}
