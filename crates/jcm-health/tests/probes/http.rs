//! What counts as an answer of HTTP/1 and what as a failure.

use super::*;

#[tokio::test]
async fn any_correct_http_1_answer_counts() {
    for (ends_by_itself, answer) in [
        (true, OK),
        (false, "HTTP/1.0 200 OK\r\n\r\nuntil the end"),
        (false, "HTTP/1.1 200\r\n\r\n"),
        (true, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
        (true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (
            true,
            "HTTP/1.1 100\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
        (true, "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
    ] {
        for fresh in [false, true] {
            let check = Check { fresh, ..http() };
            let closing = Node::answering_once(answer).await;
            assert_eq!(
                outcomes(closing.address, &check, 2).await,
                [Outcome::Answered(200); 2],
                "{answer:?} fresh {fresh}"
            );
            if ends_by_itself {
                let keeping = Node::answering(answer).await;
                assert_eq!(
                    outcomes(keeping.address, &check, 2).await,
                    [Outcome::Answered(200); 2],
                    "{answer:?} fresh {fresh}"
                );
            }
        }
    }
    for status in ["204 No Content", "299"] {
        let node = Node::answering(format!("HTTP/1.1 {status}\r\n\r\n")).await;
        assert!(outcome(node.address, &http()).await.is_success(), "{status}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_in_single_bytes_is_the_same_answer() {
    let node = Node::start(|mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            for byte in
                "HTTP/1.1 100\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
                    .bytes()
            {
                stream.write_all(&[byte]).await.ok();
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    assert_eq!(outcomes(node.address, &http(), 3).await, [Outcome::Answered(200); 3]);
    assert_eq!(node.connections(), 1, "the end of the body was found");
}

#[tokio::test]
async fn the_node_sees_a_plain_request_without_anything_a_user_chose_but_the_path() {
    let (sender, mut requests) = mpsc::channel(8);
    let node = Node::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                sender.send(request).await.ok();
                stream.write_all(OK.as_bytes()).await.ok();
            }
        }
    })
    .await;
    for (fresh, connection) in [(false, "keep-alive"), (true, "close")] {
        outcome(node.address, &Check { fresh, ..http() }).await;
        let expected = format!(
            "GET /status HTTP/1.1\r\nHost: {}\r\nUser-Agent: jcm/{}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n",
            node.address,
            env!("CARGO_PKG_VERSION"),
        );
        assert_eq!(timeout(DEADLINE, requests.recv()).await.unwrap().unwrap(), expected);
    }
}

#[tokio::test]
async fn an_unexpected_status_fails_and_an_expected_one_passes() {
    let node = Node::answering("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n").await;
    let failed = outcome(node.address, &http()).await;
    assert_eq!(failed, Outcome::UnexpectedStatus(500));
    assert!(failed.reached() && !failed.is_success());
    let lenient = Check { expect: Expect::parse("200,500-503").unwrap(), ..http() };
    assert_eq!(outcome(node.address, &lenient).await, Outcome::Answered(500));
}

#[tokio::test]
async fn a_redirect_is_a_status_and_is_never_followed() {
    let elsewhere = Node::answering(OK).await;
    let answer =
        format!("HTTP/1.1 302 Found\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n", elsewhere.address);
    let node = Node::answering(answer).await;
    assert_eq!(outcomes(node.address, &http(), 3).await, [Outcome::UnexpectedStatus(302); 3]);
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn one_byte_at_a_time_does_not_stretch_the_deadline() {
    let node = Node::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        for byte in OK.bytes() {
            sleep(Duration::from_millis(50)).await;
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
        }
    })
    .await;
    assert_eq!(outcome(node.address, &impatient()).await, Outcome::TimedOut(Phase::Reading));
}

#[tokio::test]
async fn silence_times_out_and_says_where() {
    let hung = Node::start(|mut stream, _| async move { wait_for_end(&mut stream).await }).await;
    assert_eq!(outcome(hung.address, &impatient()).await, Outcome::TimedOut(Phase::Waiting));
    assert_eq!(outcome(hung.address, &tcp()).await, Outcome::Connected, "a TCP check asks for no more");
    let swallowing = Swallowing::start().await;
    assert_eq!(outcome(swallowing.address, &impatient()).await, Outcome::TimedOut(Phase::Connecting));
    assert_eq!(
        outcome(swallowing.address, &Check { kind: CheckKind::Tcp, ..impatient() }).await,
        Outcome::TimedOut(Phase::Connecting)
    );
}

#[tokio::test]
async fn what_is_not_http_is_named_without_waiting_for_more() {
    // The node says its piece and then nothing: the outcome must not be a timeout.
    for (said, what) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", Malformed::StatusLine),
        ("HTTP/1.1 200 OK\r\nno colon here\r\n", Malformed::Header),
        ("HTTP/3.0 200 OK\r\n", Malformed::StatusLine),
    ] {
        let node = Node::answering(said).await;
        assert_eq!(outcome(node.address, &http()).await, Outcome::NotHttp(what), "{said:?}");
    }
}

/// A node that writes `start` and then `more` without end, and tells whether the checker hung up on it.
async fn endless(start: &'static str, more: &'static str) -> (Node, mpsc::Receiver<()>) {
    let (hung_up, seen) = mpsc::channel(64);
    let node = Node::start(move |mut stream, _| {
        let hung_up = hung_up.clone();
        async move {
            read_request(&mut stream).await;
            let mut written = stream.write_all(start.as_bytes()).await;
            while written.is_ok() {
                written = stream.write_all(more.as_bytes()).await;
            }
            hung_up.try_send(()).ok();
        }
    })
    .await;
    (node, seen)
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    let (node, mut hung_up) = endless("HTTP/1.1 200 OK\r\n", "X-Padding: 0123456789\r\n").await;
    assert_eq!(outcome(node.address, &http()).await, Outcome::HeadTooLarge);
    timeout(DEADLINE, hung_up.recv()).await.expect("the checker hung up");
}

#[tokio::test]
async fn an_endless_or_huge_body_is_judged_by_its_head_and_cut_off() {
    for start in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nContent-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFF\r\n",
    ] {
        for fresh in [false, true] {
            let (node, mut hung_up) = endless(start, "0123456789abcdef").await;
            let check = Check { fresh, ..http() };
            assert_eq!(outcomes(node.address, &check, 2).await, [Outcome::Answered(200); 2], "{start:?}");
            timeout(DEADLINE, hung_up.recv()).await.expect("the checker hung up");
            assert_eq!(node.connections(), 2, "such a connection is of no more use");
        }
    }
}

#[tokio::test]
async fn a_short_body_that_does_not_come_is_no_answer() {
    for start in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
    ] {
        let node = Node::answering(start).await;
        let cut = Outcome::TimedOut(Phase::Reading);
        assert_eq!(outcomes(node.address, &impatient(), 2).await, [cut; 2], "{start:?}");
    }
}

#[tokio::test]
async fn a_body_without_an_announced_end_is_not_waited_for() {
    let node = Node::answering("HTTP/1.0 200 OK\r\n\r\nonly this").await;
    assert_eq!(outcomes(node.address, &impatient(), 2).await, [Outcome::Answered(200); 2]);
    assert!(node.connections() >= 2);
}

#[tokio::test]
async fn a_text_in_the_body_decides() {
    let wanting = Check { body_contains: Some("all is well".into()), ..http() };
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nall is well", Outcome::Answered(200)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nall is ill", Outcome::TextMissing(200)),
        ("HTTP/1.1 500 No\r\nContent-Length: 11\r\n\r\nall is well", Outcome::UnexpectedStatus(500)),
    ] {
        let node = Node::answering(answer).await;
        assert_eq!(outcomes(node.address, &wanting, 3).await, [expected; 3], "{answer:?}");
        assert_eq!(node.connections(), 1, "the end of the body was found");
    }
    let closing = Node::answering_once("HTTP/1.0 200 OK\r\n\r\nall is ill").await;
    assert_eq!(outcome(closing.address, &wanting).await, Outcome::TextMissing(200));
    let endless = Node::answering("HTTP/1.0 200 OK\r\n\r\nall is").await;
    let impatient = Check { body_contains: wanting.body_contains.clone(), ..impatient() };
    assert_eq!(outcome(endless.address, &impatient).await, Outcome::TimedOut(Phase::Reading));
}

#[tokio::test]
async fn a_text_that_stands_beyond_what_is_read_is_not_found() {
    let (node, mut hung_up) = endless("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef").await;
    let wanting = Check { body_contains: Some("g".into()), ..http() };
    assert_eq!(outcome(node.address, &wanting).await, Outcome::TextMissing(200));
    timeout(DEADLINE, hung_up.recv()).await.expect("the checker hung up");
}

#[tokio::test]
async fn a_report_says_how_the_time_was_spent() {
    let node = Node::answering(OK).await;
    let seen = reports(Trust::default(), node.address, &http(), 2).await;
    let (first, second) = (seen[0].phases, seen[1].phases);
    assert!(first.connected <= first.answering && first.answering <= Some(seen[0].latency), "{seen:?}");
    assert!(first.connected.is_some() && first.secured.is_none());
    assert!(second.connected.is_none() && second.answering.is_some(), "the connection was kept");
}
