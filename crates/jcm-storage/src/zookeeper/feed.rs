//! Commits in order: the latest from memory, older ones from the log in ZooKeeper.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jcm_model::{Head, Revision};
use jcm_proto::Transaction;
use tokio::sync::watch;
use tracing::warn;

use super::fetch::LogError;
use super::inner::Inner;
use crate::tail::Next;
use crate::{ChangeFeed, Feed};

/// How long a feed waits before it asks again for what ZooKeeper could not give.
const PAUSE: Duration = Duration::from_millis(500);

/// Commits in order, from a revision on.
pub(super) struct ZooKeeperFeed {
    /// A feed does not keep the store open.
    inner: Weak<Inner>,
    ticks: watch::Receiver<u64>,
    /// The last revision that was handed out.
    at: Revision,
    /// Read from ZooKeeper and not handed out yet.
    backlog: VecDeque<Arc<Transaction>>,
    resets_seen: u64,
    /// There was a gap: nothing can follow.
    is_lost: bool,
}

impl ZooKeeperFeed {
    pub(super) fn new(inner: &Arc<Inner>, from: Head) -> Self {
        let (resets_seen, is_lost) = {
            let mut state = inner.state();
            (state.resets, state.held_of(from.store).is_none())
        };
        Self {
            inner: Arc::downgrade(inner),
            ticks: inner.ticks(),
            at: from.revision,
            backlog: VecDeque::new(),
            resets_seen,
            is_lost,
        }
    }

    fn hand_out(&mut self, transaction: Arc<Transaction>) -> Feed {
        if transaction.first() != self.at.next() {
            return self.lose();
        }
        self.at = transaction.last();
        Feed::Committed(transaction)
    }

    fn lose(&mut self) -> Feed {
        self.is_lost = true;
        self.backlog.clear();
        Feed::Reset
    }
}

#[async_trait]
impl ChangeFeed for ZooKeeperFeed {
    /// Whoever stops waiting loses nothing: all that was found is kept, or found again.
    async fn next(&mut self) -> Option<Feed> {
        loop {
            let inner = self.inner.upgrade()?;
            // Marked as seen before looking: what happens after the look wakes the wait.
            self.ticks.borrow_and_update();
            let (resets, next) = {
                let state = inner.state();
                (state.resets, state.held.as_ref().map(|held| held.tail.after(self.at)))
            };
            if self.is_lost || resets != self.resets_seen {
                return Some(self.lose());
            }
            if let Some(transaction) = self.backlog.pop_front() {
                return Some(self.hand_out(transaction));
            }
            match next {
                Some(Next::Committed(transaction)) => return Some(self.hand_out(transaction)),
                Some(Next::Gap) | None => return Some(self.lose()),
                Some(Next::Nothing) => {
                    drop(inner);
                    self.ticks.changed().await.ok()?;
                }
                Some(Next::Older) => match inner.log_after(self.at).await {
                    Ok(transactions) if transactions.is_empty() => return Some(self.lose()),
                    Ok(transactions) => self.backlog.extend(transactions),
                    Err(LogError::Gap { reason, .. }) => {
                        warn!(
                            reason,
                            "a follower is further behind than the change log goes: it loads again"
                        );
                        return Some(self.lose());
                    }
                    // Silent until it can be asked again; what it told so far stays true.
                    Err(LogError::Read(_)) => {
                        drop(inner);
                        tokio::time::sleep(PAUSE).await;
                    }
                },
            }
        }
    }
}
