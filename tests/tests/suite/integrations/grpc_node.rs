//! Processes with real gRPC servers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use jcm_tests::{binary, loopback};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

const DEADLINE: Duration = Duration::from_secs(15);

/// One process. Ends with its owner.
pub(super) struct GrpcNode {
    child: Child,
    pub(super) address: SocketAddr,
}

impl GrpcNode {
    pub(super) async fn start() -> Self {
        Self::at(SocketAddr::from((loopback::next(), 0))).await
    }

    async fn at(listen: SocketAddr) -> Self {
        let mut child = Command::new(binary::example("grpc_node"))
            .arg(listen.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start the node");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.expect("it starts in time");
        let line = line.expect("its output is text").expect("it says where it listens");
        Self { child, address: line.parse().expect("an address") }
    }

    /// `kill -9`, and waits until it is gone.
    pub(super) async fn kill(&mut self) {
        self.child.start_kill().expect("kill a process that this test started");
        tokio::time::timeout(DEADLINE, self.child.wait())
            .await
            .expect("a killed process ends")
            .expect("waited");
    }

    /// A killed node comes back at its address.
    pub(super) async fn revive(&mut self) {
        *self = Self::at(self.address).await;
    }

    /// The node as the API takes it.
    pub(super) fn definition(&self) -> Value {
        json!({ "address": self.address.ip().to_string(), "ports": { "grpc": self.address.port() } })
    }
}
