//! What a well-behaved client sees.

use h2::client::{self, SendRequest};
use tokio::time::Instant;

use super::*;

async fn connect(socket: DuplexStream) -> SendRequest<Bytes> {
    connect_with(socket, &client::Builder::new()).await
}

async fn connect_with(socket: DuplexStream, builder: &client::Builder) -> SendRequest<Bytes> {
    let (requests, connection) = builder.handshake(socket).await.unwrap();
    tokio::spawn(connection);
    requests
}

fn request(path: &str) -> Request<()> {
    Request::post(format!("http://here{path}")).body(()).unwrap()
}

/// Reads all of an answer's body, and gives each chunk's room back.
async fn read(body: &mut h2::RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut all = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Sends as the windows allow.
async fn send(stream: &mut h2::SendStream<Bytes>, bytes: &[u8], is_last: bool) {
    let mut left = bytes;
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        let room = std::future::poll_fn(|context| stream.poll_capacity(context)).await.unwrap().unwrap();
        let (now, later) = left.split_at(room.min(left.len()));
        stream.send_data(Bytes::copy_from_slice(now), is_last && later.is_empty()).unwrap();
        left = later;
    }
}

#[tokio::test]
async fn bodies_of_any_size_go_both_ways() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    for path in ["/echo", "/pipe"] {
        for size in [0, 1, 16_384, 16_385, 1_000_000] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let (answer, mut stream) = requests.send_request(request(path), bytes.is_empty()).unwrap();
            let sent = send(&mut stream, &bytes, true);
            let (response, ()) = tokio::join!(
                async {
                    let (head, mut body) = answer.await.unwrap().into_parts();
                    assert_eq!(head.status, 200);
                    assert!(head.headers.contains_key("date"));
                    read(&mut body).await.unwrap()
                },
                sent
            );
            assert!(response == bytes, "{size} bytes to {path}");
        }
    }
    drop(requests);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn trailers_and_empty_answers_end_their_streams() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (answer, mut stream) = requests.send_request(request("/echo"), false).unwrap();
    stream.send_data("hello".into(), false).unwrap();
    let said = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("there"))]);
    stream.send_trailers(said.clone()).unwrap();
    let mut body = answer.await.unwrap().into_body();
    assert_eq!(read(&mut body).await.unwrap(), b"hello");
    assert_eq!(body.trailers().await.unwrap(), Some(said));

    let (answer, _) = requests.send_request(request("/trailers"), true).unwrap();
    body = answer.await.unwrap().into_body();
    assert_eq!(read(&mut body).await.unwrap(), b"");
    assert_eq!(body.trailers().await.unwrap().unwrap()["etag"], "here");

    let (answer, _) = requests.send_request(request("/empty"), true).unwrap();
    assert!(answer.await.unwrap().into_body().is_end_stream());

    let (answer, _) = requests.send_request(request("/17"), true).unwrap();
    assert_eq!(answer.await.unwrap().headers()["content-length"], "17");
    drop((requests, stream, body));
    ended.await.unwrap().unwrap();
}

/// More than there may be at once: the client waits for its turn.
#[tokio::test]
async fn many_streams_share_a_connection_and_its_window() {
    let (socket, ended, seen, _) = serve(&LIMITS);
    // All of them together have less room than one answer takes.
    let requests = connect_with(socket, client::Builder::new().initial_connection_window_size(70_000)).await;
    let mut all = Vec::new();
    for _ in 0..200 {
        let requests = requests.clone();
        all.push(tokio::spawn(async move {
            let mut requests = requests.ready().await.unwrap();
            let (answer, _) = requests.send_request(request("/100000"), true).unwrap();
            read(&mut answer.await.unwrap().into_body()).await.unwrap().len()
        }));
    }
    for one in all {
        assert_eq!(one.await.unwrap(), 100_000);
    }
    assert_eq!(seen.begun.load(Ordering::Relaxed), 200);
    drop(requests);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stream_that_nobody_reads_holds_up_no_other() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests =
        connect_with(socket, client::Builder::new().initial_connection_window_size(1 << 20)).await;
    let (unread, _) = requests.send_request(request("/endless"), true).unwrap();
    let unread = unread.await.unwrap();
    for _ in 0..50 {
        let (answer, _) = requests.send_request(request("/30000"), true).unwrap();
        assert_eq!(read(&mut answer.await.unwrap().into_body()).await.unwrap().len(), 30_000);
    }
    drop((unread, requests));
    let _ = ended.await.unwrap();
}

/// The reader of a request is the one who makes room for more of it.
#[tokio::test]
async fn a_request_that_nobody_reads_makes_no_room() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (unanswered, mut stream) = requests.send_request(request("/never"), false).unwrap();
    let bytes = vec![0; LIMITS.window_bytes as usize];
    send(&mut stream, &bytes, false).await;
    stream.reserve_capacity(1);
    let room = tokio::time::timeout(
        Duration::from_millis(200),
        std::future::poll_fn(|context| stream.poll_capacity(context)),
    );
    assert!(room.await.is_err(), "there is room beyond the window");
    // Given up, it is in nobody's way.
    stream.send_reset(h2::Reason::CANCEL);
    drop((unanswered, stream));
    let (answer, mut stream) = requests.send_request(request("/echo"), false).unwrap();
    send(&mut stream, &bytes, true).await;
    assert_eq!(read(&mut answer.await.unwrap().into_body()).await.unwrap().len(), bytes.len());
    drop((requests, stream));
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_answer_that_comes_before_its_request_is_whole_is_seen() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (answer, mut stream) = requests.send_request(request("/hasty"), false).unwrap();
    assert_eq!(read(&mut answer.await.unwrap().into_body()).await.unwrap(), b"done");
    let reset = std::future::poll_fn(|context| stream.poll_reset(context)).await.unwrap();
    assert_eq!(reset, h2::Reason::NO_ERROR);
    drop((requests, stream));
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_gives_a_request_up_ends_the_work_at_it() {
    let (socket, _ended, seen, _) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (answer, mut stream) = requests.send_request(request("/never"), true).unwrap();
    while seen.open.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    while seen.open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_goes_away_ends_all_work() {
    let (socket, ended, seen, _) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let answers: Vec<_> =
        (0..10).map(|_| requests.send_request(request("/never"), true).unwrap().0).collect();
    while seen.open.load(Ordering::Relaxed) < 10 {
        tokio::task::yield_now().await;
    }
    drop((answers, requests));
    let _ = ended.await.unwrap();
    while seen.open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn who_leaves_finishes_what_is_open_and_takes_nothing_new() {
    let (socket, ended, seen, leave) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (answer, mut stream) = requests.send_request(request("/echo"), false).unwrap();
    while seen.begun.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    leave.send(()).await.unwrap();
    // The client says no more requests once it was told, and until then they are answered.
    loop {
        let Ok(ready) = requests.clone().ready().await else { break };
        requests = ready;
        let Ok((answer, _)) = requests.send_request(request("/1"), true) else { break };
        if let Ok(answer) = answer.await {
            assert_eq!(read(&mut answer.into_body()).await.unwrap(), b"x");
        }
    }
    send(&mut stream, b"last", true).await;
    assert_eq!(read(&mut answer.await.unwrap().into_body()).await.unwrap(), b"last");
    ended.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_given_up_and_no_other() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests =
        connect_with(socket, client::Builder::new().initial_connection_window_size(1 << 20)).await;
    let (unread, _) = requests.send_request(request("/endless"), true).unwrap();
    let mut unread = unread.await.unwrap().into_body();
    let begun = Instant::now();
    let (slow, _) = requests.send_request(request("/400000"), true).unwrap();
    let mut slow = slow.await.unwrap().into_body();
    let mut read = 0;
    while let Some(chunk) = slow.data().await {
        // Not quick, but some of it each time.
        read += chunk.as_ref().unwrap().len();
        tokio::time::sleep(Duration::from_secs(2)).await;
        slow.flow_control().release_capacity(chunk.unwrap().len()).unwrap();
    }
    assert_eq!(read, 400_000);
    assert!(begun.elapsed() > LIMITS.unread, "it was not slow");
    let error = loop {
        if let Err(error) = unread.data().await.expect("it has no end") {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    drop((requests, slow, unread));
    let _ = ended.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_quiet_client_that_lives_is_kept() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    let (answer, _) = requests.send_request(request("/1"), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    drop(requests);
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_header_that_is_too_large_is_answered_as_that() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    for size in [1000, 5_000, 30_000] {
        let mut request = request("/1");
        request.headers_mut().insert("a", HeaderValue::from_str(&"x".repeat(size)).unwrap());
        let (answer, _) = requests.send_request(request, true).unwrap();
        let status = answer.await.unwrap().status();
        assert_eq!(status, if size == 1000 { 200 } else { 431 }, "{size} bytes");
    }
    drop(requests);
    ended.await.unwrap().unwrap();
}

/// If a bell that is rung while the connection is at work, goes to rest or is woken were not heard, this would not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_that_is_said_while_the_connection_is_at_work() {
    const STREAMS: usize = 12;
    const MESSAGES: usize = 3_000;
    let (socket, ended, ..) = serve(&LIMITS);
    let requests = connect(socket).await;
    let mut all = tokio::task::JoinSet::new();
    for number in 0..STREAMS {
        let requests = requests.clone();
        all.spawn(async move {
            let mut requests = requests.ready().await.unwrap();
            let (answer, mut stream) = requests.send_request(request("/pipe"), false).unwrap();
            let mut body = answer.await.unwrap().into_body();
            let mut heard = 0;
            for message in 0..MESSAGES {
                let bytes = vec![0; 1 + (message + number) % 50];
                stream.send_data(bytes.clone().into(), false).unwrap();
                let mut left = bytes.len();
                // Each message is waited for: one that is not woken for it never gets it.
                while left > 0 {
                    let chunk = body.data().await.unwrap().unwrap();
                    body.flow_control().release_capacity(chunk.len()).unwrap();
                    left -= chunk.len();
                }
                heard += 1;
            }
            stream.send_data(Bytes::new(), true).unwrap();
            assert!(body.data().await.is_none_or(|chunk| chunk.unwrap().is_empty()));
            heard
        });
    }
    assert_eq!(all.join_all().await, [MESSAGES; STREAMS]);
    drop(requests);
    ended.await.unwrap().unwrap();
}

/// Neither the stream nor the connection has room.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_read_is_given_up_also_where_it_takes_all_of_the_connection() {
    let (socket, ended, ..) = serve(&LIMITS);
    let mut requests = connect(socket).await;
    let (unread, _) = requests.send_request(request("/endless"), true).unwrap();
    let mut unread = unread.await.unwrap().into_body();
    tokio::time::sleep(LIMITS.unread + Duration::from_secs(1)).await;
    let error = loop {
        if let Err(error) = unread.data().await.expect("it has no end") {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    drop((requests, unread));
    let _ = ended.await.unwrap();
}
