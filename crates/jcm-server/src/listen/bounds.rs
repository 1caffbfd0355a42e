//! When a connection ends that would go on: after a pause of this process, and when the server stops.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use slab::Slab;
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
    pub(super) calls: Arc<Calls>,
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

    /// The same for who is called.
    pub(super) fn called(self) -> Called {
        Called { bounds: self, place: None, told: false }
    }
}

/// Wakes connections when one of their bounds has come. One place in a list for each: ten thousand connections that each
/// waited for each bound would keep half a kilobyte for it.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Slab<Waker>>);

impl Calls {
    /// Has everybody look: a bound has come.
    pub(super) fn call(&self) {
        self.wakers().iter().for_each(|(_, waker)| waker.wake_by_ref());
    }

    fn wakers(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bounds of a connection that is called when one of them has come.
pub(super) struct Called {
    bounds: Bounds,
    place: Option<usize>,
    /// Whether the connection was told to end by itself.
    told: bool,
}

impl together::Bounds<http2::Connection<TokioIo<Socket>, Admission, Streams>> for Called {
    fn call(&mut self, waker: Waker) {
        self.place = Some(self.bounds.calls.wakers().insert(waker));
    }

    fn is_over(&self) -> bool {
        self.bounds.pulse.is_over(self.bounds.stretch)
    }

    fn look(&mut self, connection: Pin<&mut http2::Connection<TokioIo<Socket>, Admission, Streams>>) -> bool {
        if self.bounds.stop.is_cancelled() && !std::mem::replace(&mut self.told, true) {
            connection.graceful_shutdown();
        }
        self.bounds.cut.is_cancelled()
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            // Dropped behind the lock: the last one takes more with it.
            let waker = self.bounds.calls.wakers().try_remove(place);
            drop(waker);
        }
    }
}
