//! A program with `jcm-subscriber` picks nodes that work, whatever happens to nodes, servers and itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jcm_subscriber::{AllocError, Cluster, Policy, Status, Subscriber, Verdict};
use jcm_tests::server::start;
use jcm_tests::{Client, Server, Target, eventually, loopback};
use serde_json::json;
use tempfile::TempDir;

use crate::checked::{TURN_DEADLINE, put, quick_check};
use crate::fixtures::{cluster, id, nodes};

/// More picks than any turn of a policy needs to come to every node.
const PICKS: usize = 300;

async fn subscriber(servers: &[String]) -> Subscriber {
    Subscriber::builder().servers(servers).build().await.expect("the addresses are good")
}

/// A program of its own, and its handle of `orders`.
async fn orders(server: &Server) -> (Subscriber, Cluster) {
    let jcm = subscriber(&[server.url()]).await;
    let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe().await.expect("a good name");
    (jcm, orders)
}

/// The ids that many picks come to.
fn picked(cluster: &Cluster) -> Result<BTreeSet<String>, AllocError> {
    (0..PICKS).map(|_| cluster.alloc().map(|picked| picked.id().to_string())).collect()
}

fn all(target: &Target) -> BTreeSet<String> {
    target.nodes().iter().map(ToString::to_string).collect()
}

/// Waits until many picks come to exactly these.
async fn until_picked(cluster: &Cluster, wanted: &BTreeSet<String>) {
    eventually(TURN_DEADLINE, &format!("picks come to {wanted:?}"), async || match picked(cluster) {
        Ok(found) if found == *wanted => Ok(()),
        other => Err(format!("{other:?}, {}", cluster.status())),
    })
    .await;
}

async fn until_status(cluster: &Cluster, what: &str, wanted: impl Fn(Status) -> bool) {
    eventually(TURN_DEADLINE, what, async || {
        let status = cluster.status();
        if wanted(status) { Ok(()) } else { Err(status) }
    })
    .await;
}

fn is_live(status: Status) -> bool {
    matches!(status, Status::Live { .. })
}

fn is_stale(status: Status) -> bool {
    matches!(status, Status::Stale { .. })
}

#[tokio::test]
async fn picks_leave_a_dead_node_and_come_back_to_it() {
    let (server, client) = start().await;
    let target = Target::start(4).await;
    put(&client, "orders", quick_check(), &target).await;
    let (_jcm, orders) = orders(&server).await;
    let everyone = all(&target);
    until_picked(&orders, &everyone).await;
    // Another node each time: one that died three times in a minute would be held.
    for (dead, behaviour) in target.nodes().iter().copied().zip(["refuse", "hang", "error500"]) {
        let others: BTreeSet<_> = everyone.iter().filter(|id| **id != dead.to_string()).cloned().collect();
        target.behave_at(dead, behaviour).await;
        until_picked(&orders, &others).await;
        // Not once more while it is dead.
        for _ in 0..20 {
            assert_eq!(picked(&orders).unwrap(), others, "{behaviour}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        target.behave_at(dead, "ok").await;
        until_picked(&orders, &everyone).await;
    }
}

#[tokio::test]
async fn what_is_picked_can_be_called() {
    let (server, client) = start().await;
    let target = Target::start(3).await;
    put(&client, "orders", quick_check(), &target).await;
    let (_jcm, orders) = orders(&server).await;
    until_picked(&orders, &all(&target)).await;
    for _ in 0..20 {
        let node = orders.alloc().unwrap();
        let url = format!("http://{}", node.addr("http").unwrap());
        let answer = Client::new(&url).get("/work").await;
        answer.expect_status(200);
        node.report::<_, ()>(&Ok(answer));
    }
    assert!(orders.alloc().unwrap().addr("grpc").is_err(), "a port that is not there is no address");
}

#[tokio::test]
async fn with_every_node_dead_picks_fall_back_to_all_and_say_so() {
    let (server, client) = start().await;
    let target = Target::start(3).await;
    put(&client, "orders", quick_check(), &target).await;
    let (_jcm, orders) = orders(&server).await;
    until_picked(&orders, &all(&target)).await;
    target.behave("refuse").await;
    eventually(TURN_DEADLINE, "all are down", async || {
        drop(orders.alloc().expect("never without a node"));
        let nodes = orders.nodes();
        if nodes.iter().all(|node| node.verdict == Verdict::Down) {
            Ok(())
        } else {
            Err(format!("{nodes:?}"))
        }
    })
    .await;
    assert!(orders.is_panicking());
    assert_eq!(picked(&orders).unwrap(), all(&target));
    target.behave("ok").await;
    eventually(
        TURN_DEADLINE,
        "all is well",
        async || {
            if orders.is_panicking() { Err("panicking") } else { Ok(()) }
        },
    )
    .await;
}

#[tokio::test]
async fn people_are_obeyed_at_once() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2, 3])).await.ok();
    let (_jcm, orders) = orders(&server).await;
    until_picked(&orders, &[1, 2, 3].map(id).into()).await;
    client.patch_node("orders", &id(1), &json!({ "draining": true })).await.ok();
    until_picked(&orders, &[2, 3].map(id).into()).await;
    client.patch_node("orders", &id(2), &json!({ "online": false })).await.ok();
    until_picked(&orders, &[3].map(id).into()).await;
    client.post_nodes("orders", &nodes([4])).await.ok();
    until_picked(&orders, &[3, 4].map(id).into()).await;
    client.patch_cluster("orders", &json!({ "online": false })).await.ok();
    eventually(TURN_DEADLINE, "an offline cluster has no node", async || match orders.alloc() {
        Err(AllocError::NoNode { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    client.patch_cluster("orders", &json!({ "online": true })).await.ok();
    until_picked(&orders, &[3, 4].map(id).into()).await;
}

#[tokio::test]
async fn a_cluster_that_is_deleted_is_unknown_and_may_come_back() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let (_jcm, orders) = orders(&server).await;
    until_picked(&orders, &[1].map(id).into()).await;
    let deleted = client.delete_cluster("orders").await.revision();
    eventually(TURN_DEADLINE, "removed", async || match orders.status() {
        Status::Removed { revision } if revision.0 >= deleted => Ok(()),
        status => Err(status),
    })
    .await;
    assert!(matches!(orders.alloc(), Err(AllocError::UnknownCluster { .. })));
    client.put_cluster("orders", &cluster([2])).await.ok();
    until_picked(&orders, &[2].map(id).into()).await;
}

#[tokio::test]
async fn a_program_may_be_earlier_than_its_cluster() {
    let (server, client) = start().await;
    let (_jcm, orders) = orders(&server).await;
    assert!(matches!(orders.alloc(), Err(AllocError::UnknownCluster { .. })));
    client.put_cluster("orders", &cluster([1])).await.ok();
    until_picked(&orders, &[1].map(id).into()).await;
}

#[tokio::test]
async fn what_a_program_holds_is_what_the_server_says_and_goes_forward_only() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster(1..20)).await.ok();
    let (jcm, orders) = orders(&server).await;
    let mut changes = orders.stream();
    let watching = tokio::spawn(async move {
        let mut last = 0;
        let mut seen = 0_u64;
        while let Some(change) = changes.next().await {
            let revision = change.revision().map_or(0, |revision| revision.0);
            assert!(revision >= last, "back from {last} to {revision}");
            last = revision;
            seen += 1;
        }
        seen
    });
    let mut written = 0;
    for step in 0..300_u16 {
        let port = 1 + step * 7 % 40;
        let answer = match step % 4 {
            0 => client.post_nodes("orders", &nodes([port])).await,
            1 => client.patch_node("orders", &id(port), &json!({ "weight": 1 + step })).await,
            2 => client.patch_cluster("orders", &json!({ "properties": { "step": step.to_string() } })).await,
            _ => client.delete_node("orders", &id(port)).await,
        };
        if answer.status != 404 {
            written = answer.revision();
        }
    }
    let view = client.view("orders").await;
    eventually(TURN_DEADLINE, "the last revision", async || {
        let held = orders.revision().map_or(0, |revision| revision.0);
        if held == view.ok()["revision"] { Ok(()) } else { Err(format!("{held} of {written}")) }
    })
    .await;
    let held: Vec<_> = orders.nodes().iter().map(|node| node.id().to_string()).collect();
    assert_eq!(held, view.node_ids());
    for node in orders.nodes() {
        let wanted = &view.node(node.id().as_str())["effective_weight"];
        assert_eq!(json!(node.effective_weight), *wanted, "{node:?}");
    }
    assert_eq!(orders.properties().get("step"), Some("298"));
    drop(orders);
    jcm.shutdown().await;
    assert!(watching.await.unwrap() > 1);
}

#[tokio::test]
async fn a_change_calls_back() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "properties": { "mode": "slow" } })).await.ok();
    let (_jcm, orders) = orders(&server).await;
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    orders.on_change(move |change| {
        if change.properties().get("mode") == Some("fast") {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    client.patch_cluster("orders", &json!({ "properties": { "mode": "fast" } })).await.ok();
    eventually(TURN_DEADLINE, "called back", async || match calls.load(Ordering::Relaxed) {
        0 => Err("not yet"),
        _ => Ok(()),
    })
    .await;
}

#[tokio::test]
async fn a_killed_server_is_stale_and_takes_nothing_away() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let (_jcm, orders) = orders(&server).await;
    let both = [1, 2].map(id).into();
    until_picked(&orders, &both).await;
    for port in 3..6 {
        server.kill_9().await;
        until_status(&orders, "stale", is_stale).await;
        assert!(picked(&orders).unwrap().is_superset(&both));
        server.restart().await;
        until_status(&orders, "live", is_live).await;
        assert!(picked(&orders).unwrap().is_superset(&both));
        client.post_nodes("orders", &nodes([port])).await.ok();
        until_picked(&orders, &(1..=port).map(id).collect()).await;
    }
}

#[tokio::test]
async fn a_server_that_is_stopped_properly_is_left_and_found_again() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let (_jcm, orders) = orders(&server).await;
    until_status(&orders, "live", is_live).await;
    assert!(server.terminate().await.success(), "an open stream must not hold it up");
    until_status(&orders, "stale", is_stale).await;
    assert_eq!(picked(&orders).unwrap(), [1].map(id).into());
    server.restart().await;
    until_status(&orders, "live", is_live).await;
}

#[tokio::test]
async fn a_paused_server_is_noticed() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let (_jcm, orders) = orders(&server).await;
    until_status(&orders, "live", is_live).await;
    server.signal("STOP").await;
    until_status(&orders, "stale", is_stale).await;
    assert_eq!(picked(&orders).unwrap(), [1].map(id).into());
    server.signal("CONT").await;
    until_status(&orders, "live", is_live).await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a data directory") {
        let path = entry.expect("a file in it").path();
        std::fs::copy(&path, to.join(path.file_name().expect("it has a name"))).expect("copied");
    }
}

#[tokio::test]
async fn the_next_server_is_taken_when_the_first_dies() {
    let (mut first, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    // An address where nobody is yet.
    let second_address = format!("{}:39999", loopback::next());
    let jcm = subscriber(&[first.url(), format!("http://{second_address}")]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    until_picked(&orders, &[1, 2].map(id).into()).await;
    assert!(first.terminate().await.success());
    // The same store comes up elsewhere, as after a move to another machine.
    let moved = TempDir::new().unwrap();
    copy(&first.data(), &moved.path().join("data"));
    let second = Server::dev().listen(&second_address).data(&moved.path().join("data")).start().await;
    until_status(&orders, "live", is_live).await;
    second.client().post_nodes("orders", &nodes([3])).await.ok();
    until_picked(&orders, &[1, 2, 3].map(id).into()).await;
}

#[tokio::test]
async fn another_store_empties_nothing() {
    let (mut first, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let second_address = format!("{}:39999", loopback::next());
    let jcm = subscriber(&[first.url(), format!("http://{second_address}")]).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    until_picked(&orders, &[1, 2].map(id).into()).await;
    first.kill_9().await;
    until_status(&orders, "stale", is_stale).await;
    // Born empty: that it knows no cluster says nothing about ours.
    let second = Server::dev().listen(&second_address).start().await;
    let other = jcm.cluster("other").subscribe().await.unwrap();
    second.client().put_cluster("other", &cluster([7])).await.ok();
    until_picked(&other, &[7].map(id).into()).await;
    assert_eq!(picked(&orders).unwrap(), [1, 2].map(id).into(), "{}", orders.status());
    // Once it has the cluster, it is believed.
    second.client().put_cluster("orders", &cluster([8])).await.ok();
    until_picked(&orders, &[8].map(id).into()).await;
}

#[tokio::test]
async fn a_program_starts_and_picks_with_no_server_at_all() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let directory = TempDir::new().unwrap();
    let build = async || {
        let builder = Subscriber::builder().servers([server.url()]).snapshot_dir(directory.path());
        builder.ready_timeout(Duration::from_secs(1)).build().await.expect("good addresses")
    };
    let jcm = build().await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    until_picked(&orders, &[1, 2].map(id).into()).await;
    drop(orders);
    jcm.shutdown().await;
    server.kill_9().await;

    let url = server.url();
    let build = async || {
        let builder = Subscriber::builder().servers([url.clone()]).snapshot_dir(directory.path());
        builder.ready_timeout(Duration::from_secs(1)).build().await.expect("good addresses")
    };
    let jcm = build().await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    assert!(matches!(orders.status(), Status::Snapshot { .. }), "{}", orders.status());
    assert_eq!(picked(&orders).unwrap(), [1, 2].map(id).into());
    let absent = jcm.cluster("absent").subscribe().await.unwrap();
    assert!(matches!(absent.alloc(), Err(AllocError::UnknownCluster { .. })));
    // The server comes back, with news.
    server.restart().await;
    until_status(&orders, "live", is_live).await;
    client.post_nodes("orders", &nodes([3])).await.ok();
    until_picked(&orders, &[1, 2, 3].map(id).into()).await;
    drop((orders, absent));
    jcm.shutdown().await;
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_believed() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let directory = TempDir::new().unwrap();
    let url = server.url();
    let build = async || {
        let builder = Subscriber::builder().servers([url.clone()]).snapshot_dir(directory.path());
        builder.ready_timeout(Duration::from_millis(200)).build().await.expect("good addresses")
    };
    let jcm = build().await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    until_picked(&orders, &[1, 2].map(id).into()).await;
    drop(orders);
    jcm.shutdown().await;
    server.kill_9().await;
    let files: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let mut tried = 0;
    for path in files.iter().filter(|path| path.is_file()) {
        let bytes = std::fs::read(path).unwrap();
        for index in (0..bytes.len()).step_by(bytes.len().div_ceil(12).max(1)) {
            let mut damaged = bytes.clone();
            damaged[index] ^= 0x20;
            std::fs::write(path, damaged).unwrap();
            let jcm = build().await;
            let orders = jcm.cluster("orders").subscribe().await.unwrap();
            match picked(&orders) {
                Ok(found) => assert_eq!(found, [1, 2].map(id).into(), "byte {index} of {}", path.display()),
                Err(AllocError::UnknownCluster { .. }) => {}
                Err(other) => panic!("byte {index} of {}: {other}", path.display()),
            }
            drop(orders);
            jcm.shutdown().await;
            tried += 1;
        }
        std::fs::write(path, bytes).unwrap();
    }
    assert!(tried >= 10, "only {tried} bytes were there to damage");
}

#[tokio::test]
async fn something_else_at_a_servers_address_is_passed_over() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let other = Target::start(4).await;
    let behaviours = ["ok", "hang", "garbage", "endless-headers"];
    for (node, behaviour) in other.nodes().iter().zip(behaviours) {
        other.behave_at(*node, behaviour).await;
    }
    let mut servers: Vec<_> = other.nodes().iter().map(|node| format!("http://{node}")).collect();
    servers.push(server.url());
    let jcm = subscriber(&servers).await;
    let orders = jcm.cluster("orders").subscribe().await.unwrap();
    until_status(&orders, "live", is_live).await;
    assert_eq!(picked(&orders).unwrap(), [1].map(id).into());
}

#[tokio::test]
async fn a_hundred_programs_see_the_same_change() {
    const PROGRAMS: usize = 100;
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1])).await.ok();
    let mut programs = Vec::new();
    for _ in 0..PROGRAMS {
        let (jcm, orders) = orders(&server).await;
        programs.push((jcm, orders));
    }
    let status = client.get("/v1/status").await;
    assert_eq!(status.ok()["subscribers"], PROGRAMS, "{status}");
    let revision = client.post_nodes("orders", &nodes([2])).await.revision();
    for (_, orders) in &programs {
        until_picked(orders, &[1, 2].map(id).into()).await;
        assert_eq!(orders.revision().map(|revision| revision.0), Some(revision));
    }
}
