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
mod together;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::pause::Pulse;
use admission::Admission;
use bounds::{Bounds, Called, Calls};
use patience::{IDLE_DEADLINE, Patience, Reads};
use socket::Socket;
use together::{Streams, Together};

/// Time for the first bytes of a connection.
const FIRST_BYTES_DEADLINE: Duration = Duration::from_secs(10);

/// HTTP/2 pings a quiet connection after this time, and cuts it when no answer comes: a half-open one is noticed
/// within the sum.
const PING_AFTER: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(5);

/// Streams of one connection.
const STREAMS_MAX: u32 = 256;

/// What a stream may hand over while its connection does not get it away. Who reads slowly is told the latest later, not a
/// backlog. A larger message goes out whole, and waits alone.
const SEND_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Header bytes of a request: room for a resume id.
const HEADER_BYTES_MAX: u32 = 32 * 1024;

/// Descriptors that are kept for checks, the store and files when the rest is taken by connections.
const DESCRIPTORS_RESERVED: u64 = 1_500;

/// How long connections may go on after the streams were told to end: a write that came last has its two seconds, and all
/// of a stop, of which up to six were spent before, has less than ten.
const DRAIN_DEADLINE: Duration = Duration::from_millis(2_500);

/// Connections that may be waiting to be accepted: more than the system keeps.
const BACKLOG_MAX: usize = 8 * 1024;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
    fn note(&self, ended: Option<hyper::Result<()>>) {
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
    let is_http2 = first == HTTP2_PREFACE;
    let socket = Socket::new(first, socket);
    if is_http2 {
        // There are many of them, and they live for long: a task that is no larger than that, and nothing of it elsewhere.
        connections.spawn(Http2 { place, together: http2(socket, service, bounds) });
    } else {
        let ended = Box::pin(http1(socket, service, bounds)).await;
        place.note(ended);
    }
}

/// A connection of HTTP/2 until its end.
struct Http2 {
    place: Place,
    together: Together<http2::Connection<TokioIo<Socket>, Admission, Streams>, Called>,
}

impl Future for Http2 {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let ended = ready!(Pin::new(&mut self.together).poll(context));
        self.place.note(ended);
        Poll::Ready(())
    }
}

fn http2(
    socket: Socket,
    service: Admission,
    bounds: Bounds,
) -> Together<http2::Connection<TokioIo<Socket>, Admission, Streams>, Called> {
    let streams = service.streams();
    let mut builder = http2::Builder::new(streams.clone());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_DEADLINE);
    Together::new(builder.serve_connection(TokioIo::new(socket), service), streams, bounds.called())
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
    let mut first = Vec::with_capacity(HTTP2_PREFACE.len());
    let mut buffer = [0; 24];
    while first.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&first) {
        let room = HTTP2_PREFACE.len() - first.len();
        let count = socket.read(&mut buffer[..room]).await?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        first.extend_from_slice(&buffer[..count]);
    }
    Ok(first)
}
