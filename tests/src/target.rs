//! Nodes to check: one process of the example `target` behind as many addresses as asked for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::api::Client;
use crate::{binary, loopback, process};

const START_DEADLINE: Duration = Duration::from_secs(15);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// A process with real HTTP nodes. Ends with its owner.
#[derive(Debug)]
pub struct Target {
    place: Option<(String, IpAddr)>,
    child: Child,
    nodes: Vec<SocketAddr>,
    control: Client,
}

impl Target {
    /// This many nodes, each at an address of its own, all healthy.
    pub async fn start(count: usize) -> Self {
        let listen: Vec<_> = (0..count).map(|_| SocketAddr::from((loopback::next(), 0))).collect();
        Self::at(&listen).await
    }

    /// Nodes at these addresses; port 0 is any.
    pub async fn at(listen: &[SocketAddr]) -> Self {
        Self::start_at(listen, None).await
    }

    /// Nodes in this network namespace, at these addresses of it, told how to behave at another address of it.
    pub async fn within(namespace: &str, listen: &[SocketAddr], control: IpAddr) -> Self {
        Self::start_at(listen, Some((namespace.to_owned(), control))).await
    }

    async fn start_at(listen: &[SocketAddr], place: Option<(String, IpAddr)>) -> Self {
        let (child, ready) = spawn(listen, place.as_ref()).await;
        let nodes = ready["listening"]
            .as_array()
            .expect("the target tells its addresses")
            .iter()
            .map(|address| address.as_str().and_then(|text| text.parse().ok()).expect("an address"))
            .collect();
        Self { place, child, nodes, control: control(&ready) }
    }

    pub fn nodes(&self) -> &[SocketAddr] {
        &self.nodes
    }

    /// The nodes as the API takes them.
    pub fn definitions(&self) -> Value {
        self.nodes.iter().copied().map(definition).collect()
    }

    /// All nodes behave like this from now on.
    pub async fn behave(&self, behaviour: &str) {
        self.control.post(&format!("/behaviour?is={behaviour}"), &Value::Null).await.ok();
    }

    pub async fn behave_at(&self, node: SocketAddr, behaviour: &str) {
        self.control.post(&format!("/behaviour?is={behaviour}&at={node}"), &Value::Null).await.ok();
    }

    /// Requests that a node has received, whatever it did with them.
    pub async fn count(&self, node: SocketAddr) -> u64 {
        self.count_of(node, "requests").await
    }

    /// Connections that a node has accepted.
    pub async fn connections(&self, node: SocketAddr) -> u64 {
        self.count_of(node, "connections").await
    }

    /// The head of the last request that a node has received.
    pub async fn last_request(&self, node: SocketAddr) -> String {
        let counts = self.control.get("/count").await;
        counts.ok()[node.to_string()]["last"].as_str().unwrap_or_default().to_owned()
    }

    /// Requests that each node has received, all counted at one moment.
    pub async fn counts(&self) -> Vec<(SocketAddr, u64)> {
        let counts = self.control.get("/count").await;
        let count =
            |node: &SocketAddr| counts.ok()[node.to_string()]["requests"].as_u64().unwrap_or_default();
        self.nodes.iter().map(|node| (*node, count(node))).collect()
    }

    /// The milliseconds between the last requests of these nodes, so many of each, in no order.
    pub async fn gaps(&self, nodes: &[SocketAddr], last: usize) -> Vec<u64> {
        let gaps = self.control.get("/gaps").await;
        let of = |node: &SocketAddr| {
            let gaps = gaps.ok()[node.to_string()].as_array().cloned().unwrap_or_default();
            gaps.into_iter().take(last).filter_map(|gap| gap.as_u64()).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(of).collect()
    }

    async fn count_of(&self, node: SocketAddr, what: &str) -> u64 {
        let counts = self.control.get("/count").await;
        counts.ok()[node.to_string()][what]
            .as_u64()
            .unwrap_or_else(|| panic!("no {what} of {node}\n{counts}"))
    }

    /// SIGKILL: connections break, and new ones are refused.
    pub async fn kill(&mut self) -> ExitStatus {
        self.child.start_kill().expect("kill a process that this test started");
        tokio::time::timeout(STOP_DEADLINE, self.child.wait())
            .await
            .expect("a killed process ends")
            .expect("wait for a process that this test started")
    }

    /// A killed process comes back at the same addresses, all healthy.
    pub async fn revive(&mut self) {
        let (child, ready) = spawn(&self.nodes, self.place.as_ref()).await;
        self.child = child;
        self.control = control(&ready);
    }

    /// SIGSTOP: the kernel still accepts connections, nobody answers.
    pub async fn pause(&self) {
        process::signal(self.pid(), "STOP").await;
    }

    pub async fn resume(&self) {
        process::signal(self.pid(), "CONT").await;
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("asked only of a running process")
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
    }
}

/// A node as the API takes it, with its one port named `http`.
pub fn definition(node: SocketAddr) -> Value {
    json!({ "address": node.ip().to_string(), "ports": { "http": node.port() } })
}

async fn spawn(listen: &[SocketAddr], place: Option<&(String, IpAddr)>) -> (Child, Value) {
    let program = binary::example("target");
    let mut command = match place {
        Some((namespace, _)) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{namespace}")).arg(program);
            command
        }
        None => Command::new(program),
    };
    let control = place.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |(_, address)| *address);
    command.args(["--control", &SocketAddr::from((control, 0)).to_string()]);
    for address in listen {
        command.args(["--listen", &address.to_string()]);
    }
    // Its standard input stays open as long as this process lives: it ends when that closes.
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("start the target");
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(START_DEADLINE, lines.next_line())
        .await
        .expect("the target starts in time")
        .expect("its output is text")
        .expect("the target says where it listens");
    let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
    (child, ready)
}

fn control(ready: &Value) -> Client {
    let address = ready["control"].as_str().expect("the target tells its control address");
    Client::new(&format!("http://{address}"))
}
