//! What most rows begin with: a ZooKeeper of three, three servers on it, nodes that are checked, and wires to cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_tests::group::{self, Group};
use jcm_tests::{Answer, Client, Ensemble, Proxy, Target, eventually};
use reqwest::Method;
use serde_json::{Value, json};

use crate::lookout;

pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
/// Rows wait longer than what is promised, to be able to say by how much it was missed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// Whether the short form of a row is wanted, as `scripts/test` runs it.
pub(crate) fn is_short() -> bool {
    std::env::var_os("JCM_CHAOS_SHORT").is_some()
}

/// Three servers on a ZooKeeper of three members.
pub(crate) async fn three() -> (Ensemble, Group) {
    let zookeeper = Ensemble::start(3).await;
    let group = Group::of(&zookeeper, 3).session_timeout(SESSION_TIMEOUT).start().await;
    (zookeeper, group)
}

/// A checked cluster of so many real nodes, healthy by the word of every server, and shared among all of them.
pub(crate) async fn checked(group: &Group, name: &str, nodes: usize) -> Arc<Target> {
    let target = Arc::new(Target::start(nodes).await);
    group.client(0).put_cluster(name, &lookout::checked(&target)).await.ok();
    lookout::all_share(&group.clients(), name, target.nodes()).await;
    lookout::all_healthy(&group.clients(), name).await;
    target
}

/// A cluster that programs follow: of nodes without a check, and a property that rows change.
pub(crate) async fn followed(group: &Group, name: &str) {
    let nodes: Vec<_> =
        (1..=3).map(|host| json!({ "address": format!("10.9.9.{host}"), "ports": { "http": 80 } })).collect();
    group.client(0).put_cluster(name, &json!({ "nodes": nodes, "properties": { "mark": "0" } })).await.ok();
}

/// Writes a property until a server acknowledges it. Answers the revision.
pub(crate) async fn mark(clients: &[Client], cluster: &str, value: &str) -> u64 {
    let body = json!({ "properties": { "mark": value } });
    insist(clients, Method::PATCH, &format!("/v1/clusters/{cluster}"), &body).await.revision()
}

/// Repeats a write under one key, from server to server, until it is acknowledged.
pub(crate) async fn insist(clients: &[Client], method: Method, path: &str, body: &Value) -> Answer {
    let begun = Instant::now();
    let key = format!("insist-{}-{:?}", std::process::id(), begun);
    let mut last = String::from("nothing");
    for client in clients.iter().cycle() {
        assert!(begun.elapsed() < PATIENCE, "{method} {path} was not acknowledged; last: {last}");
        let request = client.request(method.clone(), path).timeout(Duration::from_secs(3));
        match client.try_send(request.header("idempotency-key", &key).json(body)).await {
            Ok(answer) if matches!(answer.status, 200 | 201) => return answer,
            Ok(answer) => last = answer.to_string(),
            Err(error) => last = format!("{error:?}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("a cycle of clients has no end")
}

/// Waits until the server's memory has come to this revision. Answers how long that took, `None` if it did not.
pub(crate) async fn comes_to(client: &Client, revision: u64, deadline: Duration) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < deadline {
        if let Ok(status) = group::answer(client, "/v1/status").await
            && status["store"]["revision"].as_u64().is_some_and(|found| found >= revision)
        {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

/// All servers but this one.
pub(crate) fn others(group: &Group, server: usize) -> Vec<usize> {
    (0..group.len()).filter(|other| *other != server).collect()
}

/// The wires between servers and members of ZooKeeper: one proxy for each pair.
#[derive(Debug)]
pub(crate) struct Wires(Vec<Vec<Proxy>>);

impl Wires {
    /// A group of three whose servers reach ZooKeeper only through these.
    pub(crate) async fn three() -> (Ensemble, Self, Group) {
        let zookeeper = Ensemble::start(3).await;
        let mut wires = Vec::new();
        let mut starter = Group::of(&zookeeper, 3).session_timeout(SESSION_TIMEOUT);
        for server in 0..3 {
            let mut own = Vec::new();
            for member in zookeeper.numbers() {
                own.push(Proxy::to(zookeeper.address(member)).await);
            }
            let hosts: Vec<_> = own.iter().map(|proxy| proxy.address().to_string()).collect();
            starter = starter.hosts_of(server, &hosts.join(","));
            wires.push(own);
        }
        let group = starter.start().await;
        (zookeeper, Self(wires), group)
    }

    pub(crate) fn each(&self, server: usize, what: impl Fn(&Proxy)) {
        self.0[server].iter().for_each(what);
    }

    /// Connections that a server has made to ZooKeeper so far.
    pub(crate) fn connections(&self, server: usize) -> u64 {
        self.0[server].iter().map(Proxy::connections).sum()
    }
}

/// Waits until a server says that it has no store.
pub(crate) async fn without_store(client: &Client) {
    eventually(PATIENCE, "the server says that the store is out of reach", async || {
        let status = group::answer(client, "/v1/status").await?;
        if status["store"]["state"] == "unavailable" { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// Nodes whose check is a server's share.
pub(crate) async fn share(
    group: &Group,
    asked: usize,
    owner: usize,
    cluster: &str,
    target: &Target,
) -> Vec<SocketAddr> {
    let owners = lookout::owners(&group.client(asked), cluster, target.nodes()).await;
    let id = Group::id(owner);
    owners.into_iter().filter(|(_, owner)| *owner == id).map(|(node, _)| node).collect()
}

/// A figure of `/metrics`, over all its labels.
pub(crate) async fn figure(client: &Client, figure: &str) -> f64 {
    let text = client.get("/metrics").await.text;
    let of = |line: &str| {
        let (name, value) = line.rsplit_once(' ')?;
        let name = name.split('{').next()?;
        (name == figure).then(|| value.parse::<f64>().ok()).flatten()
    };
    text.lines().filter_map(of).fold(0.0, |sum, value| sum + value)
}
