//! A commit is conditional, whole and remembered.

use std::sync::Arc;
use std::task::Poll;

use jcm_model::{Mutation, Revision};
use jcm_storage::CommitError;
use jcm_storage::store::{Operation, TRANSACTION_BYTES_MAX};
use serde_json::json;

use crate::backends::{Backend, range};
use crate::written::{Expected, at, cluster, creation, name, node, operation, put_nodes, transaction};

pub(crate) async fn a_stale_head_is_a_conflict_and_changes_nothing(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(1)] })))]).await;
    let before = expected.clone();
    expected.commit(store.as_ref(), &[("orders", put_nodes([2]))]).await;
    for stale in [Revision(0), before.head, Revision(7)] {
        let error = store.commit(creation("late", stale), at(store.id(), stale)).await.unwrap_err();
        assert!(
            matches!(error, CommitError::Conflict { expected, found } if expected == stale && found == Revision(2)),
            "on head {stale}: {error:?}"
        );
    }
    expected.expect_in(store.as_ref()).await;
    let mut feed = store.changes(at(store.id(), Revision(1))).await.unwrap();
    assert_eq!(range(&mut feed).await, (2, 2));
    expected.commit(store.as_ref(), &[("late", cluster(json!({})))]).await;
    assert_eq!(range(&mut feed).await, (3, 3), "a refused commit came through the feed");
}

pub(crate) async fn a_head_that_is_settled_stays_and_the_next_commit_is_taken(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(1)] })))]).await;
    let head = at(store.id(), expected.head);
    for _ in 0..2 {
        store.settle(head).await.unwrap();
    }
    assert_eq!(store.head().await.unwrap(), head);
    expected.commit(store.as_ref(), &[("orders", put_nodes([2]))]).await;
    expected.expect_in(store.as_ref()).await;
    let moved = store.settle(head).await.unwrap_err();
    assert!(matches!(moved, CommitError::Conflict { found: Revision(2), .. }), "{moved:?}");
}

pub(crate) async fn many_clusters_in_one_transaction_are_all_there_or_none(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let names: Vec<String> = (0..50).map(|number| format!("c{number}")).collect();
    let creations: Vec<_> =
        names.iter().map(|name| (name.as_str(), cluster(json!({ "nodes": [node(1), node(2)] })))).collect();
    expected.commit(store.as_ref(), &creations).await;
    assert_eq!(expected.head, Revision(50));
    expected.expect_in(store.as_ref()).await;

    let mut elsewhere = expected.clone();
    let changes = names.iter().map(|name| elsewhere.change(name, &put_nodes([3]))).collect();
    expected.commit(store.as_ref(), &[("first", cluster(json!({})))]).await;
    let error = store.commit(transaction(changes), at(store.id(), Revision(50))).await.unwrap_err();
    assert!(matches!(error, CommitError::Conflict { .. }), "{error:?}");
    expected.expect_in(store.as_ref()).await;
}

pub(crate) async fn operations_come_back_oldest_first(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let mut first = Arc::unwrap_or_clone(transaction(vec![
        expected.change("a", &cluster(json!({}))),
        expected.change("a", &put_nodes([1])),
        expected.change("b", &cluster(json!({}))),
    ]));
    // The first two were asked for together.
    first.entries[0].operation = operation(70);
    first.entries[1].operation = operation(70);
    first.entries[1].fingerprint = 71;
    store.commit(Arc::new(first), at(store.id(), Revision::ZERO)).await.unwrap();
    expected.commit(store.as_ref(), &[("b", Mutation::DeleteCluster)]).await;

    let remembered = |id, fingerprint, revision, created| Operation {
        id: operation(id),
        fingerprint,
        revision: Revision(revision),
        created,
    };
    let snapshot = expected.expect_in(store.as_ref()).await;
    assert_eq!(
        snapshot.operations,
        [remembered(70, 71, 2, false), remembered(3, 3_000, 3, true), remembered(4, 4_000, 4, false)]
    );
}

/// A cluster whose nodes do not pack: their labels look like noise.
pub(crate) fn noisy_cluster(nodes: u32) -> Mutation {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut word = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        format!("{noise:016x}")
    };
    let nodes: Vec<_> = (1..=nodes)
        .map(|number| {
            let mut node = node(number);
            let labels: Vec<String> = (0..8).map(|_| (0..8).map(|_| word()).collect()).collect();
            node["labels"] = labels
                .into_iter()
                .enumerate()
                .map(|(key, value)| (format!("k{key}"), json!(value)))
                .collect();
            node
        })
        .collect();
    cluster(json!({ "nodes": nodes }))
}

pub(crate) async fn an_oversized_transaction_is_refused_with_both_sizes(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("small", cluster(json!({})))]).await;
    let change = expected.clone().change("large", &noisy_cluster(2_000));
    let error = store.commit(transaction(vec![change]), at(store.id(), expected.head)).await.unwrap_err();
    let CommitError::TooLarge { size_bytes, limit_bytes } = error else {
        panic!("not refused for its size: {error:?}");
    };
    assert_eq!(limit_bytes, TRANSACTION_BYTES_MAX);
    assert!(size_bytes > limit_bytes, "{size_bytes} bytes");
    expected.expect_in(store.as_ref()).await;
    expected.commit(store.as_ref(), &[("small", put_nodes([1]))]).await;
    expected.expect_in(store.as_ref()).await;
}

pub(crate) async fn a_transaction_that_packs_well_may_be_larger_than_the_limit(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    let nodes: Vec<_> = (1..=5_000)
        .map(|number| {
            let mut node = node(number);
            node["labels"] =
                json!({ "description": "the same long text on each of these nodes, ".repeat(6) });
            node
        })
        .collect();
    expected.commit(store.as_ref(), &[("alike", cluster(json!({ "nodes": nodes })))]).await;
    expected.expect_in(store.as_ref()).await;
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    assert_eq!(range(&mut feed).await, (1, 1));
}

pub(crate) async fn a_transaction_with_other_revisions_is_refused_untouched(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("orders", cluster(json!({ "nodes": [node(1)] })))]).await;
    let next = expected.clone().change("orders", &put_nodes([2]));
    let mut behind = next.clone();
    behind.revision = Revision(1);
    let mut ahead = next.clone();
    ahead.revision = Revision(3);
    for (case, changes) in [
        ("no entries", vec![]),
        ("behind", vec![behind]),
        ("ahead", vec![ahead.clone()]),
        ("twice", vec![next.clone(), next.clone()]),
        ("backwards", vec![ahead, next]),
    ] {
        let error = store.commit(transaction(changes), at(store.id(), expected.head)).await.expect_err(case);
        assert!(matches!(error, CommitError::Refused { .. }), "{case}: {error:?}");
        assert!(error.to_string().contains("nothing was submitted"), "{case}: {error}");
        expected.expect_in(store.as_ref()).await;
    }
}

pub(crate) async fn concurrent_committers_lose_no_update_and_number_without_a_gap(backend: &impl Backend) {
    const TASKS: u32 = 8;
    const COMMITS: u32 = 12;
    let store = backend.empty();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("shared", cluster(json!({})))]).await;

    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        let mut mine = expected.clone();
        tasks.spawn(async move {
            let mut feed = store.changes(at(store.id(), mine.head)).await.unwrap();
            for commit in 0..COMMITS {
                loop {
                    let head = mine.head;
                    let change = mine.clone().change("shared", &put_nodes([1 + task * COMMITS + commit]));
                    match store.commit(transaction(vec![change]), at(store.id(), head)).await {
                        Ok(()) => break,
                        Err(CommitError::Conflict { found, .. }) => {
                            catch_up(&mut mine, &mut feed, found).await;
                        }
                        Err(error) => panic!("task {task}: {error:?}"),
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }

    let last = Revision(u64::from(TASKS * COMMITS) + 1);
    let mut heard = Expected::default();
    catch_up(&mut heard, &mut feed, last).await;
    heard.expect_in(store.as_ref()).await;
    assert_eq!(heard.clusters[&name("shared")].nodes.len(), (TASKS * COMMITS) as usize, "an update was lost");
}

/// Follows a feed up to a revision. Every commit follows the one before.
pub(crate) async fn catch_up(
    expected: &mut Expected,
    feed: &mut Box<dyn jcm_storage::ChangeFeed>,
    until: Revision,
) {
    while expected.head < until {
        match crate::backends::step(feed).await {
            Some(jcm_storage::Feed::Committed(transaction)) => {
                assert_eq!(transaction.first(), expected.head.next(), "the feed has a gap");
                for entry in &transaction.entries {
                    expected.take(&entry.change);
                }
            }
            other => panic!("a commit was due, and this came: {other:?}"),
        }
    }
}

pub(crate) async fn a_commit_goes_on_when_its_sender_stops_waiting(backend: &impl Backend) {
    let store = backend.empty();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    let mut expected = Expected::default();
    for round in 0..20 {
        // One that is waited for, so that the next one is handed over at its first poll.
        expected.commit(store.as_ref(), &[(&format!("waited{round}"), cluster(json!({})))]).await;
        let head = expected.head;
        let transaction = transaction(vec![expected.change(&format!("left{round}"), &cluster(json!({})))]);
        let mut commit = store.commit(transaction, at(store.id(), head));
        let polled = std::future::poll_fn(|context| Poll::Ready(commit.as_mut().poll(context))).await;
        drop(commit);
        if let Poll::Ready(done) = polled {
            done.unwrap();
        }
        catch_up(
            &mut Expected { head: Revision(head.0 - 1), ..Expected::default() },
            &mut feed,
            expected.head,
        )
        .await;
    }
    expected.expect_in(store.as_ref()).await;
}
