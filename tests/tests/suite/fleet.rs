//! Thirty clusters of twenty real nodes: the broken ones are found, and only those.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jcm_subscriber::{Cluster, Policy, Subscriber, Verdict};
use jcm_tests::server::start;
use jcm_tests::{Client, Server, Target, eventually, target};
use serde_json::json;

use crate::checked::view;

/// Turns of 600 nodes under the default policy take about four seconds.
const MANY_DEADLINE: Duration = Duration::from_mins(1);

/// 30 clusters of 20 nodes each, 12 of them well all the time and 8 broken in different ways.
const CLUSTERS: usize = 30;
const STEADY: usize = 12;

struct Fleet {
    steady: Target,
    killed: Target,
    paused: Target,
    moody: Vec<(Target, &'static str)>,
}

impl Fleet {
    async fn start() -> Self {
        let mut moody = Vec::new();
        for behaviour in ["error500", "slow-bytes", "refuse", "close"] {
            moody.push((Target::start(CLUSTERS).await, behaviour));
        }
        Self {
            steady: Target::start(CLUSTERS * STEADY).await,
            killed: Target::start(CLUSTERS * 2).await,
            paused: Target::start(CLUSTERS * 2).await,
            moody,
        }
    }

    fn steady_nodes(&self, cluster: usize) -> &[SocketAddr] {
        &self.steady.nodes()[cluster * STEADY..][..STEADY]
    }

    fn broken_nodes(&self, cluster: usize) -> Vec<SocketAddr> {
        let pairs = [&self.killed, &self.paused].map(|target| &target.nodes()[cluster * 2..][..2]);
        let single = self.moody.iter().map(|(target, _)| target.nodes()[cluster]);
        pairs.concat().into_iter().chain(single).collect()
    }

    async fn break_some(&mut self) {
        self.killed.kill().await;
        self.paused.pause().await;
        for (target, behaviour) in &self.moody {
            target.behave(behaviour).await;
        }
    }

    async fn heal(&mut self) {
        self.killed.revive().await;
        self.paused.resume().await;
        for (target, _) in &self.moody {
            target.behave("ok").await;
        }
    }
}

/// Looks at all clusters until the breakable nodes have this verdict; the steady ones must never be down.
async fn fleet_turns(client: &Client, fleet: &Fleet, wanted: &str) -> Duration {
    let start = Instant::now();
    for cluster in 0..CLUSTERS {
        let name = format!("fleet-{cluster}");
        eventually(MANY_DEADLINE, &format!("{name}: breakable nodes {wanted}"), async || {
            let view = view(client, &name).await?;
            for node in fleet.steady_nodes(cluster) {
                let verdict = &view.node(&node.to_string())["verdict"];
                assert_ne!(verdict, "down", "{node} works all the time\n{view}");
            }
            let turned = |node: &SocketAddr| view.node(&node.to_string())["verdict"] == wanted;
            if fleet.broken_nodes(cluster).iter().all(turned) { Ok(()) } else { Err(view) }
        })
        .await;
    }
    start.elapsed()
}

/// A program that picks from every cluster without a pause, as its traffic would.
struct Traffic {
    jcm: Subscriber,
    clusters: Vec<Cluster>,
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeMap<SocketAddr, Instant>>,
}

impl Traffic {
    async fn start(server: &Server) -> Self {
        let jcm = Subscriber::builder().servers([server.url()]).build().await.expect("a good address");
        let mut clusters = Vec::new();
        for cluster in 0..CLUSTERS {
            let cluster = jcm.cluster(format!("fleet-{cluster}")).policy(Policy::p2c());
            clusters.push(cluster.subscribe().await.expect("a good name"));
        }
        let (ended, picked_from) = (Arc::new(AtomicBool::new(false)), clusters.clone());
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut last = BTreeMap::new();
            while !end.load(Ordering::Relaxed) {
                for cluster in &picked_from {
                    let node = cluster.alloc().expect("no cluster is ever without a node");
                    last.insert(node.addr("http").expect("every node has it"), Instant::now());
                }
                // A pick of each cluster a millisecond: much more than calls, and no burden for what is tried.
                std::thread::sleep(Duration::from_millis(1));
            }
            last
        });
        Self { jcm, clusters, ended, thread }
    }

    /// Waits until the program itself holds this verdict of every broken node. Answers when that was.
    async fn until(&self, fleet: &Fleet, wanted: Verdict) -> Instant {
        for (index, cluster) in self.clusters.iter().enumerate() {
            let broken: BTreeSet<_> = fleet.broken_nodes(index).iter().map(ToString::to_string).collect();
            eventually(MANY_DEADLINE, &format!("the program holds {wanted} of fleet-{index}"), async || {
                let nodes = cluster.nodes();
                let found = nodes.iter().filter(|node| broken.contains(node.id().as_str()));
                match found.filter(|node| node.verdict != wanted).count() {
                    0 => Ok(()),
                    others => Err(format!("{others} are not")),
                }
            })
            .await;
        }
        Instant::now()
    }

    /// When each node was picked last.
    async fn stop(self) -> BTreeMap<SocketAddr, Instant> {
        self.ended.store(true, Ordering::Relaxed);
        let last = self.thread.join().expect("the program found a node at every pick");
        drop(self.clusters);
        self.jcm.shutdown().await;
        last
    }
}

#[tokio::test]
async fn of_thirty_clusters_of_twenty_the_broken_nodes_are_found_and_only_those() {
    let (server, client) = start().await;
    let mut fleet = Fleet::start().await;
    for cluster in 0..CLUSTERS {
        let nodes: Vec<_> = fleet
            .steady_nodes(cluster)
            .iter()
            .copied()
            .chain(fleet.broken_nodes(cluster))
            .map(target::definition)
            .collect();
        assert_eq!(nodes.len(), 20);
        // The default policy: every second, three to fall, two to rise.
        let cluster_definition = json!({ "check": { "kind": "http" }, "nodes": nodes });
        client.put_cluster(&format!("fleet-{cluster}"), &cluster_definition).await.ok();
    }
    let judged = fleet_turns(&client, &fleet, "healthy").await;

    let traffic = Traffic::start(&server).await;
    let broken_at = Instant::now();
    fleet.break_some().await;
    let down = fleet_turns(&client, &fleet, "down").await;
    for cluster in 0..CLUSTERS {
        let picked = client.resolve(&format!("fleet-{cluster}"), "n=100").await;
        let picked_ids: BTreeSet<_> = picked.node_ids().into_iter().collect();
        let steady: BTreeSet<_> = fleet.steady_nodes(cluster).iter().map(ToString::to_string).collect();
        assert_eq!(picked_ids, steady, "{picked}");
    }

    // What the program holds, it obeys: not one pick of a broken node from then on.
    let known_at = traffic.until(&fleet, Verdict::Down).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last_picks = traffic.stop().await;
    let broken = (0..CLUSTERS).flat_map(|cluster| fleet.broken_nodes(cluster));
    let last_wrong = broken.filter_map(|node| last_picks.get(&node)).max();
    assert!(last_wrong.is_none_or(|last| *last < known_at), "a node was picked that was known to be down");
    let picked_wrong = last_wrong.map_or(Duration::ZERO, |last| last.saturating_duration_since(broken_at));
    let steady = (0..CLUSTERS).flat_map(|cluster| fleet.steady_nodes(cluster));
    assert!(steady.clone().all(|node| last_picks.contains_key(node)), "every steady node has its share");

    let traffic = Traffic::start(&server).await;
    fleet.heal().await;
    let back = fleet_turns(&client, &fleet, "healthy").await;
    for cluster in 0..CLUSTERS {
        assert_eq!(client.resolve(&format!("fleet-{cluster}"), "n=100").await.node_ids().len(), 20);
    }
    traffic.until(&fleet, Verdict::Healthy).await;
    traffic.stop().await;
    eprintln!(
        "600 nodes judged after {judged:.1?}, 240 down after {down:.1?}, back after {back:.1?}; \
         last pick of a broken node {picked_wrong:.1?} after it broke"
    );
}
