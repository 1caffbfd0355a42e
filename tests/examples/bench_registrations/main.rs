//! Registrations through three servers on a ZooKeeper of three members, each round beside the same nodes registered by
//! bare requests of as many nodes, beside bare requests of our own bytes, and beside requests that are only answered; and
//! from a commit to the last of three servers that shows it, beside one bare write.
//!
//! Run by `scripts/bench registrations`, which names the directory of the built programs. It starts servers and ZooKeeper
//! itself, on loopback, and ends them. Its arguments are the file that the figures go to, and the ways to try.

mod bare;
mod round;

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bare::{Answers, Bare};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use jcm_tests::api::cluster_path;
use jcm_tests::process::cpu_time;
use jcm_tests::{Client, Ensemble, Events, Group};
use round::{Cpu, Round, percentiles};
use serde_json::{Value, json};

type Fault = Box<dyn Error + Send + Sync>;

const ROUNDS: usize = 5;
const SERVERS: usize = 3;
/// Nodes of each round, in one cluster.
const NODES: usize = 10_000;
/// Requests under way at once, over all servers, where they are paced.
const CLIENTS: usize = 384;
/// Nodes of one request, where they come in bulk.
const BULK: usize = 500;
/// Writes whose way to the last server is timed.
const SHOWN: usize = 200;
const EVENT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two of them: a stream that has sent an event gathers what comes within the next ten milliseconds, and it is the
/// way that is timed here.
const SHOWN_PAUSE: Duration = Duration::from_millis(25);

/// How the nodes of a round come.
#[derive(Debug, Clone, Copy)]
enum Way {
    Bulk,
    Paced,
    Burst,
}

impl Way {
    const ALL: [(&str, Self); 3] = [("bulk", Self::Bulk), ("paced", Self::Paced), ("burst", Self::Burst)];

    /// Nodes of one request, and requests at once.
    fn shape(self) -> (usize, usize) {
        match self {
            Self::Bulk => (BULK, SERVERS * 2),
            Self::Paced => (1, CLIENTS),
            Self::Burst => (1, NODES),
        }
    }
}

struct Bench {
    ensemble: Ensemble,
    group: Group,
    bare: Bare,
    answers: Answers,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    jcm_tests::process::end_children_with_a_panic();
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("name the file for the figures")?;
    if file == bare::ANSWERS {
        return bare::answer().await;
    }
    let wanted: Vec<String> = arguments.collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let ensemble = Ensemble::start(SERVERS).await;
    let group = Group::start(&ensemble, SERVERS).await;
    let bare = Bare::connect(&ensemble.hosts()).await?;
    let mut bench = Bench { ensemble, group, bare, answers: Answers::start().await? };
    let mut figures = BTreeMap::new();
    println!("{NODES} nodes into one cluster through {SERVERS} servers, {ROUNDS} rounds");
    for (name, way) in Way::ALL.into_iter().filter(|(name, _)| is_wanted(name)) {
        let mut rounds = Vec::new();
        for number in 0..ROUNDS {
            rounds.push(bench.round(&format!("{name}{number}"), way).await?);
        }
        let (size, at_once) = way.shape();
        round::report(&format!("{name}: {size} a request, {at_once} at once"), &rounds);
        figures.insert(name.to_owned(), rounds.iter().map(Round::to_json).collect());
    }
    if is_wanted("shown") {
        figures.insert("shown".to_owned(), bench.shown().await?);
    }
    std::fs::write(&file, serde_json::to_string_pretty(&figures)?)?;
    Ok(())
}

impl Bench {
    async fn round(&mut self, cluster: &str, way: Way) -> Result<Round, Fault> {
        self.group.client(0).put_cluster(cluster, &json!({ "nodes": [] })).await.ok();
        let before = self.ensemble.transactions().await;
        let (cpu, begun) = (self.cpu(), Instant::now());
        let answers = register(self.group.clients(), cluster, way).await;
        let (seconds, cpu) = (begun.elapsed().as_secs_f64(), self.cpu() - cpu);
        let transactions = self.ensemble.transactions().await.saturating_sub(before).max(1);
        let zookeeper = self.zookeeper_cpu();
        let multis_seconds = self.bare.register(transactions).await?.as_secs_f64();
        let multis_cpu = self.zookeeper_cpu().saturating_sub(zookeeper);
        let floor_seconds = self.bare.repeat(cluster, transactions).await?.as_secs_f64();
        let answering = self.answers.pid().map_or(Duration::ZERO, cpu_time);
        let begun = Instant::now();
        register(self.answers.clients(SERVERS), cluster, way).await;
        let http_seconds = begun.elapsed().as_secs_f64();
        let http_cpu = self.answers.pid().map_or(Duration::ZERO, cpu_time).saturating_sub(answering);
        let mut statuses = BTreeMap::new();
        for (_, status) in &answers {
            *statuses.entry(*status).or_default() += 1;
        }
        Ok(Round {
            nodes: NODES,
            seconds,
            statuses,
            times_ms: percentiles(answers.into_iter().map(|(took, _)| took).collect()),
            transactions,
            cpu,
            multis_seconds,
            multis_cpu,
            floor_seconds,
            http_seconds,
            http_cpu,
        })
    }

    fn cpu(&self) -> Cpu {
        Cpu {
            servers: (0..SERVERS).map(|server| cpu_time(self.group.server(server).pid())).sum(),
            zookeeper: self.zookeeper_cpu(),
            clients: cpu_time(std::process::id()),
        }
    }

    fn zookeeper_cpu(&self) -> Duration {
        self.ensemble.numbers().map(|member| cpu_time(self.ensemble.pid(member))).sum()
    }

    /// From a request to the last of three servers that shows what it wrote, beside one bare write.
    async fn shown(&self) -> Result<Value, Fault> {
        let clients = self.group.clients();
        clients[0].put_cluster("shown", &json!({ "nodes": [node(0)] })).await.ok();
        let mut streams = join_all(clients.iter().map(|client| Events::open(client, "shown", None))).await;
        for stream in &mut streams {
            stream.next(EVENT_DEADLINE).await;
        }
        let (mut shown, mut bare) = (Vec::new(), Vec::new());
        for number in 0..SHOWN {
            let begun = Instant::now();
            let weight = json!({ "properties": { "n": number.to_string() } });
            let write = clients[number % SERVERS].patch_cluster("shown", &weight);
            let heard = join_all(streams.iter_mut().map(|stream| stream.next(EVENT_DEADLINE)));
            let (answer, ()) = tokio::join!(write, async {
                heard.await;
                shown.push(begun.elapsed());
            });
            answer.ok();
            tokio::time::sleep(SHOWN_PAUSE).await;
            bare.push(self.bare.one().await?);
        }
        let (shown, bare) = (percentiles(shown), percentiles(bare));
        println!(
            "\nms to the last of 3 servers: p50 {:.2} p99 {:.2}; one bare write: p50 {:.2} p99 {:.2}; ratio of p50 {:.2}",
            shown.p50,
            shown.p99,
            bare.p50,
            bare.p99,
            shown.p50 / bare.p50
        );
        Ok(
            json!({ "p50_ms": shown.p50, "p99_ms": shown.p99, "bare_p50_ms": bare.p50, "bare_p99_ms": bare.p99 }),
        )
    }
}

/// Every request with how long it took, and the status of its answer; 0: it had none.
async fn register(clients: Vec<Client>, cluster: &str, way: Way) -> Vec<(Duration, u16)> {
    let clients: Vec<Arc<Client>> = clients.into_iter().map(Arc::new).collect();
    let nodes: Vec<Value> = (0..NODES).map(node).collect();
    let (size, at_once) = way.shape();
    let path = format!("{}/nodes", cluster_path(cluster));
    let requests = nodes.chunks(size).enumerate().map(|(number, nodes)| {
        let client = Arc::clone(&clients[number % clients.len()]);
        let body = if size == 1 { nodes[0].clone() } else { json!(nodes) };
        let path = path.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let answer = client.try_send(client.request(reqwest::Method::POST, &path).json(&body)).await;
            (begun.elapsed(), answer.map_or(0, |answer| answer.status))
        })
    });
    // Lazily: a request begins when there is room for it.
    let answers = stream::iter(requests).buffer_unordered(at_once).collect::<Vec<_>>().await;
    answers.into_iter().map(|answer| answer.unwrap_or((Duration::MAX, 0))).collect()
}

fn node(number: usize) -> Value {
    json!({
        "id": format!("n{number:06}"),
        "address": format!("10.0.{}.{}", number / 250, number % 250 + 1),
        "ports": { "http": 8080 },
    })
}
