//! Which nodes this program leaves alone because its own calls to them fail, whatever checks say.
//!
//! Pure: counts and time in, ejections out. Invariant: at most the allowed share of the nodes that are fit is ejected, and
//! never the last one.
//!
//! After Envoy's outlier detection (consecutive failures, success rate), with two departures. A success rate is compared
//! with those of the *other* nodes, because one bad node among five cannot be 1.9 standard deviations off a mean that it is
//! part of. And times of ejection double.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use jcm_model::Invalid;

use crate::calls::Tally;

/// How often success rates are compared.
pub(crate) const INTERVAL: Duration = Duration::from_secs(10);
/// Reported calls of a node in one interval below which its success rate says nothing.
const VOLUME_MIN: u64 = 100;
/// Other nodes with enough calls below which there is nothing to compare with.
const OTHERS_MIN: usize = 3;
/// How many standard deviations below the others' mean a rate must be: Envoy's default.
const DEVIATIONS: f64 = 1.9;
/// And at least so far below it: where all others are perfect, one lost call in a thousand is no outlier.
const DISTANCE_MIN: f64 = 0.1;

/// When this program leaves a node alone for a while because its own calls to it fail.
///
/// It is about what [`report`](crate::Picked::report) was told: calls that were dropped count neither way. The handles of
/// one cluster in one program share counts and ejections.
#[derive(Debug, Clone, PartialEq)]
pub struct Outliers {
    enabled: bool,
    failures_in_a_row: u32,
    ejected_max: f64,
    first_time: Duration,
    longest_time: Duration,
}

impl Default for Outliers {
    /// 5 failures in a row, or a success rate far below that of the others, eject a node for 30 s, doubling up to 5 min; at
    /// most 10 % of the fit nodes at a time, but always one, unless it is the last.
    fn default() -> Self {
        Self {
            enabled: true,
            failures_in_a_row: 5,
            ejected_max: 0.1,
            first_time: Duration::from_secs(30),
            longest_time: Duration::from_mins(5),
        }
    }
}

impl Outliers {
    /// Nothing is ejected.
    pub fn off() -> Self {
        Self { enabled: false, ..Self::default() }
    }

    /// How many failures in a row eject a node: 5 unless set, at least 1.
    #[must_use]
    pub fn failures_in_a_row(mut self, failures: u32) -> Self {
        self.failures_in_a_row = failures;
        self
    }

    /// The largest share of the fit nodes that may be ejected at a time: 0.1 unless set, from 0 to 1. One node may be ejected
    /// whatever the share, and the last fit node never is.
    #[must_use]
    pub fn ejected_max(mut self, share: f64) -> Self {
        self.ejected_max = share;
        self
    }

    /// How long the first ejection of a node lasts (30 s unless set) and the longest (300 s). Each that follows lasts twice
    /// as long as the one before; a node that behaves for as long as its last ejection lasted begins anew.
    #[must_use]
    pub fn times(mut self, first: Duration, longest: Duration) -> Self {
        self.first_time = first;
        self.longest_time = longest;
        self
    }

    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if self.failures_in_a_row == 0 {
            return Err(Invalid::at("failures_in_a_row", "0 is refused: at least 1"));
        }
        if !(0.0..=1.0).contains(&self.ejected_max) {
            let reason = format!("{} is out of range: from 0 to 1", self.ejected_max);
            return Err(Invalid::at("ejected_max", reason));
        }
        if self.first_time.is_zero() || self.longest_time < self.first_time {
            let (first, longest) = (self.first_time, self.longest_time);
            let reason = format!("{first:?} to {longest:?}: the first is above 0, the longest not below it");
            return Err(Invalid::at("times", reason));
        }
        Ok(())
    }

    /// Failures in a row at which the judgement is not waited for.
    pub(crate) fn urgent_at(&self) -> Option<u32> {
        self.enabled.then_some(self.failures_in_a_row)
    }
}

/// Why a node is ejected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// So many calls in a row failed.
    FailuresInARow(u32),
    /// So few of its calls succeeded, while those to others did.
    SuccessRate {
        /// Its share of successes in the last interval, from 0 to 1.
        own: f64,
        /// The mean share of the others.
        others: f64,
    },
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FailuresInARow(failures) => write!(f, "{failures} calls in a row failed"),
            Self::SuccessRate { own, others } => {
                write!(
                    f,
                    "{:.0} % of its calls succeeded, of those to others {:.0} %",
                    own * 100.0,
                    others * 100.0
                )
            }
        }
    }
}

/// What is remembered of one node between judgements.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Record {
    /// Until when and why, while it is ejected.
    pub(crate) ejected: Option<(Instant, Cause)>,
    /// How long the last ejection was and when it ended: the next one is twice that, unless it has behaved since.
    last: Option<(Duration, Instant)>,
    /// The counts when the interval began.
    counted: Tally,
}

/// One node as it is judged.
#[derive(Debug)]
pub(crate) struct Suspect<'a> {
    pub(crate) record: &'a mut Record,
    pub(crate) tally: Tally,
    /// Whether it would be called if nothing were ejected. Others are no burden on the allowed share.
    pub(crate) fit: bool,
    /// Set where a row of failures was answered for.
    pub(crate) forgiven: bool,
}

/// Takes nodes back whose time is over, and ejects those that failed too often in a row; with `interval_over` those whose
/// success rate is too low as well. Answers whether anything changed that picks see.
pub(crate) fn judge(
    outliers: &Outliers,
    suspects: &mut [Suspect<'_>],
    interval_over: bool,
    now: Instant,
) -> bool {
    let mut changed = false;
    for suspect in suspects.iter_mut() {
        if let Some((until, _)) = suspect.record.ejected
            && (until <= now || !outliers.enabled)
        {
            suspect.record.ejected = None;
            // What was under way while it was ejected is no evidence against what it is like now.
            suspect.forgiven = true;
            suspect.record.counted = suspect.tally;
            changed = true;
        }
    }
    if !outliers.enabled {
        return changed;
    }
    let found = found(outliers, suspects, interval_over);
    let fit = suspects.iter().filter(|suspect| suspect.fit).count();
    let mut room = allowed(outliers, fit).saturating_sub(
        suspects.iter().filter(|suspect| suspect.fit && suspect.record.ejected.is_some()).count(),
    );
    for (at, cause) in found {
        if room == 0 {
            break;
        }
        suspects[at].record.eject(outliers, cause, now);
        suspects[at].forgiven = true;
        room -= 1;
        changed = true;
    }
    if interval_over {
        for suspect in suspects {
            suspect.record.counted = suspect.tally;
        }
    }
    changed
}

/// Whether judging would find anything to do about one node, itself or its counts.
pub(crate) fn is_due(
    outliers: &Outliers,
    record: &Record,
    tally: Tally,
    interval_over: bool,
    now: Instant,
) -> bool {
    match record.ejected {
        Some((until, _)) => until <= now || !outliers.enabled,
        None if !outliers.enabled => false,
        None => tally.in_a_row >= outliers.failures_in_a_row || (interval_over && tally != record.counted),
    }
}

/// How many of so many fit nodes may be ejected at a time.
fn allowed(outliers: &Outliers, fit: usize) -> usize {
    #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of those")]
    let share = (fit as f64 * outliers.ejected_max) as usize;
    share.max(1).min(fit.saturating_sub(1))
}

/// Who is to be ejected, the worst first.
fn found(outliers: &Outliers, suspects: &[Suspect<'_>], interval_over: bool) -> Vec<(usize, Cause)> {
    let free = |suspect: &Suspect<'_>| suspect.fit && suspect.record.ejected.is_none();
    let mut found: Vec<(usize, Cause)> = suspects
        .iter()
        .enumerate()
        .filter(|(_, suspect)| free(suspect) && !suspect.forgiven)
        .filter(|(_, suspect)| suspect.tally.in_a_row >= outliers.failures_in_a_row)
        .map(|(at, suspect)| (at, Cause::FailuresInARow(suspect.tally.in_a_row)))
        .collect();
    found.sort_by_key(|(at, _)| std::cmp::Reverse(suspects[*at].tally.in_a_row));
    if interval_over {
        let rated: Vec<(usize, f64)> = suspects
            .iter()
            .enumerate()
            .filter(|(_, suspect)| free(suspect))
            .filter_map(|(at, suspect)| Some((at, suspect.success_rate()?)))
            .collect();
        let mut low = too_low(&rated);
        low.retain(|(at, ..)| found.iter().all(|(already, _)| already != at));
        low.sort_by(|(_, one, _), (_, other, _)| one.total_cmp(other));
        found.extend(low.into_iter().map(|(at, own, others)| (at, Cause::SuccessRate { own, others })));
    }
    found
}

/// Of positions with success rates those far below the others, with the mean of those.
fn too_low(rated: &[(usize, f64)]) -> Vec<(usize, f64, f64)> {
    if rated.len() <= OTHERS_MIN {
        return Vec::new();
    }
    #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
    let others = (rated.len() - 1) as f64;
    let sum: f64 = rated.iter().map(|(_, rate)| rate).sum();
    let squares: f64 = rated.iter().map(|(_, rate)| rate * rate).sum();
    rated
        .iter()
        .map(|(at, rate)| {
            let mean = (sum - rate) / others;
            let deviation = ((squares - rate * rate) / others - mean * mean).max(0.0).sqrt();
            (*at, *rate, mean, mean - (DEVIATIONS * deviation).max(DISTANCE_MIN))
        })
        .filter(|(_, rate, _, bound)| rate < bound)
        .map(|(at, rate, mean, _)| (at, rate, mean))
        .collect()
}

impl Suspect<'_> {
    fn success_rate(&self) -> Option<f64> {
        let successes = self.tally.successes.saturating_sub(self.record.counted.successes);
        let calls = successes + self.tally.failures.saturating_sub(self.record.counted.failures);
        #[expect(clippy::cast_precision_loss, reason = "calls of one interval")]
        let rate = successes as f64 / calls as f64;
        (calls >= VOLUME_MIN).then_some(rate)
    }
}

impl Record {
    fn eject(&mut self, outliers: &Outliers, cause: Cause, now: Instant) {
        let time = match self.last {
            Some((last, ended)) if now.saturating_duration_since(ended) < last => {
                (last * 2).min(outliers.longest_time)
            }
            _ => outliers.first_time,
        };
        self.ejected = Some((now + time, cause));
        self.last = Some((time, now + time));
    }
}
