//! Several servers in one process, with real sockets between them.

mod greeting;
mod group;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{ClusterName, Mutation, OperationId, Precondition, Verdict};
use jcm_proto::v1;
use jcm_proto::v1::follow_request::{Again, Hello, Relay, Request};
use jcm_proto::v1::follow_response::{self, Event};
use proptest::prelude::*;
use prost::Message;
use serde_json::json;
use tokio::net::TcpListener;
use tonic::Code;

use super::{PeerError, Question, SILENT_AFTER, Said, parcel};
use crate::registry::{Patience, Wish, Write};
use crate::views::Verdicts;
use group::{Detour, Server, cluster, id, introduce_all, node, store, until};
use raw::Raw;

const WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn all_servers_see_each_other_and_share_what_they_find() {
    let store = store(1, 4).await;
    let names = ["s1", "s2", "s3"];
    let servers = [
        Server::start("s1", &store).await,
        Server::start("s2", &store).await,
        Server::start("s3", &store).await,
    ];
    servers[0].turn(&[0], Verdict::Healthy);
    introduce_all(&servers.each_ref());
    for server in &servers {
        let others: Vec<_> = names.map(id).into_iter().filter(|name| *name != server.id).collect();
        until("all others are well", || server.liveness().well().eq(others.iter())).await;
        assert_eq!(server.peers.connected(), others);
    }
    servers[1].turn(&[1], Verdict::Down);
    servers[2].turn(&[2, 3], Verdict::Degraded);
    for server in &servers {
        until("all boards hold all four", || server.board(0).len() == 4).await;
    }
    assert_eq!(servers[0].board(0), servers[1].board(0));
    servers[0].peers.suspend(true);
    until("the suspicion is known", || servers[1].liveness().standing(&id("s1")).suspended).await;
    assert!(!servers[1].liveness().well().any(|server| *server == id("s1")));
}

#[tokio::test]
async fn a_silent_server_is_noticed_and_a_call_to_it_fails_without_waiting() {
    let store = store(1, 1).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    let detour = Detour::to(s2.address).await;
    s1.introduce(&[("s1", s1.address), ("s2", detour.address)]);
    until("s2 is heard", || s1.liveness().is_heard(&id("s2"))).await;
    detour.cut();
    let mut liveness = s1.peers.liveness();
    let silent = liveness.wait_for(|liveness| !liveness.is_live(&id("s2"))).await.unwrap().clone();
    assert!(silent.silence(&id("s2")) >= SILENT_AFTER);
    assert!(silent.others().eq([&id("s2")]), "it is silent, and still a member");
    until("it is not connected", || !s1.peers.is_connected(&id("s2"))).await;
    let error = s1.peers.findings(&id("s2"), &cluster(0), &node(0), WITHIN).await.unwrap_err();
    assert!(matches!(error, PeerError::NotConnected { .. }) && error.is_undone(), "{error}");
    detour.mend();
    until("s2 is heard again", || s1.liveness().is_heard(&id("s2"))).await;
}

#[tokio::test]
async fn a_server_that_stopped_is_dropped_once_it_left_and_found_again_at_another_address() {
    let store = store(1, 1).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    introduce_all(&[&s1, &s2]);
    until("s2 is heard", || s1.liveness().is_heard(&id("s2"))).await;
    s1.introduce(&[("s1", s1.address)]);
    // The store lost it, and it is still heard.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(s1.liveness().is_heard(&id("s2")) && s1.peers.is_connected(&id("s2")));
    s2.peers.drain();
    until("that it drains is known", || s1.liveness().standing(&id("s2")).draining).await;
    s2.stop();
    until("it is forgotten", || s1.liveness().others().count() == 0).await;
    let again = Server::start("s2", &store).await;
    s1.introduce(&[("s2", s2.address)]);
    s1.introduce(&[("s2", again.address)]);
    until("it is heard where it moved to", || s1.liveness().is_heard(&id("s2"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_come_whole_and_then_as_they_turn_once_each_and_in_the_order_of_their_stamps() {
    let store = store(1, 8).await;
    let server = Arc::new(Server::start("s1", &store).await);
    let turning = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || {
            for n in 0..600_u16 {
                server.turn(&[n % 8], if n % 3 == 0 { Verdict::Down } else { Verdict::Healthy });
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(Raw::follow(server.address).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for stream in &mut streams {
        let mut latest = BTreeMap::<String, u64>::new();
        let mut seen = BTreeSet::new();
        while !seen.contains(&600) {
            for verdict in stream.verdicts().await {
                let sequence = verdict.stamp.unwrap().sequence;
                assert!(seen.insert(sequence), "{sequence} came twice");
                let before = latest.insert(verdict.node, sequence);
                assert!(before.is_none_or(|before| before < sequence), "{sequence} came after {before:?}");
            }
        }
        let first = *seen.first().unwrap();
        let deltas = seen.iter().skip(8);
        assert!(
            deltas.clone().zip(deltas.skip(1)).all(|(a, b)| a + 1 == *b),
            "a turn is missing after {first}"
        );
    }
    turning.await.unwrap();
}

#[tokio::test]
async fn a_follower_that_falls_behind_is_sent_what_holds_now_instead_of_a_backlog() {
    let store = store(1, 1_000).await;
    let server = Server::start("s1", &store).await;
    let all: Vec<u16> = (0..1_000).collect();
    let mut stream = Raw::follow(server.address).await;
    for n in 0..400 {
        server.turn(&all, if n % 2 == 0 { Verdict::Down } else { Verdict::Healthy });
        tokio::task::yield_now().await;
    }
    let (mut batches, mut latest) = (0, BTreeMap::new());
    let board: BTreeMap<String, u64> =
        server.board(0).into_iter().map(|(id, judged)| (id.to_string(), judged.stamp.sequence)).collect();
    while latest != board {
        batches += 1;
        let verdicts = stream.verdicts().await;
        latest.extend(verdicts.into_iter().map(|verdict| (verdict.node, verdict.stamp.unwrap().sequence)));
    }
    assert!(batches < 300, "all {batches} batches were kept for it");
}

#[tokio::test]
async fn a_hundred_thousand_verdicts_go_over_in_pieces() {
    const NODES: u16 = 20_000;
    let store = store(5, NODES).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    let verdicts: Verdicts = (0..5)
        .map(|of| (cluster(of), (0..NODES).map(|n| (node(n), s1.judged(of, n, Verdict::Healthy))).collect()))
        .collect();
    s1.views.judge(verdicts.clone());
    introduce_all(&[&s1, &s2]);
    until("s2 holds all of them", || (0..5).all(|of| s2.board(of).len() == usize::from(NODES))).await;
    let servers = BTreeSet::from([id("s1")]);
    let pieces: Vec<_> = parcel::pieces(s1.views.snapshot().store, &verdicts, &servers, |_| true).collect();
    let largest = pieces.iter().map(Message::encoded_len).max().unwrap();
    assert!(pieces.len() > 20 && largest < 1024 * 1024, "{} pieces of up to {largest} bytes", pieces.len());
}

#[tokio::test]
async fn what_went_missing_is_found_by_its_digest_and_asked_for_again() {
    let store = store(1, 3).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    introduce_all(&[&s1, &s2]);
    until("s2 follows", || s2.peers.is_connected(&id("s1"))).await;
    s1.turn(&[0], Verdict::Healthy);
    until("s2 holds what it was told", || s2.board(0).len() == 1).await;
    s1.judge(&[1, 2], Verdict::Down);
    until("s2 holds what it was not told", || s2.board(0) == s1.board(0)).await;
}

#[tokio::test]
async fn one_cut_pair_of_three_is_worked_around_until_it_is_mended() {
    let store = store(1, 3).await;
    let s1 = Server::start("s1", &store).await;
    let s2 = Server::start("s2", &store).await;
    let s3 = Server::start("s3", &store).await;
    let (to_s1, to_s2) = (Detour::to(s1.address).await, Detour::to(s2.address).await);
    s1.introduce(&[("s1", s1.address), ("s2", to_s2.address), ("s3", s3.address)]);
    s2.introduce(&[("s1", to_s1.address), ("s2", s2.address), ("s3", s3.address)]);
    s3.introduce(&[("s1", s1.address), ("s2", s2.address), ("s3", s3.address)]);
    for server in [&s1, &s2, &s3] {
        until("all others are heard", || server.liveness().well().count() == 2).await;
    }
    to_s1.cut();
    to_s2.cut();
    s2.turn(&[0], Verdict::Healthy);
    until("what s2 stamped comes by way of s3", || s1.board(0).len() == 1).await;
    until("s2 itself is not heard", || !s1.liveness().is_heard(&id("s2"))).await;
    assert!(s1.liveness().is_live(&id("s2")), "s3 hears it");
    s2.turn(&[1], Verdict::Down);
    until("and what it stamps later", || s1.board(0).len() == 2).await;
    to_s1.mend();
    to_s2.mend();
    until("s2 is heard again", || s1.liveness().is_heard(&id("s2"))).await;
    s2.turn(&[2], Verdict::Down);
    until("and followed itself", || s1.board(0).len() == 3).await;
}

/// What the servers log on this thread.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_server_with_another_token_is_refused_by_both_and_each_says_so_once() {
    let (log, _guard) = Log::start();
    let store = store(1, 1).await;
    let s1 = Server::with_token("s1", &store, Some("correct-horse-battery")).await;
    let s2 = Server::with_token("s2", &store, Some("incorrect-horse-batt")).await;
    let s3 = Server::with_token("s3", &store, Some("correct-horse-battery")).await;
    introduce_all(&[&s1, &s2, &s3]);
    until("those with the same token hear each other", || s1.liveness().is_heard(&id("s3"))).await;
    until("s2 is silent", || !s1.liveness().is_live(&id("s2"))).await;
    assert!(!s2.liveness().is_heard(&id("s1")) && !s2.peers.is_connected(&id("s1")));
    let followers = log.lines("a server is not followed");
    let of =
        |server: &str| followers.iter().filter(|line| line.contains(&format!("server={server}"))).count();
    assert_eq!((of("s2"), of("s1"), of("s3")), (2, 1, 1), "{followers:#?}");
    assert!(followers.iter().all(|line| line.contains("another peer token")), "{followers:#?}");
    let refused = log.lines("a server was refused");
    assert_eq!(refused.len(), 3, "one of each: {refused:#?}");
    assert!(refused.iter().all(|line| line.contains("from=\"127.0.0.1:")), "{refused:#?}");
    assert!(log.lines("horse").is_empty(), "a token is in the log");
    let mut stranger =
        v1::peers_client::PeersClient::connect(format!("http://{}", s1.address)).await.unwrap();
    let refused = stranger.findings(v1::FindingsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn another_server_behind_the_address_is_not_followed() {
    let (log, _guard) = Log::start();
    let store = store(1, 1).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    s1.introduce(&[("s3", s2.address)]);
    until("s3 is known", || s1.liveness().others().count() == 1).await;
    until("s3 is silent", || !s1.liveness().is_live(&id("s3"))).await;
    assert!(s1.peers.connected().is_empty());
    let lines = log.lines("a server is not followed");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("server=s3") && lines[0].contains("s2"), "{lines:#?}");
}

#[tokio::test]
async fn a_write_and_questions_reach_the_server_that_is_asked() {
    let store = store(1, 1).await;
    let (s1, s2) = (Server::start("s1", &store).await, Server::start("s2", &store).await);
    introduce_all(&[&s1, &s2]);
    until("s2 is connected", || s1.peers.is_connected(&id("s2"))).await;
    let name = ClusterName::parse("billing").unwrap();
    let spec = serde_json::from_value(json!({ "nodes": [] })).unwrap();
    let wish = Wish {
        cluster: name.clone(),
        mutation: Mutation::PutCluster(spec),
        precondition: Precondition::default(),
    };
    let operation = OperationId(uuid::Uuid::new_v4());
    let write =
        Write { operation, fingerprint: 7, principal: "test".to_owned(), wishes: vec![wish], prune: false };
    let patience = Patience { without_a_sign: WITHIN, in_all: WITHIN };
    let written = s1.peers.forward(&id("s2"), &write, patience).await.unwrap().unwrap();
    assert!(written.created && written.operation == operation);
    assert!(s2.views.snapshot().clusters.contains_key(&name));
    let again = s1.registry.write(write).await.unwrap();
    assert_eq!(again.revision, written.revision, "it was carried out once");

    let birth = s1.judged(0, 0, Verdict::Healthy).birth;
    let question = Question { cluster: cluster(0), node: node(0), birth };
    let answers = s1.peers.probe(&id("s2"), vec![question.clone()], WITHIN).await.unwrap();
    assert!(matches!(
        answers[..],
        [super::Answer { said: Said::Nothing | Said::Reached | Said::Failed, .. }]
    ));
    let too_many = s1.peers.probe(&id("s2"), vec![question; 5_000], WITHIN).await.unwrap_err();
    assert!(too_many.is_undone(), "{too_many}");
    assert!(s1.peers.findings(&id("s2"), &cluster(0), &node(0), WITHIN).await.unwrap().is_none());
}

#[tokio::test]
async fn odd_requests_are_refused_by_name() {
    let store = store(1, 1).await;
    let server = Server::start("s1", &store).await;
    let hello = |protocol, server: &str| {
        Request::Hello(Hello { protocol, newest_protocol: protocol, server: server.to_owned() })
    };
    for (request, code, part) in [
        (hello(0, "s2"), Code::FailedPrecondition, "protocol 0 between servers is not known"),
        (hello(99, "s2"), Code::FailedPrecondition, "protocol 99 between servers is not known"),
        (hello(1, "s1"), Code::FailedPrecondition, "this server's own"),
        (hello(1, "../s1"), Code::InvalidArgument, ""),
        (Request::Again(Again::default()), Code::FailedPrecondition, "`hello`"),
    ] {
        let mut raw = Raw::connect(server.address).await;
        raw.ask(request).await;
        let status = raw.refusal().await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(part), "{status:?}");
    }
    for request in [
        Request::Relay(Relay { servers: vec!["s2".to_owned(); 1_025] }),
        Request::Again(Again { servers: vec!["\u{0}".to_owned()] }),
        hello(1, "s2"),
    ] {
        let mut raw = Raw::follow(server.address).await;
        raw.ask(request).await;
        let status = raw.refusal().await;
        assert!(matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition), "{status:?}");
    }
    let mut raw = Raw::follow(server.address).await;
    raw.ask(Request::Relay(Relay { servers: vec!["nobody".to_owned()] })).await;
    server.turn(&[0], Verdict::Healthy);
    assert_eq!(raw.verdicts().await.len(), 1, "what cannot be relayed hurts nobody");
}

/// A server that answers every follower with the same events, and then with the second of them.
struct Odd(Vec<Event>);

#[tonic::async_trait]
impl v1::peers_server::Peers for Odd {
    type FollowStream = tokio_stream::wrappers::ReceiverStream<Result<v1::FollowResponse, tonic::Status>>;
    type CarryOutStream = tokio_stream::wrappers::ReceiverStream<Result<v1::CarryOutResponse, tonic::Status>>;

    async fn follow(
        &self,
        request: tonic::Request<tonic::Streaming<v1::FollowRequest>>,
    ) -> Result<tonic::Response<Self::FollowStream>, tonic::Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let heartbeat = self.0[1].clone();
        for event in &self.0 {
            sender.try_send(Ok(v1::FollowResponse { event: Some(event.clone()) })).unwrap();
        }
        tokio::spawn(async move {
            let _requests = request;
            while sender.send(Ok(v1::FollowResponse { event: Some(heartbeat.clone()) })).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        Ok(tonic::Response::new(tokio_stream::wrappers::ReceiverStream::new(receiver)))
    }

    async fn probe(
        &self,
        _: tonic::Request<v1::ProbeRequest>,
    ) -> Result<tonic::Response<v1::ProbeResponse>, tonic::Status> {
        Ok(tonic::Response::new(v1::ProbeResponse::default()))
    }

    async fn findings(
        &self,
        _: tonic::Request<v1::FindingsRequest>,
    ) -> Result<tonic::Response<v1::FindingsResponse>, tonic::Status> {
        Ok(tonic::Response::new(v1::FindingsResponse { findings: b"{\"odd\":".to_vec() }))
    }

    async fn carry_out(
        &self,
        _: tonic::Request<tonic::Streaming<v1::CarryOutRequest>>,
    ) -> Result<tonic::Response<Self::CarryOutStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("odd"))
    }
}

#[tokio::test]
async fn odd_answers_cost_the_rest_nothing() {
    let store = store(1, 2).await;
    let s1 = Server::start("s1", &store).await;
    let stamp = v1::Stamp { server: "s2".to_owned(), incarnation: 1, sequence: 9, ..v1::Stamp::default() };
    let birth = s1.judged(0, 0, Verdict::Healthy).birth.0;
    let good = v1::NodeVerdict {
        node: node(0).to_string(),
        birth,
        verdict: 1,
        stamp: Some(stamp.clone()),
        ..v1::NodeVerdict::default()
    };
    let odd = [
        v1::NodeVerdict { node: "\n".to_owned(), ..good.clone() },
        v1::NodeVerdict { stamp: None, ..good.clone() },
        v1::NodeVerdict { since_ms: i64::MAX, ..good.clone() },
        v1::NodeVerdict { verdict: 99, birth: u64::MAX, ..good.clone() },
    ];
    let of = |cluster: &str, verdicts: &[v1::NodeVerdict]| v1::ClusterVerdicts {
        cluster: cluster.to_owned(),
        verdicts: verdicts.to_vec(),
    };
    let hears = |server: &str, age_ms| follow_response::Hears { server: server.to_owned(), age_ms };
    let here = s1.views.snapshot().store.0.as_bytes().to_vec();
    let digest = |server: &str| follow_response::Digest { server: server.to_owned(), digest: 1 };
    let digests = vec![digest("\u{202e}"), digest("s1"), digest("s2"), digest("s2")];
    let events = vec![
        Event::Welcome(follow_response::Welcome { protocol: 1, server: "s2".to_owned() }),
        Event::Heartbeat(follow_response::Heartbeat {
            hears: vec![hears("..", 1), hears("s2", u64::MAX), hears("s1", 0), hears("stranger", 0)],
            suspended: true,
            draining: false,
        }),
        Event::Digests(follow_response::Digests { store: vec![1], digests: digests.clone() }),
        Event::Digests(follow_response::Digests { store: here.clone(), digests }),
        Event::Verdicts(follow_response::Verdicts {
            store: vec![7; 16],
            clusters: vec![of(cluster(0).as_str(), &[v1::NodeVerdict { verdict: 3, ..good.clone() }])],
        }),
        Event::Verdicts(follow_response::Verdicts {
            store: here,
            clusters: vec![
                of("no/name", &odd),
                of("nowhere", &odd),
                of(cluster(0).as_str(), &odd),
                of(cluster(0).as_str(), &[good]),
            ],
        }),
    ];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = v1::peers_server::PeersServer::new(Odd(events));
    let router = axum::Router::new().route_service("/jcm.v1.Peers/{method}", service);
    let serving = tokio::spawn(crate::listen::serve(
        listener,
        router,
        s1.registry.pulse(),
        tokio_util::sync::CancellationToken::new(),
    ));
    s1.introduce(&[("s2", address)]);
    until("the one that can be read is taken over", || s1.board(0).len() == 1).await;
    assert!(s1.board(0)[&node(0)].verdict == Verdict::Healthy, "what is of another store was taken over");
    assert!(s1.liveness().standing(&id("s2")).suspended);
    let error = s1.peers.findings(&id("s2"), &cluster(0), &node(0), WITHIN).await.unwrap_err();
    assert!(matches!(error, PeerError::Malformed { .. }) && !error.is_undone(), "{error}");
    let question = Question { cluster: cluster(0), node: node(0), birth: jcm_model::Revision(birth) };
    let error = s1.peers.probe(&id("s2"), vec![question], WITHIN).await.unwrap_err();
    assert!(matches!(error, PeerError::Malformed { .. }), "{error}");
    serving.abort();
}

proptest! {
    #[test]
    fn whatever_bytes_come_as_verdicts_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(message) = follow_response::Verdicts::decode(bytes.as_slice()) {
            let _ = parcel::open(message);
        }
    }

    #[test]
    fn verdicts_with_odd_parts_are_left_out_and_counted(
        names in prop::collection::vec(".{0,140}", 1..4),
        numbers in any::<[u64; 5]>(),
        times in any::<[i64; 2]>(),
        verdict in any::<i32>(),
        store in prop::collection::vec(any::<u8>(), 15..18),
    ) {
        let [birth, ring_epoch, term, incarnation, sequence] = numbers;
        let verdicts: Vec<_> = names.iter().map(|name| v1::NodeVerdict {
            node: name.clone(), birth, verdict, since_ms: times[0], stale_since_ms: times[1], single_vantage: true,
            stamp: Some(v1::Stamp { ring_epoch, term, server: name.clone(), incarnation, sequence }),
        }).collect();
        let count = verdicts.len();
        let clusters = vec![v1::ClusterVerdicts { cluster: "orders".to_owned(), verdicts }];
        let opened = parcel::open(follow_response::Verdicts { store: store.clone(), clusters });
        prop_assert_eq!(opened.is_ok(), store.len() == 16);
        if let Ok(opened) = opened {
            let read: usize = opened.verdicts.values().map(Vec::len).sum();
            prop_assert_eq!(read + opened.unreadable.map_or(0, |(_, count)| count), count);
        }
    }
}
