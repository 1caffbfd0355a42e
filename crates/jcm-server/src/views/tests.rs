//! Readers who follow events end up with exactly what is published, whatever they missed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jcm_model::{
    Cluster, ClusterName, ClusterState, Delta, Judged, Mutation, NodeId, Precondition, Revision, ServerId,
    Stamp, StoreId, TargetPolicy, Timestamp, Verdict,
};
use jcm_proto::token::Token;
use jcm_proto::v1::{WatchResponse, watch_response};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::{Answer, Event, EventKind, Held, Inbox, Views};
use crate::snapshot::Snapshot;

const NODES: u16 = 6;

fn name() -> ClusterName {
    ClusterName::parse("orders").unwrap()
}

fn id(n: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{}", 18000 + n)).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Put { nodes: Vec<u16>, path: u8, online: bool },
    Patch { n: u16, weight: u16 },
    Delete,
    Judge(Vec<(u16, Verdict)>),
}

fn steps() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![Just(Verdict::Healthy), Just(Verdict::Degraded), Just(Verdict::Down)];
    prop_oneof![
        2 => (prop::collection::btree_set(0..NODES, 0..6), 0_u8..2, any::<bool>())
            .prop_map(|(nodes, path, online)| Step::Put { nodes: nodes.into_iter().collect(), path, online }),
        2 => (0..NODES, 1_u16..=1000).prop_map(|(n, weight)| Step::Patch { n, weight }),
        1 => Just(Step::Delete),
        5 => prop::collection::vec((0..NODES, verdict), 1..4).prop_map(Step::Judge),
    ]
}

fn snapshot(cluster: Option<&Arc<Cluster>>, revision: Revision) -> Arc<Snapshot> {
    let clusters = cluster.map(|cluster| (name(), Arc::clone(cluster))).into_iter().collect();
    let store = StoreId(uuid::Uuid::from_u128(1));
    Arc::new(Snapshot { store, revision, clusters, quarantined: imbl::OrdMap::new() })
}

/// A server's two writers.
struct Writers {
    views: Arc<Views>,
    cluster: Option<Arc<Cluster>>,
    revision: Revision,
    sequence: u64,
}

impl Writers {
    fn new(views: Arc<Views>) -> Self {
        views.load(snapshot(None, Revision::ZERO));
        Self { views, cluster: None, revision: Revision::ZERO, sequence: 0 }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Put { nodes, path, online } => {
                let nodes: Vec<Value> = nodes
                    .iter()
                    .map(|n| json!({ "address": "127.0.0.1", "ports": { "http": 18000 + n } }))
                    .collect();
                let check = json!({ "kind": "http", "path": format!("/{path}") });
                let spec = json!({ "online": online, "check": check, "nodes": nodes });
                self.mutate(&Mutation::PutCluster(serde_json::from_value(spec).unwrap()));
            }
            Step::Patch { n, weight } => {
                self.mutate(&Mutation::PatchNode(id(*n), json!({ "weight": weight })));
            }
            Step::Delete => self.mutate(&Mutation::DeleteCluster),
            Step::Judge(verdicts) => {
                let Some(cluster) = &self.cluster else { return };
                let mut judged = Vec::new();
                for (n, verdict) in verdicts {
                    let Some(node) = cluster.node(&id(*n)) else {
                        continue;
                    };
                    self.sequence += 1;
                    let server = ServerId::parse("s1").unwrap();
                    let stamp =
                        Stamp { ring_epoch: 0, term: 0, server, incarnation: 1, sequence: self.sequence };
                    let judgement = Judged {
                        verdict: *verdict,
                        birth: cluster.birth(node),
                        stamp,
                        since: Timestamp::UNIX_EPOCH,
                        single_vantage: true,
                        stale_since: None,
                    };
                    judged.push((node.id.clone(), judgement));
                }
                self.views.judge([(name(), judged)].into());
            }
        }
    }

    fn mutate(&mut self, mutation: &Mutation) {
        let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
        let next = self.revision.next();
        let change = mutation.change(&name(), self.cluster.as_ref(), Precondition::default(), next, &targets);
        let Ok(Some(change)) = change else { return };
        self.cluster = change.apply(self.cluster.as_ref());
        self.revision = next;
        self.views.apply(snapshot(self.cluster.as_ref(), next), &[change]);
    }
}

/// A subscriber of the watch stream, without its caution: it applies what it is sent.
#[derive(Default)]
struct StreamReader(Option<ClusterState>);

impl StreamReader {
    fn take(&mut self, event: &Event) {
        match WatchResponse::decode(event.body.clone()).unwrap().event.unwrap() {
            watch_response::Event::View(view) => self.0 = Some(view.into_state().unwrap().1),
            watch_response::Event::Delta(delta) => {
                let delta = Delta::try_from(delta).unwrap();
                self.0 = Some(
                    self.0.as_ref().unwrap().after(&delta).expect("the delta starts where the reader is"),
                );
            }
            watch_response::Event::Removed(_) => self.0 = None,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A reader of server-sent events: rows by id.
#[derive(Default)]
struct RowReader(BTreeMap<String, Value>);

impl RowReader {
    fn take(&mut self, event: &Event) {
        let body: Value = serde_json::from_slice(&event.body).unwrap();
        if event.name != "delta" {
            self.0.clear();
        }
        for row in body["nodes"].as_array().into_iter().flatten() {
            self.0.insert(row["id"].as_str().unwrap().to_owned(), row.clone());
        }
        for gone in body["removed"].as_array().into_iter().flatten() {
            self.0.remove(gone.as_str().unwrap());
        }
    }
}

proptest! {
    #[test]
    fn readers_end_where_the_server_is(steps in prop::collection::vec((steps(), any::<bool>(), any::<bool>()), 1..40)) {
        let views = Arc::new(Views::new(7));
        let mut writers = Writers::new(Arc::clone(&views));
        let (mut stream, mut stream_held) = (StreamReader::default(), Held::new(EventKind::Proto, None));
        let (mut rows, mut rows_held) = (RowReader::default(), Held::new(EventKind::Json, None));
        for (step, look, reconnect) in steps {
            writers.take(&step);
            if !look {
                continue;
            }
            if reconnect {
                // As after a lost connection: only the token is left.
                let token = stream_held.token().map(|token| Token::from_bytes(&token.to_bytes()).unwrap());
                stream_held = Held::new(EventKind::Proto, token);
                rows_held = Held::new(EventKind::Json, rows_held.token());
            }
            if let Some(event) = views.event(&name(), &mut stream_held) {
                stream.take(&event);
            }
            if let Some(event) = views.event(&name(), &mut rows_held) {
                rows.take(&event);
            }
            prop_assert!(views.event(&name(), &mut stream_held).is_none(), "what was told is not told again");
            match views.get(&name()) {
                Answer::Published(published) => {
                    prop_assert_eq!(stream.0.as_ref(), Some(&published.state));
                    let view: Value = serde_json::from_slice(&published.json()).unwrap();
                    let expected: Vec<&Value> = view["nodes"].as_array().unwrap().iter().collect();
                    prop_assert_eq!(rows.0.values().collect::<Vec<_>>(), expected);
                }
                Answer::Absent => prop_assert!(stream.0.is_none() && rows.0.is_empty()),
                Answer::NotReady => prop_assert!(false, "a cluster created while the server runs is ready at once"),
            }
        }
    }
}

#[test]
fn one_turn_in_a_large_cluster_is_a_small_event() {
    let views = Arc::new(Views::new(7));
    let mut writers = Writers::new(Arc::clone(&views));
    let nodes: Vec<Value> =
        (0..2000).map(|n| json!({ "address": "127.0.0.1", "ports": { "http": 18000 + n } })).collect();
    let spec = json!({ "check": { "kind": "tcp" }, "nodes": nodes });
    writers.mutate(&Mutation::PutCluster(serde_json::from_value(spec).unwrap()));
    let judge = |n: u16, verdict| Step::Judge(vec![(n, verdict)]);
    for n in 0..2000 {
        writers.take(&judge(n, Verdict::Healthy));
    }
    let mut held = Held::new(EventKind::Proto, None);
    views.event(&name(), &mut held).unwrap();
    writers.take(&judge(3, Verdict::Down));
    let event = views.event(&name(), &mut held).unwrap();
    assert_eq!(event.name, "delta");
    assert!(event.body.len() < 160, "{} bytes", event.body.len());
}

#[test]
fn a_reader_that_is_told_nothing_new_wakes_for_nothing() {
    let views = Arc::new(Views::new(7));
    let mut writers = Writers::new(Arc::clone(&views));
    let inbox = Arc::new(Inbox::default());
    let watching = views.watch(&name(), &inbox, 3).unwrap();
    let mut held = Held::new(EventKind::Json, None);
    assert_eq!(views.event(&name(), &mut held).unwrap().name, "removed");
    writers.take(&Step::Put { nodes: vec![1], path: 0, online: true });
    assert_eq!(views.event(&name(), &mut held).unwrap().name, "view");
    drop(watching);
    writers.take(&Step::Delete);
    assert!(matches!(views.get(&name()), Answer::Absent));
    assert!(views.cells.load().is_empty(), "a place that nobody needs is given back");
}

#[test]
fn a_subscriber_that_comes_back_is_told_that_nothing_has_changed() {
    let views = Arc::new(Views::new(7));
    let mut writers = Writers::new(Arc::clone(&views));
    writers.take(&Step::Put { nodes: vec![1], path: 0, online: true });
    let mut held = Held::new(EventKind::Proto, None);
    views.event(&name(), &mut held).unwrap();
    for (kind, told) in [(EventKind::Proto, true), (EventKind::Json, false)] {
        let mut back = Held::new(kind, held.token());
        let event = views.event(&name(), &mut back);
        assert_eq!(event.is_some(), told, "{kind:?}");
        assert!(views.event(&name(), &mut back).is_none(), "once is enough");
    }
}
