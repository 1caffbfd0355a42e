//! What is spoken on a connection where that is more than the bytes of HTTP/1: TLS around them, or gRPC.
//!
//! Pure: bytes that came in, bytes to be sent out, and what they come to. The libraries that know the protocols are driven
//! by hand, without a runtime; the machine carries the bytes.

mod grpc;
mod tls;

use std::io::{self, Write};
use std::net::SocketAddr;

use jcm_model::{Check, CheckKind};

use super::exchange::{Exchange, Step};
use crate::outcome::{Outcome, Phase};
use crate::trust::Trust;

/// What one round may read from the network. A handshake with a long chain of certificates takes some 10 KiB, an answer
/// 20 KiB at most; the rest is room for the framing. It bounds what a node can make this server decode.
const ROUND_BYTES_MAX: usize = 128 * 1024;

/// What a connection may say between two rounds: tickets, settings, pings. One that says more is closed.
const IDLE_BYTES_MAX: usize = 16 * 1024;

/// A protocol above TCP. It speaks for itself between questions too.
trait Layer: Send {
    /// Asks what the policy asks. It may be over at once, where the connection is of no more use.
    fn ask(&mut self, address: SocketAddr, check: &Check) -> Step;
    /// Takes what came.
    fn take(&mut self, bytes: &[u8], exchange: &mut Exchange, check: &Check) -> Step;
    /// The connection ended, or the time is over.
    fn end(&self, with: Outcome, exchange: &Exchange, check: &Check) -> Step;
    /// Takes what came while nothing was asked. Answers whether the connection may serve again.
    fn idle(&mut self, bytes: &[u8]) -> bool;
    /// Adds what is to be sent.
    fn drain(&mut self, outbox: &mut Vec<u8>);
    /// How far the question is.
    fn phase(&self) -> Phase;
}

/// One connection's protocol and what of it is on its way.
pub(super) struct Talk {
    layer: Box<dyn Layer>,
    outbox: Vec<u8>,
    sent: usize,
    /// What came since the last question, or since its answer.
    taken: usize,
}

impl Talk {
    /// What is spoken on a new connection, where it is more than HTTP/1.
    pub(super) fn start(address: SocketAddr, check: &Check, trust: &Trust) -> Result<Option<Self>, Outcome> {
        let layer: Box<dyn Layer> = match check.kind {
            CheckKind::Https => Box::new(tls::Tls::start(address, check, trust)?),
            CheckKind::Grpc => Box::new(grpc::Grpc::start()),
            CheckKind::None | CheckKind::Tcp | CheckKind::Http | CheckKind::Lease => return Ok(None),
        };
        Ok(Some(Self { layer, outbox: Vec::new(), sent: 0, taken: 0 }))
    }

    pub(super) fn ask(&mut self, address: SocketAddr, check: &Check) -> Step {
        self.taken = 0;
        let step = self.layer.ask(address, check);
        self.layer.drain(&mut self.outbox);
        step
    }

    pub(super) fn take(&mut self, bytes: &[u8], exchange: &mut Exchange, check: &Check) -> Step {
        self.taken += bytes.len();
        if self.taken > ROUND_BYTES_MAX {
            return Step::Done { outcome: Outcome::TooMuch, reusable: false };
        }
        let step = self.layer.take(bytes, exchange, check);
        self.layer.drain(&mut self.outbox);
        if matches!(step, Step::Done { .. }) {
            self.taken = 0;
        }
        step
    }

    pub(super) fn end(&self, with: Outcome, exchange: &Exchange, check: &Check) -> Step {
        self.layer.end(with, exchange, check)
    }

    /// Takes what came between two questions. Answers whether the connection may serve again.
    pub(super) fn idle(&mut self, bytes: &[u8]) -> bool {
        self.taken += bytes.len();
        let may_serve = self.taken <= IDLE_BYTES_MAX && self.layer.idle(bytes);
        self.layer.drain(&mut self.outbox);
        may_serve
    }

    pub(super) fn phase(&self) -> Phase {
        self.layer.phase()
    }

    /// Sends as much as is taken.
    pub(super) fn flush(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while self.sent < self.outbox.len() {
            match stream.write(&self.outbox[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::BrokenPipe.into()),
                Ok(count) => self.sent += count,
                Err(error) if super::would_block(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.sent = 0;
        Ok(())
    }
}
