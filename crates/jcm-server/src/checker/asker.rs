//! Asks the checker what it knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use jcm_model::{ClusterName, NodeId};
use tokio::sync::{mpsc, oneshot, watch};

use super::doubt::{Stance, Suspended};
use super::duty::Duty;
use super::findings::Findings;
use super::vouch::Vouch;
use crate::peers;

/// Questions that may wait: each is answered in microseconds.
const QUESTIONS_QUEUE_MAX: usize = 256;

/// Asks the checker what it knows.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    questions: mpsc::Sender<Question>,
    shown: Arc<Shown>,
    vouch: Vouch,
    stance: watch::Receiver<Stance>,
}

/// What the checker shows of itself.
#[derive(Debug)]
pub(super) struct Shown {
    /// How many nodes are checked here.
    pub(super) owned: AtomicUsize,
    /// How often a node was taken over from a server of the ring that was silent.
    pub(super) takeovers: AtomicU64,
    pub(super) duty: watch::Sender<Arc<Duty>>,
}

/// What was found of this node?
pub(super) struct Question {
    pub(super) cluster: ClusterName,
    pub(super) node: NodeId,
    pub(super) answer: oneshot::Sender<Option<Findings>>,
}

impl Asker {
    /// The handle, and where the checker finds the questions.
    pub(super) fn new(
        shown: Arc<Shown>,
        vouch: Vouch,
        stance: watch::Receiver<Stance>,
    ) -> (Self, mpsc::Receiver<Question>) {
        let (questions, received) = mpsc::channel(QUESTIONS_QUEUE_MAX);
        (Self { questions, shown, vouch, stance }, received)
    }

    /// How many nodes are checked here.
    pub(crate) fn owned(&self) -> usize {
        self.shown.owned.load(Ordering::Relaxed)
    }

    /// How often a node was taken over from a server of the ring that was silent.
    pub(crate) fn takeovers(&self) -> u64 {
        self.shown.takeovers.load(Ordering::Relaxed)
    }

    /// Who checks what, as this server last worked it out.
    pub(crate) fn duty(&self) -> Arc<Duty> {
        Arc::clone(&self.shown.duty.borrow())
    }

    /// This server's own probes of these nodes, now, for a peer that asks: one answer for each question, in their order.
    /// The probes are made of what the board holds and end with the call: the checker's task has no part in them.
    pub(crate) async fn probe(
        &self,
        questions: Vec<peers::Question>,
        within: Duration,
    ) -> Vec<peers::Answer> {
        self.vouch.probe(&questions, within).await
    }

    /// Why this server suspects itself, if it does.
    pub(crate) fn suspended(&self) -> Option<Suspended> {
        Suspended::of(&self.stance.borrow())
    }

    /// What was found of a node lately; `None` when it is not checked here.
    pub(crate) async fn findings(&self, cluster: &ClusterName, node: &NodeId) -> Option<Findings> {
        let (answer, result) = oneshot::channel();
        self.questions.send(Question { cluster: cluster.clone(), node: node.clone(), answer }).await.ok()?;
        result.await.ok().flatten()
    }
}
