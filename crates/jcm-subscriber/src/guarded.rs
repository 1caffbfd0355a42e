//! The body of an answer with the node that sends it: the call is over when the body is.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};

use crate::call;
use crate::picked::Picked;

/// Reports the call when the body ends or breaks. Dropped before, it succeeded if the node had answered: who looks at
/// no more than a status or a first message has had what it asked for. Without an answer it counts as cancelled.
pub(crate) struct Guarded<B> {
    body: B,
    /// `None` once it is reported.
    node: Option<Arc<Picked>>,
    end: End,
    answered: bool,
}

/// Which end of a body is a good one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    /// Any that is no error.
    #[cfg(feature = "reqwest")]
    Whole,
    /// One with trailers of which this is true.
    #[cfg(feature = "tonic")]
    Trailers(fn(&http::HeaderMap) -> bool),
}

impl<B> Guarded<B> {
    pub(crate) fn new(body: B, node: Arc<Picked>, end: End) -> Self {
        let answered = match end {
            // Its head was good.
            #[cfg(feature = "reqwest")]
            End::Whole => true,
            #[cfg(feature = "tonic")]
            End::Trailers(_) => false,
        };
        Self { body, node: Some(node), end, answered }
    }

    /// The call is over for its node.
    pub(crate) fn settle(&mut self, succeeded: bool) {
        if let Some(node) = self.node.take() {
            call::finish(node, succeeded);
        }
    }

    fn see<D, E>(&mut self, frame: Option<&Result<Frame<D>, E>>, ended: bool) {
        match (self.end, frame) {
            (_, Some(Err(_))) => self.settle(false),
            #[cfg(feature = "reqwest")]
            (End::Whole, _) if ended => self.settle(true),
            #[cfg(feature = "reqwest")]
            (End::Whole, _) => {}
            #[cfg(feature = "tonic")]
            (End::Trailers(good), Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => self.settle(good(trailers)),
                None if ended => self.settle(false),
                None => {}
            },
            #[cfg(feature = "tonic")]
            (End::Trailers(_), None) => self.settle(false),
        }
    }
}

impl<B> Drop for Guarded<B> {
    fn drop(&mut self) {
        if self.answered {
            self.settle(true);
        }
    }
}

impl<B: Body + Unpin> Body for Guarded<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // Who reads a body need not ask once more after its last frame.
        let ended = frame.is_none() || self.body.is_end_stream();
        self.answered |= matches!(&frame, Some(Ok(frame)) if frame.is_data());
        self.see(frame.as_ref(), ended);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
