//! The port: connections in, each with deadlines and caps, HTTP/1 and HTTP/2 on one socket.
//!
//! A client that sends nothing, or too slowly, is cut: the first bytes, the headers and the body each have their time.
//! Which protocol a connection speaks is seen from its first bytes, so that HTTP/2 without TLS needs no upgrade. After
//! a pause of this process every connection is closed unread, also those that were not accepted yet: see [`Pulse`].

mod admission;
mod bounds;
mod patience;
mod socket;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use jcm_http2::{Connection, Limits, PREFACE};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::pause::Pulse;
use admission::Admission;
use bounds::{Bounds, Called, Calls};
use patience::{IDLE_DEADLINE, Patience, Reads};
use socket::Socket;
pub(crate) use socket::UNREAD_MAX;

/// Time for the first bytes of a connection.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);

/// Header bytes of a request: room for a resume id.
const HEADER_BYTES_MAX: u32 = 32 * 1024;

/// What a connection of HTTP/2 may have. A half-open one is noticed within the time to a ping and that to its answer.
static LIMITS: Limits = Limits {
    streams: 256,
    header_bytes: HEADER_BYTES_MAX,
    window_bytes: 1024 * 1024,
    ping_after: Duration::from_secs(10),
    ping_answer: Duration::from_secs(5),
    unread: UNREAD_MAX,
};

/// Descriptors that are kept for checks, the store and files when the rest is taken by connections.
const DESCRIPTORS_RESERVED: u64 = 1_500;

/// How long connections may go on after the streams were told to end: a write that came last has its two seconds, and all
/// of a stop, of which up to six were spent before, has less than ten.
const DRAIN_DEADLINE: Duration = Duration::from_millis(2_500);

/// Connections that may be waiting to be accepted: more than the system keeps.
const BACKLOG_MAX: usize = 8 * 1024;

/// Accepts connections until told to stop, then lets those under way finish.
pub(crate) async fn serve(listener: TcpListener, router: Router, pulse: Pulse, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(connections_max()));
    let connections = TaskTracker::new();
    let (cut, calls) = (CancellationToken::new(), Arc::new(Calls::default()));
    let mut stretch = pulse.stretch();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = pulse.over(stretch) => {
                stretch = pulse.stretch();
                calls.call();
                refuse_backlog(&listener);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        if pulse.is_over(stretch) {
            continue;
        }
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: trying again at once would only spin.
                warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            warn!(limit = connections_max(), %peer, "connection refused: the limit of open connections is reached");
            continue;
        };
        // Small answers must not wait for an acknowledgement of the ones before.
        let _ = socket.set_nodelay(true);
        let (cut, stop, calls) = (cut.clone(), stop.clone(), Arc::clone(&calls));
        let bounds = Bounds { pulse: pulse.clone(), stretch, stop, cut, calls };
        let service = Admission::new(router.clone(), peer, pulse.clone(), stretch);
        metrics::counter!("jcm_connections_total").increment(1);
        connections.spawn(connection(
            socket,
            Place { peer, _permit: permit },
            service,
            bounds,
            connections.clone(),
        ));
    }
    drop(listener);
    connections.close();
    // Nobody is called for a pause from here on: whoever is asked sees it first, and all are cut soon.
    calls.call();
    if tokio::time::timeout(DRAIN_DEADLINE, connections.wait()).await.is_err() {
        info!(open = connections.len(), "connections are cut that did not finish in time");
        cut.cancel();
        calls.call();
        connections.wait().await;
    }
}

/// Closes the connections that were made while nobody accepted: what they have sent is from before now. Asked of the
/// system itself, since the runtime may not know of them yet.
fn refuse_backlog(listener: &TcpListener) {
    let mut count = 0;
    while count < BACKLOG_MAX && rustix::net::accept(listener).is_ok() {
        count += 1;
    }
    if count > 0 {
        info!(count, "connections are closed that were made during a pause");
    }
}

/// All descriptors but a reserve; the soft limit is raised to the hard one first, at start.
fn connections_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(65_536);
    usize::try_from(limit.saturating_sub(DESCRIPTORS_RESERVED).max(64))
        .unwrap_or(usize::MAX)
        .min(Semaphore::MAX_PERMITS)
}

/// Raises the limit of open descriptors as far as this process may.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
        warn!(%error, "the limit of open descriptors could not be raised");
    }
}

/// How many descriptors this process may have.
pub(crate) fn descriptors_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// An open connection: one of those that may be, and who is at its other end.
struct Place {
    peer: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// `None`: it was ended.
    fn note<E: std::fmt::Display>(&self, ended: Option<Result<(), E>>) {
        let peer = self.peer;
        match ended {
            Some(Ok(())) => {}
            Some(Err(error)) => debug!(%peer, %error, "connection ended early"),
            None => debug!(%peer, "connection closed: it is from before a pause, or the stop takes too long"),
        }
    }
}

async fn connection(
    mut socket: TcpStream,
    place: Place,
    service: Admission,
    bounds: Bounds,
    connections: TaskTracker,
) {
    let first = tokio::select! {
        biased;
        () = bounds.over() => return,
        () = bounds.stop.cancelled() => return,
        first = tokio::time::timeout(FIRST_BYTES_DEADLINE, first_bytes(&mut socket)) => first,
    };
    let Ok(Ok(first)) = first else {
        debug!(peer = %place.peer, "connection closed: it sent nothing");
        return;
    };
    if first == PREFACE {
        // There are many of them, and they live for long: a task that is no larger than that, and nothing of it elsewhere.
        let connection = Connection::new(Socket::new(Vec::new(), socket), service, &LIMITS);
        connections.spawn(Http2 { place, bounds: bounds.called(connection.caller()), connection });
    } else {
        let ended = Box::pin(http1(Socket::new(first, socket), service, bounds)).await;
        place.note(ended);
    }
}

/// A connection of HTTP/2 until its end.
struct Http2 {
    place: Place,
    connection: Connection<Socket, Admission>,
    bounds: Called,
}

impl Future for Http2 {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let called = this.connection.was_called();
        if this.bounds.is_over() || called && this.bounds.is_cut() {
            this.place.note::<jcm_http2::Error>(None);
            return Poll::Ready(());
        }
        if called && this.bounds.is_stopping() {
            this.connection.leave();
        }
        // The runtime gives a task a budget, and has whoever is beyond it ask again: at once, and in vain. What bounds a turn
        // are its rounds.
        let ended = ready!(Pin::new(&mut unconstrained(&mut this.connection)).poll(context));
        this.place.note(Some(ended));
        Poll::Ready(())
    }
}

/// `None`: it was ended.
async fn http1(socket: Socket, service: Admission, bounds: Bounds) -> Option<hyper::Result<()>> {
    let reads = Reads::default();
    let mut builder = http1::Builder::new();
    builder
        .timer(Patience::new(reads.clone()))
        .header_read_timeout(IDLE_DEADLINE)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    let connection = builder.serve_connection(TokioIo::new(socket.counted(reads)), service);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        () = bounds.over() => None,
        ended = async {
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = bounds.stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        } => Some(ended),
    }
}

/// Reads until it is clear which protocol is spoken: as little as one byte when it is not HTTP/2.
async fn first_bytes(socket: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut first = Vec::with_capacity(PREFACE.len());
    let mut buffer = [0; 24];
    while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
        let room = PREFACE.len() - first.len();
        let count = socket.read(&mut buffer[..room]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&buffer[..count]);
    }
    Ok(first)
}
