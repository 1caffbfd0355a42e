//! What holds for every stream of a subscriber, whichever door it came through, and how many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio_util::task::TaskTracker;

/// Most clusters of one stream.
pub(crate) const CLUSTERS_MAX: usize = 1000;

/// Pause after events were sent: what changes meanwhile is sent together. The first event after a quiet time waits
/// for nothing.
pub(crate) const COALESCE_FOR: Duration = Duration::from_millis(10);

/// How often a stream of events says something at least, so that both sides notice a dead connection.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// The same for the watch stream, whose clients look elsewhere after three: a server that is cut off is left within 5 s,
/// and one that stutters for three seconds is not.
pub(crate) const WATCH_HEARTBEAT: Duration = Duration::from_millis(1500);

/// How long a client that was asked to leave may take to find another server and to take over from there.
pub(crate) const LEAVE_MAX: Duration = Duration::from_secs(3);

/// How long a reader may leave a full connection unread before its stream is ended.
pub(crate) const UNREAD_MAX: Duration = Duration::from_secs(30);

/// How many subscribers hold a stream now, and the tasks of the streams.
#[derive(Debug, Default)]
pub(crate) struct Subscribers {
    count: AtomicUsize,
    streams: TaskTracker,
}

/// Counts one subscriber while it lives.
pub(crate) struct Counted(Arc<Subscribers>);

impl Subscribers {
    pub(crate) fn enter(self: &Arc<Self>) -> Counted {
        self.count.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("jcm_subscribers").increment(1);
        Counted(Arc::clone(self))
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Runs a stream in a task of its own. It ends with its connection, or when its reader is cut.
    pub(crate) fn spawn(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.streams.spawn(stream);
    }

    /// Waits until all streams have ended.
    pub(crate) async fn join(&self) {
        self.streams.close();
        self.streams.wait().await;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("jcm_subscribers").decrement(1);
    }
}
