//! JCM under tower: its picks in a service, and its nodes under tower's picks.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt as _;
use jcm_subscriber::testing::{FakeCluster, FakeNode};
use jcm_subscriber::tower::{PerNode, PickLayer};
use jcm_subscriber::{CallError, Failed, Node, NodeId, Policy, Retry};
use jcm_tests::server::start;
use jcm_tests::{Target, eventually};
use tokio::net::TcpStream;
use tower::balance::p2c::Balance;
use tower::discover::Change;
use tower::load::{CompleteOnResponse, PendingRequestsDiscover};
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};

use super::{orders, tally, until_healthy, until_routable};
use crate::checked::{TURN_DEADLINE, put, quick_check};

fn address(node: &Node) -> SocketAddr {
    SocketAddr::new(node.address, node.port(None).expect("a node has a port"))
}

/// Connects, and answers with where.
fn connect(
    address: SocketAddr,
) -> impl Service<(), Response = SocketAddr, Error = io::Error, Future: Send> + Clone {
    service_fn(move |()| async move { TcpStream::connect(address).await?.peer_addr() })
}

#[tokio::test]
async fn nodes_come_and_go_under_towers_balancer_as_checks_find_them() {
    let (server, api) = start().await;
    let target = Target::start(3).await;
    put(&api, "orders", quick_check(), &target).await;
    let (_jcm, orders) = orders(&server, Policy::p2c()).await;
    until_healthy(&orders, 3).await;
    let nodes = orders.discover(|node: &Node| connect(address(node)));
    let mut balance = Balance::new(PendingRequestsDiscover::new(nodes, CompleteOnResponse::default()));
    let mut called = async |calls: usize| {
        let mut seen = BTreeSet::new();
        for _ in 0..calls {
            seen.insert(balance.ready().await.expect("ready").call(()).await.expect("it listens"));
        }
        seen
    };
    assert_eq!(called(200).await, target.nodes().iter().copied().collect());
    let dead = target.nodes()[0];
    target.behave_at(dead, "error500").await;
    until_healthy(&orders, 2).await;
    assert_eq!(called(200).await, target.nodes()[1..].iter().copied().collect());
    target.behave_at(dead, "ok").await;
    until_healthy(&orders, 3).await;
    assert_eq!(called(200).await.len(), 3);
}

#[tokio::test]
async fn only_what_changed_is_told() {
    let fake = FakeCluster::new("orders", ["127.0.0.1:8081", "127.0.0.1:8082"]);
    let mut told = fake.subscribe(Policy::p2c()).discover(address);
    let mut next = async || match told.next().await {
        Some(Ok(Change::Insert(id, service))) => format!("+{id} {service}"),
        Some(Ok(Change::Remove(id))) => format!("-{id}"),
        None => "the end".to_owned(),
        Some(Err(never)) => match never {},
    };
    assert_eq!(
        [next().await, next().await],
        ["+127.0.0.1:8081 127.0.0.1:8081", "+127.0.0.1:8082 127.0.0.1:8082"]
    );
    fake.property("colour", "red");
    fake.down("127.0.0.1:8081");
    assert_eq!(next().await, "-127.0.0.1:8081");
    // It stands by for another try elsewhere, and is not chosen.
    fake.put(FakeNode::at("127.0.0.1:8083").priority(1));
    // Another form of the same node.
    fake.put(FakeNode::at("127.0.0.1:8082").port("http", 9082));
    assert_eq!(next().await, "+127.0.0.1:8082 127.0.0.1:9082");
    fake.remove("127.0.0.1:8081");
    fake.delete();
    assert_eq!(next().await, "-127.0.0.1:8082");
    drop(fake);
    assert_eq!(next().await, "the end");
}

#[tokio::test]
async fn a_request_goes_to_another_node_when_one_refuses() {
    let (server, api) = start().await;
    let target = Target::start(3).await;
    // Nobody checks them, so only calls tell.
    api.put_cluster("orders", &serde_json::json!({ "nodes": target.definitions() })).await.ok();
    let (_jcm, orders) = orders(&server, Policy::round_robin()).await;
    until_routable(&orders, 3).await;
    let dead = target.nodes()[0];
    target.behave_at(dead, "refuse").await;
    let nodes = PerNode::new(|node: &Node| connect(address(node)));
    let mut service = ServiceBuilder::new().layer(PickLayer::new(&orders)).service(nodes);
    eventually(TURN_DEADLINE, "the node refuses", async || {
        service.ready().await.expect("always").call(()).await.expect("another takes it");
        if tally(&orders, &dead).1 > 0 { Ok(()) } else { Err(format!("{:?}", orders.nodes())) }
    })
    .await;
    let mut never = ServiceBuilder::new()
        .layer(PickLayer::new(&orders).retry(Retry::never()))
        .service(PerNode::new(|node: &Node| connect(address(node))));
    let before = tally(&orders, &dead);
    let mut refused = 0;
    for _ in 0..3 {
        match never.ready().await.expect("always").call(()).await {
            Ok(_) => {}
            Err(CallError::Failed { node, attempts: 1, source, .. }) => {
                assert_eq!(
                    (node.to_string(), source.kind()),
                    (dead.to_string(), io::ErrorKind::ConnectionRefused)
                );
                refused += 1;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(tally(&orders, &dead).1 - before.1, refused, "outcomes are told");
}

#[tokio::test]
async fn a_node_has_one_service_as_long_as_it_is_the_same() {
    let fake = FakeCluster::new("orders", ["127.0.0.1:8081", "127.0.0.1:8082"]);
    let orders = fake.subscribe(Policy::round_robin());
    let made = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&made);
    let nodes = PerNode::new(move |node: &Node| {
        counted.fetch_add(1, Ordering::Relaxed);
        let id = node.id.clone();
        service_fn(move |()| {
            let id = id.clone();
            async move { Ok::<NodeId, Failed<String>>(id) }
        })
    });
    let mut service = ServiceBuilder::new().layer(PickLayer::new(&orders)).service(nodes);
    let mut call =
        async || service.ready().await.expect("always").call(()).await.expect("an answer").to_string();
    let first: BTreeSet<_> = [call().await, call().await, call().await].into();
    assert_eq!((first.len(), made.load(Ordering::Relaxed)), (2, 2));
    fake.property("colour", "red");
    call().await;
    call().await;
    assert_eq!(made.load(Ordering::Relaxed), 2);
    // Gone and back, and one at another port.
    fake.remove("127.0.0.1:8081");
    assert_eq!(call().await, "127.0.0.1:8082");
    fake.put("127.0.0.1:8081");
    fake.put(FakeNode::at("127.0.0.1:8082").port("http", 9082));
    call().await;
    call().await;
    assert_eq!(made.load(Ordering::Relaxed), 4);
}
