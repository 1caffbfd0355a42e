//! What this server tried lately and has no entry of the log for, so that it can tell what became of it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use jcm_model::{Head, OperationId};

use super::write::{Answer, WriteError};

/// Attempts that are remembered: as many as may be waiting at once, twice over.
const ATTEMPTS_MAX: usize = 32 * 1024;

/// So long after an attempt here ended, every attempt of the operation that another server had taken on before is over
/// there too: it had two seconds, its commit as long again, and a way between servers that stalls is closed after three.
const ELSEWHERE_OVER_AFTER: Duration = Duration::from_secs(10);

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
    ended: Option<Instant>,
    /// The head that was there when no other server could be carrying it out any more.
    over_at: Option<Head>,
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

    /// Whether nothing of an operation was applied, nor will be unless it is sent again. The log up to the head does not
    /// hold it, as the store itself has just said.
    ///
    /// Of what other servers were asked this one knows nothing. Where there are others, their attempts have to be over, and
    /// the head has to have moved past those on which they could have been submitted.
    pub(super) fn came_to_nothing(
        &mut self,
        operation: OperationId,
        head: Head,
        is_alone: bool,
        now: Instant,
    ) -> bool {
        let attempt = self.get(operation);
        let Some(known) = self.known.get_mut(&operation) else { return false };
        let is_over_here = match attempt {
            Some(Attempt::NotApplied) => true,
            Some(Attempt::SubmittedOn(on)) => head.settles(on),
            Some(Attempt::UnderWay | Attempt::InDoubt) | None => false,
        };
        if !is_over_here || is_alone {
            return is_over_here;
        }
        let is_over = |ended: Instant| now.saturating_duration_since(ended) >= ELSEWHERE_OVER_AFTER;
        known.ended.is_some_and(is_over) && head.settles(*known.over_at.get_or_insert(head))
    }

    /// It is being carried out from now on. Answers which attempt this is.
    pub(super) fn begin(&mut self, operation: OperationId) -> u64 {
        self.begun += 1;
        let known = self.known.entry(operation).or_default();
        known.latest = self.begun;
        known.under_way.push(self.begun);
        known.over_at = None;
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
    pub(super) fn end(&mut self, operation: OperationId, begun: u64, answer: &Answer, now: Instant) {
        if answer.is_ok() {
            // The log speaks of it from here on.
            self.known.remove(&operation);
            return;
        }
        let Some(known) = self.known.get_mut(&operation) else { return };
        known.under_way.retain(|attempt| *attempt != begun);
        known.ended = Some(now);
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
        attempts.end(id(1), second, &Err(WriteError::Busy { waiting: 1 }), Instant::now());
        assert_eq!(attempts.get(id(1)), Some(Attempt::UnderWay), "the first may still be applied");
        attempts.end(id(1), first, &unknown(Some(head(4))), Instant::now());
        let third = attempts.begin(id(1));
        attempts.end(id(1), third, &Err(WriteError::unavailable("")), Instant::now());
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
            attempts.end(id(1), attempt, &unknown(on), Instant::now());
            assert_eq!(attempts.get(id(1)), Some(left), "{on:?}");
        }
        for store in [1, 2] {
            let on = Head { store: StoreId(uuid::Uuid::from_u128(store)), ..head(4) };
            let attempt = attempts.begin(id(3));
            attempts.end(id(3), attempt, &unknown(Some(on)), Instant::now());
        }
        assert_eq!(attempts.get(id(3)), Some(Attempt::InDoubt), "no head is past those of two stores");
        let attempt = attempts.begin(id(2));
        attempts.end(id(2), attempt, &Err(WriteError::Busy { waiting: 1 }), Instant::now());
        assert_eq!(attempts.get(id(2)), Some(Attempt::NotApplied));
    }

    #[test]
    fn what_came_to_nothing_here_may_be_applied_elsewhere_until_that_is_over_and_the_head_has_moved() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let refused = Err(WriteError::unavailable(""));
        let attempt = attempts.begin(id(1));
        assert!(!attempts.came_to_nothing(id(1), head(4), true, start), "it is under way");
        attempts.end(id(1), attempt, &refused, start);
        assert!(attempts.came_to_nothing(id(1), head(4), true, start), "there is nobody else");
        let over = start + ELSEWHERE_OVER_AFTER;
        for (revision, now, came_to_nothing) in
            [(4, start, false), (6, start + Duration::from_secs(9), false), (6, over, false), (7, over, true)]
        {
            assert_eq!(
                attempts.came_to_nothing(id(1), head(revision), false, now),
                came_to_nothing,
                "{revision}"
            );
        }
        // Another attempt begins it anew.
        let attempt = attempts.begin(id(1));
        attempts.end(id(1), attempt, &refused, over);
        assert!(!attempts.came_to_nothing(id(1), head(8), false, over));
        assert!(!attempts.came_to_nothing(id(2), head(8), true, over), "never heard of");
        let attempt = attempts.begin(id(3));
        attempts.end(id(3), attempt, &Err(WriteError::unknown(id(3), "", Some(head(8)))), start);
        assert!(!attempts.came_to_nothing(id(3), head(8), true, over));
        assert!(attempts.came_to_nothing(id(3), head(9), true, over));
    }

    #[test]
    fn old_attempts_are_forgotten_and_recent_ones_are_not() {
        let mut attempts = Attempts::default();
        let again = attempts.begin(id(0));
        for n in 1..ATTEMPTS_MAX as u128 {
            attempts.begin(id(n));
        }
        attempts.end(id(0), again, &Err(WriteError::Busy { waiting: 1 }), Instant::now());
        let again = attempts.begin(id(0));
        attempts.end(id(0), again, &Err(WriteError::Busy { waiting: 1 }), Instant::now());
        assert_eq!(attempts.get(id(0)), Some(Attempt::NotApplied), "its second attempt is recent");
        attempts.begin(id(u128::MAX));
        assert_eq!(attempts.get(id(1)), None);
        assert!(attempts.by_age.len() <= ATTEMPTS_MAX && attempts.known.len() <= ATTEMPTS_MAX);
    }
}
