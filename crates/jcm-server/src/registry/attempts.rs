//! What this server tried lately and has no entry of the log for, so that it can tell what became of it.

use std::collections::{HashMap, VecDeque};

use jcm_model::{Head, OperationId};

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
    SubmittedOn(Head),
    /// Somebody else may have carried it out, or may still.
    InDoubt,
}

/// The last attempts by operation.
///
/// Where an operation is tried more than once, a later attempt that came to nothing says nothing of an earlier one:
/// that may be under way still, or have been submitted without an answer.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    known: HashMap<OperationId, Known>,
    by_age: VecDeque<(OperationId, u64)>,
    begun: u64,
}

/// All attempts of one operation.
#[derive(Debug, Default)]
struct Known {
    latest: u64,
    /// Those that are being carried out.
    under_way: Vec<u64>,
    /// What is in doubt of those that ended.
    doubt: Option<Attempt>,
}

impl Known {
    fn doubt(&mut self, doubt: Attempt) {
        self.doubt = Some(match (self.doubt, doubt) {
            (None, doubt) => doubt,
            // Once the head has moved past the later one it has moved past both.
            (Some(Attempt::SubmittedOn(one)), Attempt::SubmittedOn(other)) if one.store == other.store => {
                Attempt::SubmittedOn(one.at(one.revision.max(other.revision)))
            }
            _ => Attempt::InDoubt,
        });
    }
}

impl Attempts {
    pub(super) fn get(&self, operation: OperationId) -> Option<Attempt> {
        let known = self.known.get(&operation)?;
        if !known.under_way.is_empty() {
            return Some(Attempt::UnderWay);
        }
        Some(known.doubt.unwrap_or(Attempt::NotApplied))
    }

    /// It is being carried out from now on. Answers which attempt this is.
    pub(super) fn begin(&mut self, operation: OperationId) -> u64 {
        self.begun += 1;
        let known = self.known.entry(operation).or_default();
        known.latest = self.begun;
        known.under_way.push(self.begun);
        self.by_age.push_back((operation, self.begun));
        while self.by_age.len() > ATTEMPTS_MAX
            && let Some((oldest, begun)) = self.by_age.pop_front()
        {
            if self.known.get(&oldest).is_some_and(|known| known.latest == begun) {
                self.known.remove(&oldest);
            }
        }
        self.begun
    }

    /// This was answered to the attempt.
    pub(super) fn end(&mut self, operation: OperationId, begun: u64, answer: &Answer) {
        if answer.is_ok() {
            // The log speaks of it from here on.
            self.known.remove(&operation);
            return;
        }
        let Some(known) = self.known.get_mut(&operation) else { return };
        known.under_way.retain(|attempt| *attempt != begun);
        match answer {
            Err(WriteError::OutcomeUnknown { on: Some(on), .. }) => known.doubt(Attempt::SubmittedOn(*on)),
            Err(WriteError::OutcomeUnknown { on: None, .. }) => known.doubt(Attempt::InDoubt),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use jcm_model::{Revision, StoreId};

    use super::*;

    fn id(n: u128) -> OperationId {
        OperationId(uuid::Uuid::from_u128(n))
    }

    fn head(revision: u64) -> Head {
        Head { store: StoreId(uuid::Uuid::from_u128(1)), revision: Revision(revision) }
    }

    fn unknown(on: Option<Head>) -> Answer {
        Err(WriteError::unknown(id(1), "", on))
    }

    #[test]
    fn an_attempt_that_came_to_nothing_says_nothing_of_another_one() {
        let mut attempts = Attempts::default();
        let first = attempts.begin(id(1));
        let second = attempts.begin(id(1));
        attempts.end(id(1), second, &Err(WriteError::Busy));
        assert_eq!(attempts.get(id(1)), Some(Attempt::UnderWay), "the first may still be applied");
        attempts.end(id(1), first, &unknown(Some(head(4))));
        let third = attempts.begin(id(1));
        attempts.end(id(1), third, &Err(WriteError::unavailable("")));
        let left = Some(Attempt::SubmittedOn(head(4)));
        assert_eq!(attempts.get(id(1)), left, "the first may still be applied");
    }

    #[test]
    fn of_several_in_doubt_the_one_that_is_settled_last_counts() {
        let mut attempts = Attempts::default();
        for (on, left) in [
            (Some(head(4)), Attempt::SubmittedOn(head(4))),
            (Some(head(6)), Attempt::SubmittedOn(head(6))),
            (Some(head(5)), Attempt::SubmittedOn(head(6))),
            (None, Attempt::InDoubt),
            (Some(head(9)), Attempt::InDoubt),
        ] {
            let attempt = attempts.begin(id(1));
            attempts.end(id(1), attempt, &unknown(on));
            assert_eq!(attempts.get(id(1)), Some(left), "{on:?}");
        }
        for store in [1, 2] {
            let on = Head { store: StoreId(uuid::Uuid::from_u128(store)), ..head(4) };
            let attempt = attempts.begin(id(3));
            attempts.end(id(3), attempt, &unknown(Some(on)));
        }
        assert_eq!(attempts.get(id(3)), Some(Attempt::InDoubt), "no head is past those of two stores");
        let attempt = attempts.begin(id(2));
        attempts.end(id(2), attempt, &Err(WriteError::Busy));
        assert_eq!(attempts.get(id(2)), Some(Attempt::NotApplied));
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
