//! What a check costs, beside a bare loop that does as little as can be done. Run by `scripts/bench checks`.
//!
//! The nodes are a process of their own, on fifty addresses of 127/8, and tell at which intervals they were asked. The
//! engine and the bare loop check as many of them, once a second, each in a process of its own, in turn; what counts is
//! the CPU time of the process (user and system) for each check, from the moment when all of them are under way.
//! Figures of one run compare with one another, and with nothing else.

#![expect(clippy::unwrap_used, reason = "a benchmark whose preparation fails has nothing to say")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_health::engine::REPORT_QUEUE_MAX;
use jcm_health::{Engine, Options, ReactorEngine, Target, TargetKey, Trust};
use jcm_model::{Check, CheckKind, CheckSpec, TargetPolicy};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde_json::{Value, json};

const ADDRESSES: usize = 50;
const TICK: Duration = Duration::from_millis(10);
const TICKS: usize = 100;
/// Until every target was checked twice.
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(6);
const ROUNDS: usize = 5;
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["nodes"] => nodes(),
        [role, count, fresh, ref addresses @ ..] => {
            let addresses: Vec<SocketAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            let (count, fresh) = (count.parse().unwrap(), fresh == "fresh");
            let figures = if role == "bare" {
                bare(count, fresh, &addresses)
            } else {
                engine(count, fresh, &addresses)
            };
            println!("{figures}");
        }
        [output] => compare(output),
        _ => eprintln!("usage: bench_checks OUTPUT.json"),
    }
}

fn compare(output: &str) {
    let mut cases = Vec::new();
    for (name, count, fresh) in
        [("keep-alive", 5_000, "kept"), ("keep-alive", 18_000, "kept"), ("fresh", 5_000, "fresh")]
    {
        let mut nodes = Nodes::start();
        let mut samples: HashMap<&str, Vec<Value>> = HashMap::new();
        for _ in 0..ROUNDS {
            for role in ["engine", "bare"] {
                samples.entry(role).or_default().push(nodes.check(role, count, fresh));
            }
        }
        let median = |role: &str, figure: &str| {
            let mut values: Vec<f64> =
                samples[role].iter().map(|sample| sample[figure].as_f64().unwrap()).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let (engine, bare) = (median("engine", "micros_a_check"), median("bare", "micros_a_check"));
        println!(
            "{name:<10} {count:>6} targets  engine {engine:6.2} µs  bare loop {bare:6.2} µs  ratio {:.2}  checks/s {:.0} and {:.0}  memory {:.1} and {:.1} MB  asked again after ms (median, p99, p99.9): engine {} bare {}",
            engine / bare,
            median("engine", "checks_a_second"),
            median("bare", "checks_a_second"),
            median("engine", "memory_mb"),
            median("bare", "memory_mb"),
            samples["engine"][0]["intervals_ms"],
            samples["bare"][0]["intervals_ms"],
        );
        cases.push(json!({ "what": name, "targets": count, "samples": samples, "ratio": engine / bare }));
    }
    std::fs::write(output, serde_json::to_vec_pretty(&cases).unwrap()).unwrap();
}

/// The process with the nodes.
struct Nodes {
    child: Child,
    addresses: Vec<String>,
}

impl Nodes {
    fn start() -> Self {
        let mut child = again().arg("nodes").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, addresses: line.split_whitespace().map(str::to_owned).collect() }
    }

    fn check(&mut self, role: &str, count: usize, fresh: &str) -> Value {
        let output = again().args([role, &count.to_string(), fresh]).args(&self.addresses).output().unwrap();
        assert!(output.status.success(), "{role}: {}", String::from_utf8_lossy(&output.stderr));
        let mut figures: Value = serde_json::from_slice(&output.stdout).unwrap();
        // What the nodes saw meanwhile.
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        figures["intervals_ms"] = serde_json::from_str(&line).unwrap();
        figures
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn again() -> Command {
    Command::new(std::env::current_exe().unwrap())
}

fn engine(count: usize, fresh: bool, addresses: &[SocketAddr]) -> Value {
    let (sender, mut reports) = tokio::sync::mpsc::channel(REPORT_QUEUE_MAX);
    let policy = Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() });
    let options = Options { threads: 1, kept_max: 20_000, trust: Trust::default() };
    let engine = ReactorEngine::start(&policy, &sender, options).unwrap();
    let check = Arc::new(Check { kind: CheckKind::Http, fresh, ..CheckSpec::default().effective() });
    for key in 0..count {
        engine.set(Target {
            key: TargetKey(key as u64),
            address: addresses[key % addresses.len()],
            check: Arc::clone(&check),
            generation: 1,
        });
    }
    let start = Instant::now();
    let mut measure = None;
    let mut checks = 0_u64;
    loop {
        let report = reports.blocking_recv().unwrap();
        assert!(report.outcome.is_success(), "{}", report.outcome);
        checks += 1;
        measure = turn(start, measure, &mut checks);
        if let Some((from, cpu)) = measure
            && from.elapsed() >= MEASURED
        {
            return figures(from, cpu, checks);
        }
    }
}

/// Begins to measure once all are under way.
fn turn(start: Instant, measure: Option<(Instant, u64)>, checks: &mut u64) -> Option<(Instant, u64)> {
    if measure.is_none() && start.elapsed() >= WARM_UP {
        *checks = 0;
        return Some((Instant::now(), cpu_micros()));
    }
    measure
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn figures(from: Instant, cpu: u64, checks: u64) -> Value {
    let (seconds, cpu) = (from.elapsed().as_secs_f64(), cpu_micros() - cpu);
    json!({
        "micros_a_check": cpu as f64 / checks as f64,
        "checks_a_second": checks as f64 / seconds,
        "memory_mb": memory_kb() as f64 / 1024.0,
    })
}

/// As little as can be done: in each tick a hundredth of the targets is asked, and every answer that is there is read.
fn bare(count: usize, fresh: bool, addresses: &[SocketAddr]) -> Value {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1_024);
    let mut streams: Vec<Option<TcpStream>> = (0..count).map(|_| None).collect();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: {}\r\n\r\n",
        addresses[0],
        if fresh { "close" } else { "keep-alive" }
    );
    let (start, mut measure, mut checks, mut tick) = (Instant::now(), None, 0, 0);
    let mut buffer = [0; 4096];
    loop {
        std::thread::sleep((start + TICK * tick).saturating_duration_since(Instant::now()));
        loop {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                let Token(id) = event.token();
                let Some(stream) = &mut streams[id] else { continue };
                match stream.read(&mut buffer) {
                    Ok(1..) => {
                        checks += 1;
                        if fresh {
                            streams[id] = None;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // Connected just now.
                        stream.write_all(request.as_bytes()).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
            if events.iter().count() < 1_024 {
                break;
            }
        }
        for id in (tick as usize % TICKS..count).step_by(TICKS) {
            if let Some(stream) = &mut streams[id] {
                // One that is not connected yet is left for the next round.
                let written = stream.write(request.as_bytes());
                assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
                continue;
            }
            let mut stream = TcpStream::connect(addresses[id % addresses.len()]).unwrap();
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
            poll.registry()
                .register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)
                .unwrap();
            streams[id] = Some(stream);
        }
        tick += 1;
        measure = turn(start, measure, &mut checks);
        if let Some((from, cpu)) = measure
            && from.elapsed() >= MEASURED
        {
            return figures(from, cpu, checks);
        }
    }
}

/// Answers, and notes when each connection (or, where each request has its own, each address) was asked.
fn nodes() {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1_024);
    let mut listeners: Vec<TcpListener> = (0..ADDRESSES)
        .map(|n| TcpListener::bind(format!("127.0.7.{}:0", n + 1).parse().unwrap()).unwrap())
        .collect();
    for (id, listener) in listeners.iter_mut().enumerate() {
        poll.registry().register(listener, Token(id), Interest::READABLE).unwrap();
        print!("{} ", listener.local_addr().unwrap());
    }
    println!();
    let (asked, questions) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines() {
            if line.is_err() || asked.send(()).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    let mut streams: HashMap<usize, (TcpStream, Option<Instant>)> = HashMap::new();
    let (mut next, mut intervals, mut buffer) = (ADDRESSES, Vec::new(), [0; 4096]);
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(50))).unwrap();
        for event in &events {
            let Token(id) = event.token();
            if id < ADDRESSES {
                while let Ok((mut stream, _)) = listeners[id].accept() {
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE).unwrap();
                    streams.insert(next, (stream, None));
                    next += 1;
                }
                continue;
            }
            let Some((stream, last)) = streams.get_mut(&id) else { continue };
            if matches!(stream.read(&mut buffer), Ok(1..)) && stream.write(ANSWER).is_ok() {
                let now = Instant::now();
                if let Some(last) = last.replace(now) {
                    intervals.push(now.duration_since(last));
                }
            } else {
                streams.remove(&id);
            }
        }
        if questions.try_recv().is_ok() {
            intervals.sort_unstable();
            let at = |share: usize| intervals.get(intervals.len() * share / 1000).map(Duration::as_millis);
            println!("{}", json!([at(500), at(990), at(999)]));
            intervals.clear();
        }
    }
}

/// User and system time of this process.
fn cpu_micros() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // The kernel counts in hundredths of a second for everybody, whatever its own clock is.
    ticks * 10_000
}

fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
