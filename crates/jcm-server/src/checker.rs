//! The single owner of every node's record: it tells the engine what to probe, judges what comes back, keeps the
//! evidence, and publishes verdicts that turned.
//!
//! Invariant: a report counts only for the form of the node it was made of, and only a turn leaves this task. A
//! result that says more about this server than about the node is kept as evidence and judged by nobody.

mod asker;
mod definitions;
mod record;
mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jcm_health::{Engine, Opinion, Report, Sample};
use jcm_model::{Change, Cluster, ClusterName, Effect, Judged, NodeId, ServerId, Stamp, Timestamp, Verdict};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::peers::{Heard, Peers, Turned};
use crate::verdicts::Remembered;
use crate::views::{Verdicts, Views};
pub(crate) use asker::Asker;
use asker::Question;
use definitions::Defined;
pub(crate) use definitions::Definitions;
pub(crate) use record::Findings;
use record::Record;
use records::Records;

/// Reports judged in one go, so that nodes of one cluster that turn together are published together.
const REPORTS_BATCH_MAX: usize = 512;

/// Who judges: the part of every stamp that does not change while this server runs.
#[derive(Debug, Clone)]
pub(crate) struct Judging {
    pub(crate) server: ServerId,
    /// How often this server has started on its data directory.
    pub(crate) incarnation: u64,
}

/// The task that owns every node's record.
pub(crate) struct Checker {
    judging: Judging,
    views: Arc<Views>,
    definitions: mpsc::Receiver<Defined>,
    reports: mpsc::Receiver<Report>,
    questions: mpsc::Receiver<Question>,
    /// What other servers say.
    heard: mpsc::Receiver<Heard>,
    turned: Turned,
    records: Records,
    sequence: u64,
    owned: Arc<AtomicUsize>,
}

impl Checker {
    /// The task, the audience that feeds it, and the handle that asks it.
    pub(crate) fn new(
        judging: Judging,
        engine: Arc<dyn Engine>,
        reports: mpsc::Receiver<Report>,
        views: Arc<Views>,
        remembered: Remembered,
        peers: &Peers,
        heard: mpsc::Receiver<Heard>,
    ) -> (Self, Definitions, Asker) {
        let owned = Arc::new(AtomicUsize::new(0));
        let (audience, definitions) = Definitions::new(Arc::clone(&views), remembered);
        let (asker, questions) = Asker::new(Arc::clone(&owned));
        let records = Records::new(engine);
        let checker = Self {
            judging,
            views,
            definitions,
            reports,
            questions,
            heard,
            turned: peers.turned(),
            records,
            sequence: 0,
            owned,
        };
        (checker, audience, asker)
    }

    /// Judges until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut reports = Vec::with_capacity(REPORTS_BATCH_MAX);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(defined) = self.definitions.recv() => self.define(defined),
                Some(question) = self.questions.recv() => {
                    let record = self.records.get(&question.cluster, &question.node);
                    // Whoever asked may have gone away.
                    let _ = question.answer.send(record.map(|record| record.findings(&self.judging.server)));
                }
                Some(heard) = self.heard.recv() => self.learn(heard),
                count = self.reports.recv_many(&mut reports, REPORTS_BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    self.judge(&reports);
                    reports.clear();
                }
            }
        }
    }

    fn define(&mut self, defined: Defined) {
        match defined {
            Defined::Everything(snapshot) => {
                let is_gone = |name: &&ClusterName| !snapshot.clusters.contains_key(*name);
                let gone: Vec<ClusterName> = self.records.clusters().filter(is_gone).cloned().collect();
                for name in gone {
                    self.records.forget_cluster(&name);
                }
                for cluster in snapshot.clusters.values() {
                    self.define_cluster(cluster);
                }
            }
            Defined::Changed(changes) => {
                for (change, after) in changes {
                    self.change(change, after);
                }
            }
        }
        self.owned.store(self.records.len(), Ordering::Relaxed);
        metrics::gauge!("jcm_nodes_checked").set(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
    }

    fn change(&mut self, change: Change, after: Option<Arc<Cluster>>) {
        match (change.effect, after) {
            (Effect::Updated { header: None, put, removed, created: false }, Some(cluster)) => {
                for id in removed {
                    self.records.forget(&cluster.name, &id);
                }
                for node in put {
                    self.define_node(&cluster, &node.id);
                }
            }
            (_, Some(cluster)) => self.define_cluster(&cluster),
            (_, None) => self.records.forget_cluster(&change.cluster),
        }
    }

    fn define_cluster(&mut self, cluster: &Cluster) {
        let is_gone = |id: &&NodeId| cluster.node(id).is_none();
        let gone: Vec<NodeId> = self.records.nodes(&cluster.name).filter(is_gone).cloned().collect();
        for id in gone {
            self.records.forget(&cluster.name, &id);
        }
        for node in &cluster.nodes {
            self.define_node(cluster, &node.id);
        }
    }

    fn define_node(&mut self, cluster: &Cluster, id: &NodeId) {
        let Some(node) = cluster.node(id) else { return };
        self.records.keep(cluster, node, || self.views.judged(&cluster.name, id));
    }

    fn judge(&mut self, reports: &[Report]) {
        let now = Timestamp::now();
        let mut turned = Verdicts::new();
        for report in reports {
            let Some(record) = self.records.reported(report) else { continue };
            record.evidence.push(Sample { at: now, latency: report.latency, outcome: report.outcome });
            metrics::counter!("jcm_checks_total", "result" => if report.outcome.is_success() { "success" } else { "failure" })
                .increment(1);
            metrics::histogram!("jcm_check_seconds").record(report.latency.as_secs_f64());
            // A server on its own has nobody to ask: a failure stands on its word, and says so.
            let step = record.judge.judge(report.outcome, Opinion::NobodyToAsk, &record.check);
            let confirmed = record.confirm(report.outcome);
            let Some(turn) = step.turn else {
                if let Some(since) = confirmed {
                    // The verdict of an earlier run holds under this run's stamp, so that it is stale no more.
                    self.sequence += 1;
                    let judged = judged(&self.judging, self.sequence, record, record.judge.verdict(), since);
                    turned.entry(record.cluster.clone()).or_default().push((record.node.clone(), judged));
                }
                continue;
            };
            record.turned(&turn, now);
            self.sequence += 1;
            let judged = judged(&self.judging, self.sequence, record, turn.to, now);
            info!(
                cluster = %record.cluster, node = %record.node, from = %turn.from, to = %turn.to,
                because = %turn, outcome = %report.outcome, "verdict turned"
            );
            metrics::counter!("jcm_verdict_turns_total", "to" => turn.to.as_str()).increment(1);
            turned.entry(record.cluster.clone()).or_default().push((record.node.clone(), judged));
        }
        if !turned.is_empty() {
            self.publish(turned);
        }
    }

    /// Takes over what another server found, as far as it is of the definitions that are here.
    fn learn(&self, heard: Heard) {
        let Heard::Verdicts { store, verdicts, .. } = heard;
        if store == self.views.snapshot().store {
            self.publish(verdicts);
        }
    }

    /// Verdicts reach the board first: whoever begins to follow finds there what was turned before.
    fn publish(&self, verdicts: Verdicts) {
        let store = self.views.snapshot().store;
        self.views.judge(verdicts.clone());
        self.turned.publish(store, Arc::new(verdicts));
    }
}

fn judged(judging: &Judging, sequence: u64, record: &Record, verdict: Verdict, since: Timestamp) -> Judged {
    Judged {
        verdict,
        birth: record.birth,
        stamp: Stamp {
            ring_epoch: 0,
            term: 0,
            server: judging.server.clone(),
            incarnation: judging.incarnation,
            sequence,
        },
        since,
        single_vantage: record.judge.is_single_vantage(),
        stale_since: None,
    }
}
