//! Wires between servers and ZooKeeper that are cut, silent, or let nothing back.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jcm_tests::{Group, Proxy, group};

use crate::load::{Load, Plan};
use crate::lookout::{self, INTERVAL, Lookout};
use crate::row::Row;
use crate::scene::{self, PATIENCE, SESSION_TIMEOUT, Wires, is_short};

/// Without a single further write, a server that was away must have come to the head by then.
const CAUGHT_UP: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_13_session_expired() {
    let mut row = Row::begin(
        "13",
        "the leader hears nothing of ZooKeeper for longer than its session",
        "steps down before, comes back by its id, reads all anew; double acks 0",
    );
    let (_zookeeper, wires, group) = Wires::three().await;
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let leader = group.leader().await;
    let others = scene::others(&group, leader);
    let at = Instant::now();
    wires.each(leader, Proxy::hold);
    tokio::time::sleep(SESSION_TIMEOUT * 2 + Duration::from_secs(3)).await;
    let next = group.leader_among(&others).await;
    row.require("no-new-leader", next != leader, "nobody took over");
    let gone = group::answer(&group.client(others[0]), "/v1/servers").await.unwrap_or_default();
    let members = gone["servers"].as_array().map_or(0, Vec::len);
    row.require("fault-did-not-bite", members == 2, format!("{gone}"));
    load.more(30).await;
    let end = Instant::now();
    wires.each(leader, Proxy::heal);
    row.converged(&group).await;
    load.more(50).await;
    let done = load.stop().await;
    row.time_within("write_gap_s", done.gap(&others, at, end), Duration::from_millis(3_500));
    done.judge(&mut row, 150);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_14_reconnected_within_the_session() {
    let mut row = Row::begin(
        "14",
        "a server's connection breaks and comes back within its session, while others write",
        "nothing is missed: at the head <= 5 s without a further write",
    );
    let (_zookeeper, wires, group) = Wires::three().await;
    scene::followed(&group, "followed").await;
    let server = group.follower().await;
    let writers: Vec<_> =
        scene::others(&group, server).into_iter().map(|other| group.client(other)).collect();
    let before = wires.connections(server);
    let (mut missed, mut longest) = (0, Duration::ZERO);
    let rounds = if is_short() { 8 } else { 30 };
    for round in 0..rounds {
        wires.each(server, if round % 4 == 3 { Proxy::hold } else { Proxy::cut });
        tokio::time::sleep(Duration::from_millis(100 + round * 70 % 600)).await;
        let mut revision = 0;
        for write in 0..=round % 3 {
            revision = scene::mark(&writers, "followed", &format!("{round} {write}")).await;
        }
        if round % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        wires.each(server, Proxy::heal);
        match scene::comes_to(&group.client(server), revision, CAUGHT_UP).await {
            Some(took) => longest = longest.max(took),
            None => missed += 1,
        }
    }
    row.figure("rounds", rounds);
    let reconnected = usize::try_from(wires.connections(server) - before).unwrap_or(usize::MAX);
    row.traffic("reconnections", reconnected, usize::try_from(rounds).unwrap_or(usize::MAX) / 2);
    row.none("missed", missed);
    row.time_within("caught_up_s", longest, CAUGHT_UP);
    row.converged(&group).await;
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_one_server_without_zookeeper() {
    let mut row = Row::begin(
        "19",
        "one server is cut from ZooKeeper, and not from the others",
        "reads there, marked stale; writes there, through a peer; its checks move; turns without a reason 0",
    );
    let (_zookeeper, wires, group) = Wires::three().await;
    let target = scene::checked(&group, "checked", 60).await;
    let server = group.follower().await;
    let asked = scene::others(&group, server)[0];
    row.traffic("its_nodes", scene::share(&group, asked, server, "checked", &target).await.len(), 5);
    let lookout = Lookout::start(group.clients(), &["checked"]);
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    let cut = Instant::now();
    wires.each(server, Proxy::cut);
    scene::without_store(&group.client(server)).await;
    tokio::time::sleep(SESSION_TIMEOUT + INTERVAL * 3).await;
    let moved = scene::share(&group, asked, server, "checked", &target).await;
    row.none("nodes_not_moved", moved.len());
    let stale = AtomicUsize::new(0);
    for _ in 0..10 {
        let view = group.client(server).view("checked").await;
        stale.fetch_add(usize::from(view.body["stale"] == true), Ordering::Relaxed);
    }
    row.traffic("stale_views", stale.into_inner(), 10);
    tokio::time::sleep(INTERVAL * 3).await;
    let healed = Instant::now();
    wires.each(server, Proxy::heal);
    row.converged(&group).await;
    jcm_tests::eventually(PATIENCE, "it has its share again", async || {
        let owners = lookout::owners(&group.client(asked), "checked", target.nodes()).await;
        if lookout::distinct(&owners).len() == 3 { Ok(()) } else { Err(format!("{owners:?}")) }
    })
    .await;
    let done = load.stop().await;
    let through_peers = done.attempts.iter().filter(|attempt| {
        attempt.server == server
            && attempt.is_acknowledged()
            && attempt.begun > cut + INTERVAL
            && attempt.ended < healed
    });
    row.traffic("writes_through_a_peer", through_peers.count(), 20);
    let of_it = done.reads.iter().filter(|read| read.server == server && read.begun > cut);
    row.traffic("reads", of_it.clone().count(), 20);
    let failed: Vec<_> = of_it.filter(|read| read.status != Some(200)).collect();
    row.figure("failed_reads", failed.len());
    for read in failed {
        let text = format!("{:?}, {:?} after the cut", read.status, read.begun - cut);
        row.require("failed-read", false, text);
    }
    let (history, _) = lookout.stop().await;
    row.none("turns", history.turns());
    row.violations("wrong_downs", &history.violations());
    done.judge(&mut row, 100);
    row.figure("server", Group::id(server));
    row.end();
}
