//! HTTP/1 through TLS.

use std::io::{Read, Write};
use std::net::SocketAddr;

use jcm_model::Check;
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::super::exchange::{self, Exchange, Step};
use super::Layer;
use crate::outcome::{Outcome, Phase, TlsFault};
use crate::trust::Trust;

/// Plaintext that is taken at once.
const PIECE_BYTES: usize = 4 * 1024;

pub(super) struct Tls {
    session: ClientConnection,
    /// Plaintext has come since the last question.
    is_answering: bool,
}

/// What the session has said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Goodbye,
}

impl Tls {
    pub(super) fn start(address: SocketAddr, check: &Check, trust: &Trust) -> Result<Self, Outcome> {
        let name = match &check.host {
            // An address is asked for by no name: none is sent, and the certificate must be for the address.
            None => ServerName::from(address.ip()),
            Some(host) => {
                ServerName::try_from(host.name().to_owned()).map_err(|_| Outcome::Tls(TlsFault::WrongName))?
            }
        };
        let session = ClientConnection::new(trust.config(check.verify), name)
            .map_err(|error| Outcome::Tls(TlsFault::from(&error)))?;
        Ok(Self { session, is_answering: false })
    }

    /// Decodes some of what came, and hands each piece of plaintext to `heard` as far as that wants more.
    fn decode(&mut self, input: &mut &[u8], heard: &mut impl FnMut(&[u8]) -> bool) -> Result<Said, TlsFault> {
        self.session.read_tls(input).map_err(|_| TlsFault::Broken)?;
        self.session.process_new_packets().map_err(|error| TlsFault::from(&error))?;
        let mut piece = [0; PIECE_BYTES];
        loop {
            match self.session.reader().read(&mut piece) {
                Ok(0) => return Ok(Said::Goodbye),
                Ok(count) => {
                    if !heard(&piece[..count]) {
                        return Ok(Said::Nothing);
                    }
                }
                // It says so when there is no more plaintext.
                Err(_) => return Ok(Said::Nothing),
            }
        }
    }
}

impl Layer for Tls {
    fn ask(&mut self, address: SocketAddr, check: &Check) -> Step {
        self.is_answering = false;
        let mut request = Vec::new();
        exchange::write_request(&mut request, address, check);
        // Kept until hands are shaken. A request is far smaller than what the session has room for.
        self.session.writer().write_all(&request).expect("writing into memory");
        Step::Waiting
    }

    fn take(&mut self, bytes: &[u8], exchange: &mut Exchange, check: &Check) -> Step {
        let mut input = bytes;
        let mut step = Step::Waiting;
        while !input.is_empty() {
            let mut is_answering = self.is_answering;
            let decoded = self.decode(&mut input, &mut |plaintext| {
                is_answering = true;
                step = match step {
                    Step::Waiting => exchange.take(plaintext, check),
                    // Something follows the answer that nobody asked for.
                    Step::Done { outcome, .. } => Step::Done { outcome, reusable: false },
                    Step::Unanswered(outcome) => Step::Unanswered(outcome),
                };
                !matches!(step, Step::Done { reusable: false, .. } | Step::Unanswered(_))
            });
            self.is_answering = is_answering;
            match (decoded, step) {
                (_, Step::Done { reusable: false, .. } | Step::Unanswered(_)) => return step,
                (Ok(Said::Nothing), _) => {}
                (Ok(Said::Goodbye) | Err(_), Step::Done { outcome, .. }) => {
                    return Step::Done { outcome, reusable: false };
                }
                (Ok(Said::Goodbye), Step::Waiting) => return exchange.end(Outcome::Closed, check),
                (Err(fault), Step::Waiting) => return exchange.end(Outcome::Tls(fault), check),
            }
        }
        step
    }

    fn end(&self, with: Outcome, exchange: &Exchange, check: &Check) -> Step {
        exchange.end(with, check)
    }

    fn idle(&mut self, bytes: &[u8]) -> bool {
        let mut input = bytes;
        let mut is_quiet = true;
        while is_quiet && !input.is_empty() {
            let decoded = self.decode(&mut input, &mut |_| {
                is_quiet = false;
                false
            });
            is_quiet &= decoded == Ok(Said::Nothing);
        }
        is_quiet
    }

    fn drain(&mut self, outbox: &mut Vec<u8>) {
        while self.session.wants_write() && self.session.write_tls(outbox).is_ok_and(|count| count > 0) {}
    }

    fn phase(&self) -> Phase {
        if self.session.is_handshaking() {
            Phase::Securing
        } else if self.is_answering {
            Phase::Reading
        } else {
            Phase::Waiting
        }
    }
}
