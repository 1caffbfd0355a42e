//! Connections as clients keep them.

use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::patience::HEADER_DEADLINE;
use super::*;

const REQUEST: &[u8] = b"GET /here HTTP/1.1\r\nHost: a\r\n\r\n";

async fn start() -> SocketAddr {
    start_with(Pulse::new(), CancellationToken::new()).await
}

async fn start_with(pulse: Pulse, stop: CancellationToken) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/here", get(|| async { "here" }));
    tokio::spawn(serve(listener, router, pulse, stop));
    address
}

/// A connection of HTTP/2 that stands: the server has acknowledged the client's settings.
async fn connect_http2(address: SocketAddr) -> TcpStream {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const ACKNOWLEDGED: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    let mut said = Vec::new();
    while !said.windows(ACKNOWLEDGED.len()).any(|bytes| bytes == ACKNOWLEDGED) {
        assert_ne!(client.read_buf(&mut said).await.unwrap(), 0, "closed after {said:?}");
    }
    client
}

/// What the server says until it closes.
async fn last_words(client: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(20), client.read_to_end(&mut said)).await;
    // A reset is an end as well.
    let _ = end.expect("it is closed");
    said
}

async fn ask(client: &mut TcpStream) {
    client.write_all(REQUEST).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"here") {
        assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "closed after {answer:?}");
    }
}

/// When the server closes the connection.
async fn closed_at(client: &mut TcpStream, limit: Instant) -> Instant {
    let mut bytes = [0; 64];
    let count = timeout_at(limit, client.read(&mut bytes)).await.expect("it is closed by then");
    assert!(matches!(count, Ok(0)), "{count:?}");
    Instant::now()
}

/// Clients that keep connections use them again for up to 90 s.
#[tokio::test(start_paused = true)]
async fn a_connection_that_was_quiet_for_a_while_takes_the_next_request() {
    let mut client = TcpStream::connect(start().await).await.unwrap();
    ask(&mut client).await;
    for quiet in [HEADER_DEADLINE, HEADER_DEADLINE + Duration::from_millis(1), Duration::from_secs(90)] {
        tokio::time::sleep(quiet).await;
        ask(&mut client).await;
    }
    let quiet_since = Instant::now();
    let closed_after = closed_at(&mut client, quiet_since + 2 * IDLE_DEADLINE).await - quiet_since;
    assert!(closed_after >= IDLE_DEADLINE, "after {closed_after:?}");
}

#[tokio::test(start_paused = true)]
async fn half_a_head_is_cut_early_also_after_a_quiet_while() {
    let mut client = TcpStream::connect(start().await).await.unwrap();
    ask(&mut client).await;
    tokio::time::sleep(IDLE_DEADLINE / 2).await;
    client.write_all(&REQUEST[..20]).await.unwrap();
    let begun = Instant::now();
    let cut_after = closed_at(&mut client, begun + 2 * HEADER_DEADLINE).await - begun;
    assert!(cut_after >= HEADER_DEADLINE, "after {cut_after:?}");
}

#[tokio::test]
async fn a_quiet_connection_is_closed_unread_after_a_pause() {
    let pulse = Pulse::new();
    let address = start_with(pulse.clone(), CancellationToken::new()).await;
    let mut client = connect_http2(address).await;
    pulse.stand_still();
    assert_eq!(last_words(&mut client).await, [0; 0], "nothing is said any more");
    connect_http2(address).await;
}

#[tokio::test]
async fn a_quiet_connection_is_told_when_the_server_stops() {
    const GO_AWAY: u8 = 7;
    let stop = CancellationToken::new();
    let mut client = connect_http2(start_with(Pulse::new(), stop.clone()).await).await;
    stop.cancel();
    assert_eq!(last_words(&mut client).await.get(3), Some(&GO_AWAY));
}
