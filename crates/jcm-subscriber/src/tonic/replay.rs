//! The body of a request that may be sent more than once.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use ::tonic::Status;
use ::tonic::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

/// How much of a request is kept to be sent again: most single messages, and what a call may cost beside its own. A
/// longer one is sent again only if nothing of it was sent.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// The original; each attempt takes a [`Copy`] of it.
#[derive(Debug)]
pub(super) struct Replay {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    source: Body,
    /// What was read of the source, while it is kept.
    kept: Vec<Bytes>,
    trailers: Option<http::HeaderMap>,
    kept_bytes: usize,
    ended: bool,
    /// More was read than is kept.
    overrun: bool,
    /// The attempt that may read: one before it may still be on its way out.
    attempt: u32,
}

/// What one attempt sends.
#[derive(Debug)]
pub(super) struct Copy {
    state: Arc<Mutex<State>>,
    attempt: u32,
    /// Of the kept pieces.
    next: usize,
    done: bool,
}

impl Replay {
    pub(super) fn new(source: Body) -> Self {
        let state = State {
            ended: source.is_end_stream(),
            source,
            kept: Vec::new(),
            trailers: None,
            kept_bytes: 0,
            overrun: false,
            attempt: 0,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// From the beginning on. It takes over from the copy before, which ends with an error.
    pub(super) fn copy(&self) -> Copy {
        let mut state = lock(&self.state);
        state.attempt += 1;
        Copy { state: Arc::clone(&self.state), attempt: state.attempt, next: 0, done: false }
    }

    /// Whether another copy would be whole.
    pub(super) fn is_whole(&self) -> bool {
        !lock(&self.state).overrun
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The next piece of the source, kept if there is room.
    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match ready!(Pin::new(&mut self.source).poll_frame(context)) {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(status)) => return Poll::Ready(Some(Err(status))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            self.kept_bytes = self.kept_bytes.saturating_add(data.len());
            self.overrun |= self.kept_bytes > KEPT_BYTES_MAX;
            if self.overrun {
                self.kept.clear();
            } else {
                self.kept.push(data.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl http_body::Body for Copy {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.done {
            return Poll::Ready(None);
        }
        let mut state = lock(&this.state);
        if state.attempt != this.attempt {
            this.done = true;
            return Poll::Ready(Some(Err(Status::cancelled("the call is being made at another node"))));
        }
        if let Some(data) = state.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if let Some(trailers) = &state.trailers {
            this.done = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers.clone()))));
        }
        if state.ended {
            this.done = true;
            return Poll::Ready(None);
        }
        let frame = ready!(state.poll_source(context));
        this.next = state.kept.len();
        this.done = match &frame {
            Some(Ok(frame)) => frame.is_trailers(),
            Some(Err(_)) | None => true,
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        let all_sent = || state.ended && state.trailers.is_none() && self.next >= state.kept.len();
        self.done || (state.attempt == self.attempt && all_sent())
    }

    fn size_hint(&self) -> SizeHint {
        let state = lock(&self.state);
        match (&state.kept[..], state.ended) {
            // Only of what nothing was read of yet is the source's own word right.
            ([], false) if !state.overrun => state.source.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of so many pieces of so many bytes.
    fn body(pieces: usize, bytes: usize) -> Body {
        struct Pieces(usize, usize);
        impl http_body::Body for Pieces {
            type Data = Bytes;
            type Error = Status;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                if self.0 == 0 {
                    return Poll::Ready(None);
                }
                self.0 -= 1;
                let piece = vec![u8::try_from(self.0).unwrap(); self.1];
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
            }
        }
        Body::new(Pieces(pieces, bytes))
    }

    async fn next(copy: &mut Copy) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *copy).poll_frame(context)).await
    }

    async fn rest(mut copy: Copy) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(frame) = next(&mut copy).await {
            read.extend_from_slice(frame.unwrap().data_ref().unwrap());
        }
        assert!(copy.is_end_stream());
        read
    }

    #[tokio::test]
    async fn every_copy_is_the_whole_wherever_the_one_before_was_left() {
        let replay = Replay::new(body(3, 2));
        let mut first = replay.copy();
        assert_eq!(next(&mut first).await.unwrap().unwrap().into_data().unwrap(), vec![2; 2]);
        assert_eq!(rest(replay.copy()).await, [2, 2, 1, 1, 0, 0]);
        assert!(next(&mut first).await.unwrap().is_err(), "it was taken over");
        assert_eq!(rest(replay.copy()).await, [2, 2, 1, 1, 0, 0]);
        assert!(replay.is_whole());
    }

    #[tokio::test]
    async fn what_is_too_long_to_keep_is_sent_once_and_says_so() {
        let replay = Replay::new(body(3, KEPT_BYTES_MAX / 2));
        assert!(replay.is_whole());
        assert_eq!(rest(replay.copy()).await.len(), KEPT_BYTES_MAX / 2 * 3);
        assert!(!replay.is_whole());
    }
}
