//! Which store an ensemble holds: wiped, alien, put back from an old copy, of a later format, made by several at once.

use std::time::Duration;

use jcm_model::{Revision, StoreId};
use jcm_proto::{record, v1};
use jcm_storage::zookeeper::Config;
use jcm_storage::{CommitError, LoadError, Store, ZooKeeper};
use serde_json::json;
use zookeeper_client as zk;

use crate::backends::{PATIENCE, expect_reset};
use crate::ensemble::{Ensemble, Wire, open};
use crate::written::{Expected, at, cluster, creation, put_nodes};

pub(crate) async fn wipe(raw: &zk::Client) {
    let mut todo = vec!["/stores".to_owned(), "/identity".to_owned()];
    while let Some(path) = todo.pop() {
        match raw.delete(&path, None).await {
            Err(zk::Error::NotEmpty) => {
                let children = raw.list_children(&path).await.unwrap();
                todo.push(path.clone());
                todo.extend(children.into_iter().map(|child| format!("{path}/{child}")));
            }
            gone => gone.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_or_alien_ensemble_is_refused_and_what_is_held_is_kept() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let zookeeper = open(&config, None).await;
    let store = zookeeper.store();
    let id = store.id();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("a", cluster(json!({})))]).await;
    let mut feed = store.changes(at(store.id(), expected.head)).await.unwrap();
    let raw = ensemble.raw(&config).await;
    let mut stale = store.stale_since();
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_none)).await.unwrap().unwrap();
    wipe(&raw).await;
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_some)).await.unwrap().unwrap();
    let refused =
        store.commit(creation("b", expected.head), at(store.id(), expected.head)).await.unwrap_err();
    assert!(matches!(&refused, CommitError::Unavailable { .. }), "{refused:?}");

    // A server that holds it must not take the empty one; one that holds nothing makes a new store there.
    let late = ZooKeeper::connect(config.clone()).unwrap();
    let wiped = late.store().open(Some(at(id, Revision::ZERO))).await.unwrap_err();
    assert!(matches!(&wiped, LoadError::Lost { reason } if reason.contains(&id.to_string())), "{wiped}");
    let alien = open(&config, None).await.store().id();
    assert_ne!(alien, id);
    let foreign = late.store().open(Some(at(id, Revision::ZERO))).await.unwrap_err().to_string();
    assert!(foreign.contains(&id.to_string()) && foreign.contains(&alien.to_string()), "{foreign}");
    assert!(late.store().load().await.is_err(), "an alien store was loaded");
    assert_eq!(store.id(), id);
    let silent = tokio::time::timeout(Duration::from_millis(1), feed.next()).await;
    assert!(silent.is_err(), "a feed of a wiped store said {silent:?}");
    let refused = store
        .commit(creation("b", expected.head), at(store.id(), expected.head))
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains(&id.to_string()), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_took_the_place_of_ours_is_followed_to() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let zookeeper = open(&config, None).await;
    let store = zookeeper.store();
    let old = store.id();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    let raw = ensemble.raw(&config).await;
    // As a restore does it: built beside the old one, then put in force with one write.
    let beside = open(&Config { root: format!("{}-b", config.root), ..config.clone() }, None).await.store();
    let mut expected = Expected::default();
    expected.commit(beside.as_ref(), &[("restored", cluster(json!({})))]).await;
    let other = ensemble.raw(&Config { root: format!("{}-b", config.root), ..config.clone() }).await;
    copy(&other, &raw, &format!("/stores/{}", beside.id())).await;
    let identity = v1::StoreIdentity {
        format: 1,
        store: beside.id().0.as_bytes().to_vec(),
        replaces: vec![old.0.as_bytes().to_vec()],
    };
    raw.set_data("/identity", &record::encode(&identity), None).await.unwrap();
    expect_reset(&mut feed).await;
    assert_eq!(store.id(), beside.id());
    assert_eq!(store.replaced(), [old]);
    assert!(store.changes(at(store.id(), Revision(1))).await.is_err(), "it follows what it has not loaded");
    expected.expect_in(store.as_ref()).await;
    expected.commit(store.as_ref(), &[("restored", put_nodes([1]))]).await;
    expected.expect_in(store.as_ref()).await;
    // A server that was away meanwhile.
    let late = open(&config, Some(old)).await.store();
    assert_eq!(late.id(), beside.id());
    expected.expect_in(late.as_ref()).await;
}

/// Copies a tree of znodes.
async fn copy(from: &zk::Client, to: &zk::Client, path: &str) {
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let mut todo = vec![path.to_owned()];
    while let Some(path) = todo.pop() {
        let (bytes, _) = from.get_data(&path).await.unwrap();
        to.create(&path, &bytes, &options).await.unwrap();
        let children = from.list_children(&path).await.unwrap();
        todo.extend(children.into_iter().map(|child| format!("{path}/{child}")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_a_later_format_is_refused_by_its_number() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let id = open(&config, None).await.store().id();
    let raw = ensemble.raw(&config).await;
    let newer = v1::StoreIdentity { format: 2, store: id.0.as_bytes().to_vec(), replaces: Vec::new() };
    raw.set_data("/identity", &record::encode(&newer), None).await.unwrap();
    for expected in [None, Some(at(id, Revision::ZERO))] {
        let zookeeper = ZooKeeper::connect(config.clone()).unwrap();
        let refused = zookeeper.store().open(expected).await.unwrap_err();
        assert!(
            matches!(&refused, LoadError::Unusable { reason } if reason.contains("format 2 is newer than 1")),
            "{refused}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_servers_that_start_at_once_one_makes_the_store_and_all_use_it() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let config = config.clone();
        starting.spawn(async move { open(&config, None).await.store().id() });
    }
    let mut ids: Vec<StoreId> = Vec::new();
    while let Some(id) = starting.join_next().await {
        ids.push(id.unwrap());
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_starts_while_zookeeper_is_away_binds_when_it_is_back() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let id = open(&config, None).await.store().id();
    let wire = Wire::to(&ensemble.hosts).await;
    wire.set_open(false);
    let zookeeper = ZooKeeper::connect(Config { hosts: wire.hosts.clone(), ..config }).unwrap();
    let store = zookeeper.store();
    assert!(matches!(store.open(Some(at(id, Revision::ZERO))).await, Err(LoadError::Unavailable { .. })));
    assert_eq!(store.id(), id, "it does not know what it holds");
    assert!(matches!(store.load().await, Err(LoadError::Unavailable { .. })));
    let refused = store.commit(creation("a", Revision::ZERO), at(store.id(), Revision::ZERO)).await;
    assert!(matches!(refused, Err(CommitError::Unavailable { .. })), "{refused:?}");
    wire.set_open(true);
    let mut stale = store.stale_since();
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_none)).await.unwrap().unwrap();
    Expected::default().expect_in(store.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_digest_nobody_else_reads_and_it_holds_after_a_reconnect() {
    let ensemble = Ensemble::default();
    let wire = Wire::to(&ensemble.hosts).await;
    let digest = Some(("jcm".to_owned(), "secret".to_owned()));
    let config = Config { hosts: wire.hosts.clone(), digest, ..ensemble.config() };
    let store = open(&config, None).await.store();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("a", cluster(json!({})))]).await;
    let mut stale = store.stale_since();
    wire.set_open(false);
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_some)).await.unwrap().unwrap();
    wire.set_open(true);
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_none)).await.unwrap().unwrap();
    expected.commit(store.as_ref(), &[("a", put_nodes([1]))]).await;
    expected.expect_in(store.as_ref()).await;

    let raw = ensemble.raw(&config).await;
    assert_eq!(raw.get_data("/identity").await.unwrap_err(), zk::Error::NoAuth);
    assert_eq!(raw.list_children("/stores").await.unwrap_err(), zk::Error::NoAuth);
    let stranger = ZooKeeper::connect(Config { digest: None, ..config }).unwrap();
    let refused = stranger.store().open(None).await.unwrap_err();
    assert!(refused.to_string().contains("not authorized"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_roots_of_one_ensemble_are_two_stores() {
    let ensemble = Ensemble::default();
    let (one, two) = (ensemble.config(), ensemble.config());
    let (one, two) = (open(&one, None).await.store(), open(&two, None).await.store());
    assert_ne!(one.id(), two.id());
    let mut expected = Expected::default();
    expected.commit(one.as_ref(), &[("a", cluster(json!({})))]).await;
    expected.expect_in(one.as_ref()).await;
    Expected::default().expect_in(two.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_that_is_behind_what_a_server_holds_is_refused_until_it_has_come_past_it() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let beside = open(&config, None).await;
    let mut expected = Expected::default();
    for number in 0..3 {
        expected.commit(beside.store().as_ref(), &[(&format!("c{number}"), cluster(json!({})))]).await;
    }
    // It was put back from a copy of its third revision, and this server has seen the fifth.
    let store = beside.store().id();
    let restarted = ZooKeeper::connect(config.clone()).unwrap();
    restarted.store().open(Some(at(store, Revision(5)))).await.unwrap();
    for _ in 0..2 {
        let refused = restarted.store().load().await.unwrap_err();
        let LoadError::Lost { reason } = &refused else { panic!("{refused:?}") };
        assert!(reason.contains("was at 5 and is at 3"), "{reason}");
        assert!(
            restarted.store().changes(at(store, Revision(3))).await.is_err(),
            "it follows what it refused"
        );
        let head = at(store, Revision(3));
        let refused = restarted.store().commit(creation("late", head.revision), head).await.unwrap_err();
        assert!(
            matches!(&refused, CommitError::Unavailable { reason } if reason.contains("lost writes")),
            "{refused}"
        );
    }
    for number in 3..5 {
        expected.commit(beside.store().as_ref(), &[(&format!("c{number}"), cluster(json!({})))]).await;
    }
    expected.expect_in(restarted.store().as_ref()).await;
    expected.commit(restarted.store().as_ref(), &[("c0", put_nodes([1]))]).await;
    // A restore from a server that has seen more begins above all of it.
    let ahead = ZooKeeper::connect(config.clone()).unwrap();
    ahead.store().open(Some(at(store, Revision(90)))).await.unwrap();
    assert!(matches!(ahead.store().load().await, Err(LoadError::Lost { .. })));
    ahead.store().restore(Vec::new(), Vec::new()).await.unwrap();
    assert_eq!(ahead.store().load().await.unwrap().revision, Revision(91));
}
