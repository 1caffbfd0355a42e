//! Who pushes: JCM, a bare tonic broadcast, bare sockets, etcd. Each is a process of its own, started for one round.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use jcm_proto::v1::{WatchRequest, WatchResponse, watch_request, watch_response};
use jcm_tests::{Client, Server, eventually, memory};
use prost::Message as _;
use serde_json::json;
use tempfile::TempDir;

use crate::bare;
use crate::reader::{Plan, now};

pub(crate) const CLUSTER: &str = "bench";
/// Streams that may be waiting for their first view at once: more would overflow the backlog of a listener.
const OPENING_MAX: usize = 200;
const START_DEADLINE: Duration = Duration::from_secs(20);

/// What happens in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A definition is committed: one node of the cluster gets another weight.
    Commit,
    /// A node that is checked stops to answer.
    Turn,
}

pub(crate) enum Contender {
    Jcm {
        server: Box<Server>,
        client: Client,
        nodes: Vec<Option<TcpListener>>,
        ids: Vec<String>,
        next: usize,
    },
    Bare {
        child: Child,
        stdin: ChildStdin,
        address: SocketAddr,
        path: &'static str,
    },
    Etcd {
        child: Child,
        client: Client,
        address: SocketAddr,
        _directory: TempDir,
    },
}

impl Contender {
    /// A server with a cluster of checked nodes, all of which are healthy. `nodes` counts them.
    pub(crate) async fn jcm(nodes: usize, interval: &str) -> Self {
        let server = Server::dev().in_memory().start().await;
        let client = server.client();
        let listeners: Vec<_> = (0..nodes).map(listener).collect();
        let addresses: Vec<_> =
            listeners.iter().map(|listener| listener.local_addr().expect("a bound socket")).collect();
        // A port that nobody listens on refuses at once. On a busy machine only that may be a failure.
        let check = json!({ "kind": "tcp", "interval": interval, "timeout": "5s", "fall": 1, "rise": 1 });
        let defined: Vec<_> = addresses
            .iter()
            .map(
                |address| json!({ "address": address.ip().to_string(), "ports": { "http": address.port() } }),
            )
            .collect();
        client.put_cluster(CLUSTER, &json!({ "check": check, "nodes": defined })).await.ok();
        eventually(Duration::from_mins(2), "every node is healthy", async || {
            let clusters = client.get("/v1/clusters").await;
            let healthy = clusters.body["clusters"][0]["healthy"].as_u64();
            if healthy == Some(nodes as u64) { Ok(()) } else { Err(format!("{healthy:?} are")) }
        })
        .await;
        let ids = addresses.iter().map(ToString::to_string).collect();
        let nodes = listeners.into_iter().map(Some).collect();
        Self::Jcm { server: Box::new(server), client, nodes, ids, next: 0 }
    }

    /// This program once more, which sends `event` (what stands inside a delta) to all.
    pub(crate) fn bare(role: &str, path: &'static str, event: &[u8]) -> Self {
        let mut child = again(&[role, &hex(event)]);
        let address = bare::listening(&first_line(&mut child)).expect("it says where it listens");
        let stdin = child.stdin.take().expect("it is piped");
        Self::Bare { child, stdin, address, path }
    }

    pub(crate) async fn etcd() -> Self {
        let directory = memory::directory("jcm-bench-etcd-").expect("a temporary directory");
        let [address, peers] = [free_address(), free_address()];
        let [url, peers] = [format!("http://{address}"), format!("http://{peers}")];
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path())
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("default={peers}"), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start etcd; scripts/bench installs Debian's etcd-server");
        let client = Client::new(&url);
        eventually(START_DEADLINE, "etcd serves", async || put(&client).await).await;
        Self::Etcd { child, client, address, _directory: directory }
    }

    pub(crate) fn pid(&self) -> u32 {
        match self {
            Self::Jcm { server, .. } => server.pid(),
            Self::Bare { child, .. } | Self::Etcd { child, .. } => child.id(),
        }
    }

    pub(crate) fn plan(&self, connections: usize, streams: usize) -> Plan {
        let plan = |address, path: &str, requests, ready, event| Plan {
            address,
            connections,
            streams,
            path: path.to_owned(),
            requests,
            ready,
            event,
            opening: OPENING_MAX,
        };
        match self {
            Self::Jcm { server, .. } => {
                plan(server.address(), "/jcm.v1.Discovery/Watch", requests(), 0x12, 0x1a)
            }
            Self::Bare { address, path, .. } => plan(*address, path, vec![Vec::new()], 0x12, 0x1a),
            // WatchRequest { create_request: { key: "k" } }; every answer begins with a header.
            Self::Etcd { address, .. } => {
                let watch = vec![0x0a, 0x03, 0x0a, 0x01, b'k'];
                plan(*address, "/etcdserverpb.Watch/Watch", vec![watch], 0x0a, 0x0a)
            }
        }
    }

    /// Makes it push once, and answers when that began; `None`: the event itself says.
    pub(crate) async fn push(&mut self, change: Change) -> Option<u64> {
        let begun = now();
        match self {
            Self::Jcm { client, ids, next, .. } if change == Change::Commit => {
                *next += 1;
                client.patch_node(CLUSTER, &ids[0], &json!({ "weight": 1 + *next % 1000 })).await.ok();
            }
            Self::Jcm { nodes, .. } => {
                let node = nodes.iter_mut().rev().find_map(Option::take);
                drop(node.expect("a node that is still healthy"));
                return None;
            }
            Self::Bare { stdin, .. } => stdin.write_all(b"\n").expect("a process that reads"),
            Self::Etcd { client, .. } => put(client).await.expect("etcd takes a write"),
        }
        Some(begun)
    }
}

impl Drop for Contender {
    fn drop(&mut self) {
        match self {
            // It ends with its owner.
            Self::Jcm { .. } => {}
            Self::Bare { child, .. } | Self::Etcd { child, .. } => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// What a subscriber of one cluster says.
fn requests() -> Vec<Vec<u8>> {
    use watch_request::{Hello, Request, Subscribe};
    let (protocol, newest_protocol) =
        (jcm_proto::WATCH_PROTOCOLS.oldest(), jcm_proto::WATCH_PROTOCOLS.newest());
    let hello = Hello { protocol, newest_protocol, client: "bench".to_owned(), acknowledges: false };
    let subscribe = Subscribe { cluster: CLUSTER.to_owned(), ..Subscribe::default() };
    [Request::Hello(hello), Request::Subscribe(subscribe)]
        .map(|request| WatchRequest { request: Some(request) }.encode_to_vec())
        .into()
}

/// When the verdict in an event turned, in nanoseconds since 1970 by the server's clock: the latest of them.
pub(crate) fn turned_at(event: &[u8]) -> Option<u64> {
    let Some(watch_response::Event::Delta(delta)) = WatchResponse::decode(event).ok()?.event else {
        return None;
    };
    let latest = delta.verdicts.iter().map(|verdict| verdict.since_ms).max()?;
    Some(u64::try_from(latest).ok()? * 1_000_000)
}

/// What stands inside the delta.
pub(crate) fn inner(event: &[u8]) -> Vec<u8> {
    let mut event = event;
    prost::encoding::decode_key(&mut event).expect("a message with one field");
    prost::encoding::decode_varint(&mut event).expect("a field with a length");
    event.to_vec()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

pub(crate) fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("digits"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal digits")).collect()
}

/// This program in another role.
pub(crate) fn again(arguments: &[&str]) -> Child {
    Command::new(std::env::current_exe().expect("a running program has a path"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start this program")
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    // It says nothing else there.
    BufReader::new(child.stdout.take().expect("it is piped")).read_line(&mut line).expect("a line");
    line
}

/// A node that accepts connections: fifty addresses, each with ports of its own.
fn listener(number: usize) -> TcpListener {
    let host = u8::try_from(number % 50).expect("fifty") + 1;
    TcpListener::bind(SocketAddr::from(([127, 0, 5, host], 0))).expect("a free port")
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Key `k` gets a value.
async fn put(client: &Client) -> Result<(), String> {
    let request = client.request(reqwest::Method::POST, "/v3/kv/put");
    let body = json!({ "key": "aw==", "value": "dmFsdWU=" });
    match client.try_send(request.json(&body)).await {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.text),
        Err(error) => Err(error.to_string()),
    }
}
