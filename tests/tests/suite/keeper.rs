//! Programs that keep leases, by hand: what a subscriber library would say on its watch stream, and no more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jcm_proto::v1::discovery_client::DiscoveryClient;
use jcm_proto::v1::registry_client::RegistryClient;
use jcm_proto::v1::watch_request::{Hello, Keep, Request};
use jcm_proto::v1::watch_response::{Event, LostLease};
use jcm_proto::v1::{self, WatchRequest, WatchResponse, watch_request};
use jcm_tests::Client;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// How long a renewal lasts in these tests, and how often it is made.
pub(crate) const TTL: &str = "3s";
const KEEP_PAUSE: Duration = Duration::from_secs(1);

/// A server that says nothing for three heartbeats is left, as `jcm-subscriber` leaves it.
const SILENT_AFTER: Duration = Duration::from_millis(4_500);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(100);

/// Leases in one message.
const HELD_MAX: usize = 128;

/// A node that keeps itself, as it is written.
pub(crate) fn node(number: u16) -> Value {
    json!({
        "id": format!("n{number}"), "address": "127.0.0.9", "ports": { "http": 10_000 + number },
        "lease": { "id": lease(number), "ttl": TTL },
    })
}

pub(crate) fn nodes(numbers: impl IntoIterator<Item = u16>) -> Value {
    numbers.into_iter().map(node).collect()
}

/// Alike in every run, which no real program's is.
pub(crate) fn lease(number: u16) -> String {
    format!("{:032x}", 0xabc0_0000_u32 + u32::from(number))
}

/// What a program says of its node; `store` and `revision` are of its registration, where that matters.
pub(crate) fn held(cluster: &str, number: u16) -> watch_request::Held {
    let lease = u128::from_str_radix(&lease(number), 16).expect("hexadecimal digits");
    watch_request::Held {
        cluster: cluster.to_owned(),
        node: format!("n{number}"),
        lease: lease.to_be_bytes().to_vec(),
        ..watch_request::Held::default()
    }
}

/// Where a registration was acknowledged; empty: nobody knows.
#[derive(Debug, Default)]
pub(crate) struct Registered {
    store: Vec<u8>,
    revision: u64,
}

/// Registers these nodes as their program would.
pub(crate) async fn register(
    server: &str,
    cluster: &str,
    numbers: impl IntoIterator<Item = u16>,
) -> Registered {
    let node = |number: u16| v1::Node {
        id: format!("n{number}"),
        // Nobody connects there: where a lease is the check, nothing is probed.
        address: vec![10, 9, 9, 9],
        ports: [("http".to_owned(), u32::from(10_000 + number))].into(),
        lease: Some(v1::Lease { id: held(cluster, number).lease, ttl_ms: 3_000 }),
        ..v1::Node::default()
    };
    let nodes = numbers.into_iter().map(node).collect();
    let request = v1::PutNodesRequest { cluster: cluster.to_owned(), nodes, options: None };
    let mut client = RegistryClient::connect(server.to_owned()).await.expect("the server is there");
    let written = client.put_nodes(request).await.expect("the nodes are registered").into_inner();
    Registered { store: written.store, revision: written.revision }
}

/// One process with any number of nodes: it keeps all of them over one stream, to one server at a time.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    servers: watch::Sender<Vec<String>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<BTreeMap<String, watch_request::Held>>,
    lost: Mutex<Vec<LostLease>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Keeper {
    /// Keeps these nodes of the cluster, at the first of these servers that answers.
    pub(crate) fn start(servers: Vec<String>, cluster: &str, numbers: impl IntoIterator<Item = u16>) -> Self {
        Self::start_registered(servers, cluster, numbers, &Registered::default())
    }

    /// The same for who knows where the registration was acknowledged.
    pub(crate) fn start_registered(
        servers: Vec<String>,
        cluster: &str,
        numbers: impl IntoIterator<Item = u16>,
        registered: &Registered,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let Registered { store, revision } = registered;
        for number in numbers {
            let held =
                watch_request::Held { store: store.clone(), revision: *revision, ..held(cluster, number) };
            lock(&shared.held).insert(format!("n{number}"), held);
        }
        let (servers, known) = watch::channel(servers);
        let task = tokio::spawn(run(Arc::clone(&shared), known));
        Self { shared, servers, task }
    }

    /// The programs of these nodes die.
    pub(crate) fn forget(&self, numbers: impl IntoIterator<Item = u16>) {
        let mut held = lock(&self.shared.held);
        for number in numbers {
            held.remove(&format!("n{number}"));
        }
    }

    /// Leaves its server, and goes to these.
    pub(crate) fn go_to(&self, servers: Vec<String>) {
        self.servers.send_replace(servers);
    }

    /// What it was told that is lost, each time it was.
    pub(crate) fn lost(&self) -> Vec<LostLease> {
        lock(&self.shared.lost).clone()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(shared: Arc<Shared>, mut known: watch::Receiver<Vec<String>>) {
    loop {
        let servers = known.borrow_and_update().clone();
        for server in servers {
            tokio::select! {
                Ok(()) = known.changed() => {
                    known.mark_changed();
                    break;
                }
                () = keep_at(&shared, &server) => {}
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until the stream ends or is silent.
async fn keep_at(shared: &Shared, server: &str) {
    let Ok(Ok((mut stream, sender))) = tokio::time::timeout(CONNECT_DEADLINE, open(server)).await else {
        return;
    };
    let mut renewals = tokio::time::interval(KEEP_PAUSE);
    let mut silence = Box::pin(tokio::time::sleep(SILENT_AFTER));
    loop {
        tokio::select! {
            _ = renewals.tick() => {
                let held: Vec<_> = lock(&shared.held).values().cloned().collect();
                for held in held.chunks(HELD_MAX) {
                    let keep = Request::Keep(Keep { held: held.to_vec() });
                    // A stream without room is one to a server that stands still.
                    let _ = sender.try_send(WatchRequest { request: Some(keep) });
                }
            }
            () = &mut silence => return,
            message = stream.message() => {
                let Ok(Some(message)) = message else { return };
                silence.as_mut().reset(tokio::time::Instant::now() + SILENT_AFTER);
                match message.event {
                    Some(Event::Lost(lost)) => lock(&shared.lost).extend(lost.leases),
                    Some(Event::GoAway(_)) => return,
                    _ => {}
                }
            }
        }
    }
}

/// A stream whose server said `welcome`.
pub(crate) async fn open(
    server: &str,
) -> Result<(Streaming<WatchResponse>, mpsc::Sender<WatchRequest>), Box<dyn std::error::Error + Send + Sync>>
{
    let channel = Endpoint::from_shared(server.to_owned())?.connect().await?;
    let (sender, said) = mpsc::channel(64);
    let hello =
        Hello { protocol: 1, newest_protocol: 3, client: "keeps leases".to_owned(), ..Hello::default() };
    sender.try_send(WatchRequest { request: Some(Request::Hello(hello)) })?;
    let mut stream = DiscoveryClient::new(channel).watch(ReceiverStream::new(said)).await?.into_inner();
    match stream.message().await?.and_then(|message| message.event) {
        Some(Event::Welcome(welcome)) if welcome.protocol >= 3 => Ok((stream, sender)),
        other => Err(format!("no welcome of this protocol: {other:?}").into()),
    }
}

/// The verdicts of a cluster by node, as a server shows them; a server that does not answer shows none.
pub(crate) async fn verdicts(client: &Client, cluster: &str) -> BTreeMap<String, String> {
    let path = format!("/v1/clusters/{cluster}/view");
    let Ok(view) = jcm_tests::group::answer(client, &path).await else { return BTreeMap::new() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let nodes = view["nodes"].as_array().into_iter().flatten();
    nodes.map(|node| (text(&node["id"]), text(&node["verdict"]))).collect()
}

/// Reads a cluster's verdicts at one server again and again, and keeps what must not have been there.
#[derive(Debug)]
pub(crate) struct Guard {
    wrong: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Guard {
    /// These nodes must be there and not down, at any time.
    pub(crate) fn start(client: Client, cluster: &str, numbers: impl IntoIterator<Item = u16>) -> Self {
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let (noted, cluster) = (Arc::clone(&wrong), cluster.to_owned());
        let nodes: Vec<String> = numbers.into_iter().map(|number| format!("n{number}")).collect();
        let task = tokio::spawn(async move {
            loop {
                let found = verdicts(&client, &cluster).await;
                for node in nodes.iter().filter(|_| !found.is_empty()) {
                    match found.get(node).map(String::as_str) {
                        Some("down") => lock(&noted).push(format!("{node} is down")),
                        None => lock(&noted).push(format!("{node} is not there")),
                        Some(_) => {}
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        Self { wrong, task }
    }

    /// What was wrong, each once.
    pub(crate) fn stop(self) -> Vec<String> {
        self.task.abort();
        let mut wrong = lock(&self.wrong).clone();
        wrong.sort();
        wrong.dedup();
        wrong
    }
}
