//! What a program learns from its own calls, through the whole library.

use std::collections::BTreeSet;

use jcm_subscriber::{Cause, Failed, Outliers, Policy, Retry, SubscribeError, Verdict};

use crate::model::{healthy, id, state, view};
use crate::{fake, subscriber, until, until_live};

#[tokio::test]
async fn a_node_that_refuses_calls_is_left_alone_and_nodes_say_so() {
    let mut server = fake::Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let orders = jcm.cluster("orders").policy(Policy::round_robin()).subscribe().await.unwrap();
    let mut stream = server.welcome().await;
    stream.subscription().await;
    stream.send(view(&state(1, &healthy(1..11))));
    until_live(&orders).await;

    // Checks find node 4 well, and its calls are refused all the same.
    let mut called = 0;
    until("node 4 is ejected", || {
        for _ in 0..10 {
            let node = orders.alloc().unwrap();
            let outcome = if *node.id() == id(4) { Err(()) } else { Ok(()) };
            called += u32::from(outcome.is_err());
            node.report(&outcome);
        }
        orders.nodes().iter().any(|node| node.ejected.is_some())
    })
    .await;
    assert!(called >= 5);
    let left_alone: Vec<_> = orders.nodes().into_iter().filter(|node| node.ejected.is_some()).collect();
    assert_eq!(left_alone.len(), 1);
    assert_eq!((left_alone[0].id(), left_alone[0].verdict), (&id(4), Verdict::Healthy));
    assert!(matches!(left_alone[0].ejected.unwrap().cause, Cause::FailuresInARow(5..)));
    let picked: BTreeSet<_> = (0..100).map(|_| orders.alloc().unwrap().id().clone()).collect();
    assert!(picked.len() == 9 && !picked.contains(&id(4)));

    // Another subscription switches it off for the cluster.
    let other = jcm.cluster("orders").outliers(Outliers::off()).subscribe().await.unwrap();
    until("node 4 is back", || orders.nodes().iter().all(|node| node.ejected.is_none())).await;
    let answer = other.call_for("a key", Retry::default(), |node| async move {
        if *node.id() == id(4) { Err(Failed::refused("full")) } else { Ok(()) }
    });
    answer.await.unwrap();
    jcm.shutdown().await;
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_is_refused_with_its_reason() {
    let server = fake::Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let refused = jcm.cluster("orders").policy(Policy::p2c().spill_below(7.0)).subscribe().await.unwrap_err();
    let SubscribeError::Policy(reason) = &refused else { panic!("{refused}") };
    assert_eq!(reason.to_string(), "spill_below: 7 is out of range: above 0, up to 1");
    let refused = jcm.cluster("orders").outliers(Outliers::default().ejected_max(2.0)).subscribe().await;
    assert!(matches!(refused, Err(SubscribeError::Outliers(_))));
    jcm.shutdown().await;
}
