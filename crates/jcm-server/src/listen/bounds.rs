//! When a connection ends that would go on: after a pause of this process, and when the server stops.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use slab::Slab;
use tokio_util::sync::CancellationToken;

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

    /// The same for a connection that is woken when it is to look.
    pub(super) fn called(self, connection: Waker) -> Called {
        let place = self.calls.wakers().insert(connection);
        Called { bounds: self, place }
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
    place: usize,
}

impl Called {
    /// Whether it ends at once, because this process stood still. To be asked at every turn, before anything else.
    pub(super) fn is_over(&self) -> bool {
        self.bounds.pulse.is_over(self.bounds.stretch)
    }

    /// Whether it ends at once, because the stop takes too long. To be asked when it was called.
    pub(super) fn is_cut(&self) -> bool {
        self.bounds.cut.is_cancelled()
    }

    /// Whether it is to end by itself. To be asked when it was called.
    pub(super) fn is_stopping(&self) -> bool {
        self.bounds.stop.is_cancelled()
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        // Dropped behind the lock: the last one takes more with it.
        let waker = self.bounds.calls.wakers().try_remove(self.place);
        drop(waker);
    }
}
