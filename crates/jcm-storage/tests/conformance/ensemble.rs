//! A real ZooKeeper for the suite, and a wire to it that can be cut.
//!
//! `JCM_TEST_ZOOKEEPER` names one that runs already; otherwise a test starts one of its own on a free port. It ends
//! with the test, however that ends: it is stopped by a process that waits for the end of a pipe.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jcm_model::{Head, Revision, StoreId};
use jcm_storage::zookeeper::Config;
use jcm_storage::{Store, ZooKeeper};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

use crate::backends::Backend;

/// What a client of the suite asks for; the ensemble gives at least a second.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(6);

/// An ensemble of one.
pub(crate) struct Ensemble {
    pub(crate) hosts: String,
    _own: Option<Own>,
}

/// One that was started here.
struct Own {
    guard: Child,
    _directory: TempDir,
}

impl Drop for Own {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

impl Default for Ensemble {
    fn default() -> Self {
        if let Ok(hosts) = std::env::var("JCM_TEST_ZOOKEEPER") {
            return Self { hosts, _own: None };
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/zookeeper");
        let directory = TempDir::new().expect("a temporary directory can be made");
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let port = free.expect("there is a free port").port().to_string();
            let where_it_is = ["--dir", directory.path().to_str().expect("it is text"), "--port", &port];
            let started = Command::new(&script).arg("start").args(where_it_is).stdout(Stdio::null()).status();
            if !started.expect("the script runs").success() {
                continue;
            }
            let guard = Command::new("bash")
                .args(["-c", "cat >/dev/null; exec \"$@\"", "guard"])
                .arg(&script)
                .arg("stop")
                .args(where_it_is)
                .stdin(Stdio::piped())
                .spawn()
                .expect("bash runs");
            let own = Own { guard, _directory: directory };
            return Self { hosts: format!("127.0.0.1:{port}"), _own: Some(own) };
        }
        panic!("no ZooKeeper could be started");
    }
}

impl Ensemble {
    /// A configuration with a root of its own.
    pub(crate) fn config(&self) -> Config {
        Config {
            hosts: self.hosts.clone(),
            root: format!("/test/{}", uuid::Uuid::new_v4()),
            session_timeout: SESSION_TIMEOUT,
            digest: None,
        }
    }

    /// A client that knows nothing of stores.
    pub(crate) async fn raw(&self, config: &Config) -> zookeeper_client::Client {
        let client = zookeeper_client::Client::connect(&self.hosts).await.expect("ZooKeeper is there");
        client.chroot(config.root.as_str()).expect("the root is a path")
    }
}

/// Connects, binds and loads.
pub(crate) async fn open(config: &Config, expected: Option<StoreId>) -> ZooKeeper {
    let zookeeper = ZooKeeper::connect(config.clone()).expect("the configuration is valid");
    let held = expected.map(|store| Head { store, revision: Revision::ZERO });
    zookeeper.store().open(held).await.expect("the store is recognised");
    zookeeper.store().load().await.expect("the store loads");
    zookeeper
}

impl Backend for Ensemble {
    fn empty(&self) -> Arc<dyn Store> {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async { open(&self.config(), None).await.store() })
        })
    }
}

/// What happens to the next request that writes several znodes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It arrives, its answer does not, and the connection is gone.
    LoseAnswer,
    /// It does not arrive, and the connection is gone.
    LoseRequest,
    /// The connection is gone for its sender; it arrives when `Wire::deliver` says so.
    HoldRequest,
}

/// A wire between a client and the ensemble.
pub(crate) struct Wire {
    pub(crate) hosts: String,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    fault: Mutex<Option<Fault>>,
    is_open: watch::Sender<bool>,
    deliver: watch::Sender<bool>,
    arrived: watch::Sender<bool>,
    connections: AtomicUsize,
}

const MULTI: i32 = 14;

impl Wire {
    pub(crate) async fn to(hosts: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let state = Arc::new(State {
            fault: Mutex::default(),
            is_open: watch::Sender::new(true),
            deliver: watch::Sender::new(false),
            arrived: watch::Sender::new(false),
            connections: AtomicUsize::new(0),
        });
        let address = listener.local_addr().expect("it is bound");
        let (serving, far) = (Arc::clone(&state), hosts.split(',').next().unwrap_or_default().to_owned());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if *serving.is_open.borrow() {
                    serving.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(carry(near, far.clone(), Arc::clone(&serving)));
                }
            }
        });
        Self { hosts: address.to_string(), state, task }
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        *self.state.fault.lock().unwrap() = Some(fault);
    }

    /// Whether the fault happened.
    pub(crate) fn has_bitten(&self) -> bool {
        self.state.fault.lock().unwrap().is_none()
    }

    /// Cuts what is there, and takes nothing new until it is opened again.
    pub(crate) fn set_open(&self, open: bool) {
        self.state.is_open.send_replace(open);
    }

    /// Lets what was held arrive, and waits until it has.
    pub(crate) async fn deliver(&self) {
        self.state.deliver.send_replace(true);
        let mut arrived = self.state.arrived.subscribe();
        let arrived = arrived.wait_for(|arrived| *arrived);
        tokio::time::timeout(crate::backends::PATIENCE, arrived)
            .await
            .expect("it arrives")
            .expect("the wire is there");
    }

    /// How many connections were made over it.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(near: TcpStream, far: String, state: Arc<State>) {
    let Ok(far) = TcpStream::connect(far).await else { return };
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let answers_to_lose = Mutex::new(HashSet::new());
    let mut is_open = state.is_open.subscribe();
    let there = async {
        let mut is_first = true;
        while let Some(frame) = frame(&mut near_read).await {
            let is_multi = !is_first && frame.len() >= 12 && number(&frame[8..12]) == MULTI;
            is_first = false;
            let fault = if is_multi { state.fault.lock().unwrap().take() } else { None };
            match fault {
                None => {}
                Some(Fault::LoseAnswer) => {
                    answers_to_lose.lock().unwrap().insert(number(&frame[4..8]));
                }
                Some(Fault::LoseRequest) => return None,
                Some(Fault::HoldRequest) => return Some(frame),
            }
            if far_write.write_all(&frame).await.is_err() {
                return None;
            }
        }
        None
    };
    let back = async {
        let mut is_first = true;
        while let Some(frame) = frame(&mut far_read).await {
            let is_lost = !is_first
                && frame.len() >= 8
                && answers_to_lose.lock().unwrap().contains(&number(&frame[4..8]));
            is_first = false;
            if is_lost || near_write.write_all(&frame).await.is_err() {
                return;
            }
        }
    };
    let held = tokio::select! {
        held = there => held,
        () = back => None,
        _ = is_open.wait_for(|open| !open) => None,
    };
    if let Some(held) = held {
        drop((near_read, near_write));
        let mut deliver = state.deliver.subscribe();
        let _ = deliver.wait_for(|deliver| *deliver).await;
        let _ = far_write.write_all(&held).await;
        // Until the ensemble has taken it, or hung up.
        let _ = frame(&mut far_read).await;
        state.arrived.send_replace(true);
        while frame(&mut far_read).await.is_some() {}
    }
}

/// One message with its length before it. `None`: the other side hung up.
async fn frame(from: &mut tcp::OwnedReadHalf) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await.ok()?;
    let mut frame = length.to_vec();
    frame.resize(4 + usize::try_from(i32::from_be_bytes(length)).ok()?, 0);
    from.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

fn number(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes.try_into().expect("four bytes"))
}
