//! Commits come in order, without a gap, from any revision on.

use std::sync::Arc;

use jcm_model::Revision;
use jcm_storage::Store;
use serde_json::json;

use crate::backends::{Backend, expect_reset, range, step};
use crate::commits::catch_up;
use crate::written::{Expected, at, cluster, put_nodes};

/// Three commits, which end at revisions 1, 3 and 4.
async fn three_commits(store: &dyn Store) -> Expected {
    let mut expected = Expected::default();
    expected.commit(store, &[("a", cluster(json!({})))]).await;
    expected.commit(store, &[("a", put_nodes([1])), ("b", cluster(json!({})))]).await;
    expected.commit(store, &[("b", put_nodes([2]))]).await;
    expected
}

pub(crate) async fn a_feed_from_any_revision_has_no_gap(backend: &impl Backend) {
    let store = backend.empty();
    let mut early = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    three_commits(store.as_ref()).await;
    let all = [(1, 1), (2, 3), (4, 4)];
    for due in all {
        assert_eq!(range(&mut early).await, due);
    }
    for (from, skipped) in [(0, 0), (1, 1), (3, 2)] {
        let mut feed = store.changes(at(store.id(), Revision(from))).await.unwrap();
        for due in &all[skipped..] {
            assert_eq!(range(&mut feed).await, *due, "from {from}");
        }
    }
}

pub(crate) async fn a_feed_sees_the_commits_to_come(backend: &impl Backend) {
    let store = backend.empty();
    let mut expected = three_commits(store.as_ref()).await;
    let mut feed = store.changes(at(store.id(), expected.head)).await.unwrap();
    let waiting = tokio::spawn(async move {
        let seen = [range(&mut feed).await, range(&mut feed).await];
        (feed, seen)
    });
    expected.commit(store.as_ref(), &[("a", put_nodes([5]))]).await;
    expected.commit(store.as_ref(), &[("a", put_nodes([6])), ("a", put_nodes([7]))]).await;
    let (mut feed, seen) = waiting.await.unwrap();
    assert_eq!(seen, [(5, 5), (6, 7)]);
    // What was waited for in vain is not lost.
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(1), feed.next()).await;
    assert!(nothing.is_err(), "{nothing:?} came out of nothing");
    expected.commit(store.as_ref(), &[("a", put_nodes([8]))]).await;
    assert_eq!(range(&mut feed).await, (8, 8));
}

pub(crate) async fn a_feed_that_asks_for_what_never_was_is_reset(backend: &impl Backend) {
    let store = backend.empty();
    three_commits(store.as_ref()).await;
    // 2 is inside a commit, 9 is yet to come: whoever holds such a state has it from elsewhere.
    for from in [2, 9] {
        let mut feed = store.changes(at(store.id(), Revision(from))).await.unwrap();
        expect_reset(&mut feed).await;
        expect_reset(&mut feed).await;
    }
}

pub(crate) async fn a_feed_ends_with_its_store(backend: &impl Backend) {
    let store = backend.empty();
    three_commits(store.as_ref()).await;
    let mut feed = store.changes(at(store.id(), Revision(4))).await.unwrap();
    let waiting = tokio::spawn(async move { step(&mut feed).await });
    drop(store);
    let end = waiting.await.unwrap();
    assert!(end.is_none(), "{end:?} came from a closed store");
}

pub(crate) async fn a_follower_far_behind_still_gets_everything(backend: &impl Backend) {
    const BATCH: u32 = 100;
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("a", cluster(json!({})))]).await;
    // More commits than a backend keeps at hand.
    let names: Vec<String> = (0..BATCH).map(|number| format!("c{number}")).collect();
    let mut follower = Expected::default();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    for number in 1..=1_200 {
        expected.commit(store.as_ref(), &[("a", put_nodes([number % 7 + 1 + number]))]).await;
    }
    let batch: Vec<_> = names.iter().map(|name| (name.as_str(), cluster(json!({})))).collect();
    expected.commit(store.as_ref(), &batch).await;
    catch_up(&mut follower, &mut feed, expected.head).await;
    follower.expect_in(store.as_ref()).await;
}

pub(crate) async fn a_load_and_its_feed_meet_without_a_gap_under_writes(backend: &impl Backend) {
    const COMMITS: u32 = 150;
    let store = backend.empty();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("a", cluster(json!({}))), ("b", cluster(json!({})))]).await;
    let writer = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 1..=COMMITS {
                // Always both: half a commit would show.
                expected
                    .commit(store.as_ref(), &[("a", put_nodes([number])), ("b", put_nodes([number]))])
                    .await;
            }
            expected
        })
    };
    let last = Revision(2 + 2 * u64::from(COMMITS));
    let mut followers = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let snapshot = store.load().await.unwrap();
        let [a, b] = &snapshot.clusters[..] else {
            panic!("{} clusters at {}", snapshot.clusters.len(), snapshot.revision);
        };
        assert_eq!(a.nodes.len(), b.nodes.len(), "half a commit was loaded");
        let mut follower = Expected {
            head: snapshot.revision,
            clusters: snapshot
                .clusters
                .iter()
                .map(|cluster| (cluster.name.clone(), Arc::clone(cluster)))
                .collect(),
        };
        let mut feed = store.changes(at(store.id(), snapshot.revision)).await.unwrap();
        followers.spawn(async move {
            catch_up(&mut follower, &mut feed, last).await;
            follower
        });
    }
    let expected = writer.await.unwrap();
    while let Some(follower) = followers.join_next().await {
        assert_eq!(follower.unwrap().clusters, expected.clusters);
    }
}
