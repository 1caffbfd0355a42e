//! Sockets whose last connection is over, to be connected once more.
//!
//! To make a socket and to take it down again is a quarter of what a probe with a connection of its own costs. A socket
//! that is told to connect to nobody gives its connection up with a reset, like one that is closed by a checker, and
//! keeps nothing of it: what was received, what was to be sent, the port and the timers are gone.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use rustix::net::{self, sockopt};

/// More than end in a tick at ten thousand probes a second; whatever else there is at once is closed.
const SPARES_MAX: usize = 256;

/// Sockets to be connected once more.
#[derive(Debug, Default)]
pub(super) struct Spares {
    v4: Vec<TcpStream>,
    v6: Vec<TcpStream>,
}

impl Spares {
    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// One that can be connected to such an address.
    pub(super) fn take(&mut self, address: SocketAddr) -> Option<TcpStream> {
        if address.is_ipv4() { self.v4.pop() } else { self.v6.pop() }
    }

    /// Ends the connection to this address, and keeps the socket if there is room.
    pub(super) fn give(&mut self, stream: TcpStream, address: SocketAddr) {
        // A socket that cannot be told so is closed, which ends the connection as well.
        if self.len() < SPARES_MAX && disconnect(&stream).is_ok() {
            let kind = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            kind.push(stream);
        }
    }
}

fn disconnect(stream: &TcpStream) -> io::Result<()> {
    net::connect_unspec(stream)?;
    // That the connection was reset by this side is noted as an error, which the next one would find.
    let _ = sockopt::socket_error(stream)?;
    Ok(())
}
