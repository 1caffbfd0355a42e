//! `kill -9` under load: what was acknowledged is there, and nothing is there by halves.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jcm_tests::{Client, Server};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{Mutex, RwLock};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

const KILLS: u64 = 50;
/// Eight writers, one write each 40 ms: 200 a second.
const WRITE_INTERVAL: Duration = Duration::from_millis(40);
const SINGLES: usize = 3;
const PAIRS: usize = 3;
/// Below this the test would have proved nothing.
const ACKNOWLEDGED_MIN: u64 = 500;

/// What one writer of rising numbers knows of its own writes.
#[derive(Debug, Default)]
struct Sequence {
    acknowledged: AtomicU64,
    attempted: AtomicU64,
}

/// What the writer of nodes knows.
#[derive(Debug, Default)]
struct Nodes {
    acknowledged: BTreeSet<u64>,
    attempted: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Ledger {
    singles: [Sequence; SINGLES],
    pairs: [Sequence; PAIRS],
    nodes: Mutex<Nodes>,
    keyed: Mutex<Nodes>,
    /// Held for reading by a write under way, for writing while the server is down and looked at.
    gate: RwLock<()>,
    acknowledged: AtomicU64,
    unanswered: AtomicU64,
    ended: AtomicBool,
}

impl Ledger {
    /// Whether the write was acknowledged. No answer is a fair outcome of a kill; a refusal is not.
    async fn write(
        &self,
        client: &Client,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Option<u64> {
        let mut request = client.request(method, path).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Ok(answer) = client.try_send(request).await {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
            Some(answer.revision())
        } else {
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            None
        }
    }

    async fn write_single(&self, client: &Client, index: usize) {
        let sequence = &self.singles[index];
        let next = sequence.attempted.fetch_add(1, Ordering::Relaxed) + 1;
        let path = format!("/v1/clusters/single-{index}");
        if self.write(client, Method::PUT, &path, None, &numbered(next)).await.is_some() {
            sequence.acknowledged.store(next, Ordering::Relaxed);
        }
    }

    async fn write_pair(&self, client: &Client, index: usize) {
        let sequence = &self.pairs[index];
        let next = sequence.attempted.fetch_add(1, Ordering::Relaxed) + 1;
        let both = ["left", "right"].map(|side| {
            let mut cluster = numbered(next);
            cluster["name"] = json!(format!("{side}-{index}"));
            cluster
        });
        let body = jcm_tests::api::apply_body(&json!(both));
        if self.write(client, Method::POST, "/v1/apply", None, &body).await.is_some() {
            sequence.acknowledged.store(next, Ordering::Relaxed);
        }
    }

    async fn write_node(&self, client: &Client) {
        let mut nodes = self.nodes.lock().await;
        let next = nodes.attempted.last().copied().unwrap_or_default() + 1;
        nodes.attempted.insert(next);
        if self.write(client, Method::POST, "/v1/clusters/nodes/nodes", None, &node(next)).await.is_some() {
            nodes.acknowledged.insert(next);
        }
    }

    /// Repeats an unanswered write under its key, and an answered one once: both must be the same write.
    async fn write_keyed(&self, client: &Client) {
        let mut nodes = self.keyed.lock().await;
        let pending = nodes.attempted.last().copied().filter(|last| !nodes.acknowledged.contains(last));
        let next = pending.unwrap_or_else(|| nodes.attempted.last().copied().unwrap_or_default() + 1);
        nodes.attempted.insert(next);
        let (key, body) = (format!("key-{next}"), node(next));
        let path = "/v1/clusters/keyed/nodes";
        let Some(revision) = self.write(client, Method::POST, path, Some(&key), &body).await else {
            return;
        };
        nodes.acknowledged.insert(next);
        if let Some(again) = self.write(client, Method::POST, path, Some(&key), &body).await {
            assert_eq!(again, revision, "the same operation, the same revision");
        }
    }

    async fn check(&self, client: &Client, highest: &mut u64) {
        for (index, sequence) in self.singles.iter().enumerate() {
            let (held, revision) = number(client, &format!("single-{index}")).await;
            check_range(&format!("single-{index}"), sequence, held);
            *highest = (*highest).max(revision);
        }
        for (index, sequence) in self.pairs.iter().enumerate() {
            let (left, _) = number(client, &format!("left-{index}")).await;
            let (right, revision) = number(client, &format!("right-{index}")).await;
            assert_eq!(left, right, "an apply was torn");
            check_range(&format!("left-{index}"), sequence, left);
            *highest = (*highest).max(revision);
        }
        for (name, nodes) in [("nodes", &self.nodes), ("keyed", &self.keyed)] {
            let nodes = nodes.lock().await;
            let cluster = client.get_cluster(name).await;
            let listed = cluster.ok()["nodes"].as_array().expect("nodes");
            let held: BTreeSet<u64> =
                listed.iter().filter_map(|node| node["ports"]["http"].as_u64()).collect();
            assert!(
                held.is_superset(&nodes.acknowledged),
                "lost from {name}: {:?}",
                nodes.acknowledged.difference(&held)
            );
            assert!(
                held.is_subset(&nodes.attempted),
                "nobody wrote these of {name}: {:?}",
                held.difference(&nodes.attempted)
            );
        }
    }
}

fn numbered(number: u64) -> Value {
    json!({ "properties": { "number": number.to_string() } })
}

fn node(port: u64) -> Value {
    json!({ "address": "127.0.0.9", "ports": { "http": port } })
}

/// The number that a cluster holds (0: never written) and its revision.
async fn number(client: &Client, name: &str) -> (u64, u64) {
    let cluster = client.get_cluster(name).await;
    if cluster.status == 404 {
        return (0, 0);
    }
    let number = cluster.ok()["properties"]["number"].as_str().and_then(|text| text.parse().ok());
    (number.unwrap_or_else(|| panic!("no number: {cluster}")), cluster.etag())
}

#[track_caller]
fn check_range(name: &str, sequence: &Sequence, held: u64) {
    let acknowledged = sequence.acknowledged.load(Ordering::Relaxed);
    let attempted = sequence.attempted.load(Ordering::Relaxed);
    assert!(held >= acknowledged, "{name} holds {held}, write {acknowledged} was acknowledged");
    assert!(held <= attempted, "{name} holds {held}, only {attempted} were written");
}

#[derive(Debug, Clone, Copy)]
enum Writer {
    Single(usize),
    Pair(usize),
    Node,
    Keyed,
}

/// One writer, at its pace, until the end.
async fn keep_writing(writer: Writer, client: Client, ledger: Arc<Ledger>) {
    let mut pace = tokio::time::interval(WRITE_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !ledger.ended.load(Ordering::Relaxed) {
        pace.tick().await;
        let _open = ledger.gate.read().await;
        match writer {
            Writer::Single(index) => ledger.write_single(&client, index).await,
            Writer::Pair(index) => ledger.write_pair(&client, index).await,
            Writer::Node => ledger.write_node(&client).await,
            Writer::Keyed => ledger.write_keyed(&client).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_kills_under_two_hundred_writes_a_second_lose_nothing_and_tear_nothing() {
    let mut server = Server::dev().start().await;
    let client = server.client();
    for name in ["nodes", "keyed"] {
        client.put_cluster(name, &json!({ "nodes": [] })).await.ok();
    }
    let ledger = Arc::new(Ledger::default());
    let writers = (0..SINGLES)
        .map(Writer::Single)
        .chain((0..PAIRS).map(Writer::Pair))
        .chain([Writer::Node, Writer::Keyed]);
    let mut tasks = JoinSet::new();
    for writer in writers {
        tasks.spawn(keep_writing(writer, client.clone(), Arc::clone(&ledger)));
    }
    let mut highest = 0;
    for kill in 0..KILLS {
        // The moments of the kills are spread, so that they meet every stage of a write.
        tokio::time::sleep(Duration::from_millis(60 + kill * 37 % 200)).await;
        server.kill_9().await;
        let closed = ledger.gate.write().await;
        server.restart().await;
        let before = highest;
        ledger.check(&client, &mut highest).await;
        assert!(highest >= before, "revisions went back from {before} to {highest}");
        drop(closed);
        while let Some(ended) = tasks.try_join_next() {
            ended.expect("a writer never ends by itself");
        }
    }
    ledger.ended.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a writer panicked");
    }
    ledger.check(&client, &mut highest).await;
    let acknowledged = ledger.acknowledged.load(Ordering::Relaxed);
    let unanswered = ledger.unanswered.load(Ordering::Relaxed);
    eprintln!("{KILLS} kills, {acknowledged} writes acknowledged, {unanswered} cut off, revision {highest}");
    assert!(
        acknowledged >= ACKNOWLEDGED_MIN,
        "only {acknowledged} writes were acknowledged: the load was too low"
    );
    assert!(unanswered >= 1, "no write was cut off: the kills did not bite");
}
