//! Registrations that outlive the servers they go through.

use std::time::Duration;

use jcm_subscriber::{Me, RegistrationStatus, Subscriber};
use jcm_tests::server::start;
use jcm_tests::{Client, Ensemble, Group};
use serde_json::{Value, json};

use super::{
    DEADLINE, LONG_TTL, TTL, address, id, is_online, lease_of, me, of_leases, program, until_healthy,
    until_node, view,
};

/// Long enough for a busy machine, short enough to wait for.
const MOVING_TTL: Duration = Duration::from_secs(10);

/// The node's definition with all that a registration would change.
async fn defined(client: &Client) -> (u64, Value) {
    let cluster = client.get_cluster("orders").await;
    (cluster.etag(), cluster.node(&id(1)).clone())
}

#[tokio::test]
async fn a_server_that_was_killed_and_comes_back_still_has_it() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[server.url()]).await;
    let me = me(&jcm, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    until_healthy(&client, 1).await;
    let before = defined(&client).await;
    server.restart().await;
    until_healthy(&client, 1).await;
    // Beyond the time after which one that is not kept would be gone.
    tokio::time::sleep(TTL * 3).await;
    let view = view(&client).await.expect("it is served");
    assert_eq!(view.node(&id(1))["verdict"], "healthy", "{view}");
    assert_eq!(defined(&client).await, before, "it was not written again");
    assert!(is_online(&me.status()));
}

#[tokio::test]
async fn a_program_that_starts_before_its_server_is_registered_once_that_is_there() {
    // Somebody has an address, and goes.
    let (mut server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    server.kill_9().await;
    let jcm = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::from_millis(100));
    let jcm = jcm.build().await.expect("a good address");
    let me =
        jcm.register("orders", Me::new().port("http", 80)).ttl(LONG_TTL).start().await.expect("it is tried");
    assert!(matches!(me.status(), RegistrationStatus::Trying { .. }));
    server.restart().await;
    let node = tokio::time::timeout(DEADLINE, me.registered()).await.expect("in time").expect("it stands");
    until_node(&client, node.as_str(), "verdict", json!("healthy")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_moves_to_another_server_and_stays_the_node_that_it_was() {
    let ensemble = Ensemble::start(1).await;
    let mut group = Group::start(&ensemble, 2).await;
    let clients = group.clients();
    clients[0].put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[group.server(0).url()]).await;
    let me = me(&jcm, 1).ttl(MOVING_TTL).ready_at_once().start().await.expect("it is registered");
    for client in &clients {
        until_healthy(client, 1).await;
    }
    let before = defined(&clients[1]).await;
    // It asks to be left, and ends.
    group.server_mut(0).terminate().await;
    stays(&clients[1], &before).await;
    group.server_mut(0).restart().await;
    until_healthy(&clients[0], 1).await;
    // And so it does when the other one is killed.
    group.server_mut(1).kill_9().await;
    stays(&clients[0], &before).await;
    assert!(is_online(&me.status()));
    assert_eq!(lease_of(&clients[0], &id(1)).await, me.lease().to_string());
    // What is written goes through the server that is left.
    me.leave(Duration::ZERO).await.expect("it leaves");
    assert!(clients[0].get_cluster("orders").await.node_ids().is_empty());
}

/// Whoever comes to its address and port under another id waits for as long as it lives, wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_moves_keeps_its_place_from_one_that_wants_it() {
    let ensemble = Ensemble::start(1).await;
    let mut group = Group::start(&ensemble, 2).await;
    let clients = group.clients();
    clients[0].put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[group.server(0).url()]).await;
    let owner = me(&jcm, 1).ttl(MOVING_TTL).ready_at_once().start().await.expect("it is registered");
    for client in &clients {
        until_healthy(client, 1).await;
    }
    let before = defined(&clients[1]).await;
    let other = Subscriber::builder().servers([group.server(1).url()]).ready_timeout(Duration::from_secs(1));
    let other = other.build().await.expect("a good address");
    let rival = Me::new().port("http", 80).address(address(1)).id("rival");
    let rival = other.register("orders", rival).ttl(MOVING_TTL).ready_at_once();
    let rival = rival.start().await.expect("it is tried");
    stays(&clients[1], &before).await;
    group.server_mut(0).kill_9().await;
    stays(&clients[1], &before).await;
    assert!(is_online(&owner.status()));
    assert!(matches!(rival.status(), RegistrationStatus::Trying { reason: Some(_) }), "{:?}", rival.status());
    // Until it dies.
    drop(owner);
    jcm.shutdown().await;
    let node = tokio::time::timeout(DEADLINE, rival.registered()).await.expect("in time");
    assert_eq!(node.expect("it stands").as_str(), "rival");
    assert_eq!(clients[1].get_cluster("orders").await.node_ids(), ["rival"]);
}

/// For longer than its lease lasts the node is never found down, and its definition stays as it was.
async fn stays(client: &Client, before: &(u64, Value)) {
    let end = tokio::time::Instant::now() + MOVING_TTL + MOVING_TTL / 3;
    while tokio::time::Instant::now() < end {
        let view = view(client).await.expect("it is served");
        assert_eq!(view.node(&id(1))["verdict"], "healthy", "{view}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(defined(client).await, *before);
}
