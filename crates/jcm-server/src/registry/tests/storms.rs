//! Many writers at once, over several servers, with faults between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jcm_model::{OperationId, Precondition, Refusal, Revision};
use jcm_storage::memory::Outcome;
use proptest::prelude::*;
use tokio::task::JoinSet;

use super::group::{Group, Link, add, name, put};
use crate::registry::{Registry, Write, WriteError};

const COUNTER: &str = "counter";

/// Adds one, by reading and writing on condition, until it is done.
async fn increment(server: (Registry, Arc<crate::catalog::Catalog>)) {
    let (registry, catalog) = server;
    loop {
        let held = catalog.cluster(&name(COUNTER)).unwrap();
        let count: usize = held.header.properties.get("n").unwrap().parse().unwrap();
        let condition = Precondition { revision: Some(held.revision), ..Precondition::default() };
        let write = put(COUNTER, count + 1, condition);
        loop {
            match registry.write(write.clone()).await {
                Ok(_) => return,
                Err(WriteError::Refused { refusal: Refusal::Condition { found, .. }, .. }) => {
                    catalog.reached(found.unwrap_or(Revision::ZERO)).await;
                    break;
                }
                // Asking again under the same operation is safe, and the only way to find out.
                Err(WriteError::OutcomeUnknown { .. } | WriteError::Unavailable { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}

async fn lost_updates(group: &Group, writers: usize, rounds: usize) {
    group.server(0).registry.write(put(COUNTER, 0, Precondition::default())).await.unwrap();
    let created = group.server(0).catalog.get().revision;
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let server = group.server(writer % group.servers.len());
        server.catalog.reached(created).await;
        let server = (server.registry.clone(), Arc::clone(&server.catalog));
        tasks.spawn(async move {
            for _ in 0..rounds {
                increment(server.clone()).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    for server in &group.servers {
        server.catalog.reached(Revision(created.0 + (writers * rounds) as u64)).await;
        let held = server.catalog.cluster(&name(COUNTER)).unwrap();
        assert_eq!(held.header.properties.get("n").unwrap().to_string(), (writers * rounds).to_string());
    }
    assert!(group.log().await.values().all(|count| *count == 1), "an operation is in the log once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_writers_through_a_leader_lose_no_update() {
    let group = Group::start(3).await;
    lost_updates(&group, 32, 10).await;
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_writers_through_servers_that_do_not_reach_each_other_lose_no_update() {
    let group = Group::start(2).await;
    group.server(0).links.disconnect(&group.server(1).id);
    group.server(1).links.disconnect(&group.server(0).id);
    lost_updates(&group, 32, 10).await;
    assert!(group.servers.iter().all(|server| server.way.commits.load(Ordering::SeqCst) > 0));
    group.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_registrations_at_once_are_few_transactions() {
    let group = Group::start(2).await;
    let (leader, follower) = (group.server(0), group.server(1));
    let wishes = (0..100).flat_map(|n| put(&format!("c{n}"), 0, Precondition::default()).wishes).collect();
    leader.registry.write(Write::new("test", None, wishes, false)).await.unwrap();
    let mut tasks = JoinSet::new();
    for n in 0..10_000 {
        let registry = follower.registry.clone();
        tasks.spawn(async move {
            let write = add(&format!("c{}", n % 100), n);
            // On a machine that is busy with other things some may be too late: then they are sent again.
            while let Err(error) = registry.write(write.clone()).await {
                let again =
                    matches!(error, WriteError::OutcomeUnknown { .. } | WriteError::Unavailable { .. });
                assert!(again, "{error:?}");
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let commits = leader.way.commits.load(Ordering::SeqCst) + follower.way.commits.load(Ordering::SeqCst);
    assert!(commits <= 300, "{commits}");
    let log = group.log().await;
    assert_eq!(log.len(), 10_001);
    assert!(log.values().all(|count| *count == 1), "an operation is in the log once");
    group.stop().await;
}

/// One step of a storm.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A write through one of the servers; some have been sent before.
    Write {
        server: usize,
        write: usize,
    },
    Unknown(Outcome),
    Link(Link),
    /// Lets what is under way go on.
    Rest,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_usize, 0..12_usize).prop_map(|(server, write)| Step::Write { server, write }),
        1 => Just(Step::Unknown(Outcome::UnknownApplied)),
        1 => Just(Step::Unknown(Outcome::UnknownLost)),
        1 => prop_oneof![Just(Link::Well), Just(Link::Mute), Just(Link::Refusing)].prop_map(Step::Link),
        2 => Just(Step::Rest),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_acknowledged_write_is_in_the_log_once_and_no_refused_one_is(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(storm(steps));
    }
}

async fn storm(steps: Vec<Step>) {
    let group = Group::start(2).await;
    // Half of the writes need what others of them create, so that some are refused.
    let writes: Vec<_> = (0..12)
        .map(|n| match n % 3 {
            0 => put(&format!("c{}", n / 6), n, Precondition::default()),
            1 => put(&format!("c{}", n / 6), n, Precondition { absent: true, ..Precondition::default() }),
            _ => add(&format!("c{}", n / 6), n),
        })
        .collect();
    let mut tasks = JoinSet::new();
    for step in steps {
        match step {
            Step::Write { server, write } => {
                let (registry, write) = (group.server(server).registry.clone(), writes[write].clone());
                tasks.spawn(async move { (write.operation, registry.write(write).await) });
            }
            Step::Unknown(outcome) => group.faults.fail_next_commit(outcome),
            Step::Link(link) => group.server(1).links.set(&group.server(0).id, link),
            Step::Rest => {
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    let mut acknowledged: BTreeMap<OperationId, Revision> = BTreeMap::new();
    let mut maybe = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended.unwrap() {
            (operation, Ok(written)) => {
                // A repetition gets the first result, through whichever server; unless that changed nothing.
                let first = *acknowledged.entry(operation).or_insert(written.revision);
                let write = writes.iter().find(|write| write.operation == operation).unwrap();
                assert!(first == written.revision || !write.wishes[0].precondition.absent);
            }
            (operation, Err(WriteError::OutcomeUnknown { .. })) => maybe.push(operation),
            (_, Err(WriteError::Refused { .. })) => {}
            (_, Err(other)) => panic!("{other:?}"),
        }
    }
    let log = group.log().await;
    for (operation, count) in &log {
        assert_eq!(*count, 1, "{operation} is there {count} times");
        assert!(
            acknowledged.contains_key(operation) || maybe.contains(operation),
            "{operation} was refused, and is there"
        );
    }
    let changed = acknowledged.keys().filter(|operation| log.contains_key(operation)).count();
    // What changed nothing is acknowledged and in no log: only a `put` of what is there already may be that.
    for (operation, _) in acknowledged.iter().filter(|(operation, _)| !log.contains_key(operation)) {
        let write = writes.iter().find(|write| write.operation == *operation).unwrap();
        assert!(
            !write.wishes[0].precondition.absent,
            "{operation} was acknowledged, and is not there ({changed} are)"
        );
    }
    group.stop().await;
}
