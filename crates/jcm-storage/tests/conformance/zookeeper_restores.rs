//! A restore in ZooKeeper, where others follow, and where it can end in the middle.

use std::sync::Arc;

use jcm_model::{Cluster, Revision, StoreId};
use jcm_storage::{RestoreError, Store, ZooKeeper};
use serde_json::json;
use uuid::Uuid;
use zookeeper_client as zk;

use crate::backends::{PATIENCE, expect_reset};
use crate::ensemble::{Ensemble, open};
use crate::written::{Expected, at, cluster, node, put_nodes};

/// Definitions from elsewhere, one of them large enough to be cut.
fn elsewhere() -> Vec<Arc<Cluster>> {
    let mut expected = Expected::default();
    for number in 0..300 {
        expected.change(&format!("restored{number}"), &cluster(json!({ "nodes": [node(1), node(2)] })));
    }
    expected.change("large", &cluster(json!({})));
    expected.change("large", &put_nodes(1..2_000));
    expected.clusters.into_values().collect()
}

async fn stores(raw: &zk::Client) -> Vec<String> {
    raw.list_children("/stores").await.unwrap()
}

/// Waits until a server has followed to a store, and asserts what it loads there.
async fn follows(zookeeper: &ZooKeeper, store: StoreId, clusters: &[Arc<Cluster>]) {
    let there = zookeeper.store();
    let mut stale = there.stale_since();
    let deadline = std::time::Instant::now() + PATIENCE;
    while there.id() != store {
        assert!(std::time::Instant::now() < deadline, "it still follows {}", there.id());
        let _ = tokio::time::timeout(std::time::Duration::from_millis(20), stale.changed()).await;
    }
    let snapshot = there.load().await.unwrap();
    assert_eq!((snapshot.store, snapshot.clusters.len()), (store, clusters.len()));
    let nodes = |clusters: &[Arc<Cluster>]| clusters.iter().map(|cluster| cluster.nodes.len()).sum::<usize>();
    assert_eq!(nodes(&snapshot.clusters), nodes(clusters));
    assert!(snapshot.quarantined.is_empty(), "{:?}", snapshot.quarantined);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_follows_a_restore_and_what_it_replaced_is_cleared_away() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let (here, there) = (open(&config, None).await, open(&config, None).await);
    let mut expected = Expected::default();
    expected.commit(here.store().as_ref(), &[("old", cluster(json!({ "nodes": [node(1)] })))]).await;
    let old = here.store().id();
    let mut feed = there.store().changes(at(there.store().id(), Revision::ZERO)).await.unwrap();
    let raw = ensemble.raw(&config).await;
    // Rubbish of a restore that ended in the middle: the old definitions stayed in force.
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let rubbish = format!("/stores/{}", Uuid::new_v4());
    for path in [rubbish.clone(), format!("{rubbish}/clusters"), format!("{rubbish}/clusters/00")] {
        raw.create(&path, b"", &options).await.unwrap();
    }
    expected.expect_in(there.store().as_ref()).await;

    let clusters = elsewhere();
    let restored = here.store().restore(clusters.clone(), Vec::new()).await.unwrap();
    follows(&here, restored, &clusters).await;
    follows(&there, restored, &clusters).await;
    assert_eq!(there.store().replaced(), [old]);
    while let Some(jcm_storage::Feed::Committed(transaction)) = crate::backends::step(&mut feed).await {
        assert_eq!(transaction.last(), Revision(1), "a feed of the old store told of the new one");
    }
    expect_reset(&mut feed).await;
    assert_eq!(stores(&raw).await, [restored.to_string()], "something is left over");
    // One that was away meanwhile.
    let late = open(&config, Some(old)).await;
    follows(&late, restored, &clusters).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_ensemble_is_restored_by_a_server_that_held_what_it_had_and_the_others_follow() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let (here, there) = (open(&config, None).await, open(&config, None).await);
    let mut expected = Expected::default();
    for number in 0..4 {
        expected.commit(here.store().as_ref(), &[(&format!("c{number}"), cluster(json!({})))]).await;
    }
    expected.expect_in(there.store().as_ref()).await;
    let old = here.store().id();
    let raw = ensemble.raw(&config).await;
    crate::zookeeper_identity::wipe(&raw).await;
    let clusters: Vec<_> = expected.clusters.values().cloned().collect();
    let restored = here.store().restore(clusters.clone(), Vec::new()).await.unwrap();
    follows(&here, restored, &clusters).await;
    follows(&there, restored, &clusters).await;
    assert_eq!(there.store().replaced(), [old]);
    let head = there.store().head().await.unwrap().revision;
    assert!(head > expected.head, "the head is at {head} and was at {}", expected.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_store_is_not_restored_over_and_of_two_restores_at_once_one_is_whole() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let here = open(&config, None).await;
    let store = here.store().id();
    let stranger = ZooKeeper::connect(config.clone()).unwrap();
    stranger.store().open(Some(at(StoreId(Uuid::new_v4()), Revision::ZERO))).await.unwrap_err();
    let refused = stranger.store().restore(elsewhere(), Vec::new()).await.unwrap_err();
    assert!(
        matches!(&refused, RestoreError::NotRestored { reason } if reason.contains(&store.to_string())),
        "{refused}"
    );
    assert_eq!(here.store().id(), store);

    let other = open(&config, None).await;
    let (all, few) = (elsewhere(), elsewhere()[..3].to_vec());
    let (here_store, other_store) = (here.store(), other.store());
    let (one, two) = tokio::join!(
        here_store.restore(all.clone(), Vec::new()),
        other_store.restore(few.clone(), Vec::new())
    );
    let raw = ensemble.raw(&config).await;
    match (one, two) {
        (Ok(one), Err(_)) => follows(&other, one, &all).await,
        (Err(_), Ok(two)) => follows(&here, two, &few).await,
        // One after the other.
        (Ok(one), Ok(two)) if stores(&raw).await.contains(&one.to_string()) => {
            follows(&other, one, &all).await;
            assert!(other.store().replaced().contains(&two));
        }
        (Ok(one), Ok(two)) => {
            follows(&here, two, &few).await;
            assert!(here.store().replaced().contains(&one));
        }
        (Err(one), Err(two)) => panic!("nobody restored: {one}; {two}"),
    }
}
