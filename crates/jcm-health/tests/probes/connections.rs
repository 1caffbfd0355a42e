//! When connections are opened, kept, tried again and given up.

use super::*;

#[tokio::test]
async fn a_port_where_nobody_listens_refuses() {
    let (_taken, address) = refusing();
    assert_eq!(outcome(address, &http()).await, Outcome::Refused);
    assert_eq!(outcome(address, &tcp()).await, Outcome::Refused);
}

#[tokio::test]
async fn a_connection_that_ends_early_is_told_from_one_that_is_reset() {
    let closing = Node::answering_once("").await;
    assert_eq!(outcome(closing.address, &http()).await, Outcome::Closed);
    let half = Node::answering_once("HTTP/1.1 200 OK\r\nContent-Le").await;
    assert_eq!(outcome(half.address, &http()).await, Outcome::Closed);
    let resetting = Node::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    assert_eq!(outcome(resetting.address, &http()).await, Outcome::Reset);
}

#[tokio::test]
async fn a_connection_is_kept_between_probes_unless_the_policy_wants_fresh_ones() {
    let node = Node::answering(OK).await;
    assert_eq!(outcomes(node.address, &http(), 5).await, [Outcome::Answered(200); 5]);
    assert_eq!(node.connections(), 1);
    let node = Node::answering(OK).await;
    assert_eq!(
        outcomes(node.address, &Check { fresh: true, ..http() }, 5).await,
        [Outcome::Answered(200); 5]
    );
    assert_eq!(node.connections(), 5);
    let node = Node::answering("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(outcomes(node.address, &http(), 3).await, [Outcome::Answered(200); 3]);
    assert_eq!(node.connections(), 3, "the node said that it closes");
}

#[tokio::test]
async fn a_kept_connection_that_ends_before_an_answer_is_tried_once_on_a_fresh_one() {
    for reset in [false, true] {
        // Each connection serves one request, looks idle, and ends when the second request arrives.
        let node = Node::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_request(&mut stream).await;
            if reset {
                stream.set_zero_linger().unwrap();
            }
        })
        .await;
        assert_eq!(outcomes(node.address, &http(), 4).await, [Outcome::Answered(200); 4], "reset {reset}");
        assert_eq!(node.connections(), 4);
    }
}

#[tokio::test]
async fn only_one_fresh_connection_is_tried_and_its_outcome_stands() {
    // The first connection serves one request; after that the node closes whatever comes.
    let node = Node::start(|mut stream, number| async move {
        read_request(&mut stream).await;
        if number == 1 {
            stream.write_all(OK.as_bytes()).await.unwrap();
            read_request(&mut stream).await;
        }
    })
    .await;
    assert_eq!(outcomes(node.address, &http(), 2).await, [Outcome::Answered(200), Outcome::Closed]);
    assert_eq!(node.connections(), 2);
}

#[tokio::test]
async fn a_kept_connection_that_ends_within_an_answer_fails_the_probe() {
    let node = Node::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 2").await.unwrap();
    })
    .await;
    assert_eq!(outcomes(node.address, &http(), 2).await, [Outcome::Answered(200), Outcome::Closed]);
}

#[tokio::test]
async fn bytes_that_nobody_asked_for_are_not_taken_for_the_next_answer() {
    let lie = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    // Behind the first answer at once, and a moment later on the idle connection.
    for delay in [Duration::ZERO, Duration::from_millis(1)] {
        let node = Node::start(move |mut stream, number| async move {
            read_request(&mut stream).await;
            let status = if number == 1 { "200 OK" } else { "500 Truth" };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            if delay.is_zero() {
                stream.write_all(format!("{answer}{lie}").as_bytes()).await.ok();
            } else {
                stream.write_all(answer.as_bytes()).await.ok();
                sleep(delay).await;
                stream.write_all(lie.as_bytes()).await.ok();
            }
            wait_for_end(&mut stream).await;
        })
        .await;
        let seen = outcomes(node.address, &Check { interval: Duration::from_millis(200), ..http() }, 2).await;
        assert_eq!(seen, [Outcome::Answered(200), Outcome::UnexpectedStatus(500)], "delay {delay:?}");
        assert_eq!(node.connections(), 2);
    }
}

#[tokio::test]
async fn a_tcp_check_says_nothing_and_closes_with_a_reset_that_leaves_no_trace() {
    let (sender, mut heard) = mpsc::channel(8);
    let node = Node::start(move |mut stream, _| {
        let sender = sender.clone();
        async move {
            let mut said = Vec::new();
            let end = stream.read_to_end(&mut said).await.map_err(|error| error.kind());
            sender.send((said, end)).await.ok();
        }
    })
    .await;
    assert_eq!(outcomes(node.address, &tcp(), 2).await, [Outcome::Connected; 2]);
    let (said, end) = timeout(DEADLINE, heard.recv()).await.unwrap().unwrap();
    assert_eq!((said, end), (Vec::new(), Err(std::io::ErrorKind::ConnectionReset)));
}

/// Sockets of connections that are over are connected to other nodes: nothing of what was before may show there.
#[tokio::test]
async fn what_one_node_left_behind_is_nothing_to_the_next() {
    const ROUNDS: usize = 300;
    let fresh = Check { fresh: true, ..http() };
    let well = Node::answering(OK).await;
    let failing = Node::answering("HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno").await;
    let chatty = Node::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        let page = format!("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n{}", "x".repeat(100_000));
        while stream.write_all(page.as_bytes()).await.is_ok() {}
    })
    .await;
    let resetting = Node::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.set_zero_linger().unwrap();
    })
    .await;
    let closing = Node::answering_once(OK).await;
    let (_taken, nobody) = refusing();
    let targets = [
        (well.address, &fresh, Outcome::Answered(200)),
        (failing.address, &fresh, Outcome::UnexpectedStatus(500)),
        (chatty.address, &fresh, Outcome::Answered(200)),
        (resetting.address, &fresh, Outcome::Reset),
        (closing.address, &fresh, Outcome::Answered(200)),
        (nobody, &fresh, Outcome::Refused),
        (well.address, &tcp(), Outcome::Connected),
    ];
    let mut checker = Checker::start();
    for (key, (address, check, _)) in (0..).zip(targets) {
        checker.set(key, 1, address, check);
    }
    for _ in 0..ROUNDS {
        let report = checker.next().await;
        let (address, _, expected) = targets[usize::try_from(report.key.0).unwrap()];
        assert_eq!(report.outcome, expected, "{address}");
    }
    checker.stop().await;
}
