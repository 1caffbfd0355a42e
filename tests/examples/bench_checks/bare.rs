//! As little as can be done: in each tick a hundredth of the targets is asked, and every answer that is there is read.
//! No time-outs, no verdicts, no errors.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::Way;
use crate::contender::Own;

/// That of the engine.
const TICK: Duration = Duration::from_millis(10);
const TICKS: usize = 100;
const EVENTS_MAX: usize = 1_024;

pub(crate) fn check(way: Way, addresses: &[SocketAddr]) {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(EVENTS_MAX);
    let mut own = Own::begin(addresses.len());
    let mut streams: Vec<Option<TcpStream>> = (0..addresses.len()).map(|_| None).collect();
    let connection = if way == Way::Kept { "keep-alive" } else { "close" };
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n", addresses[0]);
    let (start, mut tick) = (Instant::now(), 0);
    let mut buffer = [0; 4096];
    loop {
        let due = start + TICK * tick;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        loop {
            poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            for event in &events {
                let Token(id) = event.token();
                let Some(stream) = &mut streams[id] else { continue };
                if way == Way::Tcp {
                    streams[id] = None;
                    continue;
                }
                match stream.read(&mut buffer) {
                    Ok(1..) if way == Way::Kept => {}
                    Ok(1..) => streams[id] = None,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        // Connected just now.
                        stream.write_all(request.as_bytes()).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
            if events.iter().count() < EVENTS_MAX {
                break;
            }
        }
        for id in (tick as usize % TICKS..addresses.len()).step_by(TICKS) {
            if let Some(stream) = &mut streams[id] {
                // One that is not connected yet is left for the next round.
                let written = stream.write(request.as_bytes());
                assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
            } else {
                let mut stream = TcpStream::connect(addresses[id]).unwrap();
                rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                poll.registry()
                    .register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)
                    .unwrap();
                streams[id] = Some(stream);
            }
            own.late(due.elapsed());
        }
        tick += 1;
        if own.is_over() {
            return;
        }
    }
}
