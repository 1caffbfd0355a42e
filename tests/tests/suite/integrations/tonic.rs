//! Calls of a generated client through the channel, to real gRPC servers in processes of their own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jcm_subscriber::testing::{FakeCluster, FakeNode};
use jcm_subscriber::tonic::Channel;
use jcm_subscriber::{Cluster, Outliers, Policy, Retry, Subscriber};
use jcm_tests::server::start;
use jcm_tests::{Client, Target, loopback};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::grpc_node::GrpcNode;
use super::{TURN_DEADLINE, picked, tally, until_healthy};

/// Calls that go to every node many times.
const CALLS: u32 = 60;

async fn nodes(count: usize) -> Vec<GrpcNode> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(GrpcNode::start().await);
    }
    nodes
}

async fn put(client: &Client, check: Value, nodes: &[GrpcNode]) {
    let nodes: Vec<Value> = nodes.iter().map(GrpcNode::definition).collect();
    client.put_cluster("orders", &json!({ "check": check, "nodes": nodes })).await.ok();
}

fn check() -> Value {
    json!({ "kind": "grpc", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 })
}

async fn call(client: &mut HealthClient<Channel>, service: &str) -> Result<(), Status> {
    client.check(HealthCheckRequest { service: service.to_owned() }).await.map(drop)
}

/// As if it listened, and did not.
fn fake(nodes: &[&GrpcNode]) -> FakeCluster {
    let nodes = nodes.iter().map(|node| {
        let address = node.address.to_string();
        FakeNode::at(address).port("grpc", node.address.port())
    });
    FakeCluster::new("orders", nodes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_fails_no_call_and_is_left_before_it_could() {
    let (server, client) = start().await;
    let mut nodes = nodes(3).await;
    put(&client, check(), &nodes).await;
    // Ejection must not hide whether a node that checks find down is left alone.
    let short = Outliers::default().times(Duration::from_secs(1), Duration::from_secs(1));
    let jcm = Subscriber::builder().servers([server.url()]).build().await.expect("the addresses are good");
    let orders = jcm.cluster("orders").outliers(short).subscribe().await.expect("a good name");
    until_healthy(&orders, 3).await;

    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let channel = Channel::builder(&orders).retry(Retry::default().repeatable()).build();
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            let mut client = HealthClient::new(channel.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    call(&mut client, "").await?;
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<(), Status>(())
            })
        })
        .collect();
    until_called(&made, 200).await;
    nodes[0].kill().await;
    until_healthy(&orders, 2).await;
    jcm_tests::eventually(TURN_DEADLINE, "its ejection is over", async || {
        let nodes = orders.nodes();
        if nodes.iter().all(|node| node.ejected.is_none()) { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
    // What was under way to it is over once as many more calls are.
    until_called(&made, 200).await;
    let failed = tally(&orders, &nodes[0].address).1;
    until_called(&made, 500).await;
    assert_eq!(tally(&orders, &nodes[0].address).1, failed, "a node that is down is not called");
    assert!(!picked(&orders).contains(&nodes[0].address.to_string()));

    nodes[0].revive().await;
    until_healthy(&orders, 3).await;
    let succeeded = tally(&orders, &nodes[0].address).0;
    jcm_tests::eventually(TURN_DEADLINE, "it is called again", async || {
        if tally(&orders, &nodes[0].address).0 > succeeded {
            Ok(())
        } else {
            Err(format!("{:?}", orders.nodes()))
        }
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no panic").expect("no call failed");
    }
}

async fn until_called(made: &AtomicU64, more: u64) {
    let wanted = made.load(Ordering::Relaxed) + more;
    jcm_tests::eventually(TURN_DEADLINE, "calls are made", async || {
        let made = made.load(Ordering::Relaxed);
        if made >= wanted { Ok(()) } else { Err(format!("{made} of {wanted}")) }
    })
    .await;
}

#[tokio::test]
async fn a_call_that_no_node_took_goes_elsewhere_although_it_may_not_be_repeated() {
    let mut nodes = nodes(2).await;
    let fake = fake(&[&nodes[0], &nodes[1]]);
    let orders = fake.subscribe(Policy::round_robin());
    nodes[0].kill().await;
    let mut client = HealthClient::new(Channel::new(&orders));
    for _ in 0..CALLS {
        call(&mut client, "").await.expect("the other node takes it");
    }
    assert_eq!(tally(&orders, &nodes[1].address), (u64::from(CALLS), 0));
    let (_, failed) = tally(&orders, &nodes[0].address);
    assert!(failed > 1, "it was tried {failed} times");
    nodes[1].kill().await;
    let status = call(&mut client, "").await.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // The policy picks, and not the connections: who is down is not called whatever its connection looks like.
    fake.panic_below(0.0);
    for node in &nodes {
        fake.down(&node.address.to_string());
    }
    let status = call(&mut client, "").await.expect_err("nobody may be called");
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unavailable,
            "no call was made: cluster `orders` has no node to call: none of its 2 nodes is routable"
        )
    );
}

#[tokio::test]
async fn an_answer_is_no_failure_and_is_passed_on() {
    let nodes = nodes(1).await;
    let orders = fake(&[&nodes[0]]).subscribe(Policy::p2c());
    let mut client = HealthClient::new(Channel::new(&orders));
    call(&mut client, "orders.v1.Orders").await.expect("it is there");
    let status = call(&mut client, "unheard.v1.Of").await.expect_err("it says so");
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(tally(&orders, &nodes[0].address), (2, 0));
}

#[tokio::test]
async fn a_call_is_in_flight_until_its_stream_is_over() {
    let nodes = nodes(1).await;
    let orders = fake(&[&nodes[0]]).subscribe(Policy::p2c());
    let in_flight = |orders: &Cluster| orders.nodes()[0].in_flight;
    let mut client = HealthClient::new(Channel::new(&orders));
    let watched = client.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream");
    let mut stream = watched.into_inner();
    stream.message().await.expect("no failure").expect("what it is now");
    assert_eq!(in_flight(&orders), 1);
    drop(stream);
    assert_eq!((in_flight(&orders), tally(&orders, &nodes[0].address)), (0, (1, 0)), "a message had come");
    call(&mut client, "").await.expect("it is there");
    assert_eq!((in_flight(&orders), tally(&orders, &nodes[0].address)), (0, (2, 0)));
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_failure_of_its_node() {
    let mut nodes = nodes(1).await;
    let orders = fake(&[&nodes[0]]).subscribe(Policy::p2c());
    let mut client = HealthClient::new(Channel::new(&orders));
    let watched = client.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream");
    let mut stream = watched.into_inner();
    stream.message().await.expect("no failure").expect("what it is now");
    nodes[0].kill().await;
    stream.message().await.expect_err("it broke");
    assert_eq!((orders.nodes()[0].in_flight, tally(&orders, &nodes[0].address)), (0, (0, 1)));
}

#[tokio::test]
async fn a_node_that_speaks_no_grpc_or_has_no_such_port_is_left_for_another() {
    let nodes = nodes(1).await;
    let target = Target::start(1).await;
    let http = target.nodes()[0];
    let fake = FakeCluster::new(
        "orders",
        [FakeNode::at(nodes[0].address.to_string()).port("grpc", nodes[0].address.port())],
    );
    fake.put(FakeNode::at(http.to_string()));
    let orders = fake.subscribe(Policy::round_robin());
    let mut client = HealthClient::new(Channel::new(&orders));
    for _ in 0..10 {
        call(&mut client, "").await.expect("the other has the port");
    }
    assert_eq!(tally(&orders, &http).0, 0);
    let mut client = HealthClient::new(Channel::builder(&orders).port("admin").build());
    let status = call(&mut client, "").await.expect_err("nobody has it");
    assert!(status.message().contains("has no port `admin`: it offers "), "{status}");
}

#[tokio::test]
async fn the_time_that_a_caller_gives_holds_for_all_attempts() {
    let target = Target::start(2).await;
    target.behave("hang").await;
    let hanging = target.nodes().iter().map(|at| FakeNode::at(at.to_string()).port("grpc", at.port()));
    let orders = FakeCluster::new("orders", hanging).subscribe(Policy::round_robin());
    let mut client =
        HealthClient::new(Channel::builder(&orders).retry(Retry::default().repeatable()).build());
    let mut request = Request::new(HealthCheckRequest { service: String::new() });
    request.set_timeout(Duration::from_millis(200));
    let status = client.check(request).await.expect_err("nobody answers");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
}

/// A node in this process: whether its health service refuses calls, and what each call said of its time.
struct Timed {
    address: SocketAddr,
    said: Arc<Mutex<Vec<Option<String>>>>,
    health: HealthReporter,
}

impl Timed {
    async fn start(refuses: bool) -> Self {
        let listener = TcpListener::bind((loopback::next(), 0)).await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let said = Arc::new(Mutex::new(Vec::new()));
        let (health, _) = tonic_health::server::health_reporter();
        let service = HealthService::from_health_reporter(health.clone());
        let heard = Arc::clone(&said);
        let intercepted = HealthServer::with_interceptor(service, move |request: Request<()>| {
            let timeout = request.metadata().get("grpc-timeout");
            let text = timeout.map(|text| text.to_str().expect("it is text").to_owned());
            heard.lock().expect("no panic").push(text);
            if refuses { Err(Status::unavailable("not now")) } else { Ok(request) }
        });
        // It ends with the runtime of its test.
        tokio::spawn(
            Server::builder().add_service(intercepted).serve_with_incoming(TcpIncoming::from(listener)),
        );
        Self { address, said, health }
    }

    fn said(&self) -> Vec<Option<String>> {
        self.said.lock().expect("no panic").clone()
    }
}

/// A handle that picks the first of these first.
fn in_turn(nodes: &[&Timed]) -> Cluster {
    let nodes = nodes.iter().map(|node| {
        let address = node.address.to_string();
        FakeNode::at(address).port("grpc", node.address.port())
    });
    FakeCluster::new("orders", nodes).subscribe(Policy::round_robin())
}

#[tokio::test]
async fn each_attempt_tells_its_node_what_is_left_of_the_time() {
    let (refusing, answering) = (Timed::start(true).await, Timed::start(false).await);
    let orders = in_turn(&[&refusing, &answering]);
    let mut client =
        HealthClient::new(Channel::builder(&orders).retry(Retry::default().repeatable()).build());
    for _ in 0..2 {
        let mut request = Request::new(HealthCheckRequest { service: String::new() });
        request.set_timeout(Duration::from_mins(1));
        client.check(request).await.expect("the other one answers");
    }
    let microseconds = |said: &Option<String>| {
        let text = said.as_deref().expect("a time is said").strip_suffix('u').expect("microseconds");
        text.parse::<u64>().expect("a number")
    };
    let first = refusing.said().iter().map(microseconds).min().expect("it was called");
    let second = answering.said().iter().map(microseconds).min().expect("it was called");
    assert!(first < 60_000_000 && second < first, "{second} are left after {first}");
    // Nobody who waits for ever tells a node otherwise, whatever the channel's own deadline is.
    let retry = Retry::default().deadline(Duration::from_mins(1)).repeatable();
    let mut client = HealthClient::new(Channel::builder(&orders).retry(retry).build());
    call(&mut client, "").await.expect("one of them answers");
    assert_eq!(answering.said().last(), Some(&None));
}

#[tokio::test]
async fn a_stream_outlasts_the_deadline_of_its_channel() {
    let node = Timed::start(false).await;
    let orders = in_turn(&[&node]);
    let deadline = Duration::from_secs(2);
    let channel = Channel::builder(&orders).retry(Retry::default().deadline(deadline)).build();
    let mut client = HealthClient::new(channel);
    let watched = client.watch(HealthCheckRequest { service: String::new() }).await.expect("a stream");
    let mut stream = watched.into_inner();
    stream.message().await.expect("no failure").expect("what it is now");
    // Nothing comes of the deadline, so there is nothing to wait for but that it has passed.
    tokio::time::sleep(deadline).await;
    node.health.set_service_status("", ServingStatus::NotServing).await;
    stream.message().await.expect("no failure").expect("what it is then");
    assert_eq!(tally(&orders, &node.address), (0, 0), "it goes on");
    drop(stream);
    assert_eq!(tally(&orders, &node.address), (1, 0));
}
