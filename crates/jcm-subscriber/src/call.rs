//! Calls that go to another node when one refuses.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jcm_model::NodeId;

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
    /// It broke under way, may have been carried out, and nobody said that it may be repeated.
    NotRepeatable,
    /// It was the last attempt.
    Attempts,
    /// Too many calls are repeated already.
    Budget,
    /// No other node may be called.
    Nodes,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Answered => "the node's answer is final",
            Self::NotRepeatable => "it may have been carried out and is not to be repeated",
            Self::Attempts => "that was the last attempt",
            Self::Budget => "the budget for retries is spent",
            Self::Nodes => "no other node may be called",
        })
    }
}

/// Makes a call at one node after the other, see [`Cluster::call`](crate::Cluster::call).
pub(crate) async fn call<T, E: Faulty, F: Future<Output = Result<T, E>>>(
    balancer: &Balancer,
    key: Option<u64>,
    retry: Retry,
    mut attempt: impl FnMut(Arc<Picked>) -> F,
) -> Result<T, CallError<E>> {
    // A deadline beyond what the clock can say is none.
    let until = tokio::time::Instant::now().checked_add(retry.deadline);
    balancer.spent().call(crate::driver::now());
    let mut picked = Arc::new(alloc::pick_wanted(balancer, Want { key, excluded: &[] })?);
    let mut tried: Vec<NodeId> = Vec::new();
    loop {
        let trying = attempt(Arc::clone(&picked));
        let outcome = match until {
            Some(until) => tokio::time::timeout_at(until, trying).await.ok(),
            None => Some(trying.await),
        };
        let node = picked.id().clone();
        let attempts = u32::try_from(tried.len()).unwrap_or(u32::MAX).saturating_add(1);
        let fault = match &outcome {
            Some(Ok(_)) => None,
            Some(Err(error)) => Some(error.fault()),
            None => Some(Fault::Broken),
        };
        finish(picked, matches!(fault, None | Some(Fault::Answered)));
        let source = match outcome {
            Some(Ok(answer)) => return Ok(answer),
            Some(Err(source)) => source,
            None => return Err(CallError::Deadline { node, attempts, deadline: retry.deadline }),
        };
        tried.push(node.clone());
        let next = next(balancer, key, &retry, fault, &tried);
        match next {
            Ok(next) => picked = Arc::new(next),
            Err(ended) => return Err(CallError::Failed { node, attempts, ended, source }),
        }
    }
}

/// The node for a further attempt.
fn next(
    balancer: &Balancer,
    key: Option<u64>,
    retry: &Retry,
    fault: Option<Fault>,
    tried: &[NodeId],
) -> Result<Picked, Ended> {
    match fault {
        Some(Fault::Answered) => return Err(Ended::Answered),
        Some(Fault::Broken) if !retry.repeatable => return Err(Ended::NotRepeatable),
        _ => {}
    }
    if tried.len() >= retry.attempts as usize {
        return Err(Ended::Attempts);
    }
    let excluded: Vec<&NodeId> = tried.iter().collect();
    let picked = alloc::pick_wanted(balancer, Want { key, excluded: &excluded }).map_err(|_| Ended::Nodes)?;
    if balancer.spent().take_retry(retry, crate::driver::now()) { Ok(picked) } else { Err(Ended::Budget) }
}

/// Reports a call whose node the attempt may have kept a reference to: then it is in flight until that is dropped.
fn finish(picked: Arc<Picked>, succeeded: bool) {
    let outcome = if succeeded { Ok(()) } else { Err(()) };
    match Arc::try_unwrap(picked) {
        Ok(picked) => picked.report(&outcome),
        Err(shared) => shared.learn(Some(succeeded)),
    }
}
