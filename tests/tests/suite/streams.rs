//! The watch stream of gRPC, by hand: what is refused, and many streams on one connection.

use std::time::Duration;

use jcm_proto::v1::discovery_client::DiscoveryClient;
use jcm_proto::v1::registry_client::RegistryClient;
use jcm_proto::v1::watch_request::{Hello, Request, Subscribe};
use jcm_proto::v1::watch_response::{Delta, Event};
use jcm_proto::v1::{GetClusterRequest, WatchRequest, WatchResponse};
use jcm_tests::server::start;
use jcm_tests::{Server, raw};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::fixtures::{cluster, id};

const DEADLINE: Duration = Duration::from_secs(30);

const PATH: &str = "/jcm.v1.Discovery/Watch";

async fn channel(server: &Server) -> Channel {
    let endpoint = Endpoint::from_shared(server.url()).expect("a good address");
    endpoint.connect().await.expect("the server is there")
}

fn hello() -> Request {
    Request::Hello(Hello {
        protocol: 1,
        newest_protocol: 2,
        client: "by hand".to_owned(),
        acknowledges: false,
    })
}

fn subscribe(cluster: &str) -> Request {
    Request::Subscribe(Subscribe { cluster: cluster.to_owned(), ..Subscribe::default() })
}

/// A stream that says so much, and stays open.
async fn open(
    channel: Channel,
    requests: Vec<Request>,
) -> (Streaming<WatchResponse>, mpsc::Sender<WatchRequest>) {
    let (sender, said) = mpsc::channel(8);
    for request in requests {
        sender.try_send(WatchRequest { request: Some(request) }).expect("there is room");
    }
    let answer = DiscoveryClient::new(channel).watch(ReceiverStream::new(said)).await;
    (answer.expect("the stream opens").into_inner(), sender)
}

/// With what a stream ends.
async fn refusal(mut stream: Streaming<WatchResponse>) -> Status {
    let ended = tokio::time::timeout(DEADLINE, async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends without an error"),
                Err(status) => break status,
            }
        }
    });
    ended.await.expect("it ends")
}

#[tokio::test]
async fn what_a_client_must_not_say_is_refused_by_name() {
    let (server, _client) = start().await;
    let channel = channel(&server).await;
    let old = Request::Hello(Hello { protocol: 99, ..Hello::default() });
    for (said, code, part) in [
        (vec![subscribe("orders")], Code::FailedPrecondition, "`hello`"),
        (vec![hello(), hello()], Code::FailedPrecondition, "`hello` comes once"),
        (vec![old], Code::FailedPrecondition, "protocol 99"),
        (vec![hello(), subscribe("../orders")], Code::InvalidArgument, "../orders"),
    ] {
        let (stream, _sender) = open(channel.clone(), said).await;
        let status = refusal(stream).await;
        assert!(status.code() == code && status.message().contains(part), "{status:?}");
    }
    // Bytes that are no message: a `hello` that is none.
    let garbage: Vec<u8> = vec![0xff; 16];
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.expect("the connection is there");
    let request = tonic::Request::new(tokio_stream::iter([garbage]));
    let codec = ProstCodec::<Vec<u8>, WatchResponse>::default();
    let answer = grpc.streaming(request, PathAndQuery::from_static(PATH), codec).await;
    let status = refusal(answer.expect("the stream opens").into_inner()).await;
    assert!(
        status.code() == Code::InvalidArgument && status.message().contains("cannot be read"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_stream_over_http_1_is_refused_with_the_way_to_go() {
    let (server, _client) = start().await;
    let request =
        format!("POST {PATH} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let answer = raw::send(server.address(), request.as_bytes()).await.expect("an answer");
    answer.expect_status(505);
}

/// A follower without caution. Answers what it holds after the message.
fn follow(held: Option<u64>, message: WatchResponse) -> Option<u64> {
    match message.event {
        Some(Event::View(view)) => {
            let revision = view.cluster.expect("a view has a definition").revision;
            // Who is far behind is sent all of it.
            assert!(held.is_none_or(|held| held <= revision), "back from {held:?} to {revision}");
            Some(revision)
        }
        Some(Event::Delta(Delta { from, to, .. })) => {
            assert_eq!(Some(from), held, "a delta starts where its reader is");
            Some(from.max(to))
        }
        Some(Event::Removed(_) | Event::Unknown(_)) => panic!("the cluster is there all the time"),
        _ => held,
    }
}

#[tokio::test]
async fn many_streams_of_one_connection_hear_of_every_change_while_others_ask_on_it() {
    const STREAMS: usize = 200;
    const CHANGES: u32 = 200;
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.ok();
    let channel = channel(&server).await;
    let (sender, mut followed) = mpsc::unbounded_channel();
    for _ in 0..STREAMS {
        let (mut stream, requests) = open(channel.clone(), vec![hello(), subscribe("orders")]).await;
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut held = None;
            while let Ok(Some(message)) = stream.message().await {
                held = follow(held, message);
                let _ = sender.send(held);
            }
            drop(requests);
        });
    }
    drop(sender);
    let mut last = 0;
    let mut registry = RegistryClient::new(channel);
    for number in 1..=CHANGES {
        last = client.patch_node("orders", &id(2), &json!({ "weight": number })).await.revision();
        let request = GetClusterRequest { cluster: "orders".to_owned(), ..GetClusterRequest::default() };
        let answer = registry.get_cluster(request).await.expect("an answer").into_inner();
        assert!(answer.cluster.is_some_and(|cluster| cluster.revision >= last));
    }
    let all = tokio::time::timeout(DEADLINE, async {
        let mut arrived = 0;
        while arrived < STREAMS {
            let held = followed.recv().await.expect("no stream has ended");
            arrived += usize::from(held == Some(last));
        }
    });
    all.await.expect("every stream hears of the last change");
}
