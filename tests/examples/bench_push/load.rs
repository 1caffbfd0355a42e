//! One round: a reading process, the changes one after the other, and what the pushing process took meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::Fault;
use crate::contender::{Change, Contender, again, from_hex, hex, turned_at};
use crate::figures::Sample;
use crate::reader::{Plan, now};

const READY_DEADLINE: Duration = Duration::from_mins(2);
const EVENT_DEADLINE: Duration = Duration::from_mins(1);
/// For whatever is left to do after the last stream was told.
const AFTERMATH: Duration = Duration::from_millis(100);
/// How often it is looked what was spent, as long as it is not known when a verdict turns.
const GLANCE: Duration = Duration::from_millis(20);
/// Between two changes, and after the first views.
const SETTLE: Duration = Duration::from_millis(300);
/// Two pauses between heartbeats.
const IDLE: Duration = Duration::from_secs(3);

pub(crate) struct Load {
    child: Child,
    /// Dropped, the reader ends.
    _stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    streams: usize,
    pub(crate) last_event: Vec<u8>,
}

impl Load {
    /// Every stream has its first view.
    pub(crate) async fn start(plan: &Plan) -> Result<Self, Fault> {
        let words = plan.to_words();
        let mut child = again(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = (stdin.expect("it is piped"), stdout.expect("it is piped"));
        let (sender, lines) = mpsc::channel(64);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let streams = plan.connections * plan.streams;
        let mut load = Self { child, _stdin: stdin, lines, streams, last_event: Vec::new() };
        let ready = load.line(READY_DEADLINE).await?;
        if ready.contains("ready_ms") { Ok(load) } else { Err(format!("the reader said {ready}").into()) }
    }

    async fn line(&mut self, deadline: Duration) -> Result<String, Fault> {
        let line = tokio::time::timeout(deadline, self.lines.recv()).await;
        line.map_err(|_| format!("nothing reached every stream within {deadline:?}"))?
            .ok_or_else(|| "the reader ended".into())
    }

    /// Microseconds of CPU time for each stream and second in which nothing happens.
    pub(crate) async fn idle(&self, pid: u32) -> Result<f64, Fault> {
        tokio::time::sleep(SETTLE).await;
        let (begun, before) = (Instant::now(), cpu(pid)?);
        tokio::time::sleep(IDLE).await;
        let share = cpu(pid)?.saturating_sub(before).as_secs_f64() / begun.elapsed().as_secs_f64();
        Ok(share * 1e6 / self.streams as f64)
    }

    /// So many changes, each after the last one has reached every stream. Every change counts from its begin, a verdict from
    /// when it turned, until a while after its last stream was told: what a server says before that, because nothing happens yet,
    /// is no part of it.
    pub(crate) async fn changes(
        &mut self,
        contender: &mut Contender,
        change: Change,
        count: usize,
    ) -> Result<Sample, Fault> {
        let (mut last_ms, mut median_ms, mut bytes, mut used) = (Vec::new(), Vec::new(), 0, Duration::ZERO);
        for _ in 0..count {
            let mut spent = vec![(now(), cpu(contender.pid())?)];
            let at = contender.push(change).await;
            let line = {
                let line = self.line(EVENT_DEADLINE);
                tokio::pin!(line);
                loop {
                    tokio::select! {
                        line = &mut line => break line?,
                        () = tokio::time::sleep(GLANCE) => spent.push((now(), cpu(contender.pid())?)),
                    }
                }
            };
            let line: Value = serde_json::from_str(&line)?;
            tokio::time::sleep(AFTERMATH).await;
            let after = cpu(contender.pid())?;
            let number = |field: &str| line[field].as_u64().ok_or("a number");
            self.last_event = from_hex(line["first"].as_str().ok_or("an event")?);
            let at = at.or_else(|| turned_at(&self.last_event));
            let at = at.ok_or("the event says when its verdict turned")?;
            let before = spent.iter().rev().find(|(when, _)| *when <= at).unwrap_or(&spent[0]).1;
            used += after.saturating_sub(before);
            last_ms.push(millis(at, number("last")?));
            median_ms.push(millis(at, number("median")?));
            bytes += number("bytes")?;
            tokio::time::sleep(SETTLE).await;
        }
        let events = (count * self.streams) as f64;
        Ok(Sample {
            cpu_micros_an_event: used.as_secs_f64() * 1e6 / events,
            bytes_an_event: bytes as f64 / events,
            last_ms,
            median_ms,
            idle_micros_a_stream_second: 0.0,
            memory_a_stream: 0.0,
        })
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Plan {
    fn to_words(&self) -> Vec<String> {
        let mut words = vec![
            "read".to_owned(),
            self.address.to_string(),
            self.connections.to_string(),
            self.streams.to_string(),
            self.ready.to_string(),
            self.event.to_string(),
            self.opening.to_string(),
            self.path.clone(),
        ];
        words.extend(self.requests.iter().map(|request| hex(request)));
        words
    }

    pub(crate) fn parse(words: &[&str]) -> Option<Self> {
        let [address, connections, streams, ready, event, opening, path, requests @ ..] = words else {
            return None;
        };
        Some(Self {
            address: address.parse().ok()?,
            connections: connections.parse().ok()?,
            streams: streams.parse().ok()?,
            ready: ready.parse().ok()?,
            event: event.parse().ok()?,
            opening: opening.parse().ok()?,
            path: (*path).to_owned(),
            requests: requests.iter().map(|request| from_hex(request)).collect(),
        })
    }
}

fn millis(from: u64, to: u64) -> f64 {
    (to as f64 - from as f64) / 1e6
}

/// User and system time of all threads of a process.
fn cpu(pid: u32) -> Result<Duration, Fault> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next().ok_or("schedstat without a number")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory of a process.
pub(crate) fn memory_bytes(pid: u32) -> Result<u64, Fault> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("a process without memory")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}
