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

/// What is known of an operation that the log does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Somebody may be carrying it out: this server, or another one.
    Open,
    /// Nobody is any more. What was submitted of it may still arrive, unless the store settles this head.
    Unsettled {
        /// The latest attempt here that this was said of.
        attempt: u64,
    },
    /// Nothing of it was applied, nor will be unless it is sent again.
    CameToNothing,
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
    doubt: Doubt,
    ended: Option<Instant>,
}

/// What the attempts that ended here left behind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Nothing: they came to nothing.
    #[default]
    None,
    /// It was submitted, to be committed if the head is still this one: once the head has moved past without it, it was
    /// not applied.
    SubmittedOn(Head),
    /// Somebody else may have carried it out.
    Elsewhere,
    /// Nothing, and no other server's attempt did either: the store has settled a head since.
    Settled,
}

impl Doubt {
    fn add(&mut self, doubt: Self) {
        *self = match (*self, doubt) {
            (Self::None | Self::Settled, doubt) => doubt,
            // Once the head has moved past the later one it has moved past both.
            (Self::SubmittedOn(one), Self::SubmittedOn(other)) if one.store == other.store => {
                Self::SubmittedOn(one.at(one.revision.max(other.revision)))
            }
            _ => Self::Elsewhere,
        };
    }
}

impl Attempts {
    /// Whether it was ever tried here, as far as that is remembered.
    pub(super) fn knows(&self, operation: OperationId) -> bool {
        self.known.contains_key(&operation)
    }

    /// What can be said of an operation that the log does not hold up to the head, as the store itself has just said.
    ///
    /// Of what other servers were asked this one knows nothing. Where there are others, their attempts have to be over.
    pub(super) fn standing(
        &self,
        operation: OperationId,
        head: Head,
        is_alone: bool,
        now: Instant,
    ) -> Standing {
        let Some(known) = self.known.get(&operation) else { return Standing::Open };
        let is_over = |ended: Instant| now.saturating_duration_since(ended) >= ELSEWHERE_OVER_AFTER;
        match known.doubt {
            _ if !known.under_way.is_empty() => Standing::Open,
            Doubt::Settled => Standing::CameToNothing,
            Doubt::None if is_alone => Standing::CameToNothing,
            Doubt::SubmittedOn(on) if is_alone && head.settles(on) => Standing::CameToNothing,
            _ if is_alone || known.ended.is_some_and(is_over) => {
                Standing::Unsettled { attempt: known.latest }
            }
            _ => Standing::Open,
        }
    }

    /// The store has settled the head that [`Standing::Unsettled`] was said on. Answers whether the operation came to
    /// nothing: it did unless it was tried again meanwhile.
    pub(super) fn settle(&mut self, operation: OperationId, attempt: u64) -> bool {
        match self.known.get_mut(&operation) {
            Some(known) if known.latest == attempt => {
                known.doubt = Doubt::Settled;
                true
            }
            _ => false,
        }
    }

    /// It is being carried out from now on. Answers which attempt this is.
    pub(super) fn begin(&mut self, operation: OperationId) -> u64 {
        self.begun += 1;
        let known = self.known.entry(operation).or_default();
        // Whoever asks once more may have asked another server as well.
        if known.doubt == Doubt::Settled {
            known.doubt = Doubt::None;
        }
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
            Err(WriteError::OutcomeUnknown { on: Some(on), .. }) => known.doubt.add(Doubt::SubmittedOn(*on)),
            Err(WriteError::OutcomeUnknown { on: None, .. }) => known.doubt.add(Doubt::Elsewhere),
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

    const SETTLES: Standing = Standing::CameToNothing;

    /// What is said of an operation on a head by the only server there is.
    fn alone(attempts: &Attempts, operation: OperationId, revision: u64) -> Standing {
        attempts.standing(operation, head(revision), true, Instant::now())
    }

    #[test]
    fn an_attempt_that_came_to_nothing_says_nothing_of_another_one() {
        let mut attempts = Attempts::default();
        let first = attempts.begin(id(1));
        let second = attempts.begin(id(1));
        attempts.end(id(1), second, &Err(WriteError::Busy { waiting: 1 }), Instant::now());
        assert_eq!(alone(&attempts, id(1), 9), Standing::Open, "the first may still be applied");
        attempts.end(id(1), first, &unknown(Some(head(4))), Instant::now());
        let third = attempts.begin(id(1));
        attempts.end(id(1), third, &Err(WriteError::unavailable("")), Instant::now());
        let unsettled = Standing::Unsettled { attempt: third };
        assert_eq!(alone(&attempts, id(1), 4), unsettled, "the first may still arrive");
        assert_eq!(alone(&attempts, id(1), 5), SETTLES);
    }

    #[test]
    fn of_several_in_doubt_the_one_that_is_settled_last_counts() {
        let mut attempts = Attempts::default();
        for (on, open_at, settled_at) in [
            (Some(head(4)), 4, Some(5)),
            (Some(head(6)), 6, Some(7)),
            (Some(head(5)), 6, Some(7)),
            (None, 99, None),
            (Some(head(9)), 99, None),
        ] {
            let attempt = attempts.begin(id(1));
            attempts.end(id(1), attempt, &unknown(on), Instant::now());
            assert_eq!(alone(&attempts, id(1), open_at), Standing::Unsettled { attempt }, "{on:?}");
            if let Some(settled_at) = settled_at {
                assert_eq!(alone(&attempts, id(1), settled_at), SETTLES, "{on:?}");
            }
        }
        let mut attempt = 0;
        for store in [1, 2] {
            let on = Head { store: StoreId(uuid::Uuid::from_u128(store)), ..head(4) };
            attempt = attempts.begin(id(3));
            attempts.end(id(3), attempt, &unknown(Some(on)), Instant::now());
        }
        let unsettled = Standing::Unsettled { attempt };
        assert_eq!(alone(&attempts, id(3), 9), unsettled, "no head is past those of two stores");
    }

    #[test]
    fn what_came_to_nothing_here_may_be_applied_elsewhere_until_that_is_over_and_the_head_is_settled() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let over = start + ELSEWHERE_OVER_AFTER;
        let just_before = over.checked_sub(Duration::from_millis(1)).unwrap();
        let refused = Err(WriteError::unavailable(""));
        let attempt = attempts.begin(id(1));
        assert_eq!(attempts.standing(id(1), head(4), true, over), Standing::Open, "it is under way");
        attempts.end(id(1), attempt, &refused, start);
        assert_eq!(attempts.standing(id(1), head(4), true, start), SETTLES, "there is nobody else");
        assert_eq!(attempts.standing(id(1), head(9), false, just_before), Standing::Open);
        let unsettled = Standing::Unsettled { attempt };
        assert_eq!(attempts.standing(id(1), head(9), false, over), unsettled);
        assert!(attempts.settle(id(1), attempt));
        assert_eq!(attempts.standing(id(1), head(9), false, over), SETTLES);
        // Another attempt begins it anew, also one that comes while the head is being settled.
        let again = attempts.begin(id(1));
        assert!(!attempts.settle(id(1), attempt));
        attempts.end(id(1), again, &refused, over);
        assert_eq!(attempts.standing(id(1), head(9), false, over), Standing::Open);
        assert_eq!(attempts.standing(id(2), head(9), true, over), Standing::Open, "never heard of");
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
        assert!(attempts.knows(id(0)), "its second attempt is recent");
        attempts.begin(id(u128::MAX));
        assert!(!attempts.knows(id(1)));
        assert!(attempts.by_age.len() <= ATTEMPTS_MAX && attempts.known.len() <= ATTEMPTS_MAX);
    }
}
