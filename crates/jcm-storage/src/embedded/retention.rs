//! How much of the change log is kept.
//!
//! An operation is remembered until it is old or there are too many newer ones, whichever comes first. Ages are told
//! by the monotonic clock of this process: after a restart they start anew. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use jcm_model::Revision;

use crate::store::OPERATIONS_KEPT_MAX;

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) operations_max: u64,
    /// Large transactions are few, but a load reads them all.
    pub(super) log_bytes_max: u64,
    /// Longer than anybody repeats a write whose outcome he did not learn.
    pub(super) age_max: Duration,
    /// Trimming rides on a commit and makes it dearer: not on each.
    pub(super) interval: Duration,
    /// What one trim removes at most: more transactions than one disk commits in an interval, so that it keeps up,
    /// and few enough for a commit to bear.
    pub(super) rows_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations_max: OPERATIONS_KEPT_MAX as u64,
            log_bytes_max: 256 * 1024 * 1024,
            age_max: Duration::from_mins(10),
            interval: Duration::from_secs(10),
            rows_max: 20_000,
        }
    }
}

/// Decides when to trim, and what.
#[derive(Debug)]
pub(super) struct Retention {
    limits: Limits,
    trimmed: Option<Instant>,
    /// The head as it was at some times, oldest first; one an interval, none older than need be.
    marks: VecDeque<(Instant, Revision)>,
}

/// What to trim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trim {
    /// Everything up to here is old.
    pub(super) old: Revision,
    pub(super) operations_max: u64,
    pub(super) log_bytes_max: u64,
    pub(super) rows_max: usize,
}

impl Retention {
    pub(super) fn new(limits: Limits, head: Revision, now: Instant) -> Self {
        Self { limits, trimmed: None, marks: VecDeque::from([(now, head)]) }
    }

    /// Begins again with an empty log.
    pub(super) fn restart(&mut self, head: Revision, now: Instant) {
        *self = Self::new(self.limits, head, now);
    }

    /// What the commit at hand shall trim, if anything. The answer is spent: the next one comes an interval later.
    pub(super) fn next_trim(&mut self, head: Revision, now: Instant) -> Option<Trim> {
        let is_early = |trimmed: Instant| now.saturating_duration_since(trimmed) < self.limits.interval;
        if self.trimmed.is_some_and(is_early) {
            return None;
        }
        self.trimmed = Some(now);
        self.marks.push_back((now, head));
        let is_old =
            |mark: &(Instant, Revision)| now.saturating_duration_since(mark.0) >= self.limits.age_max;
        while self.marks.get(1).is_some_and(is_old) {
            self.marks.pop_front();
        }
        let old = self.marks.front().filter(|mark| is_old(mark));
        Some(Trim {
            old: old.map_or(Revision::ZERO, |mark| mark.1),
            operations_max: self.limits.operations_max,
            log_bytes_max: self.limits.log_bytes_max,
            rows_max: self.limits.rows_max,
        })
    }
}
