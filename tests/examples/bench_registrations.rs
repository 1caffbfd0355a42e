//! Registrations through three servers on a ZooKeeper of three members, beside bare requests of the same bytes; and from a
//! commit to the last of three servers that shows it, beside one bare write.
//!
//! Run by `scripts/bench registrations`, which names the directory of the built programs. It starts servers and ZooKeeper
//! itself, on loopback, and ends them. Its only argument is the file that the figures go to.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use jcm_tests::api::cluster_path;
use jcm_tests::{Client, Ensemble, Events, Group};
use serde_json::{Value, json};
use zookeeper_client as zk;

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

/// How the nodes of a round come.
#[derive(Debug, Clone, Copy)]
enum Way {
    Paced,
    Burst,
    Bulk,
}

/// What became of the requests of one round.
#[derive(Debug)]
struct Round {
    seconds: f64,
    acknowledged: usize,
    refused: usize,
    slowest_ms: f64,
    transactions: u64,
    bare_seconds: f64,
}

struct Bench {
    ensemble: Ensemble,
    group: Group,
    raw: zk::Client,
    bare: usize,
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let file = std::env::args().nth(1).ok_or("name the file for the figures")?;
    let ensemble = Ensemble::start(SERVERS).await;
    let group = Group::start(&ensemble, SERVERS).await;
    let raw = zk::Client::connect(&ensemble.hosts()).await?;
    raw.create("/bare", &[], &options()).await?;
    let mut bench = Bench { ensemble, group, raw, bare: 0 };
    let mut figures = BTreeMap::new();
    println!(
        "{:<44} {:>9} {:>9} {:>6} {:>12} {:>7} {:>9}",
        "10,000 nodes into one cluster, 3 servers",
        "nodes/s",
        "bare",
        "ratio",
        "transactions",
        "refused",
        "slowest"
    );
    for (name, way) in [("bulk", Way::Bulk), ("paced", Way::Paced), ("burst", Way::Burst)] {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            rounds.push(bench.round(&format!("{name}{round}"), way).await?);
        }
        rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
        report(way, &rounds);
        let rounds: Vec<Value> = rounds.iter().map(to_json).collect();
        figures.insert(name.to_owned(), json!(rounds));
    }
    figures.insert("shown".to_owned(), bench.shown().await?);
    std::fs::write(&file, serde_json::to_string_pretty(&figures)?)?;
    Ok(())
}

impl Bench {
    async fn round(&mut self, cluster: &str, way: Way) -> Result<Round, Fault> {
        self.group.client(0).put_cluster(cluster, &json!({ "nodes": [] })).await.ok();
        let before = self.ensemble.transactions().await;
        let begun = Instant::now();
        let answers = self.register(cluster, way).await;
        let seconds = begun.elapsed().as_secs_f64();
        let transactions = self.ensemble.transactions().await.saturating_sub(before).max(1);
        let acknowledged = answers.iter().filter(|(_, is_ok)| *is_ok).count();
        let slowest = answers.iter().map(|(took, _)| *took).max().unwrap_or_default();
        let bare_seconds = self.repeat(cluster, transactions).await?.as_secs_f64();
        Ok(Round {
            seconds,
            acknowledged,
            refused: answers.len() - acknowledged,
            slowest_ms: slowest.as_secs_f64() * 1_000.0,
            transactions,
            bare_seconds,
        })
    }

    /// Every request with how long it took, and whether it was acknowledged.
    async fn register(&self, cluster: &str, way: Way) -> Vec<(Duration, bool)> {
        let clients: Vec<Arc<Client>> = self.group.clients().into_iter().map(Arc::new).collect();
        let nodes: Vec<Value> = (0..NODES).map(node).collect();
        let (size, at_once) = match way {
            Way::Paced => (1, CLIENTS),
            Way::Burst => (1, NODES),
            Way::Bulk => (BULK, SERVERS * 2),
        };
        let path = format!("{}/nodes", cluster_path(cluster));
        let requests = nodes.chunks(size).enumerate().map(|(number, nodes)| {
            let client = Arc::clone(&clients[number % SERVERS]);
            let body = if size == 1 { nodes[0].clone() } else { json!(nodes) };
            let path = path.clone();
            tokio::spawn(async move {
                let begun = Instant::now();
                let answer = client.try_send(client.request(reqwest::Method::POST, &path).json(&body)).await;
                (begun.elapsed(), answer.is_ok_and(|answer| matches!(answer.status, 200 | 201)))
            })
        });
        // Lazily: a request begins when there is room for it.
        let answers = stream::iter(requests).buffer_unordered(at_once).collect::<Vec<_>>().await;
        answers.into_iter().map(|answer| answer.unwrap_or((Duration::MAX, false))).collect()
    }

    /// As many bare requests as there were transactions, one after the other, with as many bytes: a head, what of the
    /// cluster was rewritten at its mean size, and a record.
    async fn repeat(&mut self, cluster: &str, transactions: u64) -> Result<Duration, Fault> {
        let (chunks, records) = self.stored(cluster).await?;
        let count = usize::try_from(transactions)?;
        let record_bytes = records / count;
        // A transaction of few nodes rewrites few chunks.
        let nodes_each = NODES.div_ceil(count);
        let touched = chunks.len().min(nodes_each);
        let root = format!("/bare/{}", self.bare);
        self.bare += 1;
        self.raw.create(&root, &[], &options()).await?;
        for name in ["head", "header"] {
            self.raw.create(&format!("{root}/{name}"), &[], &options()).await?;
        }
        for number in 0..chunks.len() {
            self.raw.create(&format!("{root}/{number}"), &[], &options()).await?;
        }
        let noise = noise(1_000_000);
        let begun = Instant::now();
        for number in 0..count {
            let mut writer = self.raw.new_multi_writer();
            writer.add_check_version("/jcm/identity", 0)?;
            writer.add_set_data(&format!("{root}/head"), &noise[..200], Some(i32::try_from(number)?))?;
            writer.add_set_data(&format!("{root}/header"), &noise[..100], None)?;
            for turn in 0..touched {
                let at = (number * touched + turn) % chunks.len();
                let bytes = chunks[at] * (number + 1) / count;
                writer.add_set_data(&format!("{root}/{at}"), &noise[..bytes], None)?;
            }
            writer.add_create(&format!("{root}/record{number}"), &noise[..record_bytes], &options())?;
            writer.commit().await?;
        }
        Ok(begun.elapsed())
    }

    /// The sizes of the cluster's chunks, and of all records of the change log since the last round.
    async fn stored(&self, cluster: &str) -> Result<(Vec<usize>, usize), Fault> {
        let mut chunks = Vec::new();
        let stores = self.raw.list_children("/jcm/stores").await?;
        let store = format!("/jcm/stores/{}", stores.first().ok_or("there is no store")?);
        for bucket in self.raw.list_children(&format!("{store}/clusters")).await? {
            let path = format!("{store}/clusters/{bucket}/{cluster}");
            if self.raw.check_stat(&path).await?.is_none() {
                continue;
            }
            for chunk in self.raw.list_children(&path).await? {
                let stat = self.raw.check_stat(&format!("{path}/{chunk}")).await?;
                chunks.push(stat.map_or(0, |stat| usize::try_from(stat.data_length).unwrap_or(0)));
            }
        }
        // 10,000 revisions are 10 blocks of the log, and a piece of one.
        let mut blocks = self.raw.list_children(&format!("{store}/changes")).await?;
        blocks.sort();
        let mut records = 0;
        for block in blocks.iter().rev().take(10) {
            for record in self.raw.list_children(&format!("{store}/changes/{block}")).await? {
                let stat = self.raw.check_stat(&format!("{store}/changes/{block}/{record}")).await?;
                records += stat.map_or(0, |stat| usize::try_from(stat.data_length).unwrap_or(0));
            }
        }
        Ok((chunks, records))
    }

    /// From a request to the last of three servers that shows what it wrote, beside one bare write.
    async fn shown(&self) -> Result<Value, Fault> {
        let clients = self.group.clients();
        clients[0].put_cluster("shown", &json!({ "nodes": [node(0)] })).await.ok();
        let mut streams = join_all(clients.iter().map(|client| Events::open(client, "shown", None))).await;
        for stream in &mut streams {
            stream.next(EVENT_DEADLINE).await;
        }
        self.raw.create("/bare/one", &[], &options()).await?;
        let noise = noise(1_000);
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
            let begun = Instant::now();
            self.raw.set_data("/bare/one", &noise[..500], None).await?;
            bare.push(begun.elapsed());
        }
        let (shown, bare) = (percentiles(shown), percentiles(bare));
        println!(
            "\nms to the last of 3 servers: p50 {:.2} p99 {:.2}; one bare write: p50 {:.2} p99 {:.2}; ratio of p50 {:.2}",
            shown.0,
            shown.1,
            bare.0,
            bare.1,
            shown.0 / bare.0
        );
        Ok(json!({ "p50_ms": shown.0, "p99_ms": shown.1, "bare_p50_ms": bare.0, "bare_p99_ms": bare.1 }))
    }
}

fn options() -> zk::CreateOptions<'static> {
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all())
}

fn node(number: usize) -> Value {
    json!({
        "id": format!("n{number:06}"),
        "address": format!("10.0.{}.{}", number / 250, number % 250 + 1),
        "ports": { "http": 8080 },
    })
}

/// Bytes that do not compress, from a fixed seed.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
    (at(50), at(99))
}

fn ratio(round: &Round) -> f64 {
    round.bare_seconds / round.seconds
}

fn to_json(round: &Round) -> Value {
    json!({
        "seconds": round.seconds,
        "acknowledged": round.acknowledged,
        "refused": round.refused,
        "slowest_ms": round.slowest_ms,
        "transactions": round.transactions,
        "bare_seconds": round.bare_seconds,
        "ratio": ratio(round),
    })
}

/// One line: the median round by ratio, with the ratios of all.
#[expect(clippy::cast_precision_loss, reason = "ten thousand nodes")]
fn report(way: Way, rounds: &[Round]) {
    let what = match way {
        Way::Bulk => format!("{BULK} a request, {} at once", SERVERS * 2),
        Way::Paced => format!("one a request, {CLIENTS} at once"),
        Way::Burst => "one a request, all at once".to_owned(),
    };
    let median = &rounds[rounds.len() / 2];
    println!(
        "{what:<44} {:>9.0} {:>9.0} {:>6.2} {:>12} {:>7} {:>6.0} ms   ratios {:.2}-{:.2}",
        NODES as f64 / median.seconds,
        NODES as f64 / median.bare_seconds,
        ratio(median),
        median.transactions,
        median.refused,
        median.slowest_ms,
        rounds.first().map_or(0.0, ratio),
        rounds.last().map_or(0.0, ratio),
    );
}
