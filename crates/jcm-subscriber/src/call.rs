//! Calls that go to another node when one refuses.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jcm_model::NodeId;
use tracing::Instrument as _;

use crate::alloc::{self, AllocError, Want};
use crate::balancer::Balancer;
use crate::fault::{Fault, Faulty};
use crate::picked::Picked;
use crate::retry::Retry;

/// A call through [`Cluster::call`](crate::Cluster::call) came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError<E> {
    /// There is no node to call.
    #[error("no call was made")]
    Alloc(#[from] AllocError),
    /// The last attempt failed, and there is no further one.
    #[error("the call failed at node `{node}`, attempt {attempts}: {ended}")]
    Failed {
        /// Where.
        node: NodeId,
        /// How many attempts were made.
        attempts: u32,
        /// Why there is no further one.
        ended: Ended,
        /// What the attempt came to.
        source: E,
    },
    /// Time was up with an attempt under way.
    #[error("the call was not over after {deadline:?}: node `{node}` was being called, attempt {attempts}")]
    Deadline {
        /// Where.
        node: NodeId,
        /// How many attempts were made.
        attempts: u32,
        /// How long all of them had.
        deadline: std::time::Duration,
    },
}

/// Why a failed call is not made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The node's answer is no.
    Answered,
    /// It broke under way, may have been carried out, and nobody said that it may be repeated; or what it was to send
    /// is used up.
    NotRepeatable,
    /// It was the last attempt.
    Attempts,
    /// Too many calls are repeated already.
    Budget,
    /// No other node may be called.
    Nodes,
    /// Time was up when it failed.
    Deadline,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Answered => "the node's answer is final",
            Self::NotRepeatable => {
                "it may have been carried out, or cannot be sent again, and is not to be repeated"
            }
            Self::Attempts => "that was the last attempt",
            Self::Budget => "the budget for retries is spent",
            Self::Nodes => "no other node may be called",
            Self::Deadline => "time is up",
        })
    }
}

/// Who says how a call went whose attempt came to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The answer itself: the call is over, and went well.
    ByAnswer,
    /// Whoever holds the node: the answer has only begun.
    #[cfg(any(feature = "reqwest", feature = "tonic"))]
    ByHolder,
}

/// Makes a call at one node after the other, see [`Cluster::call`](crate::Cluster::call).
pub(crate) async fn call<T, E: Faulty, F: Future<Output = Result<T, E>>>(
    balancer: &Balancer,
    key: Option<u64>,
    retry: Retry,
    settled: Settled,
    mut attempt: impl FnMut(Arc<Picked>) -> F,
) -> Result<T, CallError<E>> {
    let (mut attempts, first) = Attempts::begin(balancer, key, retry)?;
    let mut picked = Arc::new(first);
    loop {
        let trying = attempt(Arc::clone(&picked)).instrument(attempts.span(&picked));
        let outcome = match attempts.until {
            Some(until) => tokio::time::timeout_at(until, trying).await.ok(),
            None => Some(trying.await),
        };
        match attempts.ended(picked, outcome, settled) {
            Next::Over(result) => return result,
            Next::Again(next) => picked = Arc::new(next),
        }
    }
}

/// One call on its way from node to node: who is tried next, and what nodes learn. It waits for nothing.
#[derive(Debug)]
pub(crate) struct Attempts<'a> {
    balancer: &'a Balancer,
    key: Option<u64>,
    retry: Retry,
    /// `None`: a deadline beyond what the clock can say is none.
    until: Option<tokio::time::Instant>,
    tried: Vec<NodeId>,
}

/// What follows an attempt.
pub(crate) enum Next<T, E> {
    Over(Result<T, CallError<E>>),
    /// Another one, at this node.
    Again(Picked),
}

impl<'a> Attempts<'a> {
    /// A call begins, at this node.
    pub(crate) fn begin(
        balancer: &'a Balancer,
        key: Option<u64>,
        retry: Retry,
    ) -> Result<(Self, Picked), AllocError> {
        let until = tokio::time::Instant::now().checked_add(retry.within());
        balancer.spent().call(balancer.world.now());
        let picked = alloc::pick_wanted(balancer, Want { key, excluded: &[] })?;
        Ok((Self { balancer, key, retry, until, tried: Vec::new() }, picked))
    }

    /// An attempt ended; without an outcome because time was up.
    pub(crate) fn ended<T, E: Faulty>(
        &mut self,
        picked: Arc<Picked>,
        outcome: Option<Result<T, E>>,
        settled: Settled,
    ) -> Next<T, E> {
        let node = picked.id().clone();
        let fault = match &outcome {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.fault()),
            None => Some(Fault::Broken),
        };
        if fault.is_some() || settled == Settled::ByAnswer {
            finish(picked, matches!(fault, None | Some(Fault::Answered)));
        }
        let attempts = self.number();
        let can_repeat = !matches!(&outcome, Some(Err(error)) if !error.can_repeat());
        let source = match outcome {
            Some(Ok(answer)) => return Next::Over(Ok(answer)),
            Some(Err(source)) => source,
            None => {
                let deadline = self.retry.within();
                return Next::Over(Err(CallError::Deadline { node, attempts, deadline }));
            }
        };
        self.tried.push(node.clone());
        match self.another(fault, can_repeat) {
            Ok(next) => {
                let (cluster, from, to) = (next.cluster(), &node, next.id());
                tracing::debug!(%cluster, %from, %to, attempts, "call is made again at another node");
                Next::Again(next)
            }
            Err(ended) => Next::Over(Err(CallError::Failed { node, attempts, ended, source })),
        }
    }

    /// The node for a further attempt.
    fn another(&self, fault: Option<Fault>, can_repeat: bool) -> Result<Picked, Ended> {
        match fault {
            Some(Fault::Answered) => return Err(Ended::Answered),
            _ if !can_repeat => return Err(Ended::NotRepeatable),
            Some(Fault::Broken) if !self.retry.repeatable => return Err(Ended::NotRepeatable),
            _ => {}
        }
        if self.tried.len() >= self.retry.attempts as usize {
            return Err(Ended::Attempts);
        }
        if self.until.is_some_and(|until| until <= tokio::time::Instant::now()) {
            return Err(Ended::Deadline);
        }
        let excluded: Vec<&NodeId> = self.tried.iter().collect();
        let want = Want { key: self.key, excluded: &excluded };
        let picked = alloc::pick_wanted(self.balancer, want).map_err(|_| Ended::Nodes)?;
        let left = self.balancer.spent().take_retry(&self.retry, self.balancer.world.now());
        if left { Ok(picked) } else { Err(Ended::Budget) }
    }

    /// What an attempt happens in, for those who trace.
    pub(crate) fn span(&self, picked: &Picked) -> tracing::Span {
        let (cluster, node, attempt) = (picked.cluster(), picked.id(), self.number());
        tracing::debug_span!("call", %cluster, %node, attempt)
    }

    /// Of the attempt that is under way, counted from 1.
    fn number(&self) -> u32 {
        u32::try_from(self.tried.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// Reports a call whose node the attempt may have kept a reference to: then it is in flight until that is dropped.
pub(crate) fn finish(picked: Arc<Picked>, succeeded: bool) {
    let outcome = if succeeded { Ok(()) } else { Err(()) };
    match Arc::try_unwrap(picked) {
        Ok(picked) => picked.report(&outcome),
        Err(shared) => shared.learn(Some(succeeded)),
    }
}
