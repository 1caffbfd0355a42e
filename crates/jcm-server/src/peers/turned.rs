//! Verdicts on their way between the checker and the other servers' checkers.

use std::sync::Arc;
use std::time::Instant;

use jcm_model::{ServerId, StoreId};
use tokio::sync::broadcast;

use crate::views::Verdicts;

/// Batches that a follower may be behind: some seconds of the largest turns. One that is further behind is sent
/// everything again, which is then less.
const BATCHES_MAX: usize = 256;

/// Verdicts from other servers that may wait for the checker, in batches: it takes one in microseconds.
pub(crate) const HEARD_QUEUE_MAX: usize = 64;

/// Every batch of verdicts that the checker took over, its own and those it learned.
#[derive(Debug, Clone)]
pub(crate) struct Turned(broadcast::Sender<Batch>);

/// Verdicts that were taken over together.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// The store of whose definitions they are.
    pub(super) store: StoreId,
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) published: Instant,
}

impl Turned {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BATCHES_MAX))
    }

    /// Tells all who follow. What is told stands on the board already: whoever was sent all of that is not told again.
    pub(crate) fn publish(&self, store: StoreId, verdicts: Arc<Verdicts>) {
        // Without followers nobody needs it.
        let _ = self.0.send(Batch { store, verdicts, published: Instant::now() });
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Batch> {
        self.0.subscribe()
    }
}

/// What other servers say, for the checker.
#[derive(Debug)]
pub(crate) enum Heard {
    /// Verdicts that `from` holds: stamped by itself, or by servers that it relays.
    Verdicts {
        from: ServerId,
        /// The store of whose definitions these verdicts are: births of another store mean nothing here.
        store: StoreId,
        verdicts: Verdicts,
    },
}
