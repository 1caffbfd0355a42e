//! What this server tried lately and has no entry of the log for, so that it can tell what became of it.

use std::collections::{HashMap, VecDeque};

use jcm_model::{OperationId, Revision};

use super::write::{Answer, WriteError};

/// Attempts that are remembered: as many as may be waiting at once, twice over.
const ATTEMPTS_MAX: usize = 32 * 1024;

/// What is known of an attempt whose operation the log does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// It is being carried out.
    UnderWay,
    /// Nothing was changed, and nothing of it can come to be.
    NotApplied,
    /// It was submitted, to be committed if the head is still this one: once the head has moved past without it, it was
    /// not applied.
    SubmittedOn(Revision),
    /// Somebody else may have carried it out, or may still.
    InDoubt,
}

/// The last attempts by operation. Where an operation is tried twice, the later attempt counts.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    known: HashMap<OperationId, (u64, Attempt)>,
    by_age: VecDeque<(OperationId, u64)>,
    begun: u64,
}

impl Attempts {
    pub(super) fn get(&self, operation: OperationId) -> Option<Attempt> {
        self.known.get(&operation).map(|(_, attempt)| *attempt)
    }

    /// It is being carried out from now on. Answers which attempt this is.
    pub(super) fn begin(&mut self, operation: OperationId) -> u64 {
        self.begun += 1;
        self.known.insert(operation, (self.begun, Attempt::UnderWay));
        self.by_age.push_back((operation, self.begun));
        while self.by_age.len() > ATTEMPTS_MAX
            && let Some((oldest, begun)) = self.by_age.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|(latest, _)| *latest == begun) {
                self.known.remove(&oldest);
            }
        }
        self.begun
    }

    /// This was answered to the attempt.
    pub(super) fn end(&mut self, operation: OperationId, begun: u64, answer: &Answer) {
        let attempt = match answer {
            // The log speaks of it from here on.
            Ok(_) => {
                self.known.remove(&operation);
                return;
            }
            Err(WriteError::OutcomeUnknown { on: Some(on), .. }) => Attempt::SubmittedOn(*on),
            Err(WriteError::OutcomeUnknown { on: None, .. }) => Attempt::InDoubt,
            Err(_) => Attempt::NotApplied,
        };
        if let Some(known) = self.known.get_mut(&operation).filter(|(latest, _)| *latest == begun) {
            known.1 = attempt;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> OperationId {
        OperationId(uuid::Uuid::from_u128(n))
    }

    #[test]
    fn the_later_attempt_of_an_operation_counts() {
        let mut attempts = Attempts::default();
        let first = attempts.begin(id(1));
        let second = attempts.begin(id(1));
        attempts.end(id(1), first, &Err(WriteError::Busy));
        assert_eq!(attempts.get(id(1)), Some(Attempt::UnderWay), "the second may still be applied");
        attempts.end(id(1), second, &Err(WriteError::unknown(id(1), "", Some(Revision(4)))));
        assert_eq!(attempts.get(id(1)), Some(Attempt::SubmittedOn(Revision(4))));
    }

    #[test]
    fn old_attempts_are_forgotten_and_recent_ones_are_not() {
        let mut attempts = Attempts::default();
        let again = attempts.begin(id(0));
        for n in 1..ATTEMPTS_MAX as u128 {
            attempts.begin(id(n));
        }
        attempts.end(id(0), again, &Err(WriteError::Busy));
        let again = attempts.begin(id(0));
        attempts.end(id(0), again, &Err(WriteError::Busy));
        assert_eq!(attempts.get(id(0)), Some(Attempt::NotApplied), "its second attempt is recent");
        attempts.begin(id(u128::MAX));
        assert_eq!(attempts.get(id(1)), None);
        assert!(attempts.by_age.len() <= ATTEMPTS_MAX && attempts.known.len() <= ATTEMPTS_MAX);
    }
}
