//! Calls to nodes that fail as a test wants it.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::core::Core;
use crate::fault::Failed;
use crate::policy::Policy;
use crate::sketch::{core, healthy, id, policies};

type Error = Failed<&'static str>;

fn nodes(count: u16) -> (Core, Arc<Balancer>) {
    let core = core(&(1..=count).map(healthy).collect::<Vec<_>>());
    let balancer = core.balance(Policy::p2c(), None);
    (core, balancer)
}

fn tally(core: &Core) -> (u64, u64) {
    let tallies = || core.view().seats().iter().map(|seat| seat.outcomes.tally()).collect::<Vec<_>>();
    (tallies().iter().map(|tally| tally.successes).sum(), tallies().iter().map(|tally| tally.failures).sum())
}

fn in_flight(core: &Core, balancer: &Balancer) -> u32 {
    balancer.plan().calls_of(core.view().nodes()).flatten().map(crate::calls::Calls::in_flight).sum()
}

#[tokio::test]
async fn a_refused_call_goes_to_another_node_each_time() {
    for policy in policies() {
        let core = core(&(1..=5).map(healthy).collect::<Vec<_>>());
        let balancer = core.balance(policy, None);
        let seen = Mutex::new(Vec::new());
        let answer = call(&balancer, Some(3), Retry::default().attempts(5), Settled::ByAnswer, |node| {
            seen.lock().unwrap().push(node.id().clone());
            let last = seen.lock().unwrap().len() == 5;
            async move { if last { Ok("done") } else { Err(Error::refused("full")) } }
        });
        assert_eq!(answer.await.unwrap(), "done");
        let mut seen = seen.into_inner().unwrap();
        seen.sort();
        assert_eq!(seen, [1, 2, 3, 4, 5].map(id));
        assert_eq!((tally(&core), in_flight(&core, &balancer)), ((1, 4), 0));
    }
}

/// Fails every attempt; answers how many there were and why no more.
async fn attempts(balancer: &Balancer, retry: Retry, error: Error) -> (u32, Ended) {
    let error = call::<(), Error, _>(balancer, None, retry, Settled::ByAnswer, |_| async move { Err(error) })
        .await
        .unwrap_err();
    match error {
        CallError::Failed { attempts, ended, .. } => (attempts, ended),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_call_that_may_have_been_done_is_repeated_only_when_told_so() {
    let (core, balancer) = nodes(5);
    let retry = Retry::default();
    assert_eq!(attempts(&balancer, retry, Error::broken("reset")).await, (1, Ended::NotRepeatable));
    assert_eq!(attempts(&balancer, retry.repeatable(), Error::broken("reset")).await, (3, Ended::Attempts));
    assert_eq!(attempts(&balancer, retry.repeatable(), Error::answered("no")).await, (1, Ended::Answered));
    assert_eq!(attempts(&balancer, Retry::never(), Error::refused("full")).await, (1, Ended::Attempts));
    assert_eq!(tally(&core), (1, 5), "an answer is no failure of its node");
}

#[tokio::test]
async fn no_node_is_tried_twice() {
    let (_core, balancer) = nodes(2);
    let retry = Retry::default().attempts(9);
    assert_eq!(attempts(&balancer, retry, Error::refused("full")).await, (2, Ended::Nodes));
}

#[tokio::test]
async fn a_cluster_in_trouble_is_not_called_more_than_the_budget_allows() {
    let (_core, balancer) = nodes(5);
    let retry = Retry::default().budget(0.2, 0.0);
    let mut made = 0;
    let mut refused_by_budget = 0;
    for _ in 0..100 {
        let (attempts, ended) = attempts(&balancer, retry, Error::refused("full")).await;
        made += attempts;
        refused_by_budget += u32::from(ended == Ended::Budget);
    }
    assert_eq!(made, 120);
    assert!(refused_by_budget >= 80);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_for_all_attempts_together() {
    let (core, balancer) = nodes(5);
    let retry = Retry::default().deadline(Duration::from_secs(1));
    let slow = call::<(), Error, _>(&balancer, None, retry, Settled::ByAnswer, |_| async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        Err(Error::refused("full"))
    });
    let began = tokio::time::Instant::now();
    let error = slow.await.unwrap_err();
    assert!(matches!(error, CallError::Deadline { attempts: 2, .. }), "{error}");
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!((tally(&core), in_flight(&core, &balancer)), ((0, 2), 0));
    let endless = Retry::default().deadline(Duration::MAX);
    call::<_, Error, _>(&balancer, None, endless, Settled::ByAnswer, |_| async { Ok(()) }).await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_dropped_counts_neither_way() {
    let (core, balancer) = nodes(5);
    let mut hanging =
        Box::pin(call::<(), Error, _>(&balancer, None, Retry::default(), Settled::ByAnswer, |_| {
            std::future::pending()
        }));
    assert!(futures_poll(&mut hanging).await);
    assert_eq!(in_flight(&core, &balancer), 1);
    drop(hanging);
    assert_eq!((tally(&core), in_flight(&core, &balancer)), ((0, 0), 0));
}

/// Polls once; answers whether it is still pending.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|context| {
        let pending = std::pin::Pin::new(&mut *future).poll(context).is_pending();
        std::task::Poll::Ready(pending)
    })
    .await
}

#[tokio::test]
async fn without_a_node_no_call_is_made() {
    let (core, balancer) = nodes(0);
    let error = call::<(), Error, _>(&balancer, None, Retry::default(), Settled::ByAnswer, |_| async {
        panic!("a node")
    })
    .await;
    assert!(matches!(error, Err(CallError::Alloc(AllocError::NoNode { nodes: 0, .. }))));
    drop(core);
}

#[tokio::test]
async fn a_node_that_the_attempt_keeps_is_in_flight_until_it_is_dropped() {
    let (core, balancer) = nodes(2);
    let kept =
        call::<_, Error, _>(&balancer, None, Retry::default(), Settled::ByAnswer, |node| async { Ok(node) })
            .await
            .unwrap();
    assert_eq!((tally(&core), in_flight(&core, &balancer)), ((1, 0), 1));
    drop(kept);
    assert_eq!((tally(&core), in_flight(&core, &balancer)), ((1, 0), 0));
}
