//! What becomes of results and of opinions: steps of the judges, and of them the verdicts that are published.

use std::time::{Duration, Instant};

use jcm_health::{Report, Sample, Step, TargetKey};
use jcm_model::{ClusterName, Judged, NodeId, Stamp, Timestamp, Verdict};
use tracing::info;

use super::Checker;
use super::doubt::{Decide, Event};
use super::findings::Findings;
use super::record::Record;
use super::suspicion::Settled;
use crate::views::Verdicts;

/// Records whose ways into a cache overlap: about as many as a core waits for at once, a few times over.
const WARM_TOGETHER: usize = 32;

impl Checker {
    pub(super) fn findings(&self, cluster: &ClusterName, node: &NodeId) -> Option<Findings> {
        if let Some(findings) = self.leased.findings(cluster, node, &self.server) {
            return Some(findings);
        }
        let key = self.records.key(cluster, node)?;
        let record = self.records.by_key(key)?;
        Some(Findings::of(record, &self.server, self.doubt.vouched(key), self.doubt.suspended()))
    }

    pub(super) fn judge(&mut self, reports: &[Report]) {
        let (moment, now) = (Instant::now(), wall_clock());
        self.doubt.look(moment);
        let mut turned = Verdicts::new();
        for reports in reports.chunks(WARM_TOGETHER) {
            self.records.warm(reports);
            for report in reports {
                self.judge_one(report, (moment, now), &mut turned);
            }
        }
        self.doubt.send(moment);
        if !turned.is_empty() {
            self.publish(turned);
        }
    }

    fn judge_one(&mut self, report: &Report, (moment, now): (Instant, Timestamp), turned: &mut Verdicts) {
        let Some(record) = self.records.reported(report) else { return };
        let at = before(now, moment.saturating_duration_since(report.at));
        record.evidence.push(Sample::new(at, report.latency, report.outcome));
        self.tally.count(record.check.kind, report);
        record.follow(report.at);
        let opinion = self.doubt.opinion(record, report.outcome, moment);
        let step = record.judge.judge(report.outcome, opinion, &record.check, by_the_clock(moment));
        self.held.look(record, moment);
        let confirmed = record.confirm(report.outcome);
        self.turn(report.key, &step, confirmed, (moment, now), turned);
        if let Some(record) = self.records.by_key(report.key) {
            self.doubt.judged(record, report.outcome, &step, moment);
        }
    }

    /// More is known of what others see, or whether this server is to be trusted: decides what waited for it.
    pub(super) fn settle(&mut self, event: Event) {
        let (moment, now) = (Instant::now(), wall_clock());
        self.doubt.look(moment);
        let overdue = self.records.overdue_rounds();
        let Decide { settled, mut nodes } = self.doubt.handle(event, &self.records, overdue, moment);
        match settled {
            Settled::Nothing => {}
            Settled::Released => nodes = self.records.keys().collect(),
            Settled::HandedOver => {
                self.records.iter_mut().for_each(|record| {
                    if record.judge.failures_in_a_row() > 0 {
                        record.judge.absolve();
                    }
                });
            }
        }
        self.held.forget_gone(&self.records);
        let mut turned = Verdicts::new();
        for key in nodes {
            let Some(record) = self.records.by_key_mut(key) else { continue };
            self.doubt.insist(record, moment);
            let opinion = self.doubt.known(record, moment);
            let step = record.judge.decide(opinion, &record.check, by_the_clock(moment));
            self.doubt.believed(record);
            self.turn(key, &step, None, (moment, now), &mut turned);
        }
        self.doubt.send(moment);
        if !turned.is_empty() {
            self.publish(turned);
        }
    }

    /// Takes a step of the judge's into what is published, where it is one that others should know.
    fn turn(
        &mut self,
        key: TargetKey,
        step: &Step,
        confirmed: Option<Timestamp>,
        (moment, now): (Instant, Timestamp),
        turned: &mut Verdicts,
    ) {
        let Some(record) = self.records.by_key_mut(key) else { return };
        let since = if let Some(turn) = &step.turn {
            let is_down = turn.to == Verdict::Down && !turn.single_vantage;
            let agreed = if is_down { self.doubt.agreed_by(record, moment) } else { None };
            record.turned(turn, agreed, now);
            info!(
                cluster = %record.cluster, node = %record.node, from = %turn.from, to = %turn.to,
                because = record.cause().unwrap_or_default(), results = record.evidence_of_turn(),
                "verdict turned"
            );
            metrics::counter!("jcm_verdict_turns_total", "from" => turn.from.as_str(), "to" => turn.to.as_str())
                .increment(1);
            now
        } else if let Some(since) = confirmed {
            // The verdict of an earlier run holds under this run's stamp, so that it is stale no more.
            since
        } else if step.confirmed {
            // A peer agrees by now: the verdict holds, and rests on one server's word no more.
            self.views.judged(&record.cluster, &record.node).map_or(now, |held| held.since)
        } else {
            return;
        };
        let stamp = self.stamps.next(&self.duty, &self.views, (&record.cluster, &record.node));
        let judged = judged(stamp, record, since);
        turned.entry(record.cluster.clone()).or_default().push((record.node.clone(), judged));
    }
}

/// The time for people, as precise as it is told to other servers: whichever is asked, it shows the same.
pub(super) fn wall_clock() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// The moment so long before: reports may have waited for others of their time.
fn before(now: Timestamp, elapsed: Duration) -> Timestamp {
    let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(now.as_millisecond().saturating_sub(elapsed)).unwrap_or(now)
}

/// What the record has come to, under a stamp.
fn judged(stamp: Stamp, record: &Record, since: Timestamp) -> Judged {
    Judged {
        verdict: record.judge.verdict(),
        birth: record.birth,
        stamp,
        since,
        single_vantage: record.judge.is_single_vantage(),
        stale_since: None,
    }
}

/// The moment at which the judges are told that it is. A build that was asked to hold no node tells them that whatever
/// was before is long ago.
fn by_the_clock(moment: Instant) -> Instant {
    #[cfg(feature = "planted")]
    if jcm_storage::planted::is_planted("no-hold-down") {
        static JUDGED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        return moment
            + jcm_health::hold::TURNS_WINDOW * JUDGED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
    moment
}
