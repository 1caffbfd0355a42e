//! The single owner of every node's record: it tells the engine what to probe, judges what comes back, keeps the
//! evidence, and publishes verdicts that turned.
//!
//! Invariant: a report counts only for the form of the node it was made of, and only a turn leaves this task. A
//! result that says more about this server than about the node is kept as evidence and judged by nobody.

mod record;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jcm_health::{Engine, Opinion, Report, Sample, Target, TargetKey};
use jcm_model::{Change, Cluster, ClusterName, Effect, Judged, NodeId, ServerId, Stamp, Timestamp, Verdict};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::catalog::Audience;
use crate::peers::{self, Heard, Peers, Turned};
use crate::snapshot::Snapshot;
use crate::verdicts::Remembered;
use crate::views::{Verdicts, Views};
pub(crate) use record::Findings;
use record::Record;

/// Changes of definitions that may wait here: the writer of definitions waits when there are more.
const CHANGES_QUEUE_MAX: usize = 1024;

/// Questions that may wait: each is answered in microseconds.
const QUESTIONS_QUEUE_MAX: usize = 256;

/// Reports judged in one go, so that nodes of one cluster that turn together are published together.
const REPORTS_BATCH_MAX: usize = 512;

/// What the catalog's follower tells: every change of definitions reaches the views and this task, in order.
#[derive(Debug)]
pub(crate) struct Definitions {
    views: Arc<Views>,
    checker: mpsc::Sender<Defined>,
    /// Verdicts of an earlier run, published with the first definitions and before anybody is answered.
    remembered: Remembered,
}

enum Defined {
    Everything(Arc<Snapshot>),
    Changed(Vec<(Change, Option<Arc<Cluster>>)>),
}

impl Audience for Definitions {
    async fn loaded(&mut self, snapshot: Arc<Snapshot>) {
        self.views.load(Arc::clone(&snapshot));
        let mut verdicts = Verdicts::new();
        for ((cluster, node), judged) in self.remembered.drain() {
            verdicts.entry(cluster).or_default().push((node, judged));
        }
        self.views.judge(verdicts);
        // Nobody listens any more only while the server stops.
        let _ = self.checker.send(Defined::Everything(snapshot)).await;
    }

    async fn committed(&mut self, snapshot: Arc<Snapshot>, changes: Vec<(Change, Option<Arc<Cluster>>)>) {
        let only_changes: Vec<Change> = changes.iter().map(|(change, _)| change.clone()).collect();
        self.views.apply(snapshot, &only_changes);
        let _ = self.checker.send(Defined::Changed(changes)).await;
    }
}

/// Asks the checker what it knows.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    questions: mpsc::Sender<Question>,
    owned: Arc<AtomicUsize>,
}

struct Question {
    cluster: ClusterName,
    node: NodeId,
    answer: oneshot::Sender<Option<Findings>>,
}

impl Asker {
    /// How many nodes are checked here.
    pub(crate) fn owned(&self) -> usize {
        self.owned.load(Ordering::Relaxed)
    }

    /// This server's own probes of these nodes, now, for a peer that asks: one answer for each question, in their order.
    #[expect(dead_code, clippy::unused_async, reason = "servers are not yet introduced to one another")]
    pub(crate) async fn probe(
        &self,
        questions: Vec<peers::Question>,
        _within: Duration,
    ) -> Vec<peers::Answer> {
        questions
            .iter()
            .map(|_| peers::Answer::nothing("this server does not probe for others yet"))
            .collect()
    }

    /// What was found of a node lately; `None` when it is not checked here.
    pub(crate) async fn findings(&self, cluster: &ClusterName, node: &NodeId) -> Option<Findings> {
        let (answer, result) = oneshot::channel();
        self.questions.send(Question { cluster: cluster.clone(), node: node.clone(), answer }).await.ok()?;
        result.await.ok().flatten()
    }
}

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
    engine: Arc<dyn Engine>,
    views: Arc<Views>,
    definitions: mpsc::Receiver<Defined>,
    reports: mpsc::Receiver<Report>,
    questions: mpsc::Receiver<Question>,
    /// What other servers say.
    heard: mpsc::Receiver<Heard>,
    turned: Turned,
    records: HashMap<TargetKey, Record>,
    keys: HashMap<ClusterName, HashMap<NodeId, TargetKey>>,
    next_key: u64,
    sequence: u64,
    owned: Arc<AtomicUsize>,
    /// Verdicts of an earlier run, until the node's own first result here.
    remembered: Remembered,
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
        let (to_checker, definitions) = mpsc::channel(CHANGES_QUEUE_MAX);
        let (asker, questions) = mpsc::channel(QUESTIONS_QUEUE_MAX);
        let owned = Arc::new(AtomicUsize::new(0));
        let audience =
            Definitions { views: Arc::clone(&views), checker: to_checker, remembered: remembered.clone() };
        let checker = Self {
            judging,
            engine,
            views,
            definitions,
            reports,
            questions,
            heard,
            turned: peers.turned(),
            records: HashMap::new(),
            keys: HashMap::new(),
            next_key: 0,
            sequence: 0,
            owned: Arc::clone(&owned),
            remembered,
        };
        (checker, audience, Asker { questions: asker, owned })
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
                    let record = self.record(&question.cluster, &question.node);
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

    fn record(&self, cluster: &ClusterName, node: &NodeId) -> Option<&Record> {
        self.records.get(self.keys.get(cluster)?.get(node)?)
    }

    fn define(&mut self, defined: Defined) {
        match defined {
            Defined::Everything(snapshot) => {
                let gone: Vec<ClusterName> =
                    self.keys.keys().filter(|name| !snapshot.clusters.contains_key(*name)).cloned().collect();
                for name in gone {
                    self.forget_cluster(&name);
                }
                for cluster in snapshot.clusters.values() {
                    self.take_over(cluster);
                }
                // What is left belongs to nodes that are no more.
                self.remembered.clear();
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
                    self.forget_node(&cluster.name, &id);
                }
                for node in put {
                    self.take_over_node(&cluster, &node.id);
                }
            }
            (_, Some(cluster)) => self.take_over(&cluster),
            (_, None) => self.forget_cluster(&change.cluster),
        }
    }

    fn take_over(&mut self, cluster: &Arc<Cluster>) {
        let gone: Vec<NodeId> = self
            .keys
            .get(&cluster.name)
            .map(|keys| keys.keys().filter(|id| cluster.node(id).is_none()).cloned().collect())
            .unwrap_or_default();
        for id in gone {
            self.forget_node(&cluster.name, &id);
        }
        for node in &cluster.nodes {
            self.take_over_node(cluster, &node.id);
        }
    }

    fn take_over_node(&mut self, cluster: &Arc<Cluster>, id: &NodeId) {
        let Some(node) = cluster.node(id) else { return };
        let port = node.port(cluster.check.port.as_deref()).filter(|_| cluster.is_checked());
        let Some(port) = port else {
            self.forget_node(&cluster.name, id);
            return;
        };
        let birth = cluster.birth(node);
        let key = match self.keys.get(&cluster.name).and_then(|keys| keys.get(id)) {
            Some(key) => *key,
            None => self.add(cluster, id),
        };
        let record = self.records.get_mut(&key).expect("every key has its record");
        let reborn = record.birth != birth;
        if !reborn && Arc::ptr_eq(&record.check, &cluster.check) && record.generation > 0 {
            return;
        }
        if reborn {
            record.begin(birth);
        } else if *record.check != *cluster.check {
            record.judge.repolicy(&cluster.check);
        }
        let same_target = !reborn && *record.check == *cluster.check && record.generation > 0;
        record.check = Arc::clone(&cluster.check);
        if same_target {
            return;
        }
        record.generation += 1;
        if let Some(held) = self.remembered.remove(&(cluster.name.clone(), id.clone()))
            && held.birth == birth
        {
            record.resume(&held);
        }
        self.engine.set(Target {
            key,
            address: SocketAddr::new(node.address, port),
            check: Arc::clone(&cluster.check),
            generation: record.generation,
        });
    }

    fn add(&mut self, cluster: &Cluster, id: &NodeId) -> TargetKey {
        self.next_key += 1;
        let key = TargetKey(self.next_key);
        let node = cluster.node(id).expect("the caller found it");
        let record =
            Record::new(cluster.name.clone(), id.clone(), cluster.birth(node), Arc::clone(&cluster.check));
        self.records.insert(key, record);
        self.keys.entry(cluster.name.clone()).or_default().insert(id.clone(), key);
        key
    }

    fn forget_node(&mut self, cluster: &ClusterName, id: &NodeId) {
        let Some(keys) = self.keys.get_mut(cluster) else {
            return;
        };
        if let Some(key) = keys.remove(id) {
            self.engine.remove(key);
            self.records.remove(&key);
        }
        if keys.is_empty() {
            self.keys.remove(cluster);
        }
    }

    fn forget_cluster(&mut self, cluster: &ClusterName) {
        for key in self.keys.remove(cluster).into_iter().flat_map(HashMap::into_values) {
            self.engine.remove(key);
            self.records.remove(&key);
        }
    }

    fn judge(&mut self, reports: &[Report]) {
        let now = Timestamp::now();
        let mut turned = Verdicts::new();
        for report in reports {
            let Some(record) =
                self.records.get_mut(&report.key).filter(|record| record.generation == report.generation)
            else {
                continue;
            };
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
