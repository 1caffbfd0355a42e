//! A reactor that stands still, against nodes that are well all the time.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{Check, CheckKind, CheckSpec, TargetPolicy};
use tokio::time::timeout;

use super::{Options, ReactorEngine};
use crate::engine::reports::{self, Reports};
use crate::engine::{Engine, REPORT_QUEUE_MAX, Report, Target, TargetKey};
use crate::outcome::Outcome;
use crate::{NotProbed, OnceProber, Trust};

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(20);

fn check() -> Check {
    Check {
        kind: CheckKind::Http,
        interval: Duration::from_millis(40),
        timeout: Duration::from_millis(500),
        ..CheckSpec::default().effective()
    }
}

fn start() -> (ReactorEngine, Reports) {
    let (sender, reports) = reports::channel(REPORT_QUEUE_MAX);
    let policy = Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() });
    (
        ReactorEngine::start(
            &policy,
            &sender,
            Options { threads: 1, kept_max: 100, trust: Trust::default() },
        )
        .unwrap(),
        reports,
    )
}

/// A node that takes its time, so that probes are under way most of the time.
fn healthy_node() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // A request is small and comes in one piece.
                while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                    std::thread::sleep(Duration::from_millis(60));
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// A port where nobody listens. It stays so while the socket lives.
fn dead_node() -> (std::net::TcpStream, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let address = stream.local_addr().unwrap();
    (stream, address)
}

#[tokio::test]
async fn a_starved_process_blames_no_node() {
    let address = healthy_node();
    let (_taken, dead) = dead_node();
    let (engine, mut reports) = start();
    for key in 0..20 {
        let check = Arc::new(Check { fresh: key % 2 == 0, ..check() });
        engine.set(Target { key: TargetKey(key), address, check, generation: 1 });
    }
    let mut judged = 0;
    for round in 1..=3 {
        // Time enough for probes to be under way, then the thread stands still for longer than any of them has.
        let well = engine.stats().rounds;
        while engine.stats().rounds < well + 40 {
            judged += healthy(&mut reports).await;
        }
        engine.stall(Duration::from_millis(900));
        while engine.stats().late_rounds < round {
            judged += healthy(&mut reports).await;
        }
    }
    assert!(judged > 100, "{judged}");
    // And it still tells the truth about one that is really dead.
    engine.set(Target { key: TargetKey(100), address: dead, check: Arc::new(check()), generation: 1 });
    loop {
        let report = next(&mut reports).await;
        if report.key == TargetKey(100) {
            assert_eq!(report.outcome, Outcome::Refused);
            break;
        }
    }
    engine.shutdown().await;
}

#[tokio::test]
async fn an_end_that_comes_together_with_the_last_bytes_is_not_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // The connection ends with the thread's hold on it, in the middle of the head.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Le");
        }
    });
    let (engine, mut reports) = start();
    let check = Arc::new(Check { timeout: Duration::from_secs(10), ..check() });
    for key in 0..10 {
        engine.set(Target { key: TargetKey(key), address, check: Arc::clone(&check), generation: 1 });
    }
    for _ in 0..40 {
        // While the thread stands still both arrive, and it is told of them in one go.
        engine.stall(Duration::from_millis(15));
        assert_eq!(next(&mut reports).await.outcome, Outcome::Closed);
    }
    engine.shutdown().await;
}

#[tokio::test]
async fn rounds_that_were_missed_are_not_made_up_for() {
    // A target that this engine may not touch: its outcome needs no network.
    let (engine, mut reports) = start();
    let forbidden = "169.254.0.1:80".parse().unwrap();
    let slow = Arc::new(Check { interval: Duration::from_millis(200), ..check() });
    for key in 0..10 {
        let check = Arc::clone(&slow);
        engine.set(Target { key: TargetKey(key), address: forbidden, check, generation: 1 });
    }
    for _ in 0..10 {
        assert_eq!(next(&mut reports).await.outcome, Outcome::Forbidden);
    }
    engine.stall(Duration::from_secs(2));
    while engine.stats().late_rounds < 10 {
        next(&mut reports).await;
    }
    let stats = engine.stats();
    assert_eq!(stats.late_rounds, 10, "one of each target, not ten");
    assert!(stats.skipped_rounds >= 50, "and the others are not lost in silence: {stats:?}");
    engine.shutdown().await;
}

#[tokio::test]
async fn an_engine_slower_than_its_schedule_counts_what_it_skips_and_is_overdue() {
    // A target that this engine may not touch: its outcome needs no network, so it is never under way for long.
    let (engine, mut reports) = start();
    let forbidden = "169.254.0.1:80".parse().unwrap();
    engine.set(Target { key: TargetKey(1), address: forbidden, check: Arc::new(check()), generation: 1 });
    next(&mut reports).await;
    // Never so late that a round is thrown away, and three intervals late all the same.
    while engine.stats().skipped_rounds < 10 {
        engine.stall(Duration::from_millis(150));
        next(&mut reports).await;
    }
    let stats = engine.stats();
    assert!(stats.overdue_rounds > 0, "{stats:?}");
    engine.shutdown().await;
}

#[tokio::test]
async fn one_probe_of_a_process_that_was_away_says_nothing() {
    let (engine, _reports) = start();
    let engine = Arc::new(engine);
    let prober = OnceProber::new(Arc::clone(&engine), 4);
    let address = healthy_node();
    let check = Arc::new(check());
    let probe = prober.probe(address, &check, DEADLINE);
    let stall = async { engine.stall(Duration::from_millis(900)) };
    // The probe is begun, then the thread stands still.
    assert_eq!(tokio::join!(biased; probe, stall).0, Err(NotProbed::Late));
    let again = prober.probe(address, &check, DEADLINE).await.unwrap();
    assert_eq!(again.outcome, Outcome::Answered(200));
    assert!(again.latency >= Duration::from_millis(60), "{again:?}");
    assert_eq!(engine.stats().rounds, 0, "it is no round of a target");
    engine.shutdown().await;
    assert_eq!(prober.probe(address, &check, DEADLINE).await, Err(NotProbed::Stopped));
}

async fn next(reports: &mut Reports) -> Report {
    timeout(DEADLINE, reports.recv()).await.expect("a report in time").expect("the engine lives")
}

/// Takes one report of a node that is well, and counts it.
async fn healthy(reports: &mut Reports) -> u32 {
    assert_eq!(next(reports).await.outcome, Outcome::Answered(200), "the node was well all the time");
    1
}
