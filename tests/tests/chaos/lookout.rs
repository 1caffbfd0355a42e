//! Looks at verdicts on all servers, and at what reaches the nodes, through every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jcm_tests::history::verdicts::{History, Seen};
use jcm_tests::{Client, Target, eventually};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const LOOK_PAUSE: Duration = Duration::from_millis(150);
const LOOK_DEADLINE: Duration = Duration::from_secs(2);
const VERDICT_DEADLINE: Duration = Duration::from_mins(1);
/// Two successes under the check of rows, a busy machine, and a look.
const GRACE: Duration = Duration::from_secs(6);

/// One round of the checks that rows use.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// From a failure to `down`: three rounds and a timeout.
pub(crate) const DETECTION: Duration = Duration::from_millis(3_800);

/// A cluster whose nodes are checked under the default policy: every second, three to fall, two to rise.
pub(crate) fn checked(target: &Target) -> Value {
    json!({ "check": { "kind": "http", "path": "/status" }, "nodes": target.definitions() })
}

/// A look-out over some clusters. Ends with [`Self::stop`].
#[derive(Debug)]
pub(crate) struct Lookout {
    history: Arc<Mutex<History>>,
    looks: Arc<Mutex<BTreeMap<usize, (usize, usize)>>>,
    begun: Instant,
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Lookout {
    pub(crate) fn start(clients: Vec<Client>, clusters: &[&str]) -> Self {
        let history = Arc::new(Mutex::new(History { grace: GRACE, ..History::default() }));
        let (is_over, begun) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let looks = Arc::default();
        let mut tasks = JoinSet::new();
        for (server, client) in clients.into_iter().enumerate() {
            for cluster in clusters {
                let (history, looks, is_over) =
                    (Arc::clone(&history), Arc::clone(&looks), Arc::clone(&is_over));
                tasks.spawn(look(
                    client.clone(),
                    server,
                    (*cluster).to_owned(),
                    history,
                    looks,
                    is_over,
                    begun,
                ));
            }
        }
        Self { history, looks, begun, is_over, tasks }
    }

    pub(crate) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    /// From now on the node is broken.
    pub(crate) fn broken(&self, node: SocketAddr) {
        let now = self.begun.elapsed();
        self.locked().broken.entry(node.to_string()).or_default().push((now, None));
    }

    /// From now on the node is well.
    pub(crate) fn well(&self, node: SocketAddr) {
        let now = self.begun.elapsed();
        if let Some(last) = self.locked().broken.get_mut(&node.to_string()).and_then(|times| times.last_mut())
        {
            last.1 = Some(now);
        }
    }

    /// Waits until these servers call the node this, and answers how long after `from` the last of them did.
    pub(crate) async fn until(
        &self,
        servers: &[usize],
        node: SocketAddr,
        verdict: &str,
        from: Duration,
    ) -> Duration {
        let what = format!("{node} is {verdict} at {servers:?}");
        let id = node.to_string();
        eventually(VERDICT_DEADLINE, &what, async || {
            let history = self.locked();
            let moments: Option<Vec<_>> = servers
                .iter()
                .map(|server| {
                    let of_node = |seen: &&Seen| seen.server == *server && seen.node == id;
                    let last = history.seen.iter().rev().find(of_node)?;
                    let first = history
                        .seen
                        .iter()
                        .find(|seen| of_node(seen) && seen.at >= from && seen.verdict == verdict)?;
                    (last.verdict == verdict).then_some(first.at)
                })
                .collect();
            moments.and_then(|moments| moments.into_iter().max()).ok_or("not yet")
        })
        .await
        .saturating_sub(from)
    }

    /// Ends it, and answers what was seen, and how many looks of how many were answered at each server.
    pub(crate) async fn stop(mut self) -> (History, BTreeMap<usize, (usize, usize)>) {
        self.is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a look-out panicked");
        }
        let history = self.locked().clone();
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (history, looks)
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(
    client: Client,
    server: usize,
    cluster: String,
    history: Arc<Mutex<History>>,
    looks: Arc<Mutex<BTreeMap<usize, (usize, usize)>>>,
    is_over: Arc<AtomicBool>,
    begun: Instant,
) {
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_PAUSE).await;
        let asked = begun.elapsed();
        let path = format!("/v1/clusters/{cluster}/view");
        let answer = client.try_send(client.request(Method::GET, &path).timeout(LOOK_DEADLINE)).await;
        let answered = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        {
            let mut looks = looks.lock().unwrap_or_else(PoisonError::into_inner);
            let (good, all) = looks.entry(server).or_default();
            *good += usize::from(answered);
            *all += 1;
        }
        let Ok(answer) = answer else { continue };
        for node in answer.body["nodes"].as_array().into_iter().flatten() {
            let (Some(id), Some(verdict)) = (node["id"].as_str(), node["verdict"].as_str()) else { continue };
            // A down is noted each time: a node that stays down once it is well is wrongly down only later.
            if verdict == "down" || last.get(id).is_none_or(|last| last != verdict) {
                last.insert(id.to_owned(), verdict.to_owned());
                let seen = Seen { at: asked, server, node: id.to_owned(), verdict: verdict.to_owned() };
                history.lock().unwrap_or_else(PoisonError::into_inner).seen.push(seen);
            }
        }
    }
}

/// Waits until every one of these servers calls all nodes healthy.
pub(crate) async fn all_healthy(clients: &[Client], cluster: &str) {
    for client in clients {
        all_are(client, cluster, "healthy", VERDICT_DEADLINE).await;
    }
}

/// Waits until the server calls all nodes of the cluster this.
pub(crate) async fn all_are(client: &Client, cluster: &str, verdict: &str, within: Duration) {
    eventually(within, &format!("all of {cluster} are {verdict}"), async || {
        let view = client.view(cluster).await;
        let nodes = view.body["nodes"].as_array().cloned().unwrap_or_default();
        let others = nodes.iter().filter(|node| node["verdict"] != verdict).count();
        if view.status == 200 && !nodes.is_empty() && others == 0 {
            Ok(())
        } else {
            Err(format!("{} with {others} others of {}", view.status, nodes.len()))
        }
    })
    .await;
}

/// Waits until every server has a share of the checks, by the word of each of them. Servers join the ring a while after
/// their start.
pub(crate) async fn all_share(clients: &[Client], cluster: &str, nodes: &[SocketAddr]) {
    for client in clients {
        eventually(VERDICT_DEADLINE, &format!("all servers share the checks of {cluster}"), async || {
            let owners = owners(client, cluster, nodes).await;
            let sharing = distinct(&owners).len();
            if sharing == clients.len() { Ok(()) } else { Err(format!("{sharing} of {}", clients.len())) }
        })
        .await;
    }
}

/// Which server checks each node, by one server's word.
pub(crate) async fn owners(
    client: &Client,
    cluster: &str,
    nodes: &[SocketAddr],
) -> BTreeMap<SocketAddr, String> {
    let mut owners = BTreeMap::new();
    for node in nodes {
        let why = client.why(cluster, &node.to_string()).await;
        if let Some(owner) = why.body["owner"].as_str() {
            owners.insert(*node, owner.to_owned());
        }
    }
    owners
}

/// How long each node was not checked at the longest: looks at the nodes' own counts.
#[derive(Debug)]
pub(crate) struct Coverage {
    is_over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<BTreeMap<SocketAddr, Duration>>,
}

impl Coverage {
    pub(crate) fn start(target: &Arc<Target>) -> Self {
        let (is_over, target) = (Arc::new(AtomicBool::new(false)), Arc::clone(target));
        let over = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            let mut last: BTreeMap<SocketAddr, (u64, Instant)> = BTreeMap::new();
            let mut longest: BTreeMap<SocketAddr, Duration> = BTreeMap::new();
            while !over.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK_PAUSE).await;
                let counts = target.counts().await;
                let now = Instant::now();
                for (node, count) in counts {
                    let (before, at) = last.entry(node).or_insert((count, now));
                    let silent = now - *at;
                    if *before != count {
                        (*before, *at) = (count, now);
                    }
                    let longest = longest.entry(node).or_default();
                    *longest = silent.max(*longest);
                }
            }
            longest
        });
        Self { is_over, task }
    }

    /// The longest time without a check, of every node.
    pub(crate) async fn stop(self) -> BTreeMap<SocketAddr, Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("the looks at the nodes do not panic")
    }
}

/// Distinct owners among nodes.
pub(crate) fn distinct(owners: &BTreeMap<SocketAddr, String>) -> BTreeSet<&str> {
    owners.values().map(String::as_str).collect()
}
