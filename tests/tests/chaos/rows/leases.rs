//! Programs that keep themselves there, while servers come and go: nobody is taken for dead who is not, and who is, goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jcm_tests::network::isolated;
use jcm_tests::{Client, Ensemble, Group, Network, eventually};
use serde_json::json;

use crate::keeper::{Guard, Keeper, register, verdicts};
use crate::row::Row;
use crate::scene::{self, PATIENCE, SESSION_TIMEOUT, is_short};

const CLUSTER: &str = "leased";
const PROGRAMS: u16 = 6;
const NODES_EACH: u16 = 10;
const ALL: u16 = PROGRAMS * NODES_EACH;

/// Long enough for ZooKeeper, and every program, to give a server up.
const STOPPED: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_outlive_servers() {
    let mut row = Row::begin(
        "leases",
        "leader kill -9, SIGSTOP of a server that holds leases, kill -9 of a follower; then a program dies with the leader",
        "wrong downs and removals 0; transactions of ZooKeeper for renewals 0; the dead one goes",
    );
    let (zookeeper, mut group) = scene::three().await;
    group.client(0).put_cluster(CLUSTER, &json!({ "check": { "kind": "lease" } })).await.ok();
    let urls = group.urls();
    let mut programs = Vec::new();
    for program in 0..PROGRAMS {
        let mut known = urls.clone();
        known.rotate_left(usize::from(program) % urls.len());
        let first = program * NODES_EACH + 1;
        let nodes = first..first + NODES_EACH;
        // Registered through one server and kept through another, which may hear of it later.
        let registered = register(&urls[0], CLUSTER, nodes.clone()).await;
        programs.push(Keeper::start_registered(known, CLUSTER, nodes, &registered));
    }
    for client in group.clients() {
        all_healthy(&client, ALL).await;
    }
    // Program 0 keeps the first ten, of which one will die.
    let guards: Vec<Guard> =
        group.clients().into_iter().map(|client| Guard::start(client, CLUSTER, 2..=ALL)).collect();
    // Servers take their share a little after their start, which is a transaction each.
    let client = group.client(0);
    eventually(PATIENCE, "all three share the checks", async || {
        let ring = client.get("/v1/ring").await;
        if ring.body["servers"].as_array().is_some_and(|servers| servers.len() == 3) {
            Ok(())
        } else {
            Err(ring)
        }
    })
    .await;
    let before = zookeeper.transactions().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = zookeeper.transactions().await;
    row.none("zookeeper_transactions", usize::try_from(after - before).unwrap_or(usize::MAX));

    for _ in 0..if is_short() { 1 } else { 3 } {
        let leader = group.leader().await;
        group.server_mut(leader).kill_9().await;
        group.leader_among(&scene::others(&group, leader)).await;
        tokio::time::sleep(SESSION_TIMEOUT).await;
        group.server_mut(leader).restart().await;
        group.converged(PATIENCE).await;

        let holder = group.follower().await;
        group.server(holder).signal("STOP").await;
        tokio::time::sleep(STOPPED).await;
        group.server(holder).signal("CONT").await;
        group.converged(PATIENCE).await;

        let follower = group.follower().await;
        group.server_mut(follower).kill_9().await;
        tokio::time::sleep(SESSION_TIMEOUT * 2).await;
        group.server_mut(follower).restart().await;
        group.converged(PATIENCE).await;
    }
    let leader = group.leader().await;
    programs[0].forget([1]);
    group.server_mut(leader).kill_9().await;
    let died = Instant::now();
    for index in scene::others(&group, leader) {
        let client = group.client(index);
        eventually(PATIENCE, "the dead one is gone", async || {
            let found = verdicts(&client, CLUSTER).await;
            let others = found.values().filter(|verdict| *verdict == "healthy").count();
            let is_done = !found.contains_key("n1") && others == usize::from(ALL) - 1;
            if is_done { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    row.time("the_dead_one_gone_s", died.elapsed());
    group.server_mut(leader).restart().await;
    row.converged(&group).await;
    let wrong: Vec<String> = guards.into_iter().flat_map(Guard::stop).collect();
    row.figure("wrong", json!(wrong.iter().take(10).collect::<Vec<_>>()));
    row.none("wrong_downs_and_removals", wrong.len());
    let lost: usize = programs.iter().map(|program| program.lost().len()).sum();
    row.none("leases_called_lost", lost);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_at_a_server_that_is_cut_off() {
    if !isolated("rows::leases::leases_at_a_server_that_is_cut_off").await {
        return;
    }
    let mut row = Row::begin(
        "leases-cut-off",
        "one of three servers reaches neither ZooKeeper nor another server, and programs keep leases there",
        "they are asked to go elsewhere and do; wrong downs and removals 0",
    );
    let hosts = ["zk", "r1", "r2", "r3"];
    let network = Network::of(&hosts).await;
    let zookeeper = Ensemble::of(3).within("zk", network.address("zk")).start().await;
    let places: Vec<_> = hosts[1..]
        .iter()
        .map(|host| ((*host).to_owned(), SocketAddr::from((network.address(host), 7400))))
        .collect();
    let group = Group::of(&zookeeper, 3).session_timeout(SESSION_TIMEOUT).within(&places).start().await;
    let lonely = group.follower().await;
    group.client(lonely).put_cluster(CLUSTER, &json!({ "check": { "kind": "lease" } })).await.ok();
    let mut urls = group.urls();
    urls.rotate_left(lonely);
    let registered = register(&urls[0], CLUSTER, 1..=NODES_EACH).await;
    let program = Keeper::start_registered(urls, CLUSTER, 1..=NODES_EACH, &registered);
    for client in group.clients() {
        all_healthy(&client, NODES_EACH).await;
    }
    let kept = async |server: usize| scene::figure(&group.client(server), "jcm_leases_kept_here").await;
    eventually(PATIENCE, "the program keeps its leases there", async || {
        if kept(lonely).await > 0.0 { Ok(()) } else { Err("no leases") }
    })
    .await;
    let others = scene::others(&group, lonely);
    let guards: Vec<Guard> =
        others.iter().map(|other| Guard::start(group.client(*other), CLUSTER, 1..=NODES_EACH)).collect();
    network.isolate(&format!("r{}", lonely + 1)).await;
    let cut = Instant::now();
    eventually(PATIENCE, "the program keeps its leases elsewhere", async || {
        let found = kept(others[0]).await + kept(others[1]).await;
        if found > 0.0 { Ok(()) } else { Err(format!("{found} leases")) }
    })
    .await;
    row.time("elsewhere_after_s", cut.elapsed());
    // By then what was renewed through that server alone would have lapsed.
    tokio::time::sleep(SESSION_TIMEOUT + Duration::from_secs(15)).await;
    row.figure("dropped_packets", json!(network.dropped().await));
    network.heal().await;
    row.converged(&group).await;
    let wrong: Vec<String> = guards.into_iter().flat_map(Guard::stop).collect();
    row.figure("wrong", json!(wrong.iter().take(10).collect::<Vec<_>>()));
    row.none("wrong_downs_and_removals", wrong.len());
    row.none("leases_called_lost", program.lost().len());
    row.end();
}

/// Waits until a server says so of that many nodes.
async fn all_healthy(client: &Client, nodes: u16) {
    eventually(PATIENCE, "all are healthy", async || {
        let found = verdicts(client, CLUSTER).await;
        let healthy = found.values().filter(|verdict| *verdict == "healthy").count();
        if healthy == usize::from(nodes) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}
