//! Hosts that do not reach one another: partitions, deafness and loss between real network namespaces.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_tests::network::isolated;
use jcm_tests::{Ensemble, Group, Network, Target, eventually, group};
use serde_json::json;

use crate::load::{Load, Plan};
use crate::lookout::{self, DETECTION, INTERVAL, Lookout};
use crate::row::Row;
use crate::scene::{self, PATIENCE, SESSION_TIMEOUT, is_short};

const HOSTS: [&str; 5] = ["zk", "r1", "r2", "r3", "nodes"];
const SERVER_PORT: u16 = 7400;
const NODE_PORT: u16 = 8080;
const CLUSTERS: [&str; 3] = ["one", "two", "three"];
const NODES: u8 = 60;

/// Servers, ZooKeeper and nodes on hosts of their own.
struct Field {
    network: Network,
    group: Group,
    target: Arc<Target>,
    addresses: Vec<Ipv4Addr>,
    _zookeeper: Ensemble,
}

impl Field {
    /// So many servers that share the checks, and sixty nodes in three clusters that all of them call healthy.
    async fn of(servers: usize) -> Self {
        let network = Network::of(&HOSTS).await;
        let zookeeper = Ensemble::of(3).within("zk", network.address("zk")).start().await;
        let places: Vec<_> = (0..servers)
            .map(|index| (host(index), SocketAddr::from((network.address(&host(index)), SERVER_PORT))))
            .collect();
        let group =
            Group::of(&zookeeper, servers).session_timeout(SESSION_TIMEOUT).within(&places).start().await;
        let addresses = network.more_addresses("nodes", NODES).await;
        let listen: Vec<_> =
            addresses.iter().map(|address| SocketAddr::from((*address, NODE_PORT))).collect();
        let target = Target::within("nodes", &listen, network.address("nodes").into()).await;
        let nodes = target.nodes();
        for (name, part) in CLUSTERS.iter().zip(nodes.chunks(nodes.len() / CLUSTERS.len())) {
            let part: Vec<_> = part.iter().copied().map(jcm_tests::target::definition).collect();
            let cluster = json!({ "check": { "kind": "http", "path": "/status" }, "nodes": part });
            group.client(0).put_cluster(name, &cluster).await.ok();
        }
        for (name, part) in CLUSTERS.iter().zip(nodes.chunks(nodes.len() / CLUSTERS.len())) {
            lookout::all_share(&group.clients(), name, part).await;
            lookout::all_healthy(&group.clients(), name).await;
        }
        Self { network, group, target: Arc::new(target), addresses, _zookeeper: zookeeper }
    }

    fn lookout(&self) -> Lookout {
        Lookout::start(self.group.clients(), &CLUSTERS)
    }

    /// Nodes that this server checks, by the word of another.
    async fn share(&self, asked: usize, owner: usize) -> usize {
        let mut count = 0;
        for (name, part) in
            CLUSTERS.iter().zip(self.target.nodes().chunks(self.target.nodes().len() / CLUSTERS.len()))
        {
            let owners = lookout::owners(&self.group.client(asked), name, part).await;
            count += owners.values().filter(|found| **found == Group::id(owner)).count();
        }
        count
    }

    /// A node of the first cluster that this server checks, by the word of another.
    async fn node_of(&self, asked: usize, owner: usize) -> SocketAddr {
        let owners =
            lookout::owners(&self.group.client(asked), CLUSTERS[0], &self.target.nodes()[..20]).await;
        let found = owners.into_iter().find(|(_, found)| *found == Group::id(owner));
        found.expect("every server has a share of every cluster of twenty").0
    }
}

/// The host of a server.
fn host(index: usize) -> String {
    format!("r{}", index + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_server_cut_from_server() {
    if !isolated("rows::network::row_20_server_cut_from_server").await {
        return;
    }
    let mut row = Row::begin(
        "20",
        "two of three servers do not reach each other; the third and ZooKeeper reach both",
        "each other's verdicts relayed or re-owned <= 5 s; writes go on; wrong downs 0",
    );
    let field = Field::of(3).await;
    let group = &field.group;
    let leader = group.leader().await;
    let follower = scene::others(group, leader)[0];
    let lookout = field.lookout();
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    field.network.cut(&host(leader), &host(follower)).await;
    tokio::time::sleep(INTERVAL * 5).await;
    // A failure that only one of the two sees is known to the other as soon.
    let broken = field.node_of(leader, leader).await;
    let at = lookout.now();
    lookout.broken(broken);
    field.target.behave_at(broken, "refuse").await;
    let found = lookout.until(&[0, 1, 2], broken, "down", at).await;
    row.time_within("failure_found_s", found, DETECTION + Duration::from_secs(5));
    let before = load.acknowledged();
    load.more(30).await;
    row.traffic("writes_meanwhile", load.acknowledged() - before, 30);
    row.traffic("packets_dropped", usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX), 5);
    field.target.behave_at(broken, "ok").await;
    lookout.well(broken);
    tokio::time::sleep(INTERVAL * 3).await;
    field.network.heal().await;
    row.converged(group).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    load.stop().await.judge(&mut row, 100);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_two_servers_cut_from_each_other() {
    if !isolated("rows::network::row_20_two_servers_cut_from_each_other").await {
        return;
    }
    let mut row = Row::begin(
        "20-of-two",
        "the only two servers do not reach each other; ZooKeeper reaches both",
        "each keeps its own share; wrong downs 0; writes go on",
    );
    let field = Field::of(2).await;
    let group = &field.group;
    let lookout = field.lookout();
    let load = Load::start(group.clients(), Plan::usual()).await;
    load.more(50).await;
    field.network.cut("r1", "r2").await;
    tokio::time::sleep(SESSION_TIMEOUT + INTERVAL * 6).await;
    load.more(50).await;
    row.traffic("packets_dropped", usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX), 5);
    for (name, server) in [("share_of_r1", 0), ("share_of_r2", 1)] {
        row.traffic(name, field.share(server, server).await, 5);
    }
    field.network.heal().await;
    row.converged(group).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    load.stop().await.judge(&mut row, 80);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_checker_cut_from_all_nodes() {
    if !isolated("rows::network::row_23_checker_cut_from_all_nodes").await {
        return;
    }
    let mut row = Row::begin(
        "23",
        "a server is cut from all nodes, and from nothing else",
        "suspects itself, hands over; wrong downs 0",
    );
    let field = Field::of(3).await;
    let server = field.group.follower().await;
    let asked = scene::others(&field.group, server)[0];
    row.traffic("its_nodes", field.share(asked, server).await, 10);
    let lookout = field.lookout();
    tokio::time::sleep(INTERVAL * 2).await;
    let at = Instant::now();
    field.network.cut_from(&host(server), &field.addresses).await;
    eventually(PATIENCE, "it has handed its share over", async || match field.share(asked, server).await {
        0 => Ok(()),
        kept => Err(format!("it keeps {kept}")),
    })
    .await;
    row.time("handed_over_s", at.elapsed());
    tokio::time::sleep(INTERVAL * 5).await;
    row.traffic("packets_dropped", usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX), 20);
    field.network.heal().await;
    row.converged(&field.group).await;
    tokio::time::sleep(INTERVAL * 3).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_24_half_the_nodes_cut_from_one_server() {
    if !isolated("rows::network::row_24_half_the_nodes_cut_from_one_server").await {
        return;
    }
    let mut row = Row::begin(
        "24",
        "half of the nodes are cut from one server only, then three nodes of another one",
        "a peer that reaches a node is enough: wrong downs 0",
    );
    let field = Field::of(3).await;
    let lookout = field.lookout();
    let half: Vec<_> = field.addresses.iter().copied().step_by(2).collect();
    field.network.cut_from("r1", &half).await;
    tokio::time::sleep(Duration::from_secs(if is_short() { 15 } else { 30 })).await;
    // What healing forgets: the row's own fault has to bite, and not only the one after it.
    let dropped = usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX);
    row.traffic("packets_dropped_of_half", dropped, 10);
    field.network.heal().await;
    tokio::time::sleep(INTERVAL * 3).await;
    // Too few for a server to suspect itself: only the second opinion is left.
    let node = field.node_of(0, 1).await;
    let address: Ipv4Addr = node.ip().to_string().parse().expect("an IPv4 address");
    field.network.cut_from("r2", &[address]).await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    row.traffic(
        "packets_dropped_of_one",
        usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX),
        3,
    );
    field.network.heal().await;
    row.converged(&field.group).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_25_packets_lost_everywhere() {
    if !isolated("rows::network::row_25_packets_lost_everywhere").await {
        return;
    }
    let mut row = Row::begin(
        "25",
        "30 % of all packets between all hosts are lost, for three minutes",
        "no election churn: leader changes <= 2 a minute; false downs <= 0.1 % of looks",
    );
    // A single node that is down for five seconds is half of what is allowed in one minute: chance, then, decides.
    let minutes = if is_short() { 1 } else { 3 };
    let field = Field::of(3).await;
    let lookout = field.lookout();
    field.network.lose(0.3).await;
    let (begun, mut changes, mut last) = (Instant::now(), 0, None);
    while begun.elapsed() < Duration::from_mins(minutes) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let Ok(status) = group::answer(&field.group.client(0), "/v1/status").await else { continue };
        let leader = status["leader"].as_str().map(str::to_owned);
        if leader.is_some() && leader != last {
            changes += u64::from(last.is_some());
            last = leader;
        }
    }
    row.traffic(
        "packets_dropped",
        usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX),
        1_000,
    );
    field.network.heal().await;
    row.converged(&field.group).await;
    row.figure("leader_changes", changes);
    row.require("leader_changes", changes <= 2 * minutes, changes.to_string());
    let (history, looks) = lookout.stop().await;
    // A look is at a third of the nodes.
    let looked: usize = looks.values().map(|(good, _)| good * usize::from(NODES) / CLUSTERS.len()).sum();
    let downs = history.seen.iter().filter(|seen| seen.verdict == "down").count();
    #[expect(clippy::cast_precision_loss, reason = "counts of one minute")]
    let share = downs as f64 / looked.max(1) as f64;
    row.figure("false_down_percent", (share * 1e5).round() / 1e3);
    row.require("false-downs", share <= 0.001, format!("{downs} of {looked}"));
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_leader_is_deaf() {
    if !isolated("rows::network::row_26_leader_is_deaf").await {
        return;
    }
    let mut row = Row::begin(
        "26",
        "the leader can send and hears nobody, for 20 s",
        "no election livelock: leader changes <= 1; wrong downs 0; nothing lost",
    );
    let field = Field::of(3).await;
    let leader = field.group.leader().await;
    let others = scene::others(&field.group, leader);
    let lookout = field.lookout();
    let load = Load::start(field.group.clients(), Plan::usual()).await;
    load.more(30).await;
    field.network.deafen(&host(leader)).await;
    let (begun, mut changes, mut last) = (Instant::now(), 0, Group::id(leader));
    while begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let Ok(status) = group::answer(&field.group.client(others[0]), "/v1/status").await else { continue };
        if let Some(leader) = status["leader"].as_str().filter(|leader| *leader != last) {
            changes += 1;
            leader.clone_into(&mut last);
        }
    }
    row.figure("leader_changes", changes);
    row.require("leader_changes", changes <= 1, changes.to_string());
    load.more(30).await;
    row.traffic("packets_dropped", usize::try_from(field.network.dropped().await).unwrap_or(usize::MAX), 20);
    field.network.heal().await;
    row.converged(&field.group).await;
    let (history, _) = lookout.stop().await;
    row.violations("wrong_downs", &history.violations());
    load.stop().await.judge(&mut row, 80);
    row.end();
}

/// The drill that operators of registries know: the leader is cut off, the others go on without it, and it comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_drill_of_r1_r2_r3() {
    if !isolated("rows::network::the_drill_of_r1_r2_r3").await {
        return;
    }
    let mut row = Row::begin(
        "drill",
        "r2 leads and is cut off; the configuration changes; r2 comes back",
        "r1 and r3 have the change and one of them leads; r2 has it once it is back",
    );
    let mut field = Field::of(3).await;
    scene::followed(&field.group, "configured").await;
    while field.group.leader().await != 1 {
        let leader = field.group.leader().await;
        field.group.server_mut(leader).restart().await;
        field.group.converged(PATIENCE).await;
    }
    let group = &field.group;
    field.network.isolate("r2").await;
    let cut = Instant::now();
    let next = group.leader_among(&[0, 2]).await;
    row.time("new_leader_s", cut.elapsed());
    row.figure("leader", Group::id(next));
    let revision = scene::mark(&[group.client(0)], "configured", "changed").await;
    for (index, name) in [(0, "r1"), (2, "r3")] {
        let client = group.client(index);
        row.require("not-replicated", scene::comes_to(&client, revision, PATIENCE).await.is_some(), name);
        let cluster = client.get_cluster("configured").await;
        row.require("not-replicated", cluster.body["properties"]["mark"] == "changed", cluster.to_string());
    }
    let old = group.client(1).get_cluster("configured").await;
    row.require("fault-did-not-bite", old.body["properties"]["mark"] == "0", old.to_string());
    let (healed, client) = (Instant::now(), group.client(1));
    field.network.heal().await;
    row.require("r2-is-behind", scene::comes_to(&client, revision, PATIENCE).await.is_some(), "r2");
    row.time("r2_has_it_s", healed.elapsed());
    let cluster = client.get_cluster("configured").await;
    row.require("r2-is-behind", cluster.body["properties"]["mark"] == "changed", cluster.to_string());
    row.converged(group).await;
    row.end();
}
