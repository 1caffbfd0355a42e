//! What is known of one checked node.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_health::{Evidence, Judge, Outcome, Turn};
use jcm_model::{Check, ClusterName, Judged, NodeId, Revision, ServerId, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

use super::doubt::Suspended;
use super::opinions::Vouched;
use crate::peers::Said;

/// A round may begin late by so much before it is thrown away, and a little more counts as no gap.
const LATE_MAX: Duration = Duration::from_millis(500);

/// What is known of one checked node. One form of it at a time: a new birth starts it anew.
pub(super) struct Record {
    pub(super) cluster: ClusterName,
    pub(super) node: NodeId,
    pub(super) birth: Revision,
    pub(super) check: Arc<Check>,
    /// Rises whenever the engine is told something new of this node; 0: not told yet.
    pub(super) generation: u64,
    pub(super) judge: Judge,
    pub(super) evidence: Evidence,
    last_turn: Option<(Timestamp, Turn, Option<ServerId>)>,
    last_result: Option<Instant>,
    /// The verdict is another server's or an earlier run's: since when it has held, until a result of this run
    /// confirms it.
    unconfirmed: Option<Timestamp>,
}

/// Everything that `why` shows of the checks of one node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) vantages: Vec<Vantage>,
    pub(crate) thresholds: Thresholds,
    pub(crate) last_turn: Option<LastTurn>,
    /// Why the server that checks the node suspects itself, if it does.
    #[serde(default)]
    pub(crate) suspended: Option<Suspended>,
}

/// One server's results.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Vantage {
    pub(crate) server: ServerId,
    pub(crate) results: Vec<ResultRow>,
}

/// One result, newest first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ResultRow {
    pub(crate) at: Timestamp,
    /// `success`, `failure`, or `ignored` where it says more about this server than about the node.
    pub(crate) outcome: Cow<'static, str>,
    pub(crate) latency_ms: f64,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

/// Where the node stands between its verdicts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Thresholds {
    pub(crate) failures_in_a_row: u32,
    pub(crate) fall: u32,
    pub(crate) successes_in_a_row: u32,
    pub(crate) rise: u32,
    pub(crate) window_failed: u32,
    pub(crate) window_filled: u32,
    pub(crate) window: u32,
    pub(crate) degraded_at: f64,
}

/// The turn that led to the present verdict.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastTurn {
    pub(crate) at: Timestamp,
    pub(crate) from: Verdict,
    pub(crate) to: Verdict,
    pub(crate) because: String,
}

impl Record {
    pub(super) fn new(cluster: ClusterName, node: NodeId, birth: Revision, check: Arc<Check>) -> Self {
        Self {
            cluster,
            node,
            birth,
            check,
            generation: 0,
            judge: Judge::new(),
            evidence: Evidence::default(),
            last_turn: None,
            last_result: None,
            unconfirmed: None,
        }
    }

    /// A result was made at this moment. Where the last one is so long ago that rounds were lost in between, they are not
    /// in a row.
    pub(super) fn follow(&mut self, at: Instant) {
        let last = self.last_result.replace(at);
        let gap = last.map_or(Duration::ZERO, |last| at.saturating_duration_since(last));
        if gap > 2 * self.check.interval + self.check.timeout + LATE_MAX {
            self.judge.interrupt();
        }
    }

    /// The node has a new form: nothing that was found of the old one counts.
    pub(super) fn begin(&mut self, birth: Revision) {
        self.birth = birth;
        self.judge = Judge::new();
        self.evidence = Evidence::default();
        self.last_turn = None;
        self.last_result = None;
        self.unconfirmed = None;
    }

    /// A verdict of another server, or of an earlier run, stands until results of this one turn it.
    pub(super) fn resume(&mut self, held: &Judged) {
        self.judge = Judge::resume(held.verdict, held.single_vantage);
        self.unconfirmed = Some(held.since);
    }

    /// Another server judged after this one. Where both say the same, the streaks of this one go on.
    pub(super) fn overrule(&mut self, held: &Judged) {
        if held.verdict == self.judge.verdict() {
            self.unconfirmed = Some(held.since);
        } else {
            self.resume(held);
        }
    }

    /// Answers since when the verdict has held, once, when a first result of this run agrees with somebody else's.
    pub(super) fn confirm(&mut self, outcome: Outcome) -> Option<Timestamp> {
        let agrees = match self.judge.verdict() {
            Verdict::Down => !outcome.is_success(),
            _ => outcome.is_success(),
        };
        if agrees && !outcome.is_local_trouble() { self.unconfirmed.take() } else { None }
    }

    /// The verdict turned, and where it turned to the bad, `agreed` is who found the same.
    pub(super) fn turned(&mut self, turn: &Turn, agreed: Option<ServerId>, now: Timestamp) {
        self.unconfirmed = None;
        self.last_turn = Some((now, *turn, agreed));
    }

    /// Why the verdict last turned, for people.
    pub(super) fn cause(&self) -> Option<String> {
        self.last_turn.as_ref().map(|(_, turn, agreed)| match agreed {
            Some(server) => format!("{turn}, agreed by {server}"),
            None => turn.to_string(),
        })
    }

    /// What was found here, and what others found when they were asked.
    pub(super) fn findings<'a>(
        &self,
        server: &ServerId,
        vouched: impl Iterator<Item = &'a Vouched>,
        suspended: Option<Suspended>,
    ) -> Findings {
        let row = |sample: jcm_health::Sample| ResultRow {
            at: sample.at,
            outcome: match sample.outcome {
                outcome if outcome.is_local_trouble() => "ignored",
                outcome if outcome.is_success() => "success",
                _ => "failure",
            }
            .into(),
            latency_ms: sample.latency.as_secs_f64() * 1_000.0,
            status: sample.outcome.status(),
            error: (!sample.outcome.is_success()).then(|| sample.outcome.to_string()),
        };
        let (window_failed, window_filled) = self.judge.window();
        let own = Vantage { server: server.clone(), results: self.evidence.iter().map(row).collect() };
        let mut vantages = vec![own];
        for vouched in vouched {
            let at = vantages.iter().position(|vantage| vantage.server == vouched.server);
            let at = at.unwrap_or_else(|| {
                vantages.push(Vantage { server: vouched.server.clone(), results: Vec::new() });
                vantages.len() - 1
            });
            vantages[at].results.push(vouched.into());
        }
        vantages[1..].sort_by(|one, other| one.server.cmp(&other.server));
        Findings {
            vantages,
            suspended,
            thresholds: Thresholds {
                failures_in_a_row: self.judge.failures_in_a_row(),
                fall: self.check.fall,
                successes_in_a_row: self.judge.successes_in_a_row(),
                rise: self.check.rise,
                window_failed,
                window_filled,
                window: self.check.window,
                degraded_at: self.check.degraded_at,
            },
            last_turn: self.last_turn.as_ref().map(|(at, turn, _)| LastTurn {
                at: *at,
                from: turn.from,
                to: turn.to,
                because: self.cause().unwrap_or_default(),
            }),
        }
    }
}

impl From<&Vouched> for ResultRow {
    fn from(vouched: &Vouched) -> Self {
        let outcome = match vouched.said {
            Said::Reached => "success",
            Said::Failed => "failure",
            Said::Nothing => "ignored",
        };
        Self {
            at: vouched.at,
            outcome: outcome.into(),
            latency_ms: vouched.latency.as_secs_f64() * 1_000.0,
            status: None,
            error: (vouched.said != Said::Reached).then(|| vouched.outcome.clone()),
        }
    }
}
