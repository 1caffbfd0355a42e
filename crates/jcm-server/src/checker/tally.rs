//! Counts what checks came to, for operators.
//!
//! Labels are the kind of check and the outcome's one word, never a node or a cluster: their number does not grow with
//! what is checked. The handles are kept, because looking one up by its labels costs as much as judging a result.

use jcm_health::{Outcome, Report};
use jcm_model::CheckKind;
use metrics::{Counter, Histogram};

/// What checks came to.
#[derive(Default)]
pub(super) struct Tally {
    /// A few, of which one or two are met nearly always: looked through, not hashed.
    outcomes: Vec<(CheckKind, &'static str, Counter)>,
    times: Vec<(CheckKind, Times)>,
}

struct Times {
    whole: Histogram,
    lateness: Histogram,
}

impl Tally {
    /// A check of this kind has ended.
    pub(super) fn count(&mut self, kind: CheckKind, report: &Report) {
        let outcome = report.outcome.as_str();
        let known = self.outcomes.iter().position(|(of, what, _)| *of == kind && *what == outcome);
        let at = known.unwrap_or_else(|| {
            self.outcomes.push((kind, outcome, counter(kind, report.outcome)));
            self.outcomes.len() - 1
        });
        self.outcomes[at].2.increment(1);
        let known = self.times.iter().position(|(of, _)| *of == kind);
        let at = known.unwrap_or_else(|| {
            self.times.push((kind, Times::of(kind)));
            self.times.len() - 1
        });
        let Times { whole, lateness } = &self.times[at].1;
        whole.record(report.latency);
        lateness.record(report.lateness);
    }
}

fn counter(kind: CheckKind, outcome: Outcome) -> Counter {
    let result = match outcome {
        outcome if outcome.is_local_trouble() => "ignored",
        outcome if outcome.is_success() => "success",
        _ => "failure",
    };
    metrics::counter!(
        "jcm_checks_total", "kind" => kind.as_str(), "result" => result, "outcome" => outcome.as_str()
    )
}

impl Times {
    fn of(kind: CheckKind) -> Self {
        Self {
            whole: metrics::histogram!("jcm_check_seconds", "kind" => kind.as_str()),
            lateness: metrics::histogram!("jcm_check_lateness_seconds", "kind" => kind.as_str()),
        }
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tally")
    }
}
