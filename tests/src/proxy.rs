//! A TCP proxy in front of a server or a ZooKeeper member: cuts, silence, and a count, on loopback.
//!
//! *Cut* breaks connections and refuses new ones, as a process that is gone does. *Held* keeps them open and moves
//! nothing, as a network that swallows everything does: the other side notices only by its own deadlines.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::loopback;

/// A port that was closed on purpose may be slow to be free again.
const REBIND_PAUSE: Duration = Duration::from_millis(10);
const BUFFER_BYTES: usize = 16 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Cut,
    Held,
    /// What the server behind says does not arrive; what is said to it does.
    Deaf,
}

/// A running proxy. Ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    target: watch::Sender<Option<SocketAddr>>,
    connections: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// In front of this address.
    pub async fn to(target: SocketAddr) -> Self {
        let proxy = Self::unconnected().await;
        proxy.target.send_replace(Some(target));
        proxy
    }

    /// In front of something whose address is not known yet: connections wait until [`Self::connect`].
    pub async fn unconnected() -> Self {
        let listener = TcpListener::bind((loopback::next(), 0)).await.expect("a free port of loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (mode, target) = (watch::Sender::new(Mode::Open), watch::Sender::new(None));
        let connections = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(run(listener, mode.clone(), target.subscribe(), Arc::clone(&connections)));
        Self { address, mode, target, connections, task }
    }

    pub fn connect(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Moves nothing any more, in either direction, over connections old and new.
    pub fn hold(&self) {
        self.mode.send_replace(Mode::Held);
    }

    /// Lets nothing back: what clients say arrives, and they never hear of it.
    pub fn deafen(&self) {
        self.mode.send_replace(Mode::Deaf);
    }

    /// What was held goes on; new connections are accepted.
    pub fn heal(&self) {
        self.mode.send_replace(Mode::Open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    listener: TcpListener,
    mode: watch::Sender<Mode>,
    target: watch::Receiver<Option<SocketAddr>>,
    connections: Arc<AtomicU64>,
) {
    let address = listener.local_addr().expect("a bound listener has an address");
    let mut listener = Some(listener);
    let mut watched = mode.subscribe();
    let mut tasks = JoinSet::new();
    loop {
        if *watched.borrow_and_update() == Mode::Cut {
            listener = None;
            tasks.shutdown().await;
            if watched.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                tokio::time::sleep(REBIND_PAUSE).await;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                connections.fetch_add(1, Ordering::Relaxed);
                tasks.spawn(carry(stream, target.clone(), mode.subscribe()));
            },
            changed = watched.changed() => if changed.is_err() {
                return;
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// One connection, until one side ends it.
async fn carry(
    client: TcpStream,
    mut target: watch::Receiver<Option<SocketAddr>>,
    mode: watch::Receiver<Mode>,
) {
    let Ok(target) = target.wait_for(Option::is_some).await.map(|target| target.expect("waited for")) else {
        return;
    };
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::select! {
        () = pump(from_client, to_server, mode.clone(), &[Mode::Open, Mode::Deaf]) => {}
        () = pump(from_server, to_client, mode, &[Mode::Open]) => {}
    }
}

/// Moves bytes one way while the mode is one of these.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    moving: &[Mode],
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if mode.wait_for(|mode| moving.contains(mode)).await.is_err() {
            return;
        }
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        // The mode may have changed while nothing came.
        if mode.wait_for(|mode| moving.contains(mode)).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
