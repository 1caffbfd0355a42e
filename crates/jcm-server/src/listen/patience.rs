//! How long an HTTP/1 connection is waited for: briefly once a request has begun, long between two requests.
//!
//! hyper has one deadline for both, which it sets when it begins to wait for a head. With the short one alone a connection
//! would be closed that a client keeps for its next request, just as that comes; with the long one alone whoever sends half
//! a head could hold it for as long.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::Timer;

/// Time for the headers of a request, from its first byte.
pub(super) const HEADER_DEADLINE: Duration = Duration::from_secs(10);

/// How long a connection may be kept without a request. Longer than clients keep one that they mean to use again, which is
/// 90 s at most in those that are common: whoever closes first must not be the side that is sent the next request.
pub(super) const IDLE_DEADLINE: Duration = Duration::from_secs(100);

/// How often something was read from a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Reads(Arc<AtomicU64>);

impl Reads {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The timer of a connection whose header deadline is [`IDLE_DEADLINE`].
#[derive(Debug)]
pub(super) struct Patience(Reads);

impl Patience {
    pub(super) fn new(reads: Reads) -> Self {
        Self(reads)
    }
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
        Box::pin(Waiting { reads: self.0.clone(), count: self.0.count(), begun: false, sleep })
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into()
    }
}

/// The wait for one head.
struct Waiting {
    reads: Reads,
    /// How often something had been read when it began.
    count: u64,
    begun: bool,
    sleep: Pin<Box<tokio::time::Sleep>>,
}

impl hyper::rt::Sleep for Waiting {}

impl Future for Waiting {
    type Output = ();

    /// hyper asks whenever it has read something that is no whole head.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.begun && self.reads.count() != self.count {
            self.begun = true;
            let deadline = (tokio::time::Instant::now() + HEADER_DEADLINE).min(self.sleep.deadline());
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(context)
    }
}
