//! The health service of gRPC, and everything that is not one.

use std::sync::Mutex;

use ::http::{HeaderMap, Response};
use bytes::Bytes;
use h2::server::{SendResponse, handshake};
use jcm_health::{GrpcStatus, NotGrpc, NotServing};
use jcm_model::check::Host;

use super::*;

fn grpc() -> Check {
    Check { kind: CheckKind::Grpc, service: "orders.v1.Orders".into(), ..http() }
}

/// A node that answers each call as `answer` does, after it has read the question.
async fn node(answer: fn(SendResponse<Bytes>)) -> (Node, Arc<Mutex<Vec<(String, Vec<u8>)>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let node = Node::start(move |stream, _| {
        let seen = Arc::clone(&seen);
        async move {
            let Ok(mut connection) = handshake(stream).await else { return };
            while let Some(Ok((request, respond))) = connection.accept().await {
                let seen = Arc::clone(&seen);
                // The connection moves on only while it is asked for the next call.
                tokio::spawn(async move {
                    let (head, mut body) = request.into_parts();
                    let mut question = Vec::new();
                    while let Some(Ok(bytes)) = body.data().await {
                        question.extend_from_slice(&bytes);
                    }
                    seen.lock().unwrap().push((head.uri.to_string(), question));
                    answer(respond);
                });
            }
        }
    })
    .await;
    (node, asked)
}

/// A whole answer: a message and a status behind it.
fn say(mut respond: SendResponse<Bytes>, message: &'static [u8], status: &'static str) {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut stream = respond.send_response(head, false).unwrap();
    stream.send_data(Bytes::from_static(message), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

/// An answer that is over with its head.
fn refuse(mut respond: SendResponse<Bytes>, headers: &[(&'static str, &'static str)]) {
    let mut head = Response::builder();
    for (name, value) in headers {
        head = head.header(*name, *value);
    }
    respond.send_response(head.body(()).unwrap(), true).unwrap();
}

#[tokio::test]
async fn a_node_that_serves_is_asked_for_its_service_on_one_connection() {
    let (node, asked) = node(|respond| say(respond, b"\0\0\0\0\x02\x08\x01", "0")).await;
    let named = Check { host: Some(Host::parse("orders.example").unwrap()), ..grpc() };
    let seen = reports(Trust::default(), node.address, &named, 40).await;
    assert!(seen.iter().all(|report| report.outcome == Outcome::Serving), "{seen:?}");
    assert_eq!(node.connections(), 1, "it is kept");
    assert!(seen[0].phases.connected <= seen[0].phases.answering && seen[0].phases.answering.is_some());
    let (uri, question) = asked.lock().unwrap()[0].clone();
    assert_eq!(uri, "http://orders.example/grpc.health.v1.Health/Check");
    assert_eq!(question, b"\0\0\0\0\x12\x0a\x10orders.v1.Orders");
    let before = node.connections();
    let whole = Check { service: "".into(), fresh: true, ..grpc() };
    assert_eq!(outcomes(node.address, &whole, 3).await, [Outcome::Serving; 3]);
    assert!(node.connections() >= before + 3);
    assert_eq!(asked.lock().unwrap().last().unwrap().1, b"\0\0\0\0\0");
}

#[tokio::test]
async fn every_other_answer_fails_with_its_reason() {
    let check = async |answer: fn(SendResponse<Bytes>), expected: Outcome, part: &str| {
        let (node, _) = node(answer).await;
        let seen = outcomes(node.address, &grpc(), 2).await;
        assert_eq!(seen, [expected; 2]);
        assert!(
            !expected.is_success() && expected.reached() && expected.to_string().contains(part),
            "{expected}"
        );
    };
    let not = Outcome::NotServing;
    check(|r| say(r, b"\0\0\0\0\x02\x08\x02", "0"), not(NotServing::NotServing), "NOT_SERVING").await;
    check(|r| say(r, b"\0\0\0\0\0", "0"), not(NotServing::Unknown), "UNKNOWN").await;
    check(|r| say(r, b"\0\0\0\0\x02\x08\x03", "0"), not(NotServing::ServiceUnknown), "SERVICE_UNKNOWN").await;
    check(|r| say(r, b"\0\0\0\0\x02\x08\x63", "0"), not(NotServing::Unheard), "does not have").await;
    let no = Outcome::NotGrpc;
    check(|r| say(r, b"\x01\0\0\0\x02\x08\x01", "0"), no(NotGrpc::Compressed), "compressed").await;
    check(|r| say(r, b"\0\0\0\0\x02\x08", "0"), no(NotGrpc::Message), "message").await;
    check(|r| say(r, b"\0\0\0\0\x02\xff\xff", "0"), no(NotGrpc::Message), "message").await;
    check(|r| say(r, b"\0\xff\xff\xff\xff\x08\x01", "0"), no(NotGrpc::TooLarge), "4 KiB").await;
    check(|r| say(r, b"", "12"), Outcome::GrpcStatus(GrpcStatus::UNIMPLEMENTED), "12 UNIMPLEMENTED").await;
    check(
        |r| {
            refuse(
                r,
                &[("content-type", "application/grpc"), ("grpc-status", "12"), ("grpc-message", "<b>hello")],
            );
        },
        Outcome::GrpcStatus(GrpcStatus::UNIMPLEMENTED),
        "gRPC status 12 UNIMPLEMENTED",
    )
    .await;
    check(|r| refuse(r, &[("content-type", "application/grpc")]), no(NotGrpc::NoStatus), "status").await;
    check(|r| refuse(r, &[("content-type", "text/html")]), no(NotGrpc::ContentType), "content type").await;
    check(|mut r| r.send_reset(h2::Reason::INTERNAL_ERROR), no(NotGrpc::Reset), "reset").await;
    check(
        |mut r| drop(r.send_response(Response::builder().status(404).body(()).unwrap(), true)),
        Outcome::UnexpectedStatus(404),
        "404",
    )
    .await;
}

#[tokio::test]
async fn a_node_that_does_not_speak_http_2_is_told_from_one_that_is_silent() {
    let old = Node::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.ok();
        wait_for_end(&mut stream).await;
    })
    .await;
    assert_eq!(outcome(old.address, &grpc()).await, Outcome::NotGrpc(NotGrpc::Http2));
    let silent = Node::start(|mut stream, _| async move { wait_for_end(&mut stream).await }).await;
    let impatient = Check { kind: CheckKind::Grpc, ..impatient() };
    assert_eq!(outcome(silent.address, &impatient).await, Outcome::TimedOut(Phase::Waiting));
}

#[tokio::test]
async fn a_node_that_says_goodbye_between_two_calls_is_asked_again_on_a_fresh_connection() {
    // One call a connection, then GOAWAY, while nothing is asked.
    let node = Node::start(|stream, _| async move {
        let Ok(mut connection) = handshake(stream).await else { return };
        if let Some(Ok((_, respond))) = connection.accept().await {
            say(respond, b"\0\0\0\0\x02\x08\x01", "0");
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
        }
    })
    .await;
    assert_eq!(outcomes(node.address, &grpc(), 5).await, [Outcome::Serving; 5]);
    assert!(node.connections() >= 5);
}

#[tokio::test]
async fn a_node_that_pings_without_end_is_cut_off() {
    let (hung_up, mut seen) = mpsc::channel(8);
    let node = Node::start(move |mut stream, _| {
        let hung_up = hung_up.clone();
        async move {
            // Empty settings, then pings.
            let mut written = stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
            while written.is_ok() {
                written = stream.write_all(b"\0\0\x08\x06\0\0\0\0\x0012345678").await;
            }
            hung_up.try_send(()).ok();
        }
    })
    .await;
    assert_eq!(outcome(node.address, &grpc()).await, Outcome::TooMuch);
    timeout(DEADLINE, seen.recv()).await.expect("the checker hung up");
}
