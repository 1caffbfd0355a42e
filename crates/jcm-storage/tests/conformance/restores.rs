//! A restore puts other definitions in force under a new identity, whole, and everybody who followed begins again.

use std::sync::Arc;

use jcm_model::{Cluster, Revision, StoreId};
use jcm_storage::{CommitError, RestoreError, Store};
use serde_json::json;
use uuid::Uuid;

use crate::backends::{Backend, expect_reset, range};
use crate::commits::catch_up;
use crate::written::{Expected, at, cluster, creation, name, node, put_nodes};

/// Definitions from elsewhere: a few clusters with histories of their own.
fn elsewhere() -> Vec<Arc<Cluster>> {
    let mut expected = Expected { head: Revision(500), ..Expected::default() };
    for number in 0..30 {
        let name = format!("restored{number}");
        expected.change(
            &name,
            &cluster(json!({ "nodes": [node(1), node(number + 2)], "properties": { "a": "b" } })),
        );
        expected.change(&name, &put_nodes([3 + number]));
    }
    expected.clusters.into_values().collect()
}

/// A store with something in it, and what that is.
async fn filled(backend: &impl Backend) -> (Arc<dyn Store>, Expected) {
    let store = backend.empty();
    let mut expected = Expected::default();
    for name in ["orders", "restored3", "users"] {
        expected.commit(store.as_ref(), &[(name, cluster(json!({ "nodes": [node(1), node(90)] })))]).await;
    }
    (store, expected)
}

/// Asserts that a store holds these definitions, and answers what it holds with its revisions.
async fn expect_restored(store: &dyn Store, clusters: &[Arc<Cluster>], above: Revision) -> Expected {
    let snapshot = store.load().await.unwrap();
    assert_eq!(snapshot.store, store.id());
    assert!(snapshot.revision > above, "the head is at {} and was at {above}", snapshot.revision);
    assert_eq!(snapshot.operations, []);
    let mut found = snapshot.clusters.clone();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found.len(), clusters.len());
    for (found, given) in found.iter().zip(clusters) {
        assert_eq!((&found.name, &found.header), (&given.name, &given.header));
        let revision = found.revision;
        assert!(revision > above && revision <= snapshot.revision, "{}: {revision}", found.name);
        assert_eq!((found.created, found.check_changed), (revision, revision));
        assert!(found.nodes.iter().all(|node| node.birth == revision));
        let specs = |cluster: &Cluster| -> Vec<_> {
            cluster.nodes.iter().map(|node| (node.id.clone(), node.address, node.ports.clone())).collect()
        };
        assert_eq!(specs(found), specs(given));
    }
    let clusters = found.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect();
    Expected { head: snapshot.revision, clusters }
}

pub(crate) async fn a_restore_puts_all_of_it_in_place_under_a_new_identity(backend: &impl Backend) {
    let (store, before) = filled(backend).await;
    let old = store.id();
    let further = StoreId(Uuid::from_u128(77));
    let clusters = elsewhere();
    let id = store.restore(clusters.clone(), vec![further]).await.unwrap();
    assert_ne!(id, old);
    assert_eq!(store.id(), id);
    assert_eq!(store.replaced(), [further, old]);
    let mut restored = expect_restored(store.as_ref(), &clusters, before.head).await;
    restored.commit(store.as_ref(), &[("restored3", put_nodes([70])), ("new", cluster(json!({})))]).await;
    restored.expect_in(store.as_ref()).await;
}

pub(crate) async fn a_restore_resets_every_feed_and_what_follows_begins_above(backend: &impl Backend) {
    let (store, before) = filled(backend).await;
    let mut caught_up = store.changes(at(store.id(), before.head)).await.unwrap();
    let mut behind = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    assert_eq!(range(&mut behind).await, (1, 1));
    let clusters = elsewhere();
    store.restore(clusters.clone(), Vec::new()).await.unwrap();
    let mut restored = expect_restored(store.as_ref(), &clusters, before.head).await;
    let mut after = store.changes(at(store.id(), restored.head)).await.unwrap();
    let mut older = store.changes(at(store.id(), before.head)).await.unwrap();
    restored.commit(store.as_ref(), &[("new", cluster(json!({})))]).await;
    expect_reset(&mut caught_up).await;
    expect_reset(&mut older).await;
    // What it was told before the reset is of the old store, in order.
    let mut last = 1;
    loop {
        match crate::backends::step(&mut behind).await {
            Some(jcm_storage::Feed::Reset) => break,
            Some(jcm_storage::Feed::Committed(transaction)) => {
                assert_eq!(transaction.first().0, last + 1);
                assert!(transaction.last() <= before.head, "a feed of the old store told of the new one");
                last = transaction.last().0;
            }
            None => panic!("the feed ended"),
        }
    }
    let mut heard = Expected { head: Revision(restored.head.0 - 1), ..Expected::default() };
    catch_up(&mut heard, &mut after, restored.head).await;
    assert!(heard.clusters.contains_key(&name("new")));
}

pub(crate) async fn what_was_worked_out_before_a_restore_is_refused_whatever_the_revisions(
    backend: &impl Backend,
) {
    let (store, _) = filled(backend).await;
    for clusters in [Vec::new(), elsewhere()[..3].to_vec()] {
        let before = store.head().await.unwrap();
        store.restore(clusters, Vec::new()).await.unwrap();
        let restored = store.load().await.unwrap().head();
        assert_ne!(before.store, restored.store);
        // Also if as many commits had landed on the old store as to come to the very revision of the new one.
        for late in [before, before.at(restored.revision)] {
            let error = store.commit(creation("late", late.revision), late).await.unwrap_err();
            assert!(
                matches!(error, CommitError::Replaced { expected, found } if (expected, found) == (late.store, restored.store)),
                "on {late}: {error:?}"
            );
            expect_reset(&mut store.changes(late).await.unwrap()).await;
        }
        assert_eq!(store.head().await.unwrap(), restored);
    }
    assert_eq!(store.load().await.unwrap().clusters.len(), 3);
    assert_eq!(store.replaced().len(), 2);
}

pub(crate) async fn a_restore_of_what_is_no_set_of_definitions_changes_nothing(backend: &impl Backend) {
    let (store, before) = filled(backend).await;
    let id = store.id();
    let mut twice = elsewhere();
    twice.push(Arc::clone(&twice[4]));
    let error = store.restore(twice, Vec::new()).await.unwrap_err();
    assert!(matches!(&error, RestoreError::NotRestored { reason } if reason.contains("twice")), "{error}");
    assert_eq!(store.id(), id);
    before.expect_in(store.as_ref()).await;
}
