//! A body whose rest is read when its reader lets go of it: a sender in the middle of a large body that was refused
//! gets to see the answer, instead of a connection that is reset.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;

/// How much of a body is read after its reader let go.
const DRAIN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Time of a body from its request on, reading and draining together: who was too slow for the reader is not waited for
/// again.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

pub(super) struct Drained {
    body: Body,
    ended: bool,
    started: Instant,
}

impl Drained {
    pub(super) fn new(body: Body) -> Self {
        let ended = http_body::Body::is_end_stream(&body);
        Self { body, ended, started: Instant::now() }
    }
}

impl http_body::Body for Drained {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.ended = !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        if self.ended || http_body::Body::is_end_stream(&self.body) {
            return;
        }
        // A task of its own, because the answer must not wait for it. It ends by size, by time, or with the connection.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let body = std::mem::take(&mut self.body);
            let left = BODY_DEADLINE.saturating_sub(self.started.elapsed());
            runtime.spawn(tokio::time::timeout(left, drain(body)));
        }
    }
}

async fn drain(mut body: Body) {
    let mut seen_bytes = 0;
    while seen_bytes < DRAIN_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        seen_bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
