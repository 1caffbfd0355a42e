//! Clusters that a test tells what a server would say.

use std::time::Duration;

use jcm_subscriber::testing::{self, FakeCluster, FakeNode};
use jcm_subscriber::{
    AllocError, Cluster, Failed, Me, NodeId, Policy, RegistrationStatus, Retry, Status, Verdict,
};

use super::picked;

const NODES: [&str; 3] = ["127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083"];

fn turns(orders: &Cluster, count: usize) -> Vec<String> {
    (0..count).map(|_| orders.alloc().expect("a node").id().to_string()).collect()
}

// No runtime: picks need none.
#[test]
fn a_fake_is_picked_from_in_the_same_order_each_time() {
    for policy in [Policy::round_robin(), Policy::random(), Policy::p2c(), Policy::ring_hash()] {
        let run = || {
            let fake = FakeCluster::new("orders", NODES);
            let orders = fake.subscribe(policy.clone());
            let mut seen = turns(&orders, 20);
            fake.down(NODES[1]);
            seen.extend(turns(&orders, 20));
            seen
        };
        assert_eq!(run(), run(), "{policy:?}");
        // Another thread, and one that has picked from something else.
        assert_eq!(run(), std::thread::scope(|scope| scope.spawn(run).join().expect("no panic")));
    }
    let orders = FakeCluster::new("orders", NODES).subscribe(Policy::round_robin());
    assert_eq!(turns(&orders, 4), [NODES[0], NODES[1], NODES[2], NODES[0]]);
}

#[test]
fn what_is_said_of_a_fake_takes_effect_at_once() {
    let fake = FakeCluster::new("orders", NODES);
    let orders = fake.subscribe(Policy::p2c());
    fake.down(NODES[0]);
    assert_eq!(picked(&orders), [NODES[1], NODES[2]].map(str::to_owned).into());
    fake.up(NODES[0]);
    assert_eq!(picked(&orders).len(), 3);
    fake.put(FakeNode::at(NODES[1]).draining());
    fake.put("[::1]:9000");
    assert_eq!(picked(&orders), [NODES[0], NODES[2], "[::1]:9000"].map(str::to_owned).into());
    fake.remove("[::1]:9000");
    fake.judge(NODES[2], Verdict::Degraded);
    let degraded = orders.nodes().into_iter().find(|node| node.verdict == Verdict::Degraded).expect("one");
    assert_eq!((degraded.id().as_str(), degraded.effective_weight), (NODES[2], 25));
    fake.property("timeout_ms", "300");
    assert_eq!(orders.properties().get("timeout_ms"), Some("300"));
    let node = FakeNode::at("127.0.0.1:8084")
        .port("grpc", 9094)
        .weight(7)
        .priority(0)
        .zone("z1")
        .label("rack", "a7");
    fake.put(node);
    let id = NodeId::parse("127.0.0.1:8084").expect("an id");
    let node =
        orders.alloc_excluding(&NODES.map(|id| NodeId::parse(id).expect("an id")).each_ref()).expect("it");
    assert_eq!((node.id(), node.zone(), node.label("rack")), (&id, "z1", Some("a7")));
    assert_eq!(node.addr("grpc").expect("it has one").port(), 9094);
    assert_eq!(node.addr("http").expect("it has one").port(), 8084);
}

#[test]
fn a_fake_fails_in_every_way_that_a_cluster_does() {
    let fake = FakeCluster::unknown("orders");
    let orders = fake.subscribe(Policy::p2c());
    assert!(matches!(orders.alloc(), Err(AllocError::UnknownCluster { removed: None, .. })));
    assert_eq!(orders.status(), Status::Unknown);
    fake.put(NODES[0]);
    assert!(matches!(orders.status(), Status::Live { .. }));
    let only = orders.alloc().expect("it is there");
    assert!(matches!(
        orders.alloc_excluding(&[only.id()]),
        Err(AllocError::AllExcluded { candidates: 1, .. })
    ));
    // Protection: the last node is called although checks find it down.
    fake.down(NODES[0]);
    assert!(orders.is_panicking() && orders.alloc().is_ok());
    fake.panic_below(0.0);
    assert!(matches!(orders.alloc(), Err(AllocError::NoNode { nodes: 1, .. })));
    fake.stale();
    assert!(matches!(orders.status(), Status::Stale { .. }));
    fake.delete();
    assert!(matches!(orders.alloc(), Err(AllocError::UnknownCluster { removed: Some(_), .. })));
    fake.put(NODES[1]);
    assert_eq!(orders.alloc().expect("created anew").id().as_str(), NODES[1]);
}

#[test]
fn nodes_whose_calls_fail_are_ejected_and_come_back_as_time_passes() {
    let fake = FakeCluster::new("orders", NODES);
    let orders = fake.subscribe(Policy::round_robin());
    for _ in 0..15 {
        let node = orders.alloc().expect("a node");
        let outcome = if node.id().as_str() == NODES[0] { Err(()) } else { Ok(()) };
        node.report(&outcome);
    }
    fake.pass(Duration::ZERO);
    assert_eq!(picked(&orders), [NODES[1], NODES[2]].map(str::to_owned).into());
    let left = orders.nodes()[0].ejected.expect("ejected").left;
    assert!(left <= Duration::from_secs(30) && left > Duration::from_secs(20), "{left:?}");
    fake.pass(Duration::from_secs(29));
    assert_eq!(picked(&orders).len(), 2);
    fake.pass(Duration::from_secs(2));
    assert_eq!(picked(&orders).len(), 3);
}

#[tokio::test]
async fn what_is_counted_only_rises_whatever_becomes_of_nodes() {
    let fake = FakeCluster::new("orders", NODES);
    let orders = fake.subscribe(Policy::round_robin());
    let call = async |retry: Retry| {
        let attempt = |node: std::sync::Arc<jcm_subscriber::Picked>| async move {
            if node.id().as_str() == NODES[0] { Err(Failed::refused("full")) } else { Ok(()) }
        };
        orders.call(retry, attempt).await.is_ok()
    };
    for _ in 0..9 {
        assert!(call(Retry::default()).await);
    }
    let counts = orders.counts();
    assert_eq!((counts.calls, counts.successes), (9, 9));
    assert!(counts.retries > 2 && counts.failures == counts.retries, "{counts:?}");
    assert_eq!((counts.retries_denied, counts.ejections), (0, 0));
    let mut denied = 0;
    while denied == 0 {
        call(Retry::default().budget(0.0, 0.0)).await;
        denied = orders.counts().retries_denied;
    }
    for _ in 0..10 {
        orders.alloc().expect("a node").report(&Ok::<(), ()>(()));
    }
    let before = orders.counts();
    fake.remove(NODES[0]);
    assert_eq!(orders.counts(), before);
    for _ in 0..10 {
        let node = orders.alloc().expect("a node");
        let outcome = if node.id().as_str() == NODES[1] { Err(()) } else { Ok(()) };
        node.report(&outcome);
    }
    fake.pass(Duration::ZERO);
    let after = orders.counts();
    assert_eq!((after.failures, after.ejections), (before.failures + 5, 1));
    fake.pass(Duration::from_mins(1));
    assert_eq!(orders.counts(), after);
}

#[tokio::test]
async fn a_program_that_subscribes_by_itself_is_given_fakes() {
    let orders = FakeCluster::new("orders", NODES);
    let jcm = testing::subscriber([&orders]);
    let handle = jcm.cluster("orders").subscribe().await.expect("a good name");
    let mut changes = handle.stream();
    assert_eq!(changes.next().await.expect("the first").added().len(), 3);
    orders.down(NODES[0]);
    let change = changes.next().await.expect("a change");
    assert_eq!(change.turns()[0].node.as_str(), NODES[0]);
    let answer = handle.call(Retry::default(), |node| async move {
        if node.id().as_str() == NODES[1] { Err(Failed::refused("full")) } else { Ok(node.id().to_string()) }
    });
    assert_eq!(answer.await.expect("the third"), NODES[2]);
    let other = jcm.cluster("other").subscribe().await.expect("a good name");
    assert_eq!(other.status(), Status::Unknown);
    assert!(jcm.cluster("..").subscribe().await.is_err());
    jcm.shutdown().await;
    assert!(changes.next().await.is_none());
}

#[tokio::test]
async fn a_program_that_registers_itself_is_registered() {
    let jcm = testing::subscriber([&FakeCluster::new("orders", NODES)]);
    let me = jcm.register("orders", Me::new().port("http", 8080)).start().await.expect("it is registered");
    let node = me.registered().await.expect("it stands");
    let standing = |status| match status {
        RegistrationStatus::Registered { node, online, .. } => (node, online),
        other => panic!("{other:?}"),
    };
    assert_eq!(standing(me.status()), (node.clone(), false));
    me.ready().await.expect("it stands");
    assert_eq!(standing(me.status()), (node, true));
    me.leave(Duration::from_secs(5)).await.expect("it leaves at once");
    jcm.register("orders", Me::new()).start().await.expect_err("a node has a port");
}

#[test]
fn wrong_use_of_a_fake_says_what_there_is() {
    let message = |wrong: fn(&FakeCluster)| {
        let fake = FakeCluster::new("orders", NODES);
        let panic =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| wrong(&fake))).expect_err("a panic");
        panic.downcast_ref::<String>().cloned().expect("it says why")
    };
    for (wrong, part) in [
        (
            (|fake| fake.down("127.0.0.1:1")) as fn(&FakeCluster),
            "has no node `127.0.0.1:1`: it has 127.0.0.1:8081,",
        ),
        (|fake| fake.put("localhost:80"), "`localhost:80` is no address of a node"),
        (|fake| fake.put(FakeNode::at("127.0.0.1:9").weight(0)), "node `127.0.0.1:9` is refused: weight: 0"),
        (|fake| drop(fake.subscribe(Policy::p2c().spill_below(7.0))), "the policy is refused: spill_below"),
        (
            |_| drop(FakeCluster::new("orders", ["127.0.0.1:9", "127.0.0.1:9"])),
            "127.0.0.1:9 stands there twice",
        ),
        (|_| drop(FakeCluster::unknown("a/b")), "cluster name"),
    ] {
        let said = message(wrong);
        assert!(said.contains(part), "{said}");
    }
}
