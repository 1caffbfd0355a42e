//! The backends under test, and what every check needs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jcm_storage::{ChangeFeed, EmbeddedStore, Feed, MemoryStore, Store};
use tempfile::TempDir;

/// How long a feed may take for what is already committed: a deadline for a hang, not a measure of speed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of store. Each is empty, and gone with its value.
pub(crate) trait Backend: Default {
    /// Another empty store.
    fn empty(&self) -> Arc<dyn Store>;
}

#[derive(Default)]
pub(crate) struct Memory;

impl Backend for Memory {
    fn empty(&self) -> Arc<dyn Store> {
        Arc::new(MemoryStore::new())
    }
}

pub(crate) struct Embedded {
    directory: TempDir,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { directory: TempDir::new().expect("a temporary directory can be made") }
    }
}

impl Embedded {
    /// The file that a test of its own opens.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("store.redb")
    }

    /// Opens the store in that file.
    pub(crate) fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.path()).expect("the store opens")
    }
}

impl Backend for Embedded {
    fn empty(&self) -> Arc<dyn Store> {
        let name = format!("{}.redb", uuid::Uuid::new_v4());
        Arc::new(EmbeddedStore::open(&self.directory.path().join(name)).expect("the store opens"))
    }
}

/// The next step of a feed that has one.
pub(crate) async fn step(feed: &mut Box<dyn ChangeFeed>) -> Option<Feed> {
    tokio::time::timeout(PATIENCE, feed.next()).await.expect("the feed has a next step")
}

/// The first and last revision of the next commit.
pub(crate) async fn range(feed: &mut Box<dyn ChangeFeed>) -> (u64, u64) {
    match step(feed).await {
        Some(Feed::Committed(transaction)) => (transaction.first().0, transaction.last().0),
        other => panic!("a commit was due, and this came: {other:?}"),
    }
}

/// Asserts that the next step is a reset.
pub(crate) async fn expect_reset(feed: &mut Box<dyn ChangeFeed>) {
    let next = step(feed).await;
    assert!(matches!(next, Some(Feed::Reset)), "a reset was due, and this came: {next:?}");
}
