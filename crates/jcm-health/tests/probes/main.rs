//! The engine against nodes that answer in every dialect and misbehave in every way, over real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod node;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jcm_health::engine::REPORT_QUEUE_MAX;
use jcm_health::{
    Engine, Malformed, NotProbed, OnceProber, Options, Outcome, Phase, Probed, ReactorEngine, Report, Target,
    TargetKey,
};
use jcm_model::{Check, CheckKind, CheckSpec, TargetPolicy, check::Expect};
use node::{Node, Swallowing, read_request, refusing, wait_for_end};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A policy under which nothing times out, nor is thrown away as late, for want of a processor on a busy machine.
fn http() -> Check {
    Check {
        kind: CheckKind::Http,
        path: "/status".into(),
        interval: Duration::from_millis(40),
        timeout: Duration::from_secs(5),
        ..CheckSpec::default().effective()
    }
}

fn tcp() -> Check {
    Check { kind: CheckKind::Tcp, ..http() }
}

/// The same for nodes that make it wait.
fn impatient() -> Check {
    Check { timeout: Duration::from_millis(400), ..http() }
}

struct Checker {
    engine: ReactorEngine,
    reports: mpsc::Receiver<Report>,
}

impl Checker {
    fn start() -> Self {
        Self::with(anywhere(), REPORT_QUEUE_MAX)
    }

    fn with(policy: TargetPolicy, queue_max: usize) -> Self {
        let (sender, reports) = mpsc::channel(queue_max);
        let engine =
            ReactorEngine::start(&Arc::new(policy), &sender, Options { threads: 1, kept_max: 100 }).unwrap();
        Self { engine, reports }
    }

    fn set(&self, key: u64, generation: u64, address: SocketAddr, check: &Check) {
        self.engine.set(Target { key: TargetKey(key), address, check: Arc::new(check.clone()), generation });
    }

    async fn stop(&self) {
        timeout(DEADLINE, self.engine.shutdown()).await.expect("every task ended");
    }

    /// Waits until the engine has so many targets: it takes orders as they come.
    async fn targets(&self, count: usize) {
        let has = async {
            while self.engine.stats().targets != count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DEADLINE, has).await.expect("the engine takes orders");
    }

    async fn next(&mut self) -> Report {
        timeout(DEADLINE, self.reports.recv()).await.expect("a report in time").expect("the engine lives")
    }
}

/// The first `count` outcomes of a target.
async fn outcomes(address: SocketAddr, check: &Check, count: usize) -> Vec<Outcome> {
    let mut checker = Checker::start();
    checker.set(1, 1, address, check);
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(checker.next().await.outcome);
    }
    checker.stop().await;
    seen
}

async fn outcome(address: SocketAddr, check: &Check) -> Outcome {
    outcomes(address, check, 1).await[0]
}

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

#[tokio::test]
async fn the_target_policy_is_asked_again_at_connect() {
    let node = Node::answering(OK).await;
    for policy in [
        TargetPolicy { loopback_allowed: false, own: Vec::new() },
        TargetPolicy { loopback_allowed: true, own: vec![node.address] },
    ] {
        for check in [http(), tcp()] {
            let mut checker = Checker::with(policy.clone(), 16);
            checker.set(1, 1, node.address, &check);
            assert_eq!(checker.next().await.outcome, Outcome::Forbidden);
            checker.stop().await;
        }
    }
    assert_eq!(node.connections(), 0);
}

#[tokio::test]
async fn reports_carry_the_generation_of_what_was_probed() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    checker.set(7, 1, node.address, &http());
    assert_eq!(checker.next().await.generation, 1);
    checker.set(7, 2, node.address, &http());
    while checker.next().await.generation != 2 {}
    for _ in 0..10 {
        let report = checker.next().await;
        assert_eq!((report.key, report.generation), (TargetKey(7), 2));
        assert!(report.latency <= http().timeout * 2);
    }
    checker.stop().await;
}

#[tokio::test]
async fn a_target_that_is_set_again_and_again_is_still_probed() {
    let slow = Node::start(|mut stream, _| async move {
        while read_request(&mut stream).await.is_some() {
            sleep(Duration::from_millis(30)).await;
            stream.write_all(OK.as_bytes()).await.ok();
        }
    })
    .await;
    let mut checker = Checker::start();
    let setting_until_reported = async {
        while checker.reports.try_recv().is_err() {
            checker.engine.set(Target {
                key: TargetKey(1),
                address: slow.address,
                check: Arc::new(http()),
                generation: 1,
            });
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, setting_until_reported).await.expect("the same setting starts nothing anew");
    checker.stop().await;
}

#[tokio::test]
async fn a_removed_target_is_not_probed_any_more() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    checker.set(1, 1, node.address, &http());
    checker.set(2, 1, node.address, &http());
    checker.next().await;
    checker.targets(2).await;
    checker.engine.remove(TargetKey(1));
    checker.engine.remove(TargetKey(3));
    checker.targets(1).await;
    // What was on its way may arrive; after a report of the other target, that is over.
    while checker.next().await.key != TargetKey(2) {}
    for _ in 0..10 {
        assert_eq!(checker.next().await.key, TargetKey(2));
    }
    // A kind that nobody probes is no target either.
    checker.set(2, 2, node.address, &Check { kind: CheckKind::None, ..http() });
    checker.targets(0).await;
    checker.stop().await;
}

#[tokio::test]
async fn after_shutdown_nothing_is_probed_and_the_channel_ends() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::start();
    for key in 0..50 {
        checker.set(key, 1, node.address, &http());
    }
    checker.next().await;
    checker.stop().await;
    checker.set(99, 1, node.address, &http());
    assert_eq!(checker.engine.stats().targets, 0);
    drop(checker.engine);
    let drained = async { while checker.reports.recv().await.is_some() {} };
    timeout(DEADLINE, drained).await.expect("every task let go of the channel");
}

#[tokio::test]
async fn no_probe_begins_while_nobody_takes_the_reports() {
    let node = Node::answering(OK).await;
    let mut checker = Checker::with(anywhere(), 1);
    for key in 0..3 {
        checker.set(key, 1, node.address, &http());
    }
    // One report fits the channel; the next one stops all but what is under way.
    let all_wait = async {
        while checker.engine.stats().rounds < 2 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, all_wait).await.expect("two rounds");
    sleep(http().interval * 10).await;
    assert!(checker.engine.stats().rounds <= 4, "{:?}", checker.engine.stats());
    for _ in 0..10 {
        assert!(checker.next().await.outcome.is_success());
    }
    checker.stop().await;
}

/// A prober for one probe apart from any round.
fn prober(policy: TargetPolicy, at_once_max: usize) -> (OnceProber, mpsc::Receiver<Report>) {
    let (sender, reports) = mpsc::channel(1);
    let engine =
        ReactorEngine::start(&Arc::new(policy), &sender, Options { threads: 1, kept_max: 100 }).unwrap();
    (OnceProber::new(Arc::new(engine), at_once_max), reports)
}

fn anywhere() -> TargetPolicy {
    TargetPolicy { loopback_allowed: true, own: Vec::new() }
}

/// One probe apart from any engine, as a peer is asked for it.
async fn once(address: SocketAddr, check: &Check, within: Duration) -> Result<Outcome, NotProbed> {
    let (prober, _reports) = prober(anywhere(), 4);
    let probed = timeout(DEADLINE, prober.probe(address, &Arc::new(check.clone()), within)).await;
    probed.expect("a probe has a deadline").map(|Probed { outcome, .. }| outcome)
}

#[tokio::test]
async fn one_probe_tells_what_the_engine_would() {
    let well = Node::answering(OK).await;
    let ill = Node::answering("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n").await;
    let silent = Swallowing::start().await;
    let (_taken, dead) = refusing();
    let enough = Duration::from_secs(10);
    assert_eq!(once(well.address, &http(), enough).await, Ok(Outcome::Answered(200)));
    assert_eq!(once(well.address, &tcp(), enough).await, Ok(Outcome::Connected));
    assert_eq!(once(ill.address, &http(), enough).await, Ok(Outcome::UnexpectedStatus(500)));
    assert_eq!(once(dead, &http(), enough).await, Ok(Outcome::Refused));
    assert_eq!(once(silent.address, &impatient(), enough).await, Ok(Outcome::TimedOut(Phase::Connecting)));
    let nothing = Check { kind: CheckKind::Grpc, ..http() };
    assert_eq!(once(well.address, &nothing, enough).await, Err(NotProbed::Kind(CheckKind::Grpc)));
}

#[tokio::test]
async fn one_probe_whose_time_is_cut_short_is_no_result() {
    let silent = Swallowing::start().await;
    let cut = once(silent.address, &http(), Duration::from_millis(50)).await;
    assert_eq!(cut, Err(NotProbed::CutShort));
}

#[tokio::test]
async fn one_probe_goes_nowhere_the_policy_forbids() {
    let well = Node::answering(OK).await;
    let policy = TargetPolicy { loopback_allowed: true, own: vec![well.address] };
    let (prober, _reports) = prober(policy, 4);
    let probed = prober.probe(well.address, &Arc::new(http()), DEADLINE).await.unwrap();
    assert_eq!((probed.outcome, well.connections()), (Outcome::Forbidden, 0));
}

#[tokio::test]
async fn probes_beyond_the_bound_wait_only_while_they_can_still_end_in_time() {
    let silent = Swallowing::start().await;
    let (prober, _reports) = prober(anywhere(), 1);
    let check = Arc::new(impatient());
    let first = prober.probe(silent.address, &check, Duration::from_secs(10));
    let no_time = prober.probe(silent.address, &check, check.timeout + Duration::from_millis(20));
    let has_time = prober.probe(silent.address, &check, Duration::from_secs(10));
    let (first, no_time, has_time) = tokio::join!(first, no_time, has_time);
    let timed_out = Outcome::TimedOut(Phase::Connecting);
    assert_eq!(first.map(|probed| probed.outcome), Ok(timed_out));
    assert_eq!(no_time, Err(NotProbed::Busy));
    assert_eq!(has_time.map(|probed| probed.outcome), Ok(timed_out));
}
