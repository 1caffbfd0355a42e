//! Commits in order: the latest from memory, older ones from the log in ZooKeeper.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use jcm_model::Head;
use tokio::sync::watch;
use tracing::warn;

use super::fetch::LogError;
use super::inner::Inner;
use crate::tail::{Cursor, Next};
use crate::{ChangeFeed, Feed};

/// How long a feed waits before it asks again for what ZooKeeper could not give.
const PAUSE: Duration = Duration::from_millis(500);

/// Commits in order, from a revision on.
pub(super) struct ZooKeeperFeed {
    /// A feed does not keep the store open.
    inner: Weak<Inner>,
    ticks: watch::Receiver<u64>,
    cursor: Cursor,
    /// `None`: what is held is no continuation of where it begins.
    resets_seen: Option<u64>,
}

impl ZooKeeperFeed {
    pub(super) fn new(inner: &Arc<Inner>, from: Head) -> Self {
        let resets_seen = {
            let mut state = inner.state();
            state.held_of(from.store).is_some().then_some(state.resets)
        };
        Self {
            inner: Arc::downgrade(inner),
            ticks: inner.ticks(),
            cursor: Cursor::new(from.revision),
            resets_seen,
        }
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
                (state.resets, state.held.as_ref().map(|held| held.tail.after(self.cursor.at())))
            };
            if self.cursor.is_lost() || Some(resets) != self.resets_seen {
                return Some(self.cursor.lose());
            }
            if let Some(read) = self.cursor.next_read() {
                return Some(read);
            }
            match next {
                Some(Next::Committed(transaction)) => return Some(self.cursor.hand_out(transaction)),
                Some(Next::Gap) | None => return Some(self.cursor.lose()),
                Some(Next::Nothing) => {
                    drop(inner);
                    self.ticks.changed().await.ok()?;
                }
                Some(Next::Older) => match inner.log_after(self.cursor.at()).await {
                    Ok(transactions) => {
                        if !self.cursor.read_ahead(transactions) {
                            return Some(self.cursor.lose());
                        }
                    }
                    Err(LogError::Gap { reason, .. }) => {
                        warn!(
                            reason,
                            "a follower is further behind than the change log goes: it loads again"
                        );
                        return Some(self.cursor.lose());
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
