//! The server's side of HTTP/2 (RFC 9113), for ten thousand connections that rest and are all to be told at once.
//!
//! A connection and its streams are one future and little memory: what is read and written lies in buffers of the thread, a
//! connection that rests has none, and what all streams have to say goes out with one write. Answers are asked for
//! their next frame when there is room for it; one frame is taken ahead of the window of its stream, none ahead of a socket
//! that is full. Requests are answered in tasks of their own, so that one that works for long holds up nobody.
//!
//! What a client may make this side keep is bounded: streams, header bytes, unread bytes of bodies by the windows, and what
//! waits to be written, for which reading stops. A stream that is not read is reset after a time, a connection that is not heard
//! is asked for a sign of life and then given up.
//!
//! Left out, because no client here needs it: server push (which browsers have given up), priorities, extended CONNECT,
//! compression of what this side says in headers.

mod bell;
mod body;
mod connection;
mod error;
mod frame;
mod head;
mod hpack;
mod stream;
#[cfg(test)]
mod tests;

pub use body::{Broken, Incoming};
pub use connection::{Connection, Limits};
pub use error::Error;
pub use frame::Reason;

/// What a client of HTTP/2 that needs no negotiation says first. Whoever hands a connection over has read it.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
