//! Writers and readers that keep on through every fault, and remember all they did.
//!
//! A writer is an ordinary client: it writes under a key, and when it gets no answer it repeats the write under the
//! same key, at the next server. So every write has an outcome in the end, unless the whole installation is gone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jcm_tests::history::writes::{History, Kind, Outcome, Read, Write};
use jcm_tests::{Answer, Client};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Over the two seconds that a write has, and what a paused server may add.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// After this a writer gives the outcome up. Longer than every fault but a lost quorum.
const WRITE_PATIENCE: Duration = Duration::from_secs(40);
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Some tens of writes, through any fault but one that stops writes for good.
const MORE_DEADLINE: Duration = Duration::from_secs(90);
const LAST_READ_DEADLINE: Duration = Duration::from_secs(30);

/// What a cluster under load is written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nodes are added.
    Nodes,
    /// A property is replaced, come what may.
    Property,
    /// A property is replaced, if nobody did so since it was read.
    Conditional,
}

/// How a load is made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) clusters: Vec<(String, Work)>,
    pub(crate) writers: usize,
    /// Between two writes of one writer.
    pub(crate) pace: Duration,
    /// Between two reads of a cluster at one server.
    pub(crate) read_pace: Duration,
    pub(crate) repeat: bool,
}

/// One request of a writer.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) server: usize,
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    /// `None`: no answer.
    pub(crate) status: Option<u16>,
    /// The connection was refused: nothing was sent.
    pub(crate) is_refused: bool,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    clients: Vec<Client>,
    begun: Instant,
    histories: Vec<Mutex<History>>,
    attempts: Mutex<Vec<Attempt>>,
    reads: Mutex<Vec<Attempt>>,
    refusals: Mutex<Vec<String>>,
    next_element: AtomicU64,
    is_over: AtomicBool,
}

/// A running load.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// Everything that a load did.
#[derive(Debug)]
pub(crate) struct Done {
    begun: Instant,
    pub(crate) histories: Vec<(String, History)>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) reads: Vec<Attempt>,
    /// Writes that were refused although what they are about was there.
    pub(crate) refusals: Vec<String>,
    /// Last reads that got no answer.
    unread: Vec<String>,
}

impl Plan {
    /// Fifty writes a second in all: ten writers over every server, half of them adding, half replacing.
    pub(crate) fn usual() -> Self {
        Self {
            clusters: vec![
                ("load-set".to_owned(), Work::Nodes),
                ("load-value".to_owned(), Work::Property),
                ("load-counter".to_owned(), Work::Conditional),
            ],
            writers: 9,
            pace: Duration::from_millis(180),
            read_pace: Duration::from_millis(400),
            repeat: true,
        }
    }
}

impl Load {
    /// Creates the clusters and starts, once every server knows them: from then on none may say that they are not there.
    pub(crate) async fn start(clients: Vec<Client>, plan: Plan) -> Self {
        for (name, _) in &plan.clusters {
            let cluster = json!({ "nodes": [], "properties": { "value": "0" } });
            let created = clients[0].put_cluster(name, &cluster).await;
            created.ok();
            let revision = created.revision();
            for client in &clients {
                client.get(&format!("/v1/clusters/{name}?min_revision={revision}")).await.ok();
            }
        }
        let kind = |work| if work == Work::Nodes { Kind::Set } else { Kind::Register };
        let histories = plan.clusters.iter().map(|(_, work)| Mutex::new(History::new(kind(*work)))).collect();
        let shared = Arc::new(Shared {
            histories,
            clients,
            begun: Instant::now(),
            attempts: Mutex::default(),
            reads: Mutex::default(),
            refusals: Mutex::default(),
            next_element: AtomicU64::new(1),
            is_over: AtomicBool::new(false),
            plan,
        });
        let mut tasks = JoinSet::new();
        for writer in 0..shared.plan.writers {
            tasks.spawn(keep_writing(Arc::clone(&shared), writer));
        }
        for server in 0..shared.clients.len() {
            for cluster in 0..shared.plan.clusters.len() {
                tasks.spawn(keep_reading(Arc::clone(&shared), server, cluster));
            }
        }
        Self { shared, tasks }
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        let attempts = locked(&self.shared.attempts);
        attempts.iter().filter(|attempt| attempt.is_acknowledged()).count()
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn more(&self, count: usize) {
        self.goes_on(count).await.unwrap_or_else(|stall| panic!("{stall}"));
    }

    /// The same for a row that judges what was written also when no more can be.
    pub(crate) async fn goes_on(&self, count: usize) -> Result<(), String> {
        let wanted = self.acknowledged() + count;
        jcm_tests::try_eventually(MORE_DEADLINE, "writes are acknowledged", async || {
            let found = self.acknowledged();
            if found >= wanted { Ok(()) } else { Err(format!("{found} of {wanted}")) }
        })
        .await
    }

    /// Ends it, and reads every cluster at every server once more, with everything acknowledged in it.
    pub(crate) async fn stop(mut self) -> Done {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a writer panicked");
        }
        let (shared, mut unread) = (&self.shared, Vec::new());
        for server in 0..shared.clients.len() {
            for cluster in 0..shared.plan.clusters.len() {
                let what = format!("a last read of cluster {cluster} at server {server}");
                let read = jcm_tests::try_eventually(LAST_READ_DEADLINE, &what, async || {
                    if read(shared, server, cluster, true).await { Ok(()) } else { Err("no answer") }
                });
                unread.extend(read.await.err());
            }
        }
        let shared = Arc::into_inner(self.shared).expect("all tasks have ended");
        let names = shared.plan.clusters.into_iter().map(|(name, _)| name);
        let histories = shared.histories.into_iter().map(unlocked);
        Done {
            begun: shared.begun,
            histories: names.zip(histories).collect(),
            attempts: unlocked(shared.attempts),
            reads: unlocked(shared.reads),
            refusals: unlocked(shared.refusals),
            unread,
        }
    }
}

impl Attempt {
    pub(crate) fn is_acknowledged(&self) -> bool {
        matches!(self.status, Some(200 | 201))
    }

    /// Whether it is a call that failed its caller. Refused: nothing was sent, the client goes to the next server.
    /// 503: said so, nothing was submitted.
    pub(crate) fn has_failed(&self) -> bool {
        !self.is_refused && self.status.is_none_or(|status| status >= 500 && status != 503)
    }

    pub(crate) fn took(&self) -> Duration {
        self.ended - self.begun
    }
}

impl Done {
    pub(crate) fn acknowledged(&self) -> usize {
        self.histories.iter().map(|(_, history)| history.acknowledged()).sum()
    }

    pub(crate) fn unknown(&self) -> usize {
        self.histories.iter().map(|(_, history)| history.unknown()).sum()
    }

    /// The longest time between two acknowledgements by one of these servers that a moment of the interval lies in.
    pub(crate) fn gap(&self, servers: &[usize], from: Instant, to: Instant) -> Duration {
        servers.iter().map(|server| self.gap_of(*server, from, to)).max().unwrap_or_default()
    }

    /// A line on each of these attempts: which server, when, for how long, and how it ended.
    pub(crate) fn described(&self, attempts: &[&Attempt]) -> String {
        let lines = attempts.iter().map(|attempt| {
            let status = attempt.status.map_or("no answer".to_owned(), |status| status.to_string());
            let (begun, took) = (attempt.begun - self.begun, attempt.took());
            format!("{status} of server {} at {begun:.2?} after {took:.2?}", attempt.server)
        });
        lines.collect::<Vec<_>>().join("; ")
    }

    fn gap_of(&self, server: usize, from: Instant, to: Instant) -> Duration {
        let own =
            self.attempts.iter().filter(|attempt| attempt.server == server && attempt.is_acknowledged());
        longest_gap(own.map(|attempt| attempt.ended).collect(), from, to)
    }

    /// Adds what every row of writes says to its result.
    pub(crate) fn judge(&self, row: &mut crate::row::Row, acknowledged_min: usize) {
        row.traffic("acknowledged", self.acknowledged(), acknowledged_min);
        row.figure("unknown", self.unknown());
        let first = self.refusals.first().cloned().unwrap_or_default();
        row.require("wrongly-refused", self.refusals.is_empty(), format!("{}: {first}", self.refusals.len()));
        row.require("unread", self.unread.is_empty(), self.unread.join("; "));
        let violations: Vec<_> =
            self.histories.iter().flat_map(|(_, history)| history.violations()).collect();
        row.violations("violations", &violations);
    }
}

/// The longest time between two of these moments that a moment of the interval lies in.
pub(crate) fn longest_gap(mut moments: Vec<Instant>, from: Instant, to: Instant) -> Duration {
    moments.sort();
    let before = moments.iter().rev().find(|moment| **moment <= from).copied().unwrap_or(from);
    let after = moments.iter().find(|moment| **moment >= to).copied().unwrap_or(to);
    let within = moments.into_iter().filter(|moment| *moment > from && *moment < to);
    let all: Vec<_> = [before].into_iter().chain(within).chain([after]).collect();
    all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

async fn keep_writing(shared: Arc<Shared>, writer: usize) {
    let mut pace = tokio::time::interval(shared.plan.pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Every cluster is written at every server.
    let mut turn = writer;
    while !shared.is_over.load(Ordering::Relaxed) {
        pace.tick().await;
        let cluster = turn / shared.clients.len() % shared.plan.clusters.len();
        turn += shared.clients.len();
        write(&shared, writer % shared.clients.len(), cluster).await;
    }
}

async fn write(shared: &Shared, first: usize, cluster: usize) {
    let (name, work) = &shared.plan.clusters[cluster];
    let element = shared.next_element.fetch_add(1, Ordering::Relaxed);
    let (method, path, body) = match work {
        Work::Nodes => (Method::POST, format!("/v1/clusters/{name}/nodes"), node(element)),
        _ => (
            Method::PATCH,
            format!("/v1/clusters/{name}"),
            json!({ "properties": { "value": element.to_string() } }),
        ),
    };
    let expected = match work {
        Work::Conditional => {
            let Some(answer) = ask(shared, first, name, false).await else { return };
            Some(answer.etag())
        }
        _ => None,
    };
    let key = format!("load-{}-{cluster}-{element}", std::process::id());
    let (begun, mut server) = (shared.begun.elapsed(), first);
    let patience = Instant::now() + WRITE_PATIENCE;
    let outcome = loop {
        let client = &shared.clients[server];
        let mut request = client
            .request(method.clone(), &path)
            .timeout(ATTEMPT_DEADLINE)
            .header("idempotency-key", &key)
            .json(&body);
        if let Some(expected) = expected {
            request = request.header("if-match", expected.to_string());
        }
        let sent = Instant::now();
        let answer = client.try_send(request).await;
        let is_refused = answer.as_ref().is_err_and(reqwest::Error::is_connect);
        let status = answer.as_ref().ok().map(|answer| answer.status);
        let attempt = Attempt { server, begun: sent, ended: Instant::now(), status, is_refused };
        locked(&shared.attempts).push(attempt);
        match answer {
            Ok(answer) if matches!(answer.status, 200 | 201) => break Outcome::Applied(answer.revision()),
            Ok(answer) if answer.status == 412 => break Outcome::NotApplied,
            // The store is out of reach, the outcome is unknown, or the server is busy: again, under the same key.
            Ok(answer) if matches!(answer.status, 429 | 503 | 504) => {}
            // Nothing of what a load writes can rightly be refused: what it writes to is there.
            Ok(answer) => {
                locked(&shared.refusals).push(answer.to_string());
                break Outcome::NotApplied;
            }
            Err(_) => {}
        }
        if !shared.plan.repeat || Instant::now() >= patience {
            break Outcome::Unknown;
        }
        server = (server + 1) % shared.clients.len();
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    let ended = shared.begun.elapsed();
    locked(&shared.histories[cluster]).writes.push(Write { element, expected, begun, ended, outcome });
}

async fn keep_reading(shared: Arc<Shared>, server: usize, cluster: usize) {
    let mut pace = tokio::time::interval(shared.plan.read_pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_consistent = false;
    while !shared.is_over.load(Ordering::Relaxed) {
        pace.tick().await;
        read(&shared, server, cluster, is_consistent).await;
        is_consistent = !is_consistent;
    }
}

/// Reads a cluster at a server. Answers whether there was one to note.
async fn read(shared: &Shared, server: usize, cluster: usize, is_consistent: bool) -> bool {
    let begun = shared.begun.elapsed();
    let (name, work) = &shared.plan.clusters[cluster];
    let Some(answer) = ask(shared, server, name, is_consistent).await else { return false };
    let ended = shared.begun.elapsed();
    let elements = match work {
        Work::Nodes => nodes(&answer.body),
        _ => BTreeSet::from([value(&answer.body)]).into_iter().filter(|value| *value > 0).collect(),
    };
    let read = Read { server, begun, ended, is_consistent, revision: answer.etag(), elements };
    locked(&shared.histories[cluster]).reads.push(read);
    true
}

async fn ask(shared: &Shared, server: usize, name: &str, is_consistent: bool) -> Option<Answer> {
    let client = &shared.clients[server];
    let query = if is_consistent { "?consistent=true" } else { "" };
    let path = format!("/v1/clusters/{name}{query}");
    let begun = Instant::now();
    let answer = client.try_send(client.request(Method::GET, &path).timeout(ATTEMPT_DEADLINE)).await;
    let is_refused = answer.as_ref().is_err_and(reqwest::Error::is_connect);
    let status = answer.as_ref().ok().map(|answer| answer.status);
    if !is_consistent {
        let attempt = Attempt { server, begun, ended: Instant::now(), status, is_refused };
        locked(&shared.reads).push(attempt);
    }
    answer.ok().filter(|answer| answer.status == 200)
}

/// An address that says which element it is, of a block that is nobody's.
fn node(element: u64) -> Value {
    let [.., a, b, c] = element.to_be_bytes();
    json!({ "address": format!("10.{a}.{b}.{c}"), "ports": { "http": 80 } })
}

fn nodes(cluster: &Value) -> BTreeSet<u64> {
    let nodes = cluster["nodes"].as_array().into_iter().flatten();
    nodes
        .filter_map(|node| {
            let address: std::net::Ipv4Addr = node["address"].as_str()?.parse().ok()?;
            Some(u64::from(u32::from(address) & 0x00ff_ffff))
        })
        .collect()
}

fn value(cluster: &Value) -> u64 {
    let value = cluster["properties"]["value"].as_str().and_then(|text| text.parse().ok());
    value.unwrap_or_else(|| panic!("no value in {cluster}"))
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn unlocked<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}
