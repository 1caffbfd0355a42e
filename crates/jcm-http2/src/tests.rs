//! Connections whole: with the client of `h2`, and with frames by hand where no client would send them.

mod abuse;
mod clients;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::frame::{self, HEAD_BYTES, Head, Reason, flag, kind};
use crate::{Connection, Error, Incoming, Limits, PREFACE};

const LIMITS: Limits = Limits {
    streams: 16,
    header_bytes: 4096,
    window_bytes: 128 * 1024,
    ping_after: Duration::from_secs(10),
    ping_answer: Duration::from_secs(5),
    unread: Duration::from_secs(30),
};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the service of these tests knows of its requests.
#[derive(Debug, Default)]
struct Seen {
    begun: AtomicUsize,
    /// Requests whose answer is being worked at.
    open: AtomicUsize,
}

/// Counts a request while it is worked at.
struct Open(Arc<Seen>);

impl Open {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.begun.fetch_add(1, Ordering::Relaxed);
        seen.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(seen))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// Answers by the path.
async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Result<Response<Body>, Infallible> {
    let open = Open::new(&seen);
    let path = request.uri().path().to_owned();
    let body = match path.as_str() {
        // What was sent.
        "/echo" => match request.into_body().collect().await {
            Ok(whole) => {
                let trailers = whole.trailers().cloned();
                let mut frames = vec![Ok(Frame::data(whole.to_bytes()))];
                frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
            }
            Err(broken) => full(broken.to_string()),
        },
        // The same bytes as they come.
        "/pipe" => request.into_body().map_err(|_| unreachable!("tested with whole requests")).boxed_unsync(),
        "/empty" => Empty::new().boxed_unsync(),
        "/trailers" => {
            let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("here"))]);
            StreamBody::new(futures_util::stream::iter([Ok(Frame::trailers(trailers))])).boxed_unsync()
        }
        // Without a look at the request.
        "/hasty" => full("done"),
        "/never" => {
            std::future::pending::<()>().await;
            full("")
        }
        // One frame after the other, for ever.
        "/endless" => {
            let frames = futures_util::stream::repeat_with(|| Ok(Frame::data(Bytes::from(vec![7; 10_000]))));
            StreamBody::new(frames).boxed_unsync()
        }
        size => full(vec![b'x'; size[1..].parse().expect("a path of these tests")]),
    };
    drop(open);
    Ok(Response::new(body))
}

/// How a connection ended.
type Ended = JoinHandle<Result<(), Error>>;

/// A connection, as its client has it, and how it ends.
fn serve(limits: &'static Limits) -> (DuplexStream, Ended, Arc<Seen>, mpsc::Sender<()>) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let seen = Arc::<Seen>::default();
    let service = service_fn({
        let seen = Arc::clone(&seen);
        move |request| Box::pin(answer(request, Arc::clone(&seen)))
    });
    let (leave, mut told) = mpsc::channel(1);
    let ended = tokio::spawn(async move {
        // The client of `h2` says the preface, and whoever takes connections in has read it.
        let mut server = server;
        let mut preface = [0; PREFACE.len()];
        server.read_exact(&mut preface).await?;
        assert_eq!(preface, PREFACE);
        let mut connection = Connection::new(server, service, limits);
        tokio::select! {
            biased;
            Some(()) = told.recv() => connection.leave(),
            ended = &mut connection => return ended,
        }
        connection.await
    });
    (client, ended, seen, leave)
}
