//! Following servers: what arrives, in which order, and what survives their end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jcm_model::{Revision, Verdict};
use jcm_proto::v1::watch_response::{self as wire, Event};
use jcm_subscriber::{AllocError, Policy, Status, Subscriber};

use crate::fake::{DEADLINE, Fake};
use crate::model::{delta, healthy, id, orders, state, state_with, token, view};
use crate::{subscriber, until, until_live};

#[tokio::test]
async fn a_program_picks_what_a_server_sends_and_follows_its_deltas() {
    let mut server = Fake::start().await;
    let builder = Subscriber::builder().servers([server.url()]).client_name("shop");
    let jcm = builder.build().await.unwrap();
    let (first, second) = (
        state(3, &healthy(1..3)),
        state(4, &[(1, Verdict::Healthy), (2, Verdict::Down), (3, Verdict::Healthy)]),
    );

    let mut stream = server.accept().await;
    assert_eq!(stream.hello().await.client, "shop");
    let subscribing = tokio::spawn({
        let jcm = jcm.clone();
        async move { jcm.cluster("orders").policy(Policy::round_robin()).subscribe().await.unwrap() }
    });
    assert_eq!(stream.subscription().await.cluster, "orders");
    stream.send(Event::Welcome(wire::Welcome { protocol: 1, server: "s".to_owned(), heartbeat_ms: 5000 }));
    stream.send(view(&first));
    stream.acknowledged(3).await;
    let orders = subscribing.await.unwrap();
    assert_eq!(orders.status(), Status::Live { revision: Revision(3) });
    assert_eq!(orders.nodes().len(), 2);

    stream.send(delta(&first, &second));
    assert!(tokio::time::timeout(DEADLINE, orders.reached(Revision(4))).await.unwrap());
    let picked: std::collections::BTreeSet<_> =
        (0..10).map(|_| orders.alloc().unwrap().id().clone()).collect();
    assert_eq!(picked.into_iter().collect::<Vec<_>>(), [id(1), id(3)]);
    assert!(!orders.is_panicking());
    jcm.shutdown().await;
}

#[tokio::test]
async fn with_no_server_a_program_still_starts_and_says_that_it_knows_nothing() {
    // Bound and not listening for long: nobody answers there.
    let address = Fake::start().await.address;
    let jcm = subscriber(&[address.to_string()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    assert_eq!(orders.status(), Status::Unknown);
    assert!(matches!(orders.alloc().unwrap_err(), AllocError::UnknownCluster { removed: None, .. }));

    let mut server = Fake::start_at(address).await;
    let mut stream = server.welcome().await;
    stream.subscription().await;
    stream.send(view(&state(1, &healthy(1..2))));
    until_live(&orders).await;
}

#[tokio::test]
async fn when_a_server_dies_another_takes_over_from_the_token_and_picks_go_on() {
    let (mut one, mut other) = (Fake::start().await, Fake::start().await);
    let jcm = subscriber(&[one.url(), other.url()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    let (first, second) = (state(8, &healthy(1..4)), state(9, &healthy(1..5)));
    let (dying, surviving, mut stream) = tokio::select! {
        stream = one.welcome() => (one, &mut other, stream),
        stream = other.welcome() => (other, &mut one, stream),
    };
    stream.subscription().await;
    stream.send(view(&first));
    stream.acknowledged(8).await;
    until_live(&orders).await;
    drop((dying, stream));

    let mut stream = surviving.welcome().await;
    drop(orders.alloc().expect("what is held can be picked from meanwhile"));
    let resumed = stream.subscription().await;
    assert_eq!((resumed.revision, resumed.token, resumed.store.len()), (8, token(&first), 16));
    stream.send(delta(&first, &second));
    stream.acknowledged(9).await;
    assert_eq!(orders.revision(), Some(Revision(9)));
}

#[tokio::test]
async fn a_server_that_a_server_told_of_is_used_when_that_one_ends() {
    let (mut seed, mut other) = (Fake::start().await, Fake::start().await);
    let jcm = subscriber(&[seed.url()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    let mut stream = seed.welcome().await;
    stream.subscription().await;
    let servers = vec![jcm_proto::v1::watch_response::Server {
        id: "other".to_owned(),
        advertise: other.address.to_string(),
        zone: String::new(),
    }];
    stream.send(Event::Servers(wire::Servers { servers }));
    let held = state(5, &healthy(1..3));
    stream.send(view(&held));
    stream.acknowledged(5).await;
    stream.send(Event::GoAway(wire::GoAway { reason: "stopping".to_owned() }));

    let mut next = other.welcome().await;
    assert_eq!(next.subscription().await.token, token(&held));
    assert_eq!(
        orders.status(),
        Status::Live { revision: Revision(5) },
        "the old stream counts until the new one answers"
    );
    next.send(delta(&held, &held));
    stream.ended().await;
    assert_eq!(orders.status(), Status::Live { revision: Revision(5) });
}

#[tokio::test]
async fn one_stream_carries_all_clusters_and_lets_go_of_those_that_nobody_holds() {
    let mut server = Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    let twin = jcm.cluster("orders").policy(Policy::round_robin()).subscribe().await.unwrap();
    let payments = jcm.cluster("payments").subscribe().await.unwrap();
    let mut stream = server.welcome().await;
    let (one, other) = (stream.subscription().await, stream.subscription().await);
    assert_eq!((one.cluster.as_str(), other.cluster.as_str()), ("orders", "payments"));
    drop((orders, payments));
    loop {
        use jcm_proto::v1::watch_request::Request;
        match stream.request().await.expect("the stream stays") {
            Request::Unsubscribe(unsubscribe) => {
                assert_eq!(unsubscribe.cluster, "payments");
                break;
            }
            other => assert!(!matches!(other, Request::Subscribe(_)), "{other:?}"),
        }
    }
    stream.send(view(&state(2, &healthy(1..2))));
    until_live(&twin).await;
}

#[tokio::test]
async fn changes_come_to_callbacks_and_streams_and_a_panic_in_one_ends_nothing() {
    let mut server = Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    let mut stream = server.welcome().await;
    stream.subscription().await;

    let turns = Arc::new(Mutex::new(Vec::new()));
    orders.on_change({
        let turns = Arc::clone(&turns);
        move |change| {
            turns.lock().unwrap().extend(change.turns());
            panic!("the callback is broken");
        }
    });
    let mut changes = orders.stream();
    let (first, second) = (
        state(1, &healthy(1..3)),
        state_with(2, &[(2, Verdict::Down), (3, Verdict::Healthy)], r#"{"timeout_ms":"300"}"#),
    );
    stream.send(view(&first));
    let change = tokio::time::timeout(DEADLINE, changes.next()).await.unwrap().unwrap();
    assert_eq!(
        (change.cluster(), change.revision(), change.added().len()),
        (&crate::model::orders(), Some(Revision(1)), 2)
    );
    until("the callback ran", || !turns.lock().unwrap().is_empty()).await;
    turns.lock().unwrap().clear();

    stream.send(view(&second));
    let change = tokio::time::timeout(DEADLINE, changes.next()).await.unwrap().unwrap();
    assert_eq!(change.status(), Status::Live { revision: Revision(2) });
    assert_eq!((change.added()[0].id.clone(), change.removed()[0].id.clone()), (id(3), id(1)));
    assert_eq!(change.properties().get("timeout_ms"), Some("300"));
    assert_eq!(orders.properties(), change.properties());
    until("the callback ran again", || turns.lock().unwrap().len() == 2).await;
    let turns = turns.lock().unwrap().clone();
    assert_eq!((turns[0].node.clone(), turns[0].from, turns[0].to), (id(2), Verdict::Healthy, Verdict::Down));

    jcm.shutdown().await;
    let mut last = None;
    while let Some(change) = tokio::time::timeout(DEADLINE, changes.next()).await.expect("the stream ends") {
        last = Some(change.status());
    }
    assert!(matches!(last, None | Some(Status::Stale { .. })), "{last:?}");
    assert!(matches!(orders.status(), Status::Stale { .. }));
    drop(orders.alloc().expect("handles outlive the tasks"));
}

#[tokio::test]
async fn a_removed_cluster_says_so_and_comes_back_when_it_is_created_again() {
    let mut server = Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let handle = jcm.cluster("orders").subscribe().await.unwrap();
    let mut stream = server.welcome().await;
    stream.subscription().await;
    stream.send(view(&state(5, &healthy(1..2))));
    let store = crate::model::store(1).0.as_bytes().to_vec();
    stream.send(Event::Removed(wire::Removed { cluster: orders().to_string(), store, revision: 7 }));
    until("it is removed", || handle.status() == Status::Removed { revision: Revision(7) }).await;
    let error = handle.alloc().unwrap_err();
    assert!(matches!(error, AllocError::UnknownCluster { removed: Some(Revision(7)), .. }), "{error}");
    stream.send(view(&state(8, &healthy(1..2))));
    until_live(&handle).await;
}

#[tokio::test]
async fn tasks_end_with_the_last_handle() {
    let mut server = Fake::start().await;
    let jcm = subscriber(&[server.url()]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    let mut stream = server.welcome().await;
    drop(jcm);
    stream.subscription().await;
    stream.send(view(&state(1, &healthy(1..2))));
    until_live(&orders).await;
    let node = orders.alloc().unwrap();
    drop(orders);
    stream.ended().await;
    assert_eq!(node.id(), &id(1), "a node in hand stays what it is");
}

#[tokio::test]
async fn a_shut_down_subscriber_takes_no_more_clusters() {
    let jcm = subscriber(&["127.0.0.1:1".to_owned()]).await;
    let other = jcm.clone();
    tokio::time::timeout(Duration::from_secs(5), jcm.shutdown()).await.expect("it ends in time");
    let error = other.cluster("orders").subscribe().await.unwrap_err();
    assert_eq!(error.to_string(), "cluster `orders` cannot be subscribed: the subscriber was shut down");
}
