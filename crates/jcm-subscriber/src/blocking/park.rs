//! Waiting for a future on a thread that no runtime drives.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The outcome of a future that somebody else drives: of channels and of tasks, not of timers and sockets.
pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
    wait_until(future, None).expect("without a deadline it comes")
}

/// The same, `None` when the deadline passes first.
pub(super) fn wait_until<T>(future: impl Future<Output = T>, deadline: Option<Instant>) -> Option<T> {
    // Within a runtime a task that does not yield would be told to wait for ever: this one never yields.
    let mut future = pin!(tokio::task::unconstrained(future));
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return Some(outcome);
        }
        match deadline {
            None => std::thread::park(),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                None => return None,
                Some(left) => std::thread::park_timeout(left),
            },
        }
    }
}
