//! Whoever checks the nodes: started, watched and ended.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jcm_tests::{Server, process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::figures::percentiles;
use crate::{Case, Way};

/// Nodes of one cluster of the server.
const CLUSTER: usize = 1_000;
const HAPROXY: &str = "/usr/sbin/haproxy";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Bare,
    Engine,
    Server,
    HaProxy,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare loop",
            Self::Engine => "engine",
            Self::Server => "jcm-server",
            Self::HaProxy => "HAProxy",
        }
    }
}

/// One that is checking.
pub(crate) struct Contender {
    running: Running,
    /// With its configuration, where it has one.
    _directory: Option<TempDir>,
    targets: usize,
    /// Memory before it had anything to check.
    kib_before: u64,
}

enum Running {
    /// This program again, told what to do on its standard input.
    Ours(Child),
    Server(Box<(Runtime, Server)>),
    HaProxy(Child),
}

/// What a contender says of itself.
#[derive(Debug, Default)]
pub(crate) struct SaidOfItself {
    /// By how much its checks began late: the median, 99 and 99.9 of a hundred, the worst.
    pub(crate) late_ms: Option<[f64; 4]>,
    pub(crate) bytes_a_target: f64,
}

impl Contender {
    pub(crate) fn start(role: Role, case: &Case, addresses: &[SocketAddr]) -> Self {
        let (running, directory, kib_before) = match role {
            Role::Bare | Role::Engine => {
                let name = if role == Role::Bare { "bare" } else { "engine" };
                let child = again()
                    .args([name, case.way.as_str()])
                    .args(addresses.iter().map(ToString::to_string))
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                (Running::Ours(child), None, 0)
            }
            Role::Server => {
                let (server, kib) = serve(case.way, addresses);
                (server, None, kib)
            }
            Role::HaProxy => {
                let (child, directory) = haproxy(case.way, addresses);
                (Running::HaProxy(child), Some(directory), 0)
            }
        };
        Self { running, _directory: directory, targets: addresses.len(), kib_before }
    }

    /// From here on it is measured.
    pub(crate) fn mark(&mut self) {
        if let Running::Ours(child) = &mut self.running {
            child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        }
    }

    /// The CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let of = |task: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            Some(Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?))
        };
        tasks.filter_map(of).sum()
    }

    /// Ends it.
    pub(crate) fn end(self) -> SaidOfItself {
        let kib = process::status_kib(self.pid(), "VmRSS").saturating_sub(self.kib_before);
        match self.running {
            Running::Ours(mut child) => {
                drop(child.stdin.take());
                let mut text = String::new();
                child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
                child.wait().unwrap();
                let said: Value = serde_json::from_str(&text).unwrap();
                SaidOfItself {
                    late_ms: serde_json::from_value(said["late_ms"].clone()).unwrap(),
                    bytes_a_target: said["bytes_a_target"].as_f64().unwrap(),
                }
            }
            Running::Server(running) => {
                let (runtime, server) = *running;
                runtime.block_on(async { drop(server) });
                SaidOfItself { late_ms: None, bytes_a_target: a_target(kib, self.targets) }
            }
            Running::HaProxy(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
                SaidOfItself { late_ms: None, bytes_a_target: a_target(kib, self.targets) }
            }
        }
    }

    fn pid(&self) -> u32 {
        match &self.running {
            Running::Ours(child) | Running::HaProxy(child) => child.id(),
            Running::Server(running) => running.1.pid(),
        }
    }
}

/// This program, once more.
pub(crate) fn again() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn a_target(kib: u64, targets: usize) -> f64 {
    kib as f64 * 1024.0 / targets as f64
}

/// A whole server, as anybody would start it, with the nodes in clusters of its own.
fn serve(way: Way, addresses: &[SocketAddr]) -> (Running, u64) {
    let runtime = Runtime::new().unwrap();
    let (server, kib) = runtime.block_on(async {
        let server = Server::dev().in_memory().start().await;
        let client = server.client();
        let check = match way {
            Way::Tcp => json!({ "kind": "tcp" }),
            Way::Kept => json!({ "kind": "http" }),
            Way::Fresh => json!({ "kind": "http", "fresh": true }),
        };
        let kib = process::status_kib(server.pid(), "VmRSS");
        for (number, nodes) in addresses.chunks(CLUSTER).enumerate() {
            let node = |(n, address): (usize, &SocketAddr)| {
                json!({ "id": format!("n{n}"), "address": address.ip(), "ports": { "http": address.port() } })
            };
            let nodes: Vec<Value> = nodes.iter().enumerate().map(node).collect();
            let cluster = json!({ "check": check, "nodes": nodes });
            client.put_cluster(&format!("bench-{number}"), &cluster).await.ok();
        }
        (server, kib)
    });
    (Running::Server(Box::new((runtime, server))), kib)
}

/// HAProxy with the nodes as servers of one backend, on one thread.
fn haproxy(way: Way, addresses: &[SocketAddr]) -> (Child, TempDir) {
    let directory = TempDir::with_prefix("jcm-bench-").unwrap();
    let mut config = String::from(
        "global\n  nbthread 1\n  maxconn 100\ndefaults\n  mode http\n  timeout connect 800ms\n  timeout check 800ms\n\
         \x20 timeout client 1s\n  timeout server 1s\nbackend nodes\n  default-server inter 1s check\n",
    );
    config.push_str(if way == Way::Tcp { "  mode tcp\n" } else { "  option httpchk GET /\n" });
    for (n, address) in addresses.iter().enumerate() {
        writeln!(config, "  server n{n} {address}").unwrap();
    }
    // Without anything to listen on it does not begin.
    let socket = directory.path().join("unused");
    writeln!(config, "frontend unused\n  bind unix@{}\n  default_backend nodes", socket.display()).unwrap();
    let file = directory.path().join("haproxy.cfg");
    std::fs::write(&file, config).unwrap();
    let program = if Path::new(HAPROXY).exists() { HAPROXY } else { "haproxy" };
    let log = std::fs::File::create(directory.path().join("log")).unwrap();
    let child = Command::new(program)
        .args(["-db", "-f"])
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .expect("HAProxy, of the package haproxy");
    (child, directory)
}

/// The part of a contender that is this program: it takes its figures, and is told when to begin anew and when to end.
#[derive(Debug)]
pub(crate) struct Own {
    targets: usize,
    kib_before: u64,
    late_ms: Vec<f64>,
    is_marked: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
}

impl Own {
    /// Before anything is checked.
    pub(crate) fn begin(targets: usize) -> Self {
        let (is_marked, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (marked, over) = (Arc::clone(&is_marked), Arc::clone(&is_over));
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines().map_while(Result::ok) {
                marked.store(true, Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
        });
        // What is noted must not count as memory of what is measured.
        let mut late_ms = Vec::with_capacity(1 << 20);
        late_ms.resize(1 << 20, 0.0);
        late_ms.clear();
        let kib_before = process::status_kib(std::process::id(), "VmRSS");
        Self { targets, kib_before, late_ms, is_marked, is_over }
    }

    /// A check began so much after its time.
    pub(crate) fn late(&mut self, by: Duration) {
        if self.late_ms.len() < self.late_ms.capacity() {
            self.late_ms.push(by.as_secs_f64() * 1_000.0);
        }
    }

    /// Looks whether it was told anything. At the end it says what it found.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.is_marked.swap(false, Ordering::Relaxed) {
            self.late_ms.clear();
        }
        let is_over = self.is_over.load(Ordering::Relaxed);
        if is_over {
            let kib = process::status_kib(std::process::id(), "VmRSS").saturating_sub(self.kib_before);
            let late_ms = percentiles(std::mem::take(&mut self.late_ms));
            println!("{}", json!({ "late_ms": late_ms, "bytes_a_target": a_target(kib, self.targets) }));
        }
        is_over
    }
}
