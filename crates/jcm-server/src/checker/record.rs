//! What is known of one checked node.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_health::{Evidence, Judge, Outcome, Sample, TargetKey, Turn};
use jcm_model::{Check, ClusterName, Judged, NodeId, Revision, ServerId, Timestamp, Verdict};

use super::findings::{LastTurn, milliseconds};

/// A round may begin late by so much before it is thrown away, and a little more counts as no gap.
const LATE_MAX: Duration = Duration::from_millis(500);

/// What is known of one checked node. One form of it at a time: a new birth starts it anew.
///
/// What every result reads and writes lies together: a record is rarely in a cache when its next result comes.
#[repr(C)]
pub(super) struct Record {
    pub(super) key: TargetKey,
    /// Rises whenever the engine is told something new of this node; 0: not told yet.
    pub(super) generation: u64,
    pub(super) birth: Revision,
    pub(super) check: Arc<Check>,
    last_result: Option<Instant>,
    /// The verdict is another server's or an earlier run's: since when it has held, until a result of this run
    /// confirms it.
    unconfirmed: Option<Timestamp>,
    pub(super) judge: Judge,
    pub(super) evidence: Evidence,
    pub(super) cluster: ClusterName,
    pub(super) node: NodeId,
    last_turn: Option<Turned>,
}

/// The verdict's last turn, and what it follows from.
struct Turned {
    at: Timestamp,
    turn: Turn,
    /// Who found the same, where somebody was asked.
    agreed: Option<ServerId>,
    /// Newest first, as far as results are kept.
    results: Box<[Sample]>,
}

impl Record {
    pub(super) fn new(
        key: TargetKey,
        cluster: ClusterName,
        node: NodeId,
        birth: Revision,
        check: Arc<Check>,
    ) -> Self {
        Self {
            key,
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

    /// Reads something of each part that a result changes, and makes little of it: what counts is that it is in a cache then.
    pub(super) fn warm(&self) -> bool {
        self.last_result.is_some() & (self.judge.successes_in_a_row() > 0) & self.evidence.is_full()
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
        self.judge = self.judge.overruled(held.verdict, held.single_vantage);
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
        let results = self.evidence.iter().filter(|sample| !sample.outcome().is_local_trouble());
        let results = results.take(turn.cause.results()).collect();
        self.last_turn = Some(Turned { at: now, turn: *turn, agreed, results });
    }

    /// Why the verdict last turned, for people.
    pub(super) fn cause(&self) -> Option<String> {
        self.last_turn.as_ref().map(Turned::because)
    }

    /// The results that the last turn follows from, newest first, for people.
    pub(super) fn evidence_of_turn(&self) -> String {
        let results = self.last_turn.iter().flat_map(|turned| &turned.results);
        let results: Vec<_> = results
            .map(|sample| format!("{} ({:.1} ms)", sample.outcome(), milliseconds(sample.latency())))
            .collect();
        results.join("; ")
    }

    pub(super) fn last_turn(&self) -> Option<LastTurn> {
        self.last_turn.as_ref().map(|turned| LastTurn {
            at: turned.at,
            from: turned.turn.from,
            to: turned.turn.to,
            because: turned.because(),
            results: turned.results.iter().copied().map(Into::into).collect(),
        })
    }
}

impl Turned {
    fn because(&self) -> String {
        match &self.agreed {
            Some(server) => format!("{}, agreed by {server}", self.turn),
            None => self.turn.to_string(),
        }
    }
}
