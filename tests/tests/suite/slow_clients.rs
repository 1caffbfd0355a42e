//! Clients that send slowly or nothing: cut at a deadline, and nobody else waits for them.

use std::net::SocketAddr;
use std::time::Duration;

use jcm_tests::raw;
use jcm_tests::server::start;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The deadlines of the server (10 s for headers, 30 s for a body) and time to spare.
const SLOW_DEADLINE: Duration = Duration::from_secs(50);

/// Opens connections and sends each the same beginning.
async fn hold(server: SocketAddr, count: usize, beginning: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = TcpStream::connect(server).await.expect("the server accepts");
        stream.write_all(beginning).await.expect("it reads");
        streams.push(stream);
    }
    streams
}

/// Whether the server ends each of them, answering or not.
async fn check_closed(streams: Vec<TcpStream>, what: &str) {
    for mut stream in streams {
        let closed = tokio::time::timeout(SLOW_DEADLINE, async {
            let mut bytes = [0; 1024];
            while let Ok(1..) = stream.read(&mut bytes).await {}
        });
        assert!(closed.await.is_ok(), "{what}: still open after {SLOW_DEADLINE:?}");
    }
}

#[tokio::test]
async fn slow_clients_are_cut_and_hold_up_nobody() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let put = "PUT /v1/clusters/slow HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{";
    let beginnings: [(&str, &[u8]); 5] = [
        ("nothing sent", b""),
        ("half a request line", b"GET /li"),
        ("half a head", b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Slow: "),
        ("only the first bytes of HTTP/2", b"PRI * HTTP/2.0\r\n"),
        ("half a body", put.as_bytes()),
    ];
    let mut held = Vec::new();
    for (what, beginning) in beginnings {
        held.push((what, hold(server.address(), 60, beginning).await));
    }
    // While they hang, others are served as ever.
    for number in 0..50 {
        let body = json!({ "properties": { "number": number.to_string() } });
        client.put_cluster("orders", &body).await.ok();
        raw::get(server.address(), "/livez").await.expect("an answer").expect_status(200);
    }
    for (what, streams) in held {
        check_closed(streams, what).await;
    }
    client.get_cluster("slow").await.expect_problem(404);
}

#[tokio::test]
async fn a_head_that_trickles_is_cut_all_the_same() {
    let (server, _client) = start().await;
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        for byte in b"GET /livez HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    let cut = tokio::time::timeout(SLOW_DEADLINE, async {
        let mut bytes = [0; 1024];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    assert!(cut.await.is_ok(), "the deadline is for the whole head, not for each byte");
    trickle.abort();
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_all_the_same() {
    let (server, client) = start().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let head = "PUT /v1/clusters/slow HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
                Content-Length: 100000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    let cut = tokio::time::timeout(SLOW_DEADLINE, async {
        let mut bytes = [0; 1024];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    assert!(cut.await.is_ok(), "the deadline is for the whole body, not for each byte");
    trickle.abort();
    client.get_cluster("slow").await.expect_problem(404);
}
