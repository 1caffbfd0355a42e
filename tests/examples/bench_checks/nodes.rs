//! The nodes: a process of its own that answers, counts, and notes when each of its nodes was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};

use crate::contender::again;
use crate::figures::percentiles;
use crate::{Case, Way};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// Where connections are kept, each is a node; these are the addresses that they are made to. Where they are not, each
/// node has an address of its own, so that it can be told which of them is asked.
const ADDRESSES_KEPT: usize = 1_000;
/// Addresses of 127/8 over which the nodes are spread, each with ports of its own.
const HOSTS: usize = 50;

/// What the nodes saw since they were asked last.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) asked: usize,
    pub(crate) seconds: f64,
    /// By how much the time between two checks of a node is off a second: the median, 99 and 99.9 of a hundred, the worst.
    pub(crate) off_ms: [f64; 4],
}

/// The process with the nodes.
#[derive(Debug)]
pub(crate) struct Nodes {
    child: Child,
    output: BufReader<ChildStdout>,
    addresses: Vec<SocketAddr>,
}

impl Nodes {
    pub(crate) fn start(case: &Case) -> Self {
        let mut child = again()
            .args(["nodes", case.way.as_str(), &case.targets.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let listening: Vec<SocketAddr> =
            line.split_whitespace().map(|address| address.parse().unwrap()).collect();
        let addresses = listening.iter().copied().cycle().take(case.targets).collect();
        Self { child, output, addresses }
    }

    /// Where each target is.
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) fn ask(&mut self) -> Told {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What was seen since it was told last.
struct Seen {
    since: Instant,
    asked: usize,
    intervals: Vec<Duration>,
}

impl Seen {
    fn new() -> Self {
        Self { since: Instant::now(), asked: 0, intervals: Vec::new() }
    }

    fn note(&mut self, last: &mut Option<Instant>) {
        let now = Instant::now();
        self.asked += 1;
        if let Some(last) = last.replace(now) {
            self.intervals.push(now.duration_since(last));
        }
    }

    fn tell(&mut self) {
        let off = |interval: &Duration| interval.abs_diff(Duration::from_secs(1)).as_secs_f64() * 1_000.0;
        let told = Told {
            asked: self.asked,
            seconds: self.since.elapsed().as_secs_f64(),
            off_ms: percentiles(self.intervals.iter().map(off).collect()),
        };
        println!("{}", serde_json::to_string(&told).unwrap());
        *self = Self::new();
    }
}

/// Is the nodes.
pub(crate) fn serve(way: Way, targets: usize) {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1_024);
    let count = if way == Way::Kept { ADDRESSES_KEPT } else { targets };
    let mut listeners: Vec<TcpListener> = (0..count)
        .map(|n| TcpListener::bind(format!("127.0.7.{}:0", n % HOSTS + 1).parse().unwrap()).unwrap())
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
    let mut listened: Vec<Option<Instant>> = vec![None; count];
    let mut streams: HashMap<usize, (TcpStream, usize, Option<Instant>)> = HashMap::new();
    let (mut next, mut seen, mut buffer) = (count, Seen::new(), [0; 4096]);
    loop {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        for event in &events {
            let Token(id) = event.token();
            if id < count {
                while let Ok((mut stream, _)) = listeners[id].accept() {
                    if way == Way::Tcp {
                        seen.note(&mut listened[id]);
                        continue;
                    }
                    poll.registry().register(&mut stream, Token(next), Interest::READABLE).unwrap();
                    streams.insert(next, (stream, id, None));
                    next += 1;
                }
                continue;
            }
            let Some((stream, listener, last)) = streams.get_mut(&id) else { continue };
            if matches!(stream.read(&mut buffer), Ok(1..)) && stream.write(ANSWER).is_ok() {
                seen.note(if way == Way::Kept { last } else { &mut listened[*listener] });
            } else {
                streams.remove(&id);
            }
        }
        if questions.try_recv().is_ok() {
            seen.tell();
        }
    }
}
