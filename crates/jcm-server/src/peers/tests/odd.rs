//! What other servers say that cannot be right, and what it costs: never more than itself.

use std::time::Duration;

use jcm_model::Verdict;
use jcm_proto::v1;
use jcm_proto::v1::follow_request::{Again, Hello, Relay, Request};
use jcm_proto::v1::follow_response::{self, Event};
use jcm_storage::Store;
use proptest::prelude::*;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::Code;

use super::super::{PeerError, Question, parcel};
use super::WITHIN;
use super::group::{Server, cluster, id, node, store, until};
use super::raw::Raw;

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
struct Odd {
    events: Vec<Event>,
    /// Gets what is asked.
    asked: mpsc::UnboundedSender<Request>,
}

#[tonic::async_trait]
impl v1::peers_server::Peers for Odd {
    type FollowStream = tokio_stream::wrappers::ReceiverStream<Result<v1::FollowResponse, tonic::Status>>;
    type CarryOutStream = tokio_stream::wrappers::ReceiverStream<Result<v1::CarryOutResponse, tonic::Status>>;

    async fn follow(
        &self,
        request: tonic::Request<tonic::Streaming<v1::FollowRequest>>,
    ) -> Result<tonic::Response<Self::FollowStream>, tonic::Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        let heartbeat = self.events[1].clone();
        for event in &self.events {
            sender.try_send(Ok(v1::FollowResponse { event: Some(event.clone()) })).unwrap();
        }
        let asked = self.asked.clone();
        tokio::spawn(async move {
            let mut requests = request.into_inner();
            while let Ok(Some(request)) = requests.message().await {
                let _ = asked.send(request.request.unwrap());
            }
        });
        tokio::spawn(async move {
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

    async fn holds(
        &self,
        _: tonic::Request<v1::HoldsRequest>,
    ) -> Result<tonic::Response<v1::HoldsResponse>, tonic::Status> {
        Ok(tonic::Response::new(v1::HoldsResponse { held: vec![true] }))
    }

    async fn count(
        &self,
        _: tonic::Request<v1::CountRequest>,
    ) -> Result<tonic::Response<v1::CountResponse>, tonic::Status> {
        Ok(tonic::Response::new(v1::CountResponse { count: b"{\"odd\":".to_vec() }))
    }
}

/// Has a server follow one that says all this, and repeats the second of it. What it is asked comes out of the channel.
async fn follow_odd(
    server: &Server,
    events: Vec<Event>,
) -> (tokio::task::JoinHandle<()>, mpsc::UnboundedReceiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, requests) = mpsc::unbounded_channel();
    let service = v1::peers_server::PeersServer::new(Odd { events, asked });
    let router = axum::Router::new().route_service("/jcm.v1.Peers/{method}", service);
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(crate::listen::serve(listener, router, server.registry.pulse(), stop));
    server.introduce(&[("s2", address)]);
    (serving, requests)
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
    let (serving, _asked) = follow_odd(&s1, events).await;
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

#[tokio::test]
async fn under_another_store_everything_is_asked_for_again() {
    let store = store(1, 1).await;
    let s1 = Server::start("s1", &store).await;
    let (serving, mut asked) = follow_odd(
        &s1,
        vec![
            Event::Welcome(follow_response::Welcome { protocol: 1, server: "s2".to_owned() }),
            Event::Heartbeat(follow_response::Heartbeat::default()),
        ],
    )
    .await;
    assert!(matches!(asked.recv().await, Some(Request::Hello(_))));
    store.restore(store.load().await.unwrap().clusters, Vec::new()).await.unwrap();
    let again = tokio::time::timeout(WITHIN, asked.recv()).await.expect("it asks");
    assert_eq!(again, Some(Request::Again(Again { servers: vec!["s2".to_owned()] })));
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
            ..v1::NodeVerdict::default()
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
