//! What is known of one checked node.

use std::borrow::Cow;
use std::sync::Arc;

use jcm_health::{Evidence, Judge, Outcome, Turn};
use jcm_model::{Check, ClusterName, Judged, NodeId, Revision, ServerId, Timestamp, Verdict};
use serde::{Deserialize, Serialize};

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
    last_turn: Option<(Timestamp, Turn)>,
    /// The verdict is an earlier run's: since when it has held, until a result of this run confirms it.
    unconfirmed: Option<Timestamp>,
}

/// Everything that `why` shows of the checks of one node.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) vantages: Vec<Vantage>,
    pub(crate) thresholds: Thresholds,
    pub(crate) last_turn: Option<LastTurn>,
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
            unconfirmed: None,
        }
    }

    /// The node has a new form: nothing that was found of the old one counts.
    pub(super) fn begin(&mut self, birth: Revision) {
        self.birth = birth;
        self.judge = Judge::new();
        self.evidence = Evidence::default();
        self.last_turn = None;
        self.unconfirmed = None;
    }

    /// An earlier run's verdict stands until results of this one turn it.
    pub(super) fn resume(&mut self, held: &Judged) {
        self.judge = Judge::resume(held.verdict, held.single_vantage);
        self.unconfirmed = Some(held.since);
    }

    /// Answers since when the verdict has held, once, when a first result of this run agrees with an earlier run's.
    pub(super) fn confirm(&mut self, outcome: Outcome) -> Option<Timestamp> {
        let agrees = match self.judge.verdict() {
            Verdict::Down => !outcome.is_success(),
            _ => outcome.is_success(),
        };
        if agrees && !outcome.is_local_trouble() { self.unconfirmed.take() } else { None }
    }

    pub(super) fn turned(&mut self, turn: &Turn, now: Timestamp) {
        self.unconfirmed = None;
        self.last_turn = Some((now, *turn));
    }

    pub(super) fn findings(&self, server: &ServerId) -> Findings {
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
        Findings {
            vantages: vec![Vantage {
                server: server.clone(),
                results: self.evidence.iter().map(row).collect(),
            }],
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
            last_turn: self.last_turn.map(|(at, turn)| LastTurn {
                at,
                from: turn.from,
                to: turn.to,
                because: turn.to_string(),
            }),
        }
    }
}
