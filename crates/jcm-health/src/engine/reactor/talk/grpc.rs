//! `grpc.health.v1.Health/Check` through HTTP/2 with prior knowledge, without TLS.
//!
//! The `h2` crate speaks it, polled by hand whenever bytes have come: nothing wakes it, and nothing needs to, because it
//! is polled until it neither reads nor writes any more.

mod call;
mod pipe;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use jcm_model::Check;

use super::super::answer::HEAD_BYTES_MAX;
use super::super::exchange::{Exchange, Step};
use super::Layer;
use crate::outcome::{Outcome, Phase};
use call::{Call, MESSAGE_BYTES_MAX, PREFIX_BYTES, Stage};
use pipe::Pipe;

pub(super) struct Grpc {
    pipe: Pipe,
    connection: Connection<Pipe, Bytes>,
    sender: SendRequest<Bytes>,
    call: Option<Call>,
    /// The head of an answer has come.
    is_answering: bool,
}

impl Grpc {
    pub(super) fn start() -> Self {
        let pipe = Pipe::default();
        let window = u32::try_from(PREFIX_BYTES + MESSAGE_BYTES_MAX + 1).expect("a small number");
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(window)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("a small number"))
            // The least that the protocol allows.
            .max_frame_size(16_384)
            .max_concurrent_reset_streams(1)
            .max_send_buffer_size(pipe::BYTES_MAX);
        let handshake = pin!(builder.handshake(pipe.clone()));
        let Poll::Ready(Ok((sender, connection))) = handshake.poll(&mut context()) else {
            unreachable!("a client speaks first, and the pipe has room for it");
        };
        Self { pipe, connection, sender, call: None, is_answering: false }
    }

    fn ended(&self, outcome: Outcome, reusable: bool) -> Step {
        if self.is_answering { Step::Done { outcome, reusable } } else { Step::Unanswered(outcome) }
    }

    fn go_on(&mut self, check: &Check) -> Step {
        match self.turn() {
            (Some(outcome), connection) => self.ended(outcome, !check.fresh && connection.is_ok()),
            (None, Ok(())) => Step::Waiting,
            (None, Err(outcome)) => self.ended(outcome, false),
        }
    }

    /// Lets the connection do what it can, and the call with it: what the call came to, and whether the connection lives.
    fn turn(&mut self) -> (Option<Outcome>, Result<(), Outcome>) {
        let mut said = None;
        let mut connection = Ok(());
        loop {
            let before = self.pipe.moved();
            // One that is over is not asked again; what came before its end counts all the same.
            if connection.is_ok() {
                connection = match Pin::new(&mut self.connection).poll(&mut context()) {
                    Poll::Pending => Ok(()),
                    Poll::Ready(Ok(())) => Err(Outcome::Closed),
                    Poll::Ready(Err(error)) => Err(call::fault(&error)),
                };
            }
            let mut has_advanced = false;
            if let Some(call) = self.call.take() {
                let stage = call.stage();
                match call.advance(&mut self.sender, &mut context()) {
                    Ok(call) => {
                        has_advanced = stage != call.stage();
                        self.is_answering |= call.stage() == Stage::Answering;
                        self.call = Some(call);
                    }
                    Err(outcome) => {
                        has_advanced = true;
                        self.is_answering |= call::has_head(outcome);
                        said = Some(outcome);
                    }
                }
            }
            if !has_advanced && self.pipe.moved() == before {
                return (said, connection);
            }
        }
    }
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

impl Layer for Grpc {
    fn ask(&mut self, address: SocketAddr, check: &Check) -> Step {
        self.is_answering = false;
        self.call = Some(Call::new(address, check));
        self.go_on(check)
    }

    fn take(&mut self, bytes: &[u8], _exchange: &mut Exchange, check: &Check) -> Step {
        self.pipe.put(bytes);
        self.go_on(check)
    }

    fn end(&self, with: Outcome, _exchange: &Exchange, _check: &Check) -> Step {
        self.ended(with, false)
    }

    fn idle(&mut self, bytes: &[u8]) -> bool {
        self.pipe.put(bytes);
        // A node that is about to stop says that it takes no more calls.
        self.turn().1.is_ok() && !matches!(self.sender.poll_ready(&mut context()), Poll::Ready(Err(_)))
    }

    fn drain(&mut self, outbox: &mut Vec<u8>) {
        self.pipe.drain(outbox);
    }

    fn phase(&self) -> Phase {
        if self.is_answering { Phase::Reading } else { Phase::Waiting }
    }
}
