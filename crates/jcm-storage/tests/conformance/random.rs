//! Any history of changes leaves in a store what they leave in a plain map.

use jcm_model::{Mutation, Precondition, Revision, TargetPolicy};
use jcm_storage::Store;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::backends::Backend;
use crate::commits::catch_up;
use crate::written::{Expected, at, cluster, name, node, node_id, transaction};

/// Few, for each makes a file; what they miss in one run another run finds.
const HISTORIES: u32 = 24;

/// One wish, of which some are refused or change nothing and are left out of the history.
#[derive(Debug, Clone)]
struct Step {
    cluster: u8,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Put { flavour: u8, nodes: Vec<(u32, u8)> },
    Patch { flavour: u8 },
    PutNodes { nodes: Vec<(u32, u8)> },
    DeleteNode { node: u32 },
    Delete,
}

fn nodes() -> impl Strategy<Value = Vec<(u32, u8)>> {
    proptest::collection::btree_map(1..8_u32, 0..4_u8, 0..5).prop_map(|nodes| nodes.into_iter().collect())
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        3 => (0..4_u8, nodes()).prop_map(|(flavour, nodes)| Kind::Put { flavour, nodes }),
        2 => (0..4_u8).prop_map(|flavour| Kind::Patch { flavour }),
        3 => nodes().prop_map(|nodes| Kind::PutNodes { nodes }),
        2 => (1..8_u32).prop_map(|node| Kind::DeleteNode { node }),
        1 => Just(Kind::Delete),
    ];
    (0..3_u8, kind).prop_map(|(cluster, kind)| Step { cluster, kind })
}

fn header(flavour: u8) -> Value {
    match flavour {
        0 => json!({ "online": true }),
        1 => json!({ "online": false, "properties": { "a": "1", "b": "2" } }),
        2 => json!({ "check": { "kind": "tcp", "interval": "3s" }, "properties": { "a": "3" } }),
        _ => json!({ "check": { "kind": "http" }, "protection": { "panic_below": 0.1 } }),
    }
}

fn flavoured((number, flavour): (u32, u8)) -> Value {
    let mut node = node(number);
    match flavour {
        0 => {}
        1 => node["weight"] = json!(7),
        2 => node["ports"] = json!({ "http": 9090, "admin": 9091 }),
        _ => node["labels"] = json!({ "rack": "r1" }),
    }
    node
}

impl Step {
    fn mutation(&self) -> Mutation {
        match &self.kind {
            Kind::Put { flavour, nodes } => {
                let mut written = header(*flavour);
                written["nodes"] = nodes.iter().copied().map(flavoured).collect();
                cluster(written)
            }
            Kind::Patch { flavour } => Mutation::PatchCluster(header(*flavour)),
            Kind::PutNodes { nodes } => {
                let spec = |node: &(u32, u8)| serde_json::from_value(flavoured(*node)).unwrap();
                Mutation::PutNodes(nodes.iter().map(spec).collect())
            }
            Kind::DeleteNode { node } => Mutation::DeleteNodes(vec![node_id(&format!("n{node:06}"))]),
            Kind::Delete => Mutation::DeleteCluster,
        }
    }
}

pub(crate) async fn any_history_leaves_what_its_changes_say(backend: &impl Backend) {
    let histories = proptest::collection::vec(proptest::collection::vec(step(), 1..5), 1..12);
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&histories, |history| {
            runtime.block_on(live_through(backend.empty().as_ref(), &history));
            Ok(())
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

async fn live_through(store: &dyn Store, history: &[Vec<Step>]) {
    let mut expected = Expected::default();
    for steps in history {
        let head = expected.head;
        let mut changes = Vec::new();
        for step in steps {
            let cluster = name(&format!("c{}", step.cluster));
            let wish = step.mutation().change(
                &cluster,
                expected.clusters.get(&cluster),
                Precondition::default(),
                expected.head.next(),
                &TargetPolicy::default(),
            );
            if let Ok(Some(change)) = wish {
                expected.take(&change);
                changes.push(change);
            }
        }
        if !changes.is_empty() {
            store.commit(transaction(changes), at(store.id(), head)).await.unwrap();
        }
    }
    expected.expect_in(store).await;
    let mut follower = Expected::default();
    let mut feed = store.changes(at(store.id(), Revision::ZERO)).await.unwrap();
    catch_up(&mut follower, &mut feed, expected.head).await;
    assert_eq!(follower.clusters, expected.clusters, "the feed tells another story");
}
