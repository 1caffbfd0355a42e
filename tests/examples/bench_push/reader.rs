//! The side that receives: many connections in one thread, a cheap reader that looks at the first byte of each message.
//!
//! A process of its own. It says a line of JSON when every stream has its first view, then a line of JSON for each event that
//! all streams have received; it ends when its standard input does.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde_json::json;

use crate::wire::{self, Frame, Frames, Messages};

const READ_BYTES: usize = 64 * 1024;
/// Connections that are made before those that stand are read again: a server pings them, and cuts who is silent for long.
const CONNECTS_A_TURN: usize = 100;

/// What is read, and how its messages are told apart by their first byte.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    /// Empty: nothing is asked, the server speaks by itself.
    pub(crate) path: String,
    /// Sent on every stream.
    pub(crate) requests: Vec<Vec<u8>>,
    pub(crate) ready: u8,
    pub(crate) event: u8,
    /// Streams that may be waiting for their first view at once.
    pub(crate) opening: usize,
}

struct Connection {
    socket: TcpStream,
    frames: Frames,
    streams: Vec<Stream>,
}

#[derive(Default)]
struct Stream {
    messages: Messages,
    is_ready: bool,
    events: usize,
}

/// One event, as far as streams have received it.
#[derive(Default)]
struct Arrivals {
    at: Vec<u64>,
    bytes: usize,
    first: Vec<u8>,
}

struct Reader {
    plan: Plan,
    poll: Poll,
    connections: Vec<Connection>,
    /// When each stream had its first view, in the order in which they came.
    ready: Vec<u64>,
    arrivals: Vec<Arrivals>,
}

pub(crate) fn run(plan: Plan) -> std::io::Result<()> {
    // Whoever started this process may be gone.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let poll = Poll::new()?;
    let mut reader = Reader { plan, poll, connections: Vec::new(), ready: Vec::new(), arrivals: Vec::new() };
    let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; READ_BYTES]);
    let total = reader.plan.connections * reader.plan.streams;
    let mut said_ready = false;
    let begun = now();
    loop {
        let pause = if reader.open_more()? { Duration::ZERO } else { Duration::from_secs(1) };
        if reader.ready.len() == total && !std::mem::replace(&mut said_ready, true) {
            let after = |at: usize| (reader.ready[at] - begun) / 1_000_000;
            println!(
                "{}",
                json!({ "ready_ms": after(total - 1), "ready_p99_ms": after((total - 1) * 99 / 100) })
            );
        }
        reader.poll.poll(&mut events, Some(pause))?;
        for event in &events {
            reader.read(event.token().0, &mut buffer)?;
        }
    }
}

impl Reader {
    /// Answers whether more are to be opened at once.
    fn open_more(&mut self) -> std::io::Result<bool> {
        let plan = self.plan.clone();
        let may_open = |reader: &Self| {
            reader.connections.len() < plan.connections
                && reader.connections.len() * plan.streams < reader.ready.len() + plan.opening
        };
        for _ in 0..CONNECTS_A_TURN {
            if !may_open(self) {
                return Ok(false);
            }
            // Blocking until it stands: then what is asked fits into its empty buffer.
            let mut socket = std::net::TcpStream::connect(plan.address)?;
            socket.set_nodelay(true)?;
            let mut bytes = Vec::new();
            if !plan.path.is_empty() {
                bytes.extend(wire::preface());
                for number in 0..plan.streams {
                    let stream = u32::try_from(number).expect("few streams") * 2 + 1;
                    bytes.extend(wire::call(stream, &plan.address.to_string(), &plan.path));
                    for request in &plan.requests {
                        bytes.extend(wire::message(stream, request));
                    }
                }
            }
            socket.write_all(&bytes)?;
            socket.set_nonblocking(true)?;
            let mut socket = TcpStream::from_std(socket);
            self.poll.registry().register(&mut socket, Token(self.connections.len()), Interest::READABLE)?;
            let streams = (0..plan.streams).map(|_| Stream::default()).collect();
            self.connections.push(Connection { socket, frames: Frames::default(), streams });
        }
        Ok(may_open(self))
    }

    fn read(&mut self, at: usize, buffer: &mut [u8]) -> std::io::Result<()> {
        loop {
            let connection = &mut self.connections[at];
            let count = match connection.socket.read(buffer) {
                Ok(0) => return Err(std::io::Error::other("the server closed a connection")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut replies = Vec::new();
            let mut ended = false;
            let (streams, plan) = (&mut connection.streams, &self.plan);
            let (ready, arrivals) = (&mut self.ready, &mut self.arrivals);
            connection.frames.take(&buffer[..count], |frame| match frame {
                Frame::Data(stream, bytes) => {
                    let stream = &mut streams[(stream as usize).saturating_sub(1) / 2];
                    let Stream { messages, is_ready, events } = stream;
                    messages.take(bytes, |message| {
                        let kind = message.first().copied();
                        if kind == Some(plan.event) && *is_ready {
                            if arrivals.len() == *events {
                                arrivals.push(Arrivals { first: message.to_vec(), ..Arrivals::default() });
                            }
                            arrivals[*events].at.push(now());
                            arrivals[*events].bytes += wire::message(1, message).len();
                            *events += 1;
                        } else if kind == Some(plan.ready) && !std::mem::replace(is_ready, true) {
                            ready.push(now());
                        }
                    });
                }
                Frame::Reply(bytes) => replies.extend(bytes),
                Frame::Other => {}
                Frame::End => ended = true,
            });
            if ended {
                return Err(std::io::Error::other("the server ended a stream"));
            }
            if !replies.is_empty() {
                connection.socket.write_all(&replies)?;
            }
            self.report();
        }
    }

    /// Tells of every event that the last stream has received by now.
    fn report(&mut self) {
        let total = self.plan.connections * self.plan.streams;
        for (number, arrivals) in self.arrivals.iter_mut().enumerate() {
            if arrivals.at.len() == total {
                let mut at = std::mem::take(&mut arrivals.at);
                at.sort_unstable();
                let first =
                    arrivals.first.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
                println!(
                    "{}",
                    json!({
                        "event": number, "median": at[total / 2], "last": at[total - 1],
                        "bytes": arrivals.bytes, "first": first,
                    })
                );
            }
        }
    }
}

/// Nanoseconds since 1970: the same clock in every process of this machine.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    u64::try_from(since.as_nanos()).expect("nanoseconds of five centuries")
}
