//! As many nodes that registered themselves as one program, and one cluster, is tried with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jcm_subscriber::{Me, Registration, RegistrationStatus, Subscriber};
use jcm_tests::{Client, Group, eventually};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::row::Row;
use crate::scene::{self, SESSION_TIMEOUT, is_short};

const CLUSTER: &str = "registered";
const PROGRAMS: u16 = 20;
/// The default, which nobody is to be found down with.
const TTL: Duration = Duration::from_secs(10);
/// Ten thousand registrations, or as many leases that move, with builds for tests on two busy cores.
const PATIENCE: Duration = Duration::from_mins(3);
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// What a program may take to find another server: it goes into the time in which a lease would lapse.
const MOVE_MAX: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_leases() {
    let nodes_each: u16 = if is_short() { 50 } else { 500 };
    let all = usize::from(PROGRAMS * nodes_each);
    let mut row = Row::begin(
        "leases-10000",
        "10,000 nodes of 20 programs register themselves; the leader, through which a part of them is kept, is killed; all leave",
        "wrong downs and removals 0; all are kept through the other servers; transactions of ZooKeeper for renewals 0",
    );
    let (zookeeper, mut group) = scene::three().await;
    group.client(0).put_cluster(CLUSTER, &json!({ "check": { "kind": "lease" } })).await.ok();
    shared_by_all(&group.client(0)).await;

    let (began, before) = (Instant::now(), zookeeper.transactions().await);
    let mut programs = Vec::new();
    let mut starts = Vec::new();
    for program in 0..PROGRAMS {
        let mut known = group.urls();
        known.rotate_left(usize::from(program) % group.len());
        let jcm = Subscriber::builder().servers(known).build().await.expect("good addresses");
        for node in 0..nodes_each {
            let [high, low] = (program * nodes_each + node).to_be_bytes();
            let me = Me::new().port("http", 80).address([10, 1, high, low]);
            let start = jcm.register(CLUSTER, me).ttl(TTL).ready_at_once().start();
            starts.push(tokio::spawn(start));
        }
        programs.push(jcm);
    }
    let mut registered: Vec<Registration> = Vec::with_capacity(all);
    for start in starts {
        registered.push(start.await.expect("no panic").expect("it is registered, or tried"));
    }
    for me in &registered {
        tokio::time::timeout(PATIENCE, me.registered()).await.expect("in time").expect("it stands");
    }
    row.time("arrived_s", began.elapsed());
    row.figure("arrival_transactions", zookeeper.transactions().await - before);
    for client in group.clients() {
        until(&client, "all are healthy", |nodes, healthy| nodes == all && healthy == all).await;
    }
    row.time("healthy_on_all_servers_s", began.elapsed());

    let leader = group.leader().await;
    let others = scene::others(&group, leader);
    let guards: Vec<Guard> = others.iter().map(|other| Guard::start(group.client(*other), all)).collect();
    let downs_before = downs(&group, &others).await;
    // Some rounds of keeping them.
    let before = zookeeper.transactions().await;
    tokio::time::sleep(TTL).await;
    let written = zookeeper.transactions().await - before;
    row.none("renewal_transactions", usize::try_from(written).unwrap_or(usize::MAX));

    row.traffic("leases at the leader", kept(&group, &[leader]).await, all / 10);
    group.server_mut(leader).kill_9().await;
    let killed = Instant::now();
    eventually(PATIENCE, "all are kept through the others", async || {
        let kept = kept(&group, &others).await;
        if kept == all { Ok(()) } else { Err(format!("{kept} of {all}")) }
    })
    .await;
    row.time("kept_through_the_others_s", killed.elapsed());
    // By then what was not renewed since would have lapsed, and would have been cleared away.
    tokio::time::sleep((SESSION_TIMEOUT + MOVE_MAX + TTL * 3).saturating_sub(killed.elapsed())).await;
    row.none("wrong_downs", downs(&group, &others).await - downs_before);
    let is_there =
        |me: &&Registration| matches!(me.status(), RegistrationStatus::Registered { online: true, .. });
    row.none("programs_that_know_better", all - registered.iter().filter(is_there).count());
    let wrong: Vec<String> = guards.into_iter().flat_map(Guard::stop).collect();
    row.figure("wrong", json!(wrong.iter().take(10).collect::<Vec<_>>()));
    row.none("wrong_looks", wrong.len());
    group.server_mut(leader).restart().await;
    row.converged(&group).await;

    let left = Instant::now();
    let leaves: Vec<_> = registered.into_iter().map(|me| tokio::spawn(me.leave(Duration::ZERO))).collect();
    let mut late = 0;
    for leave in leaves {
        late += usize::from(leave.await.expect("no panic").is_err());
    }
    row.time("departed_s", left.elapsed());
    row.none("programs_that_did_not_leave_in_time", late);
    for client in group.clients() {
        until(&client, "nobody is left", |nodes, _| nodes == 0).await;
    }
    row.time("gone_from_all_servers_s", left.elapsed());
    for jcm in programs {
        jcm.shutdown().await;
    }
    row.end();
}

/// A server takes its share a little after its start, which is a transaction.
async fn shared_by_all(client: &Client) {
    eventually(PATIENCE, "all three share the checks", async || {
        let ring = client.get("/v1/ring").await;
        let servers = ring.body["servers"].as_array().map_or(0, Vec::len);
        if servers == 3 { Ok(()) } else { Err(ring) }
    })
    .await;
}

/// How many nodes the cluster has, and how many of them are healthy; `None` while a server does not say.
async fn counts(client: &Client) -> Option<(usize, usize)> {
    let listed = jcm_tests::group::answer(client, "/v1/clusters").await.ok()?;
    let cluster = listed["clusters"].as_array()?.iter().find(|cluster| cluster["name"] == CLUSTER)?;
    let count = |value: &Value| usize::try_from(value.as_u64()?).ok();
    Some((count(&cluster["nodes"])?, count(&cluster["healthy"])?))
}

async fn until(client: &Client, what: &str, wanted: impl Fn(usize, usize) -> bool) {
    eventually(PATIENCE, what, async || match counts(client).await {
        Some((nodes, healthy)) if wanted(nodes, healthy) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Leases that are kept through these servers.
async fn kept(group: &Group, servers: &[usize]) -> usize {
    let mut sum = 0.0;
    for server in servers {
        sum += scene::figure(&group.client(*server), "jcm_leases_kept_here").await;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let count = sum as usize;
    count
}

/// Turns to down that these servers found.
async fn downs(group: &Group, servers: &[usize]) -> usize {
    let mut sum = 0;
    for server in servers {
        let text = group.client(*server).get("/metrics").await.text;
        let turns = text
            .lines()
            .filter(|line| line.starts_with("jcm_verdict_turns_total{") && line.contains("to=\"down\""));
        let counts = turns.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        sum += counts.sum::<usize>();
    }
    sum
}

/// Looks again and again whether a server shows all nodes, and all of them healthy.
struct Guard {
    wrong: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Guard {
    fn start(client: Client, all: usize) -> Self {
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&wrong);
        let task = tokio::spawn(async move {
            loop {
                if let Some((nodes, healthy)) = counts(&client).await
                    && (nodes, healthy) != (all, all)
                {
                    let text = format!("{healthy} of {nodes} nodes are healthy");
                    noted.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
        Self { wrong, task }
    }

    fn stop(self) -> Vec<String> {
        self.task.abort();
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
