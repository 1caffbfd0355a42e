//! Commits in order: the latest from memory, older ones from the log in the file.

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use jcm_model::{Head, Revision, StoreId};
use tokio::sync::watch;
use tracing::warn;

use super::{Inner, blocking, reading};
use crate::tail::{Cursor, Next};
use crate::{ChangeFeed, Feed};

/// Commits in order, from a revision on.
pub(super) struct EmbeddedFeed {
    /// A feed does not keep the store open.
    inner: Weak<Inner>,
    head: watch::Receiver<Revision>,
    /// The identity it follows: what the file holds under another one is no continuation.
    store: StoreId,
    cursor: Cursor,
}

impl EmbeddedFeed {
    pub(super) fn new(inner: &Arc<Inner>, from: Head) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            head: inner.head.subscribe(),
            store: from.store,
            cursor: Cursor::new(from.revision),
        }
    }
}

#[async_trait]
impl ChangeFeed for EmbeddedFeed {
    /// Whoever stops waiting loses nothing: all that was found is kept, or found again.
    async fn next(&mut self) -> Option<Feed> {
        loop {
            let inner = self.inner.upgrade()?;
            if self.cursor.is_lost() {
                return Some(Feed::Reset);
            }
            // Marked as seen before looking: what happens after the look wakes the wait.
            self.head.borrow_and_update();
            let (next, head) = {
                let current = inner.current();
                if current.identity.store != self.store {
                    drop(current);
                    return Some(self.cursor.lose());
                }
                (current.tail.after(self.cursor.at()), current.tail.head())
            };
            if let Some(read) = self.cursor.next_read() {
                return Some(read);
            }
            match next {
                Next::Committed(transaction) => return Some(self.cursor.hand_out(transaction)),
                Next::Gap => return Some(self.cursor.lose()),
                Next::Nothing => {
                    drop(inner);
                    self.head.changed().await.ok()?;
                }
                Next::Older => {
                    let at = self.cursor.at();
                    let read =
                        blocking(move || inner.read(|database| reading::log_between(database, at, head)))
                            .await;
                    let transactions = match read {
                        Ok(Ok(transactions)) => transactions,
                        Ok(Err(error)) => {
                            warn!(%error, "the change log cannot be read: its follower loads again");
                            Vec::new()
                        }
                        Err(reason) => {
                            warn!(reason, "the change log cannot be read: its follower loads again");
                            Vec::new()
                        }
                    };
                    // What was read may be of a store that was restored meanwhile: the next turn looks again.
                    if !self.cursor.read_ahead(transactions) {
                        return Some(self.cursor.lose());
                    }
                }
            }
        }
    }
}
