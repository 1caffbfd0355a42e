//! The single owner of every node's record: it tells the engine what to probe, judges what comes back, keeps the
//! evidence, and publishes verdicts that turned.
//!
//! Invariant: a report counts only for the form of the node it was made of, and only a turn leaves this task. A
//! result that says more about this server than about the node is kept as evidence and judged by nobody.

mod asker;
mod assess;
mod definitions;
mod doubt;
mod duty;
mod findings;
mod heard;
mod held;
mod leased;
mod opinions;
mod record;
mod records;
mod suspicion;
mod tally;
mod turns;
mod vouch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::{Duration, Instant};

use imbl::OrdMap;
use jcm_health::{Engine, ReactorEngine, Reports};
use jcm_model::{Change, Cluster, ClusterName, Effect, NodeId, ServerId, Stamp};
use jcm_storage::{Membership, Roster, Store};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::leases::Leases;
use crate::peers::{Heard, Liveness, Peers, Turned};
use crate::verdicts::Remembered;
use crate::views::Views;
pub(crate) use asker::Asker;
use asker::{Question, Shown};
use definitions::Defined;
pub(crate) use definitions::Definitions;
use doubt::{Company, Doubt};
pub(crate) use duty::Duty;
use duty::Signature;
pub(crate) use findings::{Findings, milliseconds};
use heard::Early;
use held::Held;
use leased::Leased;
use records::Records;
use tally::Tally;
use vouch::Vouch;

/// Reports judged in one go, so that nodes of one cluster that turn together are published together.
const REPORTS_BATCH_MAX: usize = 512;

/// Who judges: the part of every stamp that does not change while this server runs.
#[derive(Debug, Clone)]
pub(crate) struct Judging {
    pub(crate) server: ServerId,
    /// How often this server has started on its data directory.
    pub(crate) incarnation: u64,
    /// After this time without a word the store, too, takes a server for gone.
    pub(crate) session_timeout: Duration,
}

/// What the checker follows of the other servers and of the store: levels, all of them.
#[derive(Debug)]
struct Around {
    peers: Peers,
    liveness: watch::Receiver<Arc<Liveness>>,
    roster: watch::Receiver<Arc<Roster>>,
    /// Set while the store is out of reach.
    store_stale_since: watch::Receiver<Option<Instant>>,
}

/// The other servers, and what may be probed for them.
pub(crate) struct Surroundings {
    around: Around,
    /// What other servers say.
    heard: mpsc::Receiver<Heard>,
    membership: Arc<dyn Membership>,
    engine: Arc<ReactorEngine>,
}

impl Surroundings {
    pub(crate) fn new(
        peers: &Peers,
        heard: mpsc::Receiver<Heard>,
        membership: &Arc<dyn Membership>,
        store: &dyn Store,
        engine: &Arc<ReactorEngine>,
    ) -> Self {
        let around = Around {
            peers: peers.clone(),
            liveness: peers.liveness(),
            roster: membership.roster(),
            store_stale_since: store.stale_since(),
        };
        Self { around, heard, membership: Arc::clone(membership), engine: Arc::clone(engine) }
    }
}

/// The task that owns every node's record.
pub(crate) struct Checker {
    server: ServerId,
    views: Arc<Views>,
    definitions: mpsc::Receiver<Defined>,
    reports: Reports,
    questions: mpsc::Receiver<Question>,
    /// What other servers say.
    heard: mpsc::Receiver<Heard>,
    turned: Turned,
    records: Records,
    /// The nodes whose check is their lease, and all that is known of leases.
    leased: Leased,
    leases: Leases,
    stamps: Stamps,
    doubt: Doubt,
    held: Held,
    tally: Tally,
    around: Around,
    duty: Duty,
    /// What was last worked out, and for which policies.
    assessed: Signature,
    intervals: BTreeSet<Duration>,
    /// All definitions, as far as this task was told.
    defined: OrdMap<ClusterName, Arc<Cluster>>,
    /// The servers of whose verdicts the board says that they are stale, and all of whom it says anything.
    silent: BTreeSet<ServerId>,
    remarked: BTreeSet<ServerId>,
    early: Early,
    /// The latest ring under which another server stamped what stands here.
    latest_epoch: u64,
    shown: Arc<Shown>,
}

impl Checker {
    /// The task, the audience that feeds it, and the handle that asks it.
    pub(crate) fn new(
        judging: Judging,
        engine: Arc<dyn Engine>,
        reports: Reports,
        views: Arc<Views>,
        remembered: Remembered,
        surroundings: Surroundings,
    ) -> (Self, Definitions, Asker) {
        let duty =
            Duty::new(judging.server.clone(), judging.session_timeout, remembered.ring, Instant::now());
        let shown = Arc::new(Shown {
            owned: AtomicUsize::new(0),
            takeovers: AtomicU64::new(0),
            duty: watch::Sender::new(Arc::new(duty.clone())),
        });
        let (audience, definitions) = Definitions::new(Arc::clone(&views), remembered.verdicts);
        let Surroundings { around, heard, membership, engine: prober } = surroundings;
        let vouch = Vouch::new(Arc::clone(&views), prober);
        let company = Company {
            peers: around.peers.clone(),
            membership,
            store_stale_since: around.store_stale_since.clone(),
        };
        let doubt = Doubt::new(Box::new(company), vouch.clone());
        let (asker, questions) = Asker::new(Arc::clone(&shown), vouch, doubt.stance());
        let checker = Self {
            views,
            definitions,
            reports,
            questions,
            heard,
            turned: around.peers.turned(),
            records: Records::new(judging.server.clone(), engine),
            leased: Leased::new(Instant::now()),
            leases: around.peers.leases(),
            stamps: Stamps { incarnation: judging.incarnation, sequence: 0 },
            server: judging.server,
            doubt,
            held: Held::default(),
            tally: Tally::default(),
            around,
            duty,
            assessed: Signature::default(),
            intervals: BTreeSet::new(),
            defined: OrdMap::new(),
            silent: BTreeSet::new(),
            remarked: BTreeSet::new(),
            early: Early::default(),
            latest_epoch: 0,
            shown,
        };
        (checker, audience, asker)
    }

    /// The same among other servers than the real ones.
    #[cfg(test)]
    fn among(&mut self, vantages: Box<dyn doubt::Vantages>, engine: Arc<ReactorEngine>) -> Asker {
        let vouch = Vouch::new(Arc::clone(&self.views), engine);
        self.doubt = Doubt::new(vantages, vouch.clone());
        let (asker, questions) = Asker::new(Arc::clone(&self.shown), vouch, self.doubt.stance());
        self.questions = questions;
        asker
    }

    /// Judges until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut reports = Vec::with_capacity(REPORTS_BATCH_MAX);
        let mut looks = tokio::time::interval(leased::LOOK_PAUSE);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.look();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(defined) = self.definitions.recv() => self.define(defined),
                Ok(()) = self.around.roster.changed() => self.look(),
                Ok(()) = self.around.liveness.changed() => self.look(),
                Ok(()) = self.around.store_stale_since.changed() => self.look(),
                Some(question) = self.questions.recv() => {
                    // Whoever asked may have gone away.
                    let _ = question.answer.send(self.findings(&question.cluster, &question.node));
                }
                _ = looks.tick() => self.look_at_leases(),
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
                if self.duty.belong_to(snapshot.store) {
                    self.early.clear();
                    self.latest_epoch = 0;
                }
                let is_gone = |name: &&ClusterName| !snapshot.clusters.contains_key(*name);
                let clusters = self.records.clusters().chain(self.leased.clusters());
                let gone: Vec<ClusterName> = clusters.filter(is_gone).cloned().collect();
                for name in gone {
                    self.forget_cluster(&name);
                }
                self.defined = snapshot.clusters.clone();
                for cluster in snapshot.clusters.values() {
                    self.forget_gone_nodes(cluster);
                }
                self.look();
                self.assess_everything();
            }
            Defined::Changed(changes) => {
                for (change, after) in changes {
                    self.change(change, after);
                }
            }
        }
        self.learn_early();
        self.count();
    }

    fn change(&mut self, change: Change, after: Option<Arc<Cluster>>) {
        let Some(cluster) = after else {
            self.defined.remove(&change.cluster);
            self.forget_cluster(&change.cluster);
            return;
        };
        self.defined.insert(cluster.name.clone(), Arc::clone(&cluster));
        self.intervals.insert(cluster.check.interval);
        if let Effect::Updated { header: None, put, removed, created: false } = change.effect {
            for id in removed {
                self.forget(&cluster.name, &id);
            }
            for node in put.iter().filter_map(|node| cluster.node(&node.id)) {
                self.assess(&cluster, node);
            }
        } else {
            self.forget_gone_nodes(&cluster);
            for node in &cluster.nodes {
                self.assess(&cluster, node);
            }
        }
    }

    fn forget_gone_nodes(&mut self, cluster: &Cluster) {
        let is_gone = |id: &&NodeId| cluster.node(id).is_none();
        let nodes = self.records.nodes(&cluster.name).chain(self.leased.nodes(&cluster.name));
        let gone: Vec<NodeId> = nodes.filter(is_gone).cloned().collect();
        for id in gone {
            self.forget(&cluster.name, &id);
        }
    }

    fn forget(&mut self, cluster: &ClusterName, node: &NodeId) {
        self.records.forget(cluster, node);
        self.leased.forget(cluster, node);
    }

    fn forget_cluster(&mut self, cluster: &ClusterName) {
        self.records.forget_cluster(cluster);
        self.leased.forget_cluster(cluster);
    }
}

/// Counts the verdicts of this run.
#[derive(Debug)]
struct Stamps {
    incarnation: u64,
    sequence: u64,
}

impl Stamps {
    /// The next stamp for this node: later than that of the verdict that stands on the board.
    fn next(&mut self, duty: &Duty, views: &Views, (cluster, node): (&ClusterName, &NodeId)) -> Stamp {
        self.sequence += 1;
        let held = views.judged(cluster, node);
        duty.stamp(held.as_ref().map(|held| &held.stamp), self.incarnation, self.sequence)
    }
}
