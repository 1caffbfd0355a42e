//! The engine against nodes that answer in every dialect and misbehave in every way, over real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod connections;
mod grpc;
mod http;
mod https;
mod node;
mod once;
mod targets;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jcm_health::engine::{REPORT_QUEUE_MAX, reports};
use jcm_health::{
    Engine, Malformed, NotProbed, OnceProber, Options, Outcome, Phase, Probed, ReactorEngine, Report,
    Reports, Target, TargetKey, Trust,
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
    reports: Reports,
}

impl Checker {
    fn start() -> Self {
        Self::with(anywhere(), REPORT_QUEUE_MAX)
    }

    fn with(policy: TargetPolicy, queue_max: usize) -> Self {
        Self::believing(Trust::default(), policy, queue_max)
    }

    fn believing(trust: Trust, policy: TargetPolicy, queue_max: usize) -> Self {
        let (sender, reports) = reports::channel(queue_max);
        let options = Options { threads: 1, kept_max: 100, trust };
        let engine = ReactorEngine::start(&Arc::new(policy), &sender, options).unwrap();
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
    reports(Trust::default(), address, check, count).await.iter().map(|report| report.outcome).collect()
}

/// The first `count` reports of a target, by a checker that believes these authorities.
async fn reports(trust: Trust, address: SocketAddr, check: &Check, count: usize) -> Vec<Report> {
    let mut checker = Checker::believing(trust, anywhere(), REPORT_QUEUE_MAX);
    checker.set(1, 1, address, check);
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(checker.next().await);
    }
    checker.stop().await;
    seen
}

async fn outcome(address: SocketAddr, check: &Check) -> Outcome {
    outcomes(address, check, 1).await[0]
}

fn anywhere() -> TargetPolicy {
    TargetPolicy { loopback_allowed: true, own: Vec::new() }
}
