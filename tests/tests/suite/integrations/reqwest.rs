//! Requests by the name of a cluster, to real HTTP nodes.

use jcm_subscriber::reqwest::Clusters;
use jcm_subscriber::testing::{FakeCluster, FakeNode};
use jcm_subscriber::{Cluster, Policy, Retry};
use jcm_tests::server::start;
use jcm_tests::{Target, eventually};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};

use super::{orders, picked, tally, until_healthy};
use crate::checked::{TURN_DEADLINE, put, quick_check};

fn client(clusters: Clusters) -> ClientWithMiddleware {
    // Without a proxy: the environment of the machine must not send loopback traffic elsewhere.
    let inner = reqwest::Client::builder().no_proxy().build().expect("a client without TLS always builds");
    ClientBuilder::new(inner).with(clusters).build()
}

/// Nodes, and a handle that goes to all of them in turn.
async fn field(count: usize) -> (Target, Cluster) {
    let target = Target::start(count).await;
    let fake = FakeCluster::new("orders", target.nodes().iter().copied());
    (target, fake.subscribe(Policy::round_robin()))
}

#[tokio::test]
async fn a_cluster_is_asked_by_its_name_and_nodes_that_are_down_are_left_alone() {
    let (server, api) = start().await;
    let target = Target::start(3).await;
    put(&api, "orders", quick_check(), &target).await;
    let (_jcm, orders) = orders(&server, Policy::round_robin()).await;
    until_healthy(&orders, 3).await;
    // A connection that was kept may break just as it is used again.
    let http = client(Clusters::new([&orders]).retry(Retry::default().repeatable()));
    let get = async || http.get("http://orders.jcm/work?x=1").send().await.expect("it is answered").status();
    for _ in 0..30 {
        assert_eq!(get().await, 200);
    }
    for node in target.nodes() {
        assert_eq!(tally(&orders, node), (10, 0));
    }
    let dead = target.nodes()[0];
    target.behave_at(dead, "refuse").await;
    // Refused ones go elsewhere until it is found down, and then none goes there.
    eventually(TURN_DEADLINE, "it is left", async || {
        assert_eq!(get().await, 200);
        if picked(&orders).contains(&dead.to_string()) {
            Err(format!("{:?}", orders.nodes()))
        } else {
            Ok(())
        }
    })
    .await;
    until_healthy(&orders, 2).await;
    let failed = tally(&orders, &dead).1;
    for _ in 0..30 {
        assert_eq!(get().await, 200);
    }
    assert_eq!(tally(&orders, &dead).1, failed);
}

#[tokio::test]
async fn a_node_is_asked_under_its_own_address_unless_the_request_says_otherwise() {
    let (target, orders) = field(1).await;
    let node = target.nodes()[0];
    let http = client(Clusters::new([&orders]));
    let response = http.get("http://ORDERS.jcm/work?x=1").send().await.expect("it is answered");
    assert_eq!(response.url().as_str(), format!("http://{node}/work?x=1"));
    drop(response);
    let head = target.last_request(node).await.to_ascii_lowercase();
    assert!(
        head.starts_with("get /work?x=1 http/1.1\r\n") && head.contains(&format!("host: {node}\r\n")),
        "{head}"
    );
    http.get("http://orders.jcm/").header("Host", "shop.example").send().await.expect("it is answered");
    let head = target.last_request(node).await.to_ascii_lowercase();
    assert!(head.contains("host: shop.example\r\n"), "{head}");
    // Other hosts are none of its business.
    let plain = http.get(format!("http://{node}/plain")).send().await.expect("it is answered");
    assert_eq!((plain.status().as_u16(), tally(&orders, &node)), (200, (2, 0)));
}

#[tokio::test]
async fn what_was_not_sent_goes_elsewhere_whatever_its_method() {
    let (target, orders) = field(2).await;
    let [refusing, taking] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(refusing, "refuse").await;
    let http = client(Clusters::new([&orders]));
    for _ in 0..10 {
        let response =
            http.post("http://orders.jcm/order").body("seven").send().await.expect("the other takes it");
        assert_eq!(response.status(), 200);
    }
    assert_eq!(tally(&orders, &taking).0, 10);
    assert!(tally(&orders, &refusing).1 > 1);
    assert_eq!(target.count(taking).await, 10);
}

#[tokio::test]
async fn what_a_node_took_and_sent_on_to_where_nobody_listens_is_not_sent_to_another_one() {
    let target = Target::start(3).await;
    // Redirects point to the first one, which is in no cluster and gone.
    let [gone, nodes @ ..] = target.nodes() else { panic!("three were asked for") };
    target.behave_at(*gone, "refuse").await;
    for node in nodes {
        target.behave_at(*node, "redirect").await;
    }
    let orders = FakeCluster::new("orders", nodes.iter().copied()).subscribe(Policy::round_robin());
    let http = client(Clusters::new([&orders]));
    let error = http.post("http://orders.jcm/order").body("seven").send().await.expect_err("nobody is there");
    let asked = [target.count(nodes[0]).await, target.count(nodes[1]).await];
    assert_eq!(asked.iter().sum::<u64>(), 1, "{asked:?}: {error:?}");
}

#[tokio::test]
async fn a_body_that_is_there_once_goes_to_a_node_with_the_port() {
    let target = Target::start(1).await;
    let node = target.nodes()[0];
    let fake = FakeCluster::new(
        "orders",
        [FakeNode::at("127.0.0.1:1"), FakeNode::at(node.to_string()).port("admin", node.port())],
    );
    let orders = fake.subscribe(Policy::round_robin());
    let http = client(Clusters::new([&orders]).port("admin"));
    for _ in 0..4 {
        let once = futures_util::stream::iter([Ok::<_, std::io::Error>("seven")]);
        let request = http.post("http://orders.jcm/order").body(reqwest::Body::wrap_stream(once));
        assert_eq!(request.send().await.expect("a node has the port").status(), 200);
    }
    assert_eq!(target.count(node).await, 4);
}

#[tokio::test]
async fn what_broke_goes_elsewhere_only_if_it_is_idempotent_and_may_be_repeated() {
    let (target, orders) = field(2).await;
    let [closing, _] = *target.nodes() else { panic!("two were asked for") };
    target.behave_at(closing, "close").await;
    let careful = client(Clusters::new([&orders]));
    let bold = client(Clusters::new([&orders]).retry(Retry::default().repeatable()));
    // One of two in turn comes to the node that breaks.
    let mut broken = 0;
    for _ in 0..2 {
        broken += u32::from(careful.get("http://orders.jcm/").send().await.is_err());
        broken += u32::from(bold.post("http://orders.jcm/").body("seven").send().await.is_err());
        broken += u32::from(careful.get("http://orders.jcm/").send().await.is_err());
    }
    assert!(broken >= 2, "{broken}");
    let before = tally(&orders, &closing).1;
    for _ in 0..10 {
        assert_eq!(bold.get("http://orders.jcm/").send().await.expect("the other answers").status(), 200);
    }
    assert!(tally(&orders, &closing).1 > before, "it was tried");
}

#[tokio::test]
async fn an_answer_of_500_is_the_answer_and_a_failure_of_its_node() {
    let (target, orders) = field(1).await;
    target.behave("error500").await;
    let http = client(Clusters::new([&orders]).retry(Retry::default().repeatable()));
    assert_eq!(http.get("http://orders.jcm/").send().await.expect("an answer").status(), 500);
    assert_eq!(tally(&orders, &target.nodes()[0]), (0, 1));
}

#[tokio::test]
async fn a_request_is_in_flight_until_its_body_was_read_or_dropped() {
    let target = Target::start(1).await;
    let orders = FakeCluster::new("orders", target.nodes().iter().copied()).subscribe(Policy::p2c());
    let http = client(Clusters::new([&orders]));
    let in_flight = || orders.nodes()[0].in_flight;
    let response = http.get("http://orders.jcm/").send().await.expect("an answer");
    assert_eq!((in_flight(), tally(&orders, &target.nodes()[0])), (1, (0, 0)));
    response.bytes().await.expect("a body");
    assert_eq!((in_flight(), tally(&orders, &target.nodes()[0])), (0, (1, 0)));
    let response = http.get("http://orders.jcm/").send().await.expect("an answer");
    drop(response);
    assert_eq!((in_flight(), tally(&orders, &target.nodes()[0])), (0, (2, 0)), "its head was good");
}

#[tokio::test]
async fn what_cannot_be_asked_is_refused_by_name() {
    let fake = FakeCluster::new("orders", ["127.0.0.1:1"]);
    fake.panic_below(0.0);
    fake.down("127.0.0.1:1");
    let (orders, users) =
        (fake.subscribe(Policy::p2c()), FakeCluster::unknown("users").subscribe(Policy::p2c()));
    let http = client(Clusters::new([&orders, &users]));
    for (url, part) in [
        (
            "http://payments.jcm/",
            "`http://payments.jcm/` is of no cluster that this client was given: those are orders, users",
        ),
        ("http://orders.jcm:8080/", "`http://orders.jcm:8080/` names a port"),
        ("http://orders.jcm/", "cluster `orders` has no node to call"),
        ("http://users.jcm/", "cluster `users` is unknown"),
    ] {
        let error = http.get(url).send().await.expect_err(url);
        let Error::Middleware(error) = error else { panic!("{error}") };
        assert!(format!("{error:#}").contains(part), "{error:#}");
    }
    fake.up("127.0.0.1:1");
    let error = http.get("https://orders.jcm/").send().await.expect_err("no such port");
    let Error::Middleware(error) = error else { panic!("{error}") };
    assert!(format!("{error:#}").contains("has no port `https`: it offers http"), "{error:#}");
    // Nobody listens there.
    let error = http.get("http://orders.jcm/").send().await.expect_err("refused");
    assert!(error.is_connect(), "{error:?}");
}
