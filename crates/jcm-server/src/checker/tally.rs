//! Counts what checks came to, for operators.
//!
//! Labels are the kind of check and the outcome's one word, never a node or a cluster: their number does not grow with
//! what is checked. The handles are kept, because looking one up by its labels costs as much as judging a result.

use std::collections::HashMap;

use jcm_health::Report;
use jcm_model::CheckKind;
use metrics::{Counter, Histogram};

/// What checks came to.
#[derive(Default)]
pub(super) struct Tally {
    outcomes: HashMap<(&'static str, &'static str), Counter>,
    kinds: HashMap<&'static str, Times>,
}

struct Times {
    whole: Histogram,
    lateness: Histogram,
}

impl Tally {
    /// A check of this kind has ended.
    pub(super) fn count(&mut self, kind: CheckKind, report: &Report) {
        let (kind, outcome) = (kind.as_str(), report.outcome.as_str());
        let result = match report.outcome {
            outcome if outcome.is_local_trouble() => "ignored",
            outcome if outcome.is_success() => "success",
            _ => "failure",
        };
        let counter = self.outcomes.entry((kind, outcome)).or_insert_with(
            || metrics::counter!("jcm_checks_total", "kind" => kind, "result" => result, "outcome" => outcome),
        );
        counter.increment(1);
        let times = self.kinds.entry(kind).or_insert_with(|| Times {
            whole: metrics::histogram!("jcm_check_seconds", "kind" => kind),
            lateness: metrics::histogram!("jcm_check_lateness_seconds", "kind" => kind),
        });
        times.whole.record(report.latency);
        times.lateness.record(report.lateness);
    }
}

impl std::fmt::Debug for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tally")
    }
}
