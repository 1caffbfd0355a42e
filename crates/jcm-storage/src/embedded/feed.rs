//! Commits in order: the latest from memory, older ones from the log in the file.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use jcm_model::{Head, Revision, StoreId};
use jcm_proto::Transaction;
use tokio::sync::watch;
use tracing::warn;

use super::{Inner, blocking, reading};
use crate::tail::Next;
use crate::{ChangeFeed, Feed};

/// Commits in order, from a revision on.
pub(super) struct EmbeddedFeed {
    /// A feed does not keep the store open.
    inner: Weak<Inner>,
    head: watch::Receiver<Revision>,
    /// The identity it follows: what the file holds under another one is no continuation.
    store: StoreId,
    /// The last revision that was handed out.
    at: Revision,
    /// Read from the file and not handed out yet.
    backlog: VecDeque<Arc<Transaction>>,
    /// There was a gap: nothing can follow.
    is_lost: bool,
}

impl EmbeddedFeed {
    pub(super) fn new(inner: &Arc<Inner>, from: Head) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            head: inner.head.subscribe(),
            store: from.store,
            at: from.revision,
            backlog: VecDeque::new(),
            is_lost: false,
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
impl ChangeFeed for EmbeddedFeed {
    /// Whoever stops waiting loses nothing: all that was found is kept, or found again.
    async fn next(&mut self) -> Option<Feed> {
        loop {
            let inner = self.inner.upgrade()?;
            if self.is_lost {
                return Some(Feed::Reset);
            }
            // Marked as seen before looking: what happens after the look wakes the wait.
            self.head.borrow_and_update();
            let next = {
                let current = inner.current();
                if current.identity.store != self.store {
                    drop(current);
                    return Some(self.lose());
                }
                current.tail.after(self.at)
            };
            if let Some(transaction) = self.backlog.pop_front() {
                return Some(self.hand_out(transaction));
            }
            match next {
                Next::Committed(transaction) => return Some(self.hand_out(transaction)),
                Next::Gap => return Some(self.lose()),
                Next::Nothing => {
                    drop(inner);
                    self.head.changed().await.ok()?;
                }
                Next::Older => {
                    let at = self.at;
                    let read =
                        blocking(move || inner.read(|database| reading::log_after(database, at))).await;
                    match read {
                        Ok(Ok(transactions)) => self.backlog.extend(transactions),
                        Ok(Err(error)) => {
                            warn!(%error, "the change log cannot be read: its follower loads again");
                        }
                        Err(reason) => {
                            warn!(reason, "the change log cannot be read: its follower loads again");
                        }
                    }
                    // What was read may be of a store that was restored meanwhile: the next turn looks again.
                    if self.backlog.is_empty() {
                        return Some(self.lose());
                    }
                }
            }
        }
    }
}
