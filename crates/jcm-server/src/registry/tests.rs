//! Writes under every fault that a store and the other servers have: none is lost, none is done twice, and no answer
//! is untrue.

mod group;
mod storms;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Lapsed, Mutation, NodeId, Precondition, Refusal, Revision, StoreId};
use jcm_storage::memory::Outcome;
use jcm_storage::{CommitError, Store};

use super::{Fate, WRITE_DEADLINE, Write, WriteError};
use crate::leases::Renewals;
use group::{Group, Link, Server, add, one, put, register};

fn nodes(server: &Server, cluster: &str) -> Vec<String> {
    let held = server.catalog.cluster(&ClusterName::parse(cluster).unwrap()).unwrap();
    held.nodes.iter().map(|node| node.id.to_string()).collect()
}

/// The leader finds that nobody has held the leases of these nodes of a cluster, as they are.
fn found_vacant(leader: &Server, cluster: &str, ids: &[&str]) {
    let name = ClusterName::parse(cluster).unwrap();
    let held = leader.catalog.cluster(&name).unwrap();
    let lapsed = held.nodes.iter().filter(|node| ids.contains(&node.id.as_str())).map(|node| {
        let lease = node.attributes.lease().unwrap().id();
        (node.id.clone(), Lapsed { node: node.id.clone(), birth: node.birth, lease })
    });
    leader.leases.vacancies().publish(1, [(name, lapsed.collect())].into(), Instant::now());
}

fn if_match(revision: Revision) -> Precondition {
    Precondition { revision: Some(revision), ..Precondition::default() }
}

fn held(server: &Server, cluster: &str) -> Option<String> {
    let name = ClusterName::parse(cluster).unwrap();
    server.catalog.cluster(&name).map(|held| held.header.properties.get("n").unwrap().to_string())
}

#[tokio::test]
async fn a_follower_forwards_to_the_leader_and_shows_what_it_wrote() {
    let group = Group::start(2).await;
    let follower = group.server(1);
    let first = follower.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    assert!(first.created, "what was created is told over the hop");
    assert_eq!(first.outcomes.len(), 1);
    assert_eq!(held(follower, "a").as_deref(), Some("1"), "it is there when the write is answered");
    let second = follower.registry.write(put("a", 2, Precondition::default())).await.unwrap();
    assert!(!second.created && second.revision > first.revision);
    let refused = follower.registry.write(put("a", 3, if_match(first.revision))).await;
    let Err(WriteError::Refused { refusal: Refusal::Condition { found, .. }, .. }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(found, Some(second.revision));
    assert_eq!(follower.links.forwarded.load(Ordering::SeqCst), 3);
    assert_eq!(follower.way.commits.load(Ordering::SeqCst), 0, "the leader committed");
    group.stop().await;
}

#[tokio::test]
async fn a_leader_that_carries_a_write_out_and_does_not_answer_leads_to_no_second_one() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    follower.links.set(&leader.id, Link::Mute);
    let write = put("a", 1, Precondition { absent: true, ..Precondition::default() });
    let written = follower.registry.write(write.clone()).await.unwrap();
    assert!(written.created);
    assert_eq!(group.log().await.get(&write.operation), Some(&1));
    assert_eq!(follower.registry.fate(write.operation).await, Fate::Applied(written.revision));
    group.stop().await;
}

#[tokio::test]
async fn a_silent_leader_costs_one_write_its_time_and_the_next_ones_nothing() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    follower.links.set(&leader.id, Link::Silent);
    for n in 1..=5 {
        follower.registry.write(put("a", n, Precondition::default())).await.unwrap();
    }
    assert_eq!(follower.links.forwarded.load(Ordering::SeqCst), 1);
    assert_eq!(held(follower, "a").as_deref(), Some("5"));
    group.stop().await;
}

#[tokio::test]
async fn what_was_not_even_sent_is_carried_out_here() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    follower.links.set(&leader.id, Link::Refusing);
    follower.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    follower.links.disconnect(&leader.id);
    follower.registry.write(put("a", 2, Precondition::default())).await.unwrap();
    assert_eq!(follower.way.commits.load(Ordering::SeqCst), 2);
    group.stop().await;
}

#[tokio::test]
async fn a_refusal_after_a_forward_that_got_no_answer_is_told_as_unknown_unless_it_is_for_good() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    let revision = leader.registry.write(put("a", 1, Precondition::default())).await.unwrap().revision;
    let second = leader.registry.write(put("a", 2, Precondition::default())).await.unwrap().revision;
    follower.links.set(&leader.id, Link::Silent);
    // The leader may yet add the node, should somebody create the cluster.
    let write = add("b", 1);
    let answer = follower.registry.write(write.clone()).await;
    assert!(matches!(answer, Err(WriteError::OutcomeUnknown { on: None, .. })), "{answer:?}");
    assert_eq!(follower.registry.fate(write.operation).await, Fate::Unknown);
    // A revision that has passed does not come back.
    follower.links.set(&leader.id, Link::Silent);
    let stale = put("a", 3, if_match(revision));
    let answer = group.server(1).registry.write(stale.clone()).await;
    let Err(WriteError::Refused { refusal: Refusal::Condition { found, .. }, .. }) = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(found, Some(second));
    assert_eq!(follower.registry.fate(stale.operation).await, Fate::Unknown, "others may have been asked");
    group.stop().await;
}

#[tokio::test]
async fn a_server_cut_from_the_store_writes_through_another_one() {
    let group = Group::start(3).await;
    for n in 0..3 {
        // Also the one that leads.
        group.server(n).way.cut(Some(Instant::now()));
        let write = put("a", n, Precondition::default());
        group.server(n).registry.write(write.clone()).await.unwrap();
        assert_eq!(group.log().await.get(&write.operation), Some(&1));
        group.server(n).way.cut(None);
    }
    // One that does not know it yet, with a leader that is silent.
    let follower = group.server(1);
    follower.way.cut_unnoticed();
    follower.links.disconnect(&group.server(0).id);
    follower.registry.write(put("a", 9, Precondition::default())).await.unwrap();
    assert_eq!(held(follower, "a").as_deref(), Some("9"));
    group.stop().await;
}

#[tokio::test]
async fn a_store_that_is_gone_is_told_at_once_and_nothing_was_submitted() {
    let group = Group::start(2).await;
    group.faults.set_available(false);
    let since = Instant::now().checked_sub(WRITE_DEADLINE * 2).unwrap();
    for n in 0..2 {
        group.server(n).way.cut(Some(since));
        let write = put("a", 1, Precondition::default());
        let answer = group.server(n).registry.write(write.clone()).await;
        assert!(matches!(answer, Err(WriteError::Unavailable { .. })), "{answer:?}");
        assert_eq!(group.server(n).registry.fate(write.operation).await, Fate::Unknown);
        assert!(!group.server(n).registry.is_store_available());
    }
    group.stop().await;
}

#[tokio::test]
async fn a_store_that_comes_back_within_a_writes_time_costs_no_write() {
    let group = Group::start(1).await;
    let server = group.server(0);
    server.way.cut(Some(Instant::now()));
    let registry = server.registry.clone();
    let writing = tokio::spawn(async move { registry.write(put("a", 1, Precondition::default())).await });
    while server.way.commits.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    server.way.cut(None);
    writing.await.unwrap().unwrap();
    group.stop().await;
}

#[tokio::test]
async fn an_unknown_outcome_is_found_out_by_the_operation() {
    let group = Group::start(1).await;
    let server = group.server(0);
    for outcome in [Outcome::UnknownApplied, Outcome::UnknownLost] {
        group.faults.fail_next_commit(outcome);
        let write = put("a", 1, Precondition { absent: true, ..Precondition::default() });
        let written = server.registry.write(write.clone()).await.unwrap();
        assert!(written.created, "{outcome:?}");
        assert_eq!(group.log().await.get(&write.operation), Some(&1), "{outcome:?}");
        server.registry.write(one("a", Mutation::DeleteCluster, Precondition::default())).await.unwrap();
    }
    group.stop().await;
}

#[tokio::test]
async fn a_commit_without_an_answer_is_unknown_until_the_store_has_settled_its_head() {
    let group = Group::start(2).await;
    let (hanging, other) = (group.server(0), group.server(1));
    hanging.way.hang();
    other.links.disconnect(&hanging.id);
    let write = put("a", 1, Precondition::default());
    let answer = hanging.registry.write(write.clone()).await;
    assert!(matches!(answer, Err(WriteError::OutcomeUnknown { on: Some(_), .. })), "{answer:?}");
    assert_eq!(hanging.registry.fate(write.operation).await, Fate::Unknown, "it may still arrive");
    // A repetition that comes to nothing says so, and nothing of the first.
    hanging.links.disconnect(&other.id);
    hanging.way.cut_unnoticed();
    let again = hanging.registry.write(write.clone()).await;
    assert!(matches!(again, Err(WriteError::Unavailable { .. })), "{again:?}");
    hanging.way.cut(None);
    assert_eq!(hanging.registry.fate(write.operation).await, Fate::Unknown, "the first may still arrive");
    // What this server submitted is settled; another one may have been asked too, until that is over.
    other.registry.write(put("b", 1, Precondition::default())).await.unwrap();
    assert_eq!(other.registry.fate(write.operation).await, Fate::Unknown, "never seen");
    assert_eq!(hanging.registry.fate(write.operation).await, Fate::Unknown);
    let later = Instant::now() + Duration::from_mins(1);
    hanging.way.cut_unnoticed();
    assert_eq!(hanging.registry.fate_at(write.operation, later).await, Fate::Unknown, "nothing is settled");
    hanging.way.cut(None);
    let settled = hanging.way.settled.load(Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(hanging.registry.fate_at(write.operation, later).await, Fate::NotApplied);
    }
    assert_eq!(hanging.way.settled.load(Ordering::SeqCst), settled + 1, "once is enough");
    // The same through another server is the same operation.
    let written = other.registry.write(write.clone()).await.unwrap();
    assert_eq!(hanging.registry.fate(write.operation).await, Fate::Applied(written.revision));
    assert_eq!(other.registry.fate(Write { ..add("a", 1) }.operation).await, Fate::Unknown, "never seen");
    group.stop().await;
}

#[tokio::test]
async fn a_write_that_was_worked_out_before_a_restore_is_worked_out_again_after_it() {
    let group = Group::start(1).await;
    let server = group.server(0);
    let replaced = CommitError::Replaced { expected: StoreId(uuid::Uuid::nil()), found: group.store.id() };
    *server.way.refusal.lock().unwrap() = Some(replaced);
    let write = put("a", 1, Precondition::default());
    server.registry.write(write.clone()).await.unwrap();
    assert_eq!(server.way.commits.load(Ordering::SeqCst), 2);
    assert_eq!(group.log().await.get(&write.operation), Some(&1));
    // A store that this server never comes to hold: nothing was submitted.
    let elsewhere = StoreId(uuid::Uuid::from_u128(7));
    *server.way.refusal.lock().unwrap() =
        Some(CommitError::Replaced { expected: group.store.id(), found: elsewhere });
    let answer = server.registry.write(put("a", 2, Precondition::default())).await;
    assert!(matches!(answer, Err(WriteError::Unavailable { .. })), "{answer:?}");
    group.stop().await;
}

#[tokio::test]
async fn a_repetition_through_any_server_finds_the_first_result() {
    let group = Group::start(3).await;
    let write = put("a", 1, Precondition { absent: true, ..Precondition::default() });
    let first = group.server(1).registry.write(write.clone()).await.unwrap();
    for server in &group.servers {
        for link in [Link::Well, Link::Refusing] {
            if server.id != group.server(0).id {
                server.links.set(&group.server(0).id, link);
            }
            let again = server.registry.write(write.clone()).await.unwrap();
            assert_eq!((again.revision, again.created), (first.revision, true));
        }
        let other = Write { fingerprint: 7, ..write.clone() };
        let reused = server.registry.write(other).await;
        assert!(matches!(reused, Err(WriteError::OperationReused { .. })), "{reused:?}");
    }
    assert_eq!(group.log().await.get(&write.operation), Some(&1));
    group.stop().await;
}

#[tokio::test]
async fn a_memory_that_is_behind_answers_no_write() {
    let group = Group::start(2).await;
    let (ahead, behind) = (group.server(0), group.server(1));
    behind.links.disconnect(&ahead.id);
    let first = behind.registry.write(put("a", 1, Precondition::default())).await.unwrap().revision;
    ahead.catalog.reached(first).await;
    // What others commit is kept from this memory: it believes that `a` is 1 still.
    behind.catalog.reached(first).await;
    group.faults.hold_feeds(true);
    let ahead = tokio::spawn({
        let registry = ahead.registry.clone();
        async move { registry.write(put("a", 2, Precondition::default())).await.unwrap().revision }
    });
    // Memory is late, but what is committed is committed.
    let second = ahead.await.unwrap();
    assert_eq!(held(behind, "a").as_deref(), Some("1"));
    let same = tokio::spawn({
        let registry = behind.registry.clone();
        async move { registry.write(put("a", 1, Precondition::default())).await }
    });
    tokio::task::yield_now().await;
    group.faults.hold_feeds(false);
    let third = same.await.unwrap().unwrap().revision;
    assert!(third > second, "it changes what is there, though this memory showed no difference");
    let known = behind.registry.write(put("a", 3, if_match(third))).await;
    known.unwrap();
    group.stop().await;
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_halved_and_only_what_is_too_large_alone_is_refused() {
    let group = Group::start(1).await;
    let server = group.server(0);
    server.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    server.way.entries_max.store(4, Ordering::SeqCst);
    let before = server.way.commits.load(Ordering::SeqCst);
    let mut writes = Vec::new();
    for n in 0..64 {
        let mut write = add("a", n);
        if n == 40 {
            // Five entries of one write.
            let wishes = (0..5).flat_map(|n| put(&format!("c{n}"), 1, Precondition::default()).wishes);
            write = Write::new("test", None, wishes.collect(), false);
        }
        let registry = server.registry.clone();
        writes.push(tokio::spawn(async move { registry.write(write).await }));
    }
    for (n, write) in writes.into_iter().enumerate() {
        let answer = write.await.unwrap();
        if n == 40 {
            assert!(matches!(answer, Err(WriteError::TooLarge { .. })), "{answer:?}");
        } else {
            answer.unwrap();
        }
    }
    let commits = server.way.commits.load(Ordering::SeqCst) - before;
    assert!(commits < 64, "{commits} commits are no better than one for each");
    let name = ClusterName::parse("a").unwrap();
    assert_eq!(server.catalog.cluster(&name).unwrap().nodes.len(), 63);
    group.stop().await;
}

#[tokio::test]
async fn what_was_queued_before_a_pause_is_not_submitted_after_it() {
    let group = Group::start(1).await;
    let server = group.server(0);
    let write = put("a", 1, Precondition::default());
    let registry = server.registry.clone();
    let stretch = server.pulse.stretch();
    server.pulse.stand_still();
    let answer = crate::pause::come_in(stretch, registry.write(write.clone())).await;
    assert!(matches!(answer, Err(WriteError::Unavailable { .. })), "{answer:?}");
    assert_eq!(server.way.commits.load(Ordering::SeqCst), 0);
    assert_eq!(server.registry.fate(write.operation).await, Fate::NotApplied);
    registry.write(write).await.unwrap();
    group.stop().await;
}

#[tokio::test]
async fn a_pause_during_a_commit_leaves_no_retry_behind() {
    let group = Group::start(2).await;
    let (paused, other) = (group.server(0), group.server(1));
    other.links.disconnect(&paused.id);
    // While it is paused within its commit, another server commits first.
    let (pulse, registry) = (paused.pulse.clone(), other.registry.clone());
    let overtaking = std::sync::Arc::new(std::sync::Mutex::new(None));
    let slot = std::sync::Arc::clone(&overtaking);
    *paused.way.at_commit.0.lock().unwrap() = Some(Box::new(move || {
        pulse.stand_still();
        let registry = registry.clone();
        let write = async move { registry.write(put("a", 2, Precondition::default())).await };
        slot.lock().unwrap().get_or_insert_with(|| tokio::spawn(write));
    }));
    group.faults.fail_next_commit(Outcome::UnknownLost);
    let write = put("a", 1, Precondition::default());
    let answer = paused.registry.write(write.clone()).await;
    let overtaking = overtaking.lock().unwrap().take().unwrap();
    overtaking.await.unwrap().unwrap();
    // Whichever of both commits was lost: it was told as it is, and not tried again after the pause.
    assert_eq!(paused.way.commits.load(Ordering::SeqCst), 1);
    let log = group.log().await;
    match answer {
        Ok(_) => assert_eq!(log.get(&write.operation), Some(&1)),
        Err(WriteError::Unavailable { .. }) => assert_eq!(log.get(&write.operation), None),
        Err(WriteError::OutcomeUnknown { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    group.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_nothing() {
    let group = Group::start(2).await;
    let follower = group.server(1);
    follower.links.set(&group.server(0).id, Link::Silent);
    let write = put("a", 1, Precondition::default());
    let registry = follower.registry.clone();
    let leaving = tokio::time::timeout(Duration::from_millis(20), registry.write(write.clone())).await;
    assert!(leaving.is_err(), "it went away while the leader was asked");
    follower.registry.finished().await;
    assert_eq!(group.log().await.get(&write.operation), Some(&1));
    group.stop().await;
}

#[tokio::test]
async fn a_new_leader_is_forwarded_to() {
    let group = Group::start(3).await;
    let follower = group.server(2);
    follower.links.set(&group.server(0).id, Link::Silent);
    follower.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    group.roster.send_modify(|roster| {
        let roster = std::sync::Arc::make_mut(roster);
        (roster.leader, roster.epoch) = (Some(group.server(1).id.clone()), 2);
    });
    follower.registry.write(put("a", 2, Precondition::default())).await.unwrap();
    assert_eq!(follower.links.forwarded.load(Ordering::SeqCst), 2);
    assert_eq!(group.server(1).way.commits.load(Ordering::SeqCst), 1);
    group.stop().await;
}

#[tokio::test]
async fn what_is_for_the_leader_alone_is_refused_when_another_leads_and_takes_nothing_with_it() {
    let group = Group::start(1).await;
    let server = group.server(0);
    let fenced = |n| Write { epoch: Some(1), ..put("a", n, Precondition::default()) };
    *server.way.refusal.lock().unwrap() = Some(CommitError::Fenced { epoch: 1 });
    // Both wait before the writer has its turn, and go into one batch.
    let (refused, written) = tokio::join!(
        server.registry.carry_out(fenced(1), WRITE_DEADLINE),
        server.registry.carry_out(put("b", 2, Precondition::default()), WRITE_DEADLINE),
    );
    assert!(matches!(refused, Err(WriteError::Unavailable { .. })), "{refused:?}");
    assert!(written.is_ok(), "{written:?}");
    assert_eq!((held(server, "a"), held(server, "b").as_deref()), (None, Some("2")));
    assert_eq!(server.way.commits.load(Ordering::SeqCst), 2);
    server.registry.carry_out(fenced(3), WRITE_DEADLINE).await.unwrap();
    assert_eq!(held(server, "a").as_deref(), Some("3"));
    group.stop().await;
}

#[tokio::test]
async fn a_program_that_registers_itself_has_the_place_of_a_dead_one() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    follower.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    follower.registry.write(register("a", "dead", &[1, 2])).await.unwrap();
    follower.registry.write(register("a", "other", &[3])).await.unwrap();
    let clash = |answer| match answer {
        Err(WriteError::Refused { refusal: Refusal::Clash { other, .. }, .. }) => other.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(clash(follower.registry.write(register("a", "new", &[2])).await), "dead");
    let claims = leader.leases.vacancies().claims(Instant::now());
    assert_eq!(
        claims.values().flat_map(|nodes| nodes.keys()).map(NodeId::as_str).collect::<Vec<_>>(),
        ["dead"]
    );

    found_vacant(leader, "a", &["dead"]);
    let write = register("a", "new", &[2]);
    let written = follower.registry.write(write.clone()).await.unwrap();
    assert!(written.created && written.outcomes.len() == 1, "as it was asked for: {written:?}");
    assert_eq!(nodes(follower, "a"), ["new", "other"]);
    assert_eq!(
        group.log().await.get(&write.operation),
        Some(&1),
        "in one step, under the client's own operation"
    );
    let again = follower.registry.write(write).await.unwrap();
    assert_eq!(again.revision, written.revision, "a repetition finds what came of it");

    // What was found is of a node that is another one by now.
    assert_eq!(clash(follower.registry.write(register("a", "third", &[2, 3])).await), "new");
    let revision = || follower.catalog.cluster(&ClusterName::parse("a").unwrap()).unwrap().revision;
    found_vacant(leader, "a", &["other"]);
    follower.registry.write(register("a", "other", &[4])).await.unwrap();
    follower.registry.write(register("a", "other", &[3])).await.unwrap();
    let before = revision();
    assert_eq!(clash(follower.registry.write(register("a", "third", &[3])).await), "other");
    assert_eq!(revision(), before);
    // After a pause nothing that was found before it counts.
    found_vacant(leader, "a", &["new"]);
    leader.leases.begin_anew(Instant::now());
    assert_eq!(clash(follower.registry.write(register("a", "third", &[2])).await), "new");
    assert_eq!(revision(), before);
    // Of two that are in the way both go, or none.
    found_vacant(leader, "a", &["other"]);
    assert_eq!(clash(follower.registry.write(register("a", "third", &[2, 3])).await), "new");
    assert_eq!(nodes(follower, "a"), ["new", "other"]);
    found_vacant(leader, "a", &["new", "other"]);
    follower.registry.write(register("a", "third", &[2, 3])).await.unwrap();
    assert_eq!(nodes(follower, "a"), ["third"]);
    // Whoever has the place was heard of since it was looked.
    found_vacant(leader, "a", &["third"]);
    let lease = follower.catalog.cluster(&ClusterName::parse("a").unwrap()).unwrap();
    let lease = lease.node(&NodeId::parse("third").unwrap()).unwrap().attributes.lease().unwrap().id();
    let renewal = (NodeId::parse("third").unwrap(), lease, Instant::now());
    let renewals = Renewals::from([(ClusterName::parse("a").unwrap(), vec![renewal])]);
    leader.leases.hear(&follower.id, &renewals);
    assert_eq!(clash(follower.registry.write(register("a", "fourth", &[3])).await), "third");
    group.stop().await;
}

#[tokio::test]
async fn the_place_of_a_dead_program_is_not_for_what_people_write() {
    let group = Group::start(1).await;
    let server = group.server(0);
    server.registry.write(put("a", 1, Precondition::default())).await.unwrap();
    server.registry.write(register("a", "dead", &[1, 2])).await.unwrap();
    found_vacant(server, "a", &["dead"]);
    let leased = register("a", "new", &[1]).wishes.remove(0);
    let mut people = leased.mutation.clone();
    if let Mutation::PutNodes(specs) = &mut people {
        let node = serde_json::json!({ "id": "new", "address": "127.0.0.1", "ports": { "p1": 1001 } });
        specs[0] = serde_json::from_value(node).unwrap();
    }
    let revision = server.catalog.get().revision;
    for (mutation, precondition) in [
        (people, Precondition::default()),
        (leased.mutation, Precondition { revision: Some(revision), ..Precondition::default() }),
    ] {
        let refused = server.registry.write(one("a", mutation, precondition)).await;
        assert!(
            matches!(refused, Err(WriteError::Refused { index: 0, refusal: Refusal::Clash { .. } })),
            "{refused:?}"
        );
    }
    assert_eq!(nodes(server, "a"), ["dead"]);
    group.stop().await;
}
