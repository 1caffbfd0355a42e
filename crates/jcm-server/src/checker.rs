//! The single owner of every node's record: it tells the engine what to probe, judges what comes back, keeps the
//! evidence, and publishes verdicts that turned.
//!
//! Invariant: a report counts only for the form of the node it was made of, and only a turn leaves this task. A
//! result that says more about this server than about the node is kept as evidence and judged by nobody.

mod asker;
mod definitions;
mod doubt;
mod opinions;
mod record;
mod records;
mod suspicion;
mod turns;
mod vouch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use jcm_health::{Engine, Report};
use jcm_model::{Change, Cluster, ClusterName, Effect, NodeId, ServerId, TargetPolicy};
use jcm_storage::Membership;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::peers::{Heard, Peers, Turned};
use crate::verdicts::Remembered;
use crate::views::{Verdicts, Views};
pub(crate) use asker::Asker;
use asker::Question;
use definitions::Defined;
pub(crate) use definitions::Definitions;
use doubt::{Company, Doubt};
pub(crate) use record::Findings;
use records::Records;
use vouch::Vouch;

/// Reports judged in one go, so that nodes of one cluster that turn together are published together.
const REPORTS_BATCH_MAX: usize = 512;

/// Who judges: the part of every stamp that does not change while this server runs.
#[derive(Debug, Clone)]
pub(crate) struct Judging {
    pub(crate) server: ServerId,
    /// How often this server has started on its data directory.
    pub(crate) incarnation: u64,
}

/// The other servers, and what may be probed for them.
pub(crate) struct Surroundings {
    peers: Peers,
    /// What other servers say.
    heard: mpsc::Receiver<Heard>,
    membership: Arc<dyn Membership>,
    targets: Arc<TargetPolicy>,
}

impl Surroundings {
    pub(crate) fn new(
        peers: &Peers,
        heard: mpsc::Receiver<Heard>,
        membership: &Arc<dyn Membership>,
        targets: &Arc<TargetPolicy>,
    ) -> Self {
        let (membership, targets) = (Arc::clone(membership), Arc::clone(targets));
        Self { peers: peers.clone(), heard, membership, targets }
    }
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
    doubt: Doubt,
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
        around: Surroundings,
    ) -> (Self, Definitions, Asker) {
        let owned = Arc::new(AtomicUsize::new(0));
        let (audience, definitions) = Definitions::new(Arc::clone(&views), remembered);
        let Surroundings { peers, heard, membership, targets } = around;
        let turned = peers.turned();
        let vouch = Vouch::new(Arc::clone(&views), targets);
        let doubt = Doubt::new(Box::new(Company { peers, membership }), vouch.clone());
        let (asker, questions) = Asker::new(Arc::clone(&owned), vouch, doubt.stance());
        let records = Records::new(engine);
        let checker = Self {
            judging,
            views,
            definitions,
            reports,
            questions,
            heard,
            turned,
            records,
            doubt,
            sequence: 0,
            owned,
        };
        (checker, audience, asker)
    }

    /// The same among other servers than the real ones.
    #[cfg(test)]
    fn among(&mut self, vantages: Box<dyn doubt::Vantages>, targets: Arc<TargetPolicy>) -> Asker {
        let vouch = Vouch::new(Arc::clone(&self.views), targets);
        self.doubt = Doubt::new(vantages, vouch.clone());
        let (asker, questions) = Asker::new(Arc::clone(&self.owned), vouch, self.doubt.stance());
        self.questions = questions;
        asker
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
                    // Whoever asked may have gone away.
                    let _ = question.answer.send(self.findings(&question.cluster, &question.node));
                }
                Some(heard) = self.heard.recv() => self.learn(heard),
                event = self.doubt.next() => self.settle(event),
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
