//! Verdicts on their way between the checker and the other servers' checkers.

use std::sync::Arc;

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
pub(crate) struct Turned(broadcast::Sender<Arc<Verdicts>>);

impl Turned {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BATCHES_MAX))
    }

    /// Tells all who follow.
    pub(crate) fn publish(&self, verdicts: Arc<Verdicts>) {
        // Without followers nobody needs it.
        let _ = self.0.send(verdicts);
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Arc<Verdicts>> {
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
