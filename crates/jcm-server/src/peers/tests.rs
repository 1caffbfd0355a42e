//! Several servers in one process, with real sockets between them.

mod greeting;
mod group;
mod odd;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{ClusterName, Mutation, OperationId, Precondition, Verdict};
use jcm_proto::v1;
use jcm_storage::Store;
use prost::Message;
use serde_json::json;
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
        // All of it is worked out on the thread that also beats: the sum of it must not look like a pause.
        server.registry.pulse().stretch();
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
async fn under_another_store_a_follower_is_sent_everything_again() {
    let store = store(1, 2).await;
    let server = Server::start("s1", &store).await;
    server.turn(&[0, 1], Verdict::Down);
    let mut stream = Raw::follow(server.address).await;
    assert_eq!(stream.verdicts().await.len(), 2);
    store.restore(store.load().await.unwrap().clusters, Vec::new()).await.unwrap();
    let again = stream.verdicts().await;
    assert_eq!(again.len(), 2);
    assert!(again.iter().all(|verdict| verdict.stale_since_ms != 0), "what was found before: {again:?}");
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
    let write = Write {
        operation,
        fingerprint: 7,
        principal: "test".to_owned(),
        wishes: vec![wish],
        prune: false,
        epoch: None,
    };
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
