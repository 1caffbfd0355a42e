//! Writers against one another, and against answers that are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_tests::{Group, Proxy, group};
use serde_json::json;

use crate::load::{Load, Plan, Work};
use crate::row::Row;
use crate::scene::{self, Wires, is_short};

/// Over which the registrations of row 17 are spread.
const CLUSTERS: usize = 50;

/// Nodes of each cluster that comes when row 17 asks for too much.
const OVERLOAD_NODES: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_too_large() {
    let mut row = Row::begin(
        "15",
        "writes over 1 MiB, and 10,000 names",
        "refused before ZooKeeper sees them; ZooKeeper disconnects 0; other writes unharmed",
    );
    let (zookeeper, wires, group) = Wires::three().await;
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(20).await;
    let before: u64 = (0..3).map(|server| wires.connections(server)).sum();
    let (mut accepted, mut refused) = (0, 0);
    for server in 0..3 {
        let client = group.client(server);
        // What does not get smaller by packing.
        let labels: Vec<_> =
            (0..20_000_u64).map(|n| (format!("k{n}"), json!(noise(n, server as u64)))).collect();
        let large = json!({ "nodes": [], "properties": serde_json::Map::from_iter(labels) });
        let answer = client.put_cluster("large", &large).await;
        accepted += usize::from(matches!(answer.status, 200 | 201));
        refused += usize::from(matches!(answer.status, 400 | 413 | 422));
    }
    row.figure("accepted", accepted);
    row.traffic("refused", refused, 3);
    let names = if is_short() { 2_000 } else { 10_000 };
    for first in (0..names).step_by(500) {
        let clusters: Vec<_> =
            (first..first + 500).map(|n| json!({ "name": format!("name-{n}"), "nodes": [] })).collect();
        let body = jcm_tests::api::apply_body(&json!(clusters));
        scene::insist(&group.clients(), reqwest::Method::POST, "/v1/apply", &body).await;
    }
    load.more(50).await;
    row.converged(&group).await;
    let after: u64 = (0..3).map(|server| wires.connections(server)).sum();
    row.none("disconnects", usize::try_from(after - before).unwrap_or(usize::MAX));
    let refused = zookeeper.numbers().filter(|member| zookeeper.log(*member).contains("Len error")).count();
    row.none("members_that_cut", refused);
    load.stop().await.judge(&mut row, 50);
    row.end();
}

fn noise(seed: u64, salt: u64) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (salt + 1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        format!("{state:016x}")
    };
    [next(), next(), next(), next(), next(), next(), next(), next()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_43_writers_against_one_another() {
    let mut row = Row::begin(
        "43",
        "32 writers at all servers, one cluster, while the leader stumbles for 0.6 s again and again",
        "linearizable; lost updates 0",
    );
    let (_zookeeper, group) = scene::three().await;
    let plan = Plan {
        clusters: vec![("one".to_owned(), Work::Conditional), ("all".to_owned(), Work::Nodes)],
        writers: 32,
        pace: Duration::from_millis(150),
        read_pace: Duration::from_millis(200),
        repeat: true,
    };
    let load = Load::start(group.clients(), plan).await;
    load.more(100).await;
    let mut writes = Ok(());
    for _ in 0..if is_short() { 5 } else { 20 } {
        let leader = group.leader().await;
        group.server(leader).signal("STOP").await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        group.server(leader).signal("CONT").await;
        writes = load.goes_on(40).await;
        // A store that two writers have damaged may take no more; what is lost by then shows all the same.
        if let Err(stall) = &writes {
            row.require("stalled", false, stall.as_str());
            break;
        }
    }
    if writes.is_ok() {
        row.converged(&group).await;
    }
    let done = load.stop().await;
    done.judge(&mut row, 300);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_44_retried_after_a_lost_answer() {
    let mut row = Row::begin(
        "44",
        "ZooKeeper's answers to the leader are lost, then the connection; clients and servers retry",
        "applied once: doubles 0",
    );
    let (_zookeeper, wires, group) = Wires::three().await;
    let plan = Plan {
        clusters: vec![("value".to_owned(), Work::Property), ("other".to_owned(), Work::Property)],
        writers: 12,
        pace: Duration::from_millis(60),
        read_pace: Duration::from_millis(40),
        repeat: true,
    };
    let load = Load::start(group.clients(), plan).await;
    load.more(100).await;
    for round in 0..if is_short() { 6 } else { 20_u64 } {
        let leader = group.leader().await;
        wires.each(leader, Proxy::deafen);
        tokio::time::sleep(Duration::from_millis(300 + round * 130 % 900)).await;
        // What was lost stays lost.
        wires.each(leader, Proxy::cut);
        tokio::time::sleep(Duration::from_millis(50)).await;
        wires.each(leader, Proxy::heal);
        load.more(40).await;
    }
    row.converged(&group).await;
    let done = load.stop().await;
    let lost = done.attempts.iter().filter(|attempt| !attempt.is_acknowledged()).count();
    row.figure("answers_not_ok", lost);
    done.judge(&mut row, 200);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_many_registrations() {
    let mut row = Row::begin(
        "17",
        "10,000 registrations, as fast as they are taken, wanted within 10 s (short: 2,000)",
        "batched; 429 beyond the queue; lost 0; elections 0",
    );
    let count = if is_short() { 2_000 } else { 10_000 };
    let (_zookeeper, group) = scene::three().await;
    for cluster in 0..CLUSTERS {
        group.client(0).put_cluster(&format!("many-{cluster}"), &json!({ "nodes": [] })).await.ok();
    }
    let leader = group.leader().await;
    let begun = Instant::now();
    let clients = Arc::new(group.clients());
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..200 {
        let clients = Arc::clone(&clients);
        writers.spawn(async move {
            let mut busy = 0;
            for number in (writer..count).step_by(200) {
                let node = json!({ "address": format!("10.1.{}.{}", number / 250, number % 250 + 1), "ports": { "http": 80 } });
                let path = format!("/v1/clusters/many-{}/nodes", number % CLUSTERS);
                let mut client = writer % 3;
                // Under one key until it is acknowledged, as a client that registers itself does.
                loop {
                    let request = clients[client].request(reqwest::Method::POST, &path);
                    let request = request.header("idempotency-key", format!("many-{number}")).json(&node);
                    match clients[client].try_send(request.timeout(Duration::from_secs(10))).await {
                        Ok(answer) if matches!(answer.status, 200 | 201) => break,
                        Ok(answer) if answer.status == 429 => busy += 1,
                        Ok(answer) if matches!(answer.status, 503 | 504) => client = (client + 1) % 3,
                        Ok(answer) => panic!("a registration is refused: {answer}"),
                        Err(_) => client = (client + 1) % 3,
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            busy
        });
    }
    let mut busy = 0;
    while let Some(ended) = writers.join_next().await {
        busy += ended.expect("a writer does not panic");
    }
    let took = begun.elapsed();
    row.time("took_s", took);
    row.figure("answers_429", busy);
    row.converged(&group).await;
    let mut there = 0;
    for cluster in 0..CLUSTERS {
        let path = format!("/v1/clusters/many-{cluster}?consistent=true");
        there += group::answer(&group.client(1), &path).await.expect("a read")["nodes"]
            .as_array()
            .map_or(0, Vec::len);
    }
    row.none("lost", count - there);
    overload(&mut row, &group).await;
    row.require("election", group.leader().await == leader, "another server leads");
    row.end();
}

/// More at once than can be carried out in a write's time: what is too much is refused at once, and told when to come
/// again; what is acknowledged is there, and what was refused is not.
async fn overload(row: &mut Row, group: &Group) {
    let count = if is_short() { 600 } else { 2_000 };
    let clients = Arc::new(group.clients());
    let nodes: Vec<_> = (0..OVERLOAD_NODES)
        .map(|n| json!({ "address": format!("10.2.{}.{}", n / 250, n % 250 + 1), "ports": { "http": 80 } }))
        .collect();
    let body = Arc::new(json!({ "nodes": nodes }));
    let mut writers = tokio::task::JoinSet::new();
    for number in 0..count {
        let (clients, body) = (Arc::clone(&clients), Arc::clone(&body));
        writers.spawn(async move {
            let path = jcm_tests::api::cluster_path(&format!("over-{number}"));
            let client = &clients[number % 3];
            let request = client.request(reqwest::Method::PUT, &path).json(&*body);
            (number, client.try_send(request).await)
        });
    }
    let (mut acknowledged, mut refused, mut untimely) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut others = BTreeMap::<String, usize>::new();
    while let Some(ended) = writers.join_next().await {
        match ended.expect("a writer does not panic") {
            (number, Ok(answer)) if matches!(answer.status, 200 | 201) => {
                acknowledged.insert(format!("over-{number}"));
            }
            (number, Ok(answer)) if answer.status == 429 => {
                untimely += usize::from(answer.header("retry-after").is_none());
                refused.insert(format!("over-{number}"));
            }
            (_, Ok(answer)) => *others.entry(answer.status.to_string()).or_default() += 1,
            (_, Err(_)) => *others.entry("unanswered".to_owned()).or_default() += 1,
        }
    }
    row.figure("overload_acknowledged", acknowledged.len());
    row.traffic("overload_429", refused.len(), 1);
    row.none("overload_429_without_retry_after", untimely);
    for (answer, count) in others {
        row.figure(&format!("overload_{answer}"), count);
    }
    row.converged(group).await;
    let mut there = BTreeSet::new();
    for number in 0..count {
        let name = format!("over-{number}");
        let path = format!("{}?consistent=true", jcm_tests::api::cluster_path(&name));
        let answer = group.client(1).get(&path).await;
        if answer.status == 200 {
            there.insert(name);
        }
    }
    row.none("overload_lost", acknowledged.difference(&there).count());
    row.none("overload_refused_and_there", refused.intersection(&there).count());
}
