//! Sockets whose last connection is over, to be connected once more.
//!
//! To make a socket and to take it down again is a fifth of what a probe with a connection of its own costs. A socket
//! that is told to connect to nobody gives its connection up with a reset, like one that is closed by a checker, and
//! keeps nothing of it: what was received, what was to be sent, the port and the timers are gone.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use rustix::net::{self, sockopt};

/// More than end in a tick at ten thousand probes a second; whatever else there is at once is closed. Of each family.
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

    /// Ends the connection to this address, and keeps the socket if there is room: no more than so many in all.
    pub(super) fn give(&mut self, stream: TcpStream, address: SocketAddr, room: usize) {
        let has_room = self.len() < room;
        let kind = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        // A socket that cannot be told so is closed, which ends the connection as well.
        if has_room && kind.len() < SPARES_MAX && disconnect(&stream).is_ok() {
            kind.push(stream);
        }
    }

    /// Closes one: its descriptor is wanted for something else.
    pub(super) fn close_one(&mut self) {
        if self.v4.pop().is_none() {
            self.v6.pop();
        }
    }
}

fn disconnect(stream: &TcpStream) -> io::Result<()> {
    net::connect_unspec(stream)?;
    // That the connection was reset by this side is noted as an error, which the next one would find.
    let _ = sockopt::socket_error(stream)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;

    use super::*;

    /// Both ends of a connection.
    fn connection(listener: &TcpListener) -> (TcpStream, std::net::TcpStream) {
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (TcpStream::from_std(ours), listener.accept().unwrap().0)
    }

    #[test]
    fn a_connection_ends_with_a_reset_whether_its_socket_is_kept_or_there_is_no_room() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let v6 = TcpListener::bind("[::1]:0").unwrap();
        let mut spares = Spares::default();
        for (listener, room, kept) in [(&v4, 2, 1), (&v6, 2, 2), (&v4, 2, 2), (&v4, 0, 2)] {
            let (ours, mut theirs) = connection(listener);
            rustix::net::sockopt::set_socket_linger(&ours, Some(std::time::Duration::ZERO)).unwrap();
            spares.give(ours, listener.local_addr().unwrap(), room);
            assert_eq!(spares.len(), kept);
            assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        let address = v6.local_addr().unwrap();
        let spare = spares.take(address).expect("one of this family");
        assert!(spares.take(address).is_none(), "one of another family was given");
        // It is as good as new.
        net::connect(&spare, &address).ok();
        assert_eq!(v6.accept().unwrap().1, spare.local_addr().unwrap());
        assert!(spare.take_error().unwrap().is_none());
        spares.close_one();
        assert_eq!(spares.len(), 0);
    }
}
