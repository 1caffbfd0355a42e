//! When a connection ends that would go on: after a pause of this process, and when the server stops.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;

use super::admission::Admission;
use super::socket::Socket;
use super::together::{self, Streams};
use crate::pause::{Pulse, Stretch};

/// What ends one connection.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) pulse: Pulse,
    /// In which the connection was made.
    pub(super) stretch: Stretch,
    /// The server stops: what is under way is finished.
    pub(super) stop: CancellationToken,
    /// That takes too long.
    pub(super) cut: CancellationToken,
}

impl Bounds {
    /// Waits until the connection has to end at once.
    pub(super) async fn over(&self) {
        tokio::select! {
            biased;
            () = self.cut.cancelled() => {}
            () = self.pulse.over(self.stretch) => {}
        }
    }

    /// The same for who asks only when something has come.
    pub(super) fn watched(self) -> Watched {
        let (pulse, stretch, stop) = (self.pulse.clone(), self.stretch, self.stop.clone());
        let over = Box::pin(async move { self.over().await });
        Watched { pulse, stretch, over, stop: Some(Box::pin(stop.cancelled_owned())) }
    }
}

type Wait = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Bounds that are waited for.
pub(super) struct Watched {
    pulse: Pulse,
    stretch: Stretch,
    over: Wait,
    /// None once the connection was told.
    stop: Option<Wait>,
}

impl together::Bounds<http2::Connection<TokioIo<Socket>, Admission, Streams>> for Watched {
    fn is_over(&self) -> bool {
        self.pulse.is_over(self.stretch)
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        connection: Pin<&mut http2::Connection<TokioIo<Socket>, Admission, Streams>>,
    ) -> Poll<()> {
        if self.stop.as_mut().is_some_and(|stop| stop.as_mut().poll(context).is_ready()) {
            self.stop = None;
            connection.graceful_shutdown();
        }
        self.over.as_mut().poll(context)
    }
}
