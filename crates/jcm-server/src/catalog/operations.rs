//! The operations that are remembered, so that a write which is sent again finds its own result.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use jcm_model::{OperationId, Revision};
use jcm_storage::store::OPERATIONS_KEPT_MAX;

/// How long an operation is remembered: far longer than any client retries. Measured by the monotonic clock.
pub(crate) const OPERATIONS_KEPT_FOR: Duration = Duration::from_mins(10);

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// Digest of what was asked for.
    pub(crate) fingerprint: u64,
    /// The revision it led to.
    pub(crate) revision: Revision,
    /// Whether it created what it was about.
    pub(crate) created: bool,
}

/// Recent operations by id, bounded in age and number.
#[derive(Debug, Default)]
pub(crate) struct Operations {
    known: HashMap<OperationId, Known>,
    by_age: VecDeque<(OperationId, Instant)>,
}

impl Operations {
    /// What became of an operation, where it is remembered.
    pub(crate) fn get(&self, id: OperationId) -> Option<Known> {
        self.known.get(&id).copied()
    }

    /// Remembers an outcome and forgets what is too old. A later entry of the same operation replaces the earlier:
    /// an operation of several mutations answers the last one's revision.
    pub(crate) fn note(&mut self, id: OperationId, known: Known, now: Instant) {
        if self.known.insert(id, known).is_none() {
            self.by_age.push_back((id, now));
        }
        while self.by_age.front().is_some_and(|(_, at)| {
            self.by_age.len() > OPERATIONS_KEPT_MAX
                || now.saturating_duration_since(*at) > OPERATIONS_KEPT_FOR
        }) {
            if let Some((id, _)) = self.by_age.pop_front() {
                self.known.remove(&id);
            }
        }
    }
}

impl Operations {
    /// Remembers what a store remembered, oldest first. What is known besides stays known.
    pub(crate) fn note_all(&mut self, operations: impl IntoIterator<Item = (OperationId, Known)>) {
        let now = Instant::now();
        for (id, known) in operations {
            self.note(id, known, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_forgotten_by_age() {
        let (mut operations, start) = (Operations::default(), Instant::now());
        let id = |n: u128| OperationId(uuid::Uuid::from_u128(n));
        let known = |n| Known { fingerprint: n, revision: Revision(n), created: false };
        operations.note(id(1), known(1), start);
        operations.note(id(2), known(2), start + OPERATIONS_KEPT_FOR);
        assert_eq!(operations.get(id(1)), Some(known(1)));
        operations.note(id(3), known(3), start + OPERATIONS_KEPT_FOR + Duration::from_millis(1));
        assert_eq!(operations.get(id(1)), None);
        assert_eq!(operations.get(id(2)), Some(known(2)));
    }
}
