//! When a failed call is made again. Pure.

use std::time::{Duration, Instant};

/// Over how long calls and retries are counted: that of Finagle's `RetryBudget`.
const WINDOW_SECONDS: usize = 10;
const ATTEMPTS_DEFAULT: u32 = 3;
/// A caller that says nothing does not wait for ever.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
const BUDGET_SHARE_DEFAULT: f64 = 0.2;
const BUDGET_PER_SECOND_DEFAULT: f64 = 10.0;

/// How [`Cluster::call`](crate::Cluster::call) goes on when a call fails.
///
/// A call that a node refused is made again at another node. One that broke may have been carried out, so it is made again
/// only if the caller says that it is [`repeatable`](Self::repeatable). An answer is final.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    pub(crate) attempts: u32,
    deadline: Option<Duration>,
    pub(crate) repeatable: bool,
    budget_share: f64,
    budget_per_second: f64,
}

impl Default for Retry {
    /// 3 attempts within 10 s; not repeatable; a budget of 20 % of the calls and 10 a second.
    fn default() -> Self {
        Self {
            attempts: ATTEMPTS_DEFAULT,
            deadline: None,
            repeatable: false,
            budget_share: BUDGET_SHARE_DEFAULT,
            budget_per_second: BUDGET_PER_SECOND_DEFAULT,
        }
    }
}

impl Retry {
    /// One attempt, within the default deadline.
    pub fn never() -> Self {
        Self::default().attempts(1)
    }

    /// How many attempts there are in all, the first included: 3 unless set; 0 is taken as 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How long all attempts together may take: 10 s unless set. An attempt that is under way then is dropped, and counts as
    /// a failure of its node.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// How long they may take, where whoever calls knows better than the default what nothing said stands for.
    pub(crate) fn deadline_or(&self, otherwise: Duration) -> Duration {
        self.deadline.unwrap_or(otherwise)
    }

    pub(crate) fn within(&self) -> Duration {
        self.deadline_or(DEADLINE_DEFAULT)
    }

    /// It does no harm to carry the call out twice, so it is also made again when it broke under way.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// The same if this holds, else without what may be repeated.
    #[cfg(feature = "reqwest")]
    pub(crate) fn repeatable_if(mut self, harmless: bool) -> Self {
        self.repeatable &= harmless;
        self
    }

    /// How many retries the handles of one subscription may spend, so that a cluster in trouble is not called even more: a
    /// share of the calls of the last 10 s (0.2 unless set) and so many for each of these seconds (10 unless set). What is
    /// below 0 or no number is taken as 0.
    ///
    /// After Finagle's `RetryBudget`, whose defaults these are.
    #[must_use]
    pub fn budget(mut self, share: f64, per_second: f64) -> Self {
        self.budget_share = share.max(0.0);
        self.budget_per_second = per_second.max(0.0);
        self
    }
}

/// Calls and retries of the last seconds: what is spent of a budget.
#[derive(Debug)]
pub(crate) struct Spent {
    start: Instant,
    /// The second since `start` that is counted now.
    second: u64,
    calls: [u32; WINDOW_SECONDS],
    retries: [u32; WINDOW_SECONDS],
    totals: Totals,
}

/// The same since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) retries: u64,
    /// Retries for which nothing was left.
    pub(crate) denied: u64,
}

impl Spent {
    pub(crate) fn new(now: Instant) -> Self {
        let (calls, retries) = ([0; WINDOW_SECONDS], [0; WINDOW_SECONDS]);
        Self { start: now, second: 0, calls, retries, totals: Totals::default() }
    }

    /// A call begins.
    pub(crate) fn call(&mut self, now: Instant) {
        let place = self.advance(now);
        self.calls[place] = self.calls[place].saturating_add(1);
        self.totals.calls += 1;
    }

    /// Takes a retry out of the budget; answers whether there was one left.
    pub(crate) fn take_retry(&mut self, retry: &Retry, now: Instant) -> bool {
        let place = self.advance(now);
        let sum = |counts: &[u32]| counts.iter().map(|count| f64::from(*count)).sum::<f64>();
        #[expect(clippy::cast_precision_loss, reason = "ten")]
        let budget = retry.budget_share * sum(&self.calls) + retry.budget_per_second * WINDOW_SECONDS as f64;
        let left = sum(&self.retries) + 1.0 <= budget;
        self.retries[place] += u32::from(left);
        self.totals.retries += u64::from(left);
        self.totals.denied += u64::from(!left);
        left
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    /// Empties the seconds that are over; answers the place of this one.
    fn advance(&mut self, now: Instant) -> usize {
        let second = now.saturating_duration_since(self.start).as_secs();
        let window = WINDOW_SECONDS as u64;
        for passed in (self.second + 1..=second).take(WINDOW_SECONDS) {
            let place = place(passed, window);
            self.calls[place] = 0;
            self.retries[place] = 0;
        }
        self.second = self.second.max(second);
        place(self.second, window)
    }
}

fn place(second: u64, window: u64) -> usize {
    usize::try_from(second % window).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(spent: &mut Spent, retry: &Retry, now: Instant) -> u32 {
        (0..1000).map(|_| u32::from(spent.take_retry(retry, now))).sum()
    }

    #[test]
    fn a_budget_is_a_share_of_the_calls_and_some_a_second() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut spent = Spent::new(start);
        let retry = Retry::default().budget(0.2, 1.0);
        assert_eq!(taken(&mut spent, &retry, start), 10, "what ten seconds give");
        (0..100).for_each(|_| spent.call(at(1)));
        assert_eq!(taken(&mut spent, &retry, at(2)), 20, "and a fifth of a hundred");
        assert_eq!(taken(&mut spent, &retry, at(9)), 0);
        // The first ten were spent in a second that is over, the others in one that is not.
        assert_eq!(taken(&mut spent, &retry, at(10)), 10);
        // The calls are over, and so are the retries that they gave.
        assert_eq!(taken(&mut spent, &retry, at(12)), 0);
        assert_eq!(taken(&mut spent, &retry, at(100)), 10);
        assert_eq!(taken(&mut spent, &Retry::default().budget(0.0, 0.0), at(200)), 0);
        assert_eq!(taken(&mut spent, &Retry::default().budget(f64::NAN, -1.0), at(300)), 0);
    }
}
