//! What only a store in ZooKeeper can get wrong: several servers, lost answers, lost sessions, alien bytes.

use std::sync::Arc;
use std::time::Duration;

use jcm_model::{Mutation, Revision};
use jcm_storage::zookeeper::Config;
use jcm_storage::{CommitError, Store, ZooKeeper};
use serde_json::json;
use zookeeper_client as zk;

use crate::backends::{PATIENCE, range, step};
use crate::commits::{catch_up, noisy_cluster};
use crate::ensemble::{Ensemble, Fault, Wire, open};
use crate::written::{Expected, at, cluster, creation, name, node, put_nodes, transaction};

/// A store over a wire, another beside it, and what both hold.
struct Pair {
    wire: Wire,
    near: ZooKeeper,
    far: ZooKeeper,
    expected: Expected,
    config: Config,
    ensemble: Ensemble,
}

impl Pair {
    async fn new(session_timeout: Duration) -> Self {
        let ensemble = Ensemble::default();
        let wire = Wire::to(&ensemble.hosts).await;
        let config = Config { session_timeout, ..ensemble.config() };
        let far = open(&config, None).await;
        let mut expected = Expected::default();
        expected.commit(far.store().as_ref(), &[("shared", cluster(json!({})))]).await;
        let near = open(&Config { hosts: wire.hosts.clone(), ..config.clone() }, None).await;
        Self { wire, near, far, expected, config, ensemble }
    }

    /// Commits over the wire.
    async fn commit(&mut self, number: u32) -> Result<(), CommitError> {
        let head = self.expected.head;
        let before = self.expected.clone();
        let change = self.expected.change("shared", &put_nodes([number]));
        let outcome =
            self.near.store().commit(transaction(vec![change]), at(self.near.store().id(), head)).await;
        if outcome.is_err() {
            self.expected = before;
        }
        outcome
    }

    /// Commits beside the wire.
    async fn commit_far(&mut self, number: u32) {
        // Not before that server knows what was committed over the wire.
        self.far.store().load().await.unwrap();
        self.expected.commit(self.far.store().as_ref(), &[("shared", put_nodes([number]))]).await;
    }

    async fn expect_all(&self) {
        self.expected.expect_in(self.far.store().as_ref()).await;
        self.expected.expect_in(self.near.store().as_ref()).await;
    }
}

const SESSION: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_writers_on_two_servers_lose_no_update() {
    const WRITERS: u32 = 8;
    const COMMITS: u32 = 10;
    let pair = Pair::new(SESSION).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = if writer % 2 == 0 { pair.near.store() } else { pair.far.store() };
        let mut mine = pair.expected.clone();
        let mut feed = store.changes(at(store.id(), mine.head)).await.unwrap();
        writers.spawn(async move {
            for commit in 0..COMMITS {
                loop {
                    let head = mine.head;
                    // Of different sizes: the names of their records differ.
                    let mut draft = mine.clone();
                    let number = 1 + writer * COMMITS + commit;
                    let mut changes = vec![draft.change("shared", &put_nodes([number]))];
                    if writer % 3 == 0 {
                        changes.push(draft.change("shared", &put_nodes([10_000 + number])));
                    }
                    match store.commit(transaction(changes), at(store.id(), head)).await {
                        Ok(()) => break,
                        Err(CommitError::Conflict { found, .. }) => {
                            catch_up(&mut mine, &mut feed, found).await;
                        }
                        Err(error) => panic!("writer {writer}: {error:?}"),
                    }
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    let last = pair.far.store().head().await.unwrap().revision;
    for store in [pair.near.store(), pair.far.store()] {
        let mut heard = pair.expected.clone();
        let mut feed = store.changes(at(store.id(), heard.head)).await.unwrap();
        catch_up(&mut heard, &mut feed, last).await;
        assert_eq!(heard.clusters[&name("shared")].nodes.len(), 80 + 30, "an update was lost");
        heard.expect_in(store.as_ref()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_is_found_and_is_there_once() {
    let mut pair = Pair::new(SESSION).await;
    let mut feed = pair.near.store().changes(at(pair.near.store().id(), pair.expected.head)).await.unwrap();
    for number in 1..=3 {
        pair.wire.set_fault(Fault::LoseAnswer);
        pair.commit(number).await.unwrap();
        assert!(pair.wire.has_bitten(), "no answer was lost");
        let due = pair.expected.head.0;
        assert_eq!(range(&mut feed).await, (due, due));
    }
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrives_is_said_to_be_nowhere_and_the_next_one_is_taken() {
    let mut pair = Pair::new(SESSION).await;
    pair.wire.set_fault(Fault::LoseRequest);
    let lost = pair.commit(1).await.unwrap_err();
    assert!(matches!(lost, CommitError::Unavailable { .. }), "{lost:?}");
    pair.expect_all().await;
    pair.commit(2).await.unwrap();
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_was_said_to_be_nowhere_does_not_arrive_later() {
    let mut pair = Pair::new(SESSION).await;
    pair.wire.set_fault(Fault::HoldRequest);
    let lost = pair.commit(1).await.unwrap_err();
    assert!(matches!(lost, CommitError::Unavailable { .. }), "{lost:?}");
    pair.wire.deliver().await;
    pair.commit(2).await.unwrap();
    pair.commit_far(3).await;
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_server_submitted_on_a_head_that_was_settled_does_not_arrive_later() {
    let mut pair = Pair::new(SESSION).await;
    let head = at(pair.far.store().id(), pair.expected.head);
    let before = pair.far.store().load().await.unwrap();
    pair.wire.set_fault(Fault::HoldRequest);
    let late = transaction(vec![pair.expected.clone().change("shared", &put_nodes([1]))]);
    let (near, wire) = (pair.near.store(), &pair.wire);
    let cut = async {
        while !wire.has_bitten() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // That server cannot find out what became of it, nor see to it that nothing does.
        wire.set_open(false);
    };
    let (lost, ()) = tokio::join!(near.commit(late, head), cut);
    assert!(matches!(lost, Err(CommitError::Unknown { .. })), "{lost:?}");
    pair.far.store().settle(head).await.unwrap();
    pair.wire.deliver().await;
    assert_eq!(pair.far.store().head().await.unwrap(), before.head());
    pair.wire.set_open(true);
    pair.commit_far(2).await;
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_while_others_win_is_a_conflict() {
    let mut pair = Pair::new(SESSION).await;
    let head = pair.expected.head;
    let late = pair.expected.clone().change("shared", &put_nodes([1]));
    pair.commit_far(2).await;
    // The server over the wire has not heard of it, and its request is lost.
    pair.wire.set_fault(Fault::LoseRequest);
    let outcome = pair
        .near
        .store()
        .commit(transaction(vec![late]), at(pair.near.store().id(), head))
        .await
        .unwrap_err();
    assert!(matches!(outcome, CommitError::Conflict { .. }), "{outcome:?}");
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_lost_and_comes_back_misses_nothing() {
    let mut pair = Pair::new(SESSION).await;
    let mut feed = pair.near.store().changes(at(pair.near.store().id(), pair.expected.head)).await.unwrap();
    let mut heard = pair.expected.clone();
    for round in 0..3 {
        let mut stale = pair.near.store().stale_since();
        pair.wire.set_open(false);
        tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_some)).await.unwrap().unwrap();
        for number in 1..=5 {
            pair.commit_far(round * 5 + number).await;
        }
        pair.wire.set_open(true);
        catch_up(&mut heard, &mut feed, pair.expected.head).await;
        tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_none)).await.unwrap().unwrap();
    }
    assert_eq!(heard.clusters, pair.expected.clusters);
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_expires_is_followed_by_another_and_nothing_is_missed() {
    let mut pair = Pair::new(Duration::from_secs(1)).await;
    let mut feed = pair.near.store().changes(at(pair.near.store().id(), pair.expected.head)).await.unwrap();
    let mut heard = pair.expected.clone();
    pair.wire.set_open(false);
    for number in 1..=40 {
        pair.commit_far(number).await;
    }
    // Longer than any session of a second lives; what is waited for is not a state that could be asked for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    pair.commit_far(41).await;
    pair.wire.set_open(true);
    catch_up(&mut heard, &mut feed, pair.expected.head).await;
    pair.commit(42).await.unwrap();
    pair.commit_far(43).await;
    catch_up(&mut heard, &mut feed, pair.expected.head).await;
    assert_eq!(heard.clusters, pair.expected.clusters);
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_refuses_writes_in_time_and_ends_by_itself() {
    let mut pair = Pair::new(SESSION).await;
    pair.wire.set_open(false);
    let mut stale = pair.near.store().stale_since();
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_some)).await.unwrap().unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(2), pair.commit(1)).await;
    assert!(matches!(refused, Ok(Err(CommitError::Unavailable { .. }))), "{refused:?}");
    pair.wire.set_open(true);
    tokio::time::timeout(PATIENCE, stale.wait_for(Option::is_none)).await.unwrap().unwrap();
    pair.commit(2).await.unwrap();
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_one_request_never_reaches_zookeeper() {
    let mut pair = Pair::new(SESSION).await;
    let before = pair.wire.connections();
    // The record is within the limit of all stores; with the cluster beside it the request is not.
    let change = pair.expected.clone().change("large", &noisy_cluster(900));
    let refused = pair
        .near
        .store()
        .commit(transaction(vec![change]), at(pair.near.store().id(), pair.expected.head))
        .await
        .unwrap_err();
    let CommitError::TooLarge { size_bytes, limit_bytes } = refused else { panic!("{refused:?}") };
    assert!(size_bytes > limit_bytes && limit_bytes < 1_048_575, "{size_bytes} {limit_bytes}");
    pair.commit(1).await.unwrap();
    assert_eq!(pair.wire.connections(), before, "the connection was cut");
    pair.expect_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_grows_and_shrinks_across_its_chunks_is_whole_at_each_step() {
    let ensemble = Ensemble::default();
    let config = ensemble.config();
    let zookeeper = open(&config, None).await;
    let store = zookeeper.store();
    let mut expected = Expected::default();
    expected.commit(store.as_ref(), &[("a", cluster(json!({ "nodes": [node(1)] })))]).await;
    for nodes in [1..128, 128..129, 129..130, 130..1_000] {
        expected.commit(store.as_ref(), &[("a", put_nodes(nodes))]).await;
        expected.expect_in(store.as_ref()).await;
    }
    let remove = |numbers: std::ops::Range<u32>| {
        Mutation::DeleteNodes(numbers.map(|n| crate::written::node_id(&format!("n{n:06}"))).collect())
    };
    expected.commit(store.as_ref(), &[("a", remove(500..501)), ("a", put_nodes([2_000]))]).await;
    expected.expect_in(store.as_ref()).await;
    expected
        .commit(
            store.as_ref(),
            &[("a", Mutation::DeleteCluster), ("a", cluster(json!({ "nodes": [node(7)] })))],
        )
        .await;
    expected.expect_in(store.as_ref()).await;
    expected.commit(store.as_ref(), &[("a", put_nodes(1..300))]).await;
    expected.commit(store.as_ref(), &[("a", remove(20..290))]).await;
    expected.expect_in(store.as_ref()).await;
    expected.commit(store.as_ref(), &[("a", put_nodes(1..300)), ("a", Mutation::DeleteCluster)]).await;
    expected.expect_in(store.as_ref()).await;
    // Another server that worked nothing of it out itself.
    let other = open(&config, Some(store.id())).await;
    expected.commit(other.store().as_ref(), &[("a", cluster(json!({ "nodes": [node(3)] })))]).await;
    expected.expect_in(other.store().as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_with_alien_bytes_is_left_alone_and_only_its_deletion_is_taken() {
    let pair = Pair::new(SESSION).await;
    let mut expected = pair.expected.clone();
    let store = pair.far.store();
    expected
        .commit(store.as_ref(), &[("large", cluster(json!({ "nodes": [] }))), ("large", put_nodes(1..400))])
        .await;
    expected.commit(store.as_ref(), &[("small", cluster(json!({})))]).await;
    let raw = pair.ensemble.raw(&pair.config).await;
    let clusters = format!("/stores/{}/clusters", store.id());
    let path_of = async |wanted: &str| {
        for bucket in raw.list_children(&clusters).await.unwrap() {
            if raw.list_children(&format!("{clusters}/{bucket}")).await.unwrap().contains(&wanted.to_owned())
            {
                return format!("{clusters}/{bucket}/{wanted}");
            }
        }
        panic!("{wanted} is nowhere");
    };
    raw.set_data(&path_of("small").await, b"alien", None).await.unwrap();
    raw.set_data(&format!("{}/07", path_of("large").await), b"alien", None).await.unwrap();
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    raw.create(&format!("{clusters}/00/not%a%name"), b"alien", &options).await.unwrap();

    let fresh = open(&pair.config, None).await;
    let snapshot = fresh.store().load().await.unwrap();
    let mut quarantined: Vec<_> = snapshot.quarantined.iter().map(|(name, _)| name.as_str()).collect();
    quarantined.sort_unstable();
    assert_eq!(quarantined, ["large", "small"]);
    let served: Vec<_> = snapshot.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
    assert_eq!(served, ["shared"]);

    let change = expected.clone().change("small", &put_nodes([1]));
    let refused = fresh
        .store()
        .commit(transaction(vec![change]), at(fresh.store().id(), expected.head))
        .await
        .unwrap_err();
    assert!(matches!(refused, CommitError::Refused { .. }), "{refused:?}");
    expected
        .commit(
            fresh.store().as_ref(),
            &[
                ("large", Mutation::DeleteCluster),
                ("small", Mutation::DeleteCluster),
                ("small", cluster(json!({}))),
            ],
        )
        .await;
    expected.expect_in(fresh.store().as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutting_down_ends_feeds_and_the_session() {
    let ensemble = Ensemble::default();
    let zookeeper = open(&ensemble.config(), None).await;
    let store = zookeeper.store();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    let waiting = tokio::spawn(async move { step(&mut feed).await });
    tokio::time::timeout(PATIENCE, zookeeper.shutdown()).await.unwrap();
    let refused = store.commit(creation("a", Revision::ZERO), at(store.id(), Revision::ZERO)).await;
    assert!(matches!(refused, Err(CommitError::Unavailable { .. })), "{refused:?}");
    drop((zookeeper, Arc::clone(&store), store));
    assert!(waiting.await.unwrap().is_none());
}
