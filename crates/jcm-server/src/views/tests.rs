//! Readers who follow events end up with exactly what is published, whatever they missed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{
    Cluster, ClusterName, ClusterState, Judged, Mutation, NodeId, Precondition, Revision, ServerId, Stamp,
    StoreId, TargetPolicy, Timestamp, Verdict,
};
use jcm_proto::token::Token;
use jcm_proto::v1::{WatchResponse, watch_response};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::event::{BEHIND_MAX, GRPC_PREFIX_BYTES};
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
    Put {
        nodes: Vec<u16>,
        path: u8,
        online: bool,
    },
    Patch {
        n: u16,
        weight: u16,
    },
    Delete,
    Judge(Vec<(u16, Verdict)>),
    /// From now on the server learns of definitions by loading all of them, or by the feed again.
    Gap(bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![Just(Verdict::Healthy), Just(Verdict::Degraded), Just(Verdict::Down)];
    prop_oneof![
        2 => (prop::collection::btree_set(0..NODES, 0..6), 0_u8..2, any::<bool>())
            .prop_map(|(nodes, path, online)| Step::Put { nodes: nodes.into_iter().collect(), path, online }),
        2 => (0..NODES, 1_u16..=1000).prop_map(|(n, weight)| Step::Patch { n, weight }),
        1 => Just(Step::Delete),
        5 => prop::collection::vec((0..NODES, verdict), 1..4).prop_map(Step::Judge),
        1 => any::<bool>().prop_map(Step::Gap),
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
    gap: bool,
}

impl Writers {
    fn new(views: Arc<Views>) -> Self {
        views.load(snapshot(None, Revision::ZERO));
        Self { views, cluster: None, revision: Revision::ZERO, sequence: 0, gap: false }
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
            Step::Gap(gap) => self.gap = *gap,
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
        if self.gap {
            self.views.load(snapshot(self.cluster.as_ref(), next));
        } else {
            self.views.apply(snapshot(self.cluster.as_ref(), next), &[change]);
        }
    }
}

/// What a reader without a place of its own is told.
fn next_event(views: &Views, name: &ClusterName, held: &mut Held) -> Option<Event> {
    let cell = views.cells.load().get(name).cloned().unwrap_or_default();
    views.event(name, &cell, held)
}

/// A subscriber of the watch stream, without its caution: it applies what it is sent.
#[derive(Default)]
struct StreamReader {
    state: Option<ClusterState>,
    token: Vec<u8>,
    token_kept: usize,
}

impl StreamReader {
    fn take(&mut self, event: &Event) {
        match WatchResponse::decode(event.body.slice(GRPC_PREFIX_BYTES..)).unwrap().event.unwrap() {
            watch_response::Event::View(view) => {
                (self.token, self.token_kept) = (view.token.clone(), view.token_kept as usize);
                self.state = Some(view.into_state().unwrap().1);
            }
            watch_response::Event::Delta(delta) => {
                if delta.token.is_empty() {
                    self.token.truncate(self.token_kept);
                    self.token.extend(&delta.token_end);
                } else {
                    (self.token, self.token_kept) = (delta.token.clone(), delta.token_kept as usize);
                }
                let held = self.state.as_ref().unwrap();
                let delta = delta.into_delta(held).unwrap().expect("it counts from verdicts that are held");
                self.state = Some(held.after(&delta).expect("the delta starts where the reader is"));
            }
            watch_response::Event::Removed(_) => *self = Self::default(),
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
    fn readers_end_where_the_server_is(
        protocol in 1..=2_u32,
        steps in prop::collection::vec((steps(), any::<bool>(), any::<bool>()), 1..40),
    ) {
        let views = Arc::new(Views::new(7));
        let mut writers = Writers::new(Arc::clone(&views));
        let kind = EventKind::Proto(protocol);
        let (mut stream, mut stream_held) = (StreamReader::default(), Held::new(kind, None));
        let (mut rows, mut rows_held) = (RowReader::default(), Held::new(EventKind::Json, None));
        for (step, look, reconnect) in steps {
            writers.take(&step);
            if !look {
                continue;
            }
            if reconnect {
                // As after a lost connection: only the token is left.
                let token = stream_held.token().map(|token| Token::from_bytes(&token.to_bytes()).unwrap());
                stream_held = Held::new(kind, token);
                rows_held = Held::new(EventKind::Json, rows_held.token());
                // Before the answer comes, another server says that what is held is right there too.
                if let Some(token) = token {
                    let elsewhere = Token { origin: 8, sequence: 1, ..token };
                    (stream.token, stream.token_kept) = (elsewhere.to_bytes(), elsewhere.kept() as usize);
                }
            }
            if let Some(event) = next_event(&views, &name(), &mut stream_held) {
                stream.take(&event);
            }
            if let Some(event) = next_event(&views, &name(), &mut rows_held) {
                rows.take(&event);
            }
            prop_assert!(next_event(&views, &name(), &mut stream_held).is_none(), "what was told is not told again");
            match views.get(&name()) {
                Answer::Published(published) => {
                    prop_assert_eq!(stream.state.as_ref(), Some(&published.state));
                    prop_assert_eq!(Token::from_bytes(&stream.token).unwrap(), published.token);
                    let view: Value = serde_json::from_slice(&published.json(false)).unwrap();
                    let expected: Vec<&Value> = view["nodes"].as_array().unwrap().iter().collect();
                    prop_assert_eq!(rows.0.values().collect::<Vec<_>>(), expected);
                }
                Answer::Absent => prop_assert!(stream.state.is_none() && rows.0.is_empty()),
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
    let mut held = Held::new(EventKind::Proto(2), None);
    next_event(&views, &name(), &mut held).unwrap();
    writers.take(&judge(3, Verdict::Down));
    let event = next_event(&views, &name(), &mut held).unwrap();
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
    assert_eq!(next_event(&views, &name(), &mut held).unwrap().name, "removed");
    writers.take(&Step::Put { nodes: vec![1], path: 0, online: true });
    assert_eq!(next_event(&views, &name(), &mut held).unwrap().name, "view");
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
    let mut held = Held::new(EventKind::Proto(2), None);
    next_event(&views, &name(), &mut held).unwrap();
    for (kind, told) in [(EventKind::Proto(2), true), (EventKind::Json, false)] {
        let mut back = Held::new(kind, held.token());
        let event = next_event(&views, &name(), &mut back);
        assert_eq!(event.is_some(), told, "{kind:?}");
        assert!(next_event(&views, &name(), &mut back).is_none(), "once is enough");
    }
}

#[test]
fn a_subscriber_that_was_told_elsewhere_is_told_of_verdicts_as_a_whole() {
    let (here, mut writers) = with_a_down_node();
    let kind = EventKind::Proto(2);
    let mut held = Held::new(kind, None);
    let mut stream = StreamReader::default();
    stream.take(&next_event(&here, &name(), &mut held).unwrap());
    // Another server says the same of the same nodes, and another one judged them there.
    let there = Token { origin: 8, sequence: 1, ..held.token().unwrap() };
    let state = stream.state.clone().unwrap();
    let mut judged_by_another = ClusterState::new(Arc::clone(state.cluster()));
    for (node, judged) in state.nodes() {
        let mut judged = judged.unwrap().clone();
        judged.stamp.server = ServerId::parse("s0").unwrap();
        assert!(judged_by_another.judge(&node.id, judged));
    }
    stream.state = Some(judged_by_another);
    let mut back = Held::new(kind, Some(there));
    stream.take(&next_event(&here, &name(), &mut back).unwrap());
    for verdict in [Verdict::Healthy, Verdict::Down] {
        writers.take(&Step::Judge(vec![(1, verdict)]));
        stream.take(&next_event(&here, &name(), &mut back).unwrap());
        assert_eq!(stream.state.as_ref().unwrap().judged(&id(1)).unwrap().verdict, verdict);
    }
}

/// A server with one cluster of two nodes, the first of them down.
fn with_a_down_node() -> (Arc<Views>, Writers) {
    let views = Arc::new(Views::new(7));
    let mut writers = Writers::new(Arc::clone(&views));
    writers.take(&Step::Put { nodes: vec![1, 2], path: 0, online: true });
    writers.take(&Step::Judge(vec![(1, Verdict::Down), (2, Verdict::Healthy)]));
    (views, writers)
}

#[test]
fn a_reader_that_is_ahead_of_this_server_waits_for_it() {
    let (views, mut writers) = with_a_down_node();
    let mut held = Held::new(EventKind::Proto(2), None);
    next_event(&views, &name(), &mut held).unwrap();
    let token = held.token().unwrap();
    for (weight, kind) in (7..).zip([EventKind::Proto(2), EventKind::Json]) {
        let ahead = Token { revision: Revision(writers.revision.0 + 1), origin: 8, ..token };
        // It catches up.
        let mut reader = Held::new(kind, Some(ahead));
        assert!(next_event(&views, &name(), &mut reader).is_none(), "it is not sent back to something older");
        assert!(reader.due_at().is_some_and(|at| at > Instant::now()));
        // And a step further: what it holds by then would be no news to it.
        writers.take(&Step::Patch { n: 1, weight });
        writers.take(&Step::Patch { n: 1, weight: 100 + weight });
        let told = next_event(&views, &name(), &mut reader).unwrap().name;
        assert!(told == "view" || told == "delta", "{told}");
        assert_eq!(reader.due_at(), None);
        // It does not.
        let ahead = Token { revision: Revision(1_000_000), ..ahead };
        let mut reader = Held::new(kind, Some(ahead));
        assert!(next_event(&views, &name(), &mut reader).is_none());
        reader.behind_since = Instant::now().checked_sub(BEHIND_MAX);
        assert_eq!(next_event(&views, &name(), &mut reader).unwrap().name, "unknown");
        assert!(next_event(&views, &name(), &mut reader).is_none(), "once is enough");
        assert_eq!(reader.token(), Some(ahead), "it keeps what it has");
    }
    // Nor does who waits here ask for ever what cannot be told: a cluster that is damaged by the time has nothing to wait for.
    let ahead = Token { revision: Revision(1_000_000), ..token };
    let mut reader = Held::new(EventKind::Proto(2), Some(ahead));
    reader.behind_since = Instant::now().checked_sub(BEHIND_MAX);
    assert_eq!(next_event(&views, &name(), &mut reader).unwrap().name, "unknown");
    assert!(next_event(&views, &name(), &mut reader).is_none() && reader.due_at().is_some());
    let mut damaged = Snapshot::clone(&views.snapshot());
    damaged.clusters.remove(&name());
    damaged.quarantined.insert(name(), String::new().into());
    views.load(Arc::new(damaged));
    assert!(next_event(&views, &name(), &mut reader).is_none(), "it was told so");
    assert_eq!(reader.due_at(), None);
    // A cluster that is not there at a revision before the one that is held may be there by now.
    let missing = ClusterName::parse("missing").unwrap();
    let mut reader = Held::new(EventKind::Proto(2), Some(Token { revision: Revision(1_000_000), ..token }));
    assert!(next_event(&views, &missing, &mut reader).is_none());
    assert!(reader.due_at().is_some());
}

#[test]
fn every_event_says_whether_the_store_is_out_of_reach() {
    let (views, mut writers) = with_a_down_node();
    let json = |event: &Event| serde_json::from_slice::<Value>(&event.body).unwrap();
    for (weight, stale) in (2..).zip([false, true, false]) {
        views.set_stale(stale);
        let mut held = Held::new(EventKind::Json, None);
        assert_eq!(json(&next_event(&views, &name(), &mut held).unwrap())["stale"], stale);
        writers.take(&Step::Patch { n: 1, weight });
        let delta = next_event(&views, &name(), &mut held).unwrap();
        assert_eq!((delta.name, &json(&delta)["stale"]), ("delta", &json!(stale)));
        let mut held = Held::new(EventKind::Proto(2), None);
        let event = next_event(&views, &name(), &mut held).unwrap();
        match WatchResponse::decode(event.body.slice(GRPC_PREFIX_BYTES..)).unwrap().event.unwrap() {
            watch_response::Event::View(view) => assert_eq!(view.stale, stale),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn loading_again_what_is_held_wakes_nobody() {
    let (views, writers) = with_a_down_node();
    let mut held = Held::new(EventKind::Proto(2), None);
    next_event(&views, &name(), &mut held).unwrap();
    let sequence = views.sequence();
    views.load(snapshot(writers.cluster.as_ref(), writers.revision));
    assert_eq!(views.sequence(), sequence, "nothing was published");
    assert!(next_event(&views, &name(), &mut held).is_none());
}

#[test]
fn a_restored_store_takes_the_place_of_the_old_one_in_one_step() {
    let (views, writers) = with_a_down_node();
    let (mut stream, mut rows) = (Held::new(EventKind::Proto(2), None), Held::new(EventKind::Json, None));
    next_event(&views, &name(), &mut stream).unwrap();
    next_event(&views, &name(), &mut rows).unwrap();
    let settled = views.settled();

    // The same nodes, born anew in another store.
    let mut restored = Cluster::clone(writers.cluster.as_ref().unwrap());
    let revision = Revision(90);
    (restored.revision, restored.created, restored.check_changed) = (revision, revision, revision);
    for node in &mut restored.nodes {
        Arc::make_mut(node).birth = revision;
    }
    let other = StoreId(uuid::Uuid::from_u128(2));
    let mut snapshot = Snapshot::clone(&snapshot(Some(&Arc::new(restored)), revision));
    snapshot.store = other;
    views.load(Arc::new(snapshot.clone()));
    let Answer::Published(published) = views.get(&name()) else { panic!("it is served at once") };
    let judged = published.state.judged(&id(1)).expect("what was found stays");
    assert_eq!(judged.verdict, Verdict::Down);
    assert!(judged.stale_since.is_some());
    for held in [&mut stream, &mut rows] {
        assert_eq!(next_event(&views, &name(), held).unwrap().name, "view");
        assert_eq!(held.token().unwrap().store, other);
    }

    // Another store without it says nothing about it to those who hold it from elsewhere.
    let mut old = Held::new(EventKind::Json, rows.token());
    let empty =
        Snapshot { store: StoreId(uuid::Uuid::from_u128(3)), clusters: imbl::OrdMap::new(), ..snapshot };
    views.load(Arc::new(empty));
    assert_eq!(next_event(&views, &name(), &mut old).unwrap().name, "unknown");
    let mut resumed = Held::settled(EventKind::Json, settled);
    assert_eq!(next_event(&views, &name(), &mut resumed).unwrap().name, "unknown");
    match WatchResponse::decode(&next_event(&views, &name(), &mut stream).unwrap().body[GRPC_PREFIX_BYTES..])
        .unwrap()
        .event
        .unwrap()
    {
        watch_response::Event::Removed(removed) => {
            assert_ne!(removed.store, other.0.as_bytes(), "it says of which store");
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn the_time_to_be_judged_begins_when_the_nodes_are_known() {
    let mut elsewhere = Writers::new(Arc::new(Views::new(1)));
    elsewhere.take(&Step::Put { nodes: vec![1], path: 0, online: true });
    // A server that had to wait for its store.
    let views = Views::new(2);
    views.writing().started = Instant::now().checked_sub(Duration::from_hours(1)).unwrap();
    views.load(snapshot(elsewhere.cluster.as_ref(), elsewhere.revision));
    assert!(matches!(views.get(&name()), Answer::NotReady), "nothing was checked yet");
    assert!(views.ripen(Instant::now()).is_some(), "it will be in a while");
}
