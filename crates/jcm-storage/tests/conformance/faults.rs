//! The memory store fails as it is told, so that what is tested with it has met every failure.

use jcm_model::Revision;
use jcm_storage::memory::Outcome;
use jcm_storage::{CommitError, LoadError, MemoryStore, Store};
use serde_json::json;

use crate::backends::{expect_reset, range};
use crate::written::{Expected, at, cluster, creation};

#[tokio::test]
async fn an_unavailable_store_answers_nothing_and_comes_back_unchanged() {
    let store = MemoryStore::new();
    let mut expected = Expected::default();
    expected.commit(&store, &[("a", cluster(json!({})))]).await;
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    let faults = store.faults();
    faults.set_available(false);
    assert!(matches!(store.load().await, Err(LoadError::Unavailable { .. })));
    assert!(matches!(store.head().await, Err(LoadError::Unavailable { .. })));
    assert!(store.changes(at(store.id(), Revision::ZERO)).await.is_err());
    let refused = store.commit(creation("b", expected.head), at(store.id(), expected.head)).await;
    assert!(matches!(refused, Err(CommitError::Unavailable { .. })), "{refused:?}");
    faults.clone().set_available(true);
    expected.expect_in(&store).await;
    assert_eq!(range(&mut feed).await, (1, 1));
}

#[tokio::test]
async fn an_unknown_outcome_is_told_apart_only_by_the_log() {
    let store = MemoryStore::new();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    store.faults().fail_next_commit(Outcome::UnknownLost);
    let lost = store.commit(creation("a", Revision::ZERO), at(store.id(), Revision::ZERO)).await;
    assert!(matches!(lost, Err(CommitError::Unknown { .. })), "{lost:?}");
    assert_eq!(store.head().await.unwrap().revision, Revision::ZERO);

    store.faults().fail_next_commit(Outcome::UnknownApplied);
    let applied = store.commit(creation("a", Revision::ZERO), at(store.id(), Revision::ZERO)).await;
    assert!(matches!(applied, Err(CommitError::Unknown { .. })), "{applied:?}");
    assert_eq!(range(&mut feed).await, (1, 1));
    assert_eq!(store.load().await.unwrap().operations.len(), 1);

    let next = store.commit(creation("b", Revision(1)), at(store.id(), Revision(1))).await;
    assert!(next.is_ok(), "an order held for a second commit: {next:?}");
}

#[tokio::test]
async fn feeds_are_late_or_lose_something_when_told() {
    let store = MemoryStore::new();
    let faults = store.faults();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    faults.hold_feeds(true);
    store.commit(creation("a", Revision::ZERO), at(store.id(), Revision::ZERO)).await.unwrap();
    let early = tokio::time::timeout(std::time::Duration::from_millis(1), feed.next()).await;
    assert!(early.is_err(), "a held feed said {early:?}");
    faults.hold_feeds(false);
    assert_eq!(range(&mut feed).await, (1, 1));

    faults.lose_feeds();
    store.commit(creation("b", Revision(1)), at(store.id(), Revision(1))).await.unwrap();
    expect_reset(&mut feed).await;
    let mut again = store.changes(at(store.id(), Revision(1))).await.unwrap();
    assert_eq!(range(&mut again).await, (2, 2));
}
