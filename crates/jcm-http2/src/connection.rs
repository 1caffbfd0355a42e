//! A connection: one future for it and all its streams.

mod opening;
mod reading;
mod telling;
mod writing;

use std::cell::Cell;
use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::Error;
use crate::bell::{self, Bell, PLACES};
use crate::body::{Incoming, RELEASE_BYTES};
use crate::frame::{self, Reason, WINDOW_AT_FIRST, flag, kind, setting};
use crate::stream::Streams;
use reading::{Discarded, Reading};
use writing::Writing;

/// Rounds of one turn. What has more to do lets others work first.
const ROUNDS_MAX: usize = 4;

/// How long a client has time to read what it was told last, before the connection is closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a ping carries that asks whether the client knows that no more streams are wanted.
const LEAVING: &[u8; 8] = b"leaving\0";
/// And one that asks for a sign of life.
const ALIVE: &[u8; 8] = b"alive\0\0\0";

/// What a client may have at once, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams that are open at once; 256 at most.
    pub streams: u16,
    /// Bytes of the header of a request, with 32 for each field.
    pub header_bytes: u32,
    /// Bytes of bodies that may wait to be read, on each stream and on all of them together; at least 64 KiB, and 4 KiB for each
    /// stream.
    pub window_bytes: u32,
    /// After so much silence a client is asked for a sign of life,
    pub ping_after: Duration,
    /// and has so much time to give one.
    pub ping_answer: Duration,
    /// How long an answer may wait for its client to take any of it, before its stream is reset.
    pub unread: Duration,
}

/// Who answers the requests of a connection.
pub trait Answer {
    /// Of answers.
    type Body: Body<Data = Bytes, Error: Display> + Send + Unpin + 'static;
    /// The request gets no answer; its stream is reset.
    type Error: Display + Send + 'static;

    /// Answers a request, in a task of its own, which is aborted when the client gives the request up.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Self::Error>> + Send + 'static;
}

impl<S, B> Answer for S
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Display + Send + 'static,
    B: Body<Data = Bytes, Error: Display> + Send + Unpin + 'static,
{
    type Body = B;
    type Error = S::Error;

    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<B>, S::Error>> + Send + 'static {
        self.call(request)
    }
}

/// A connection whose client has said [`PREFACE`](crate::PREFACE). It lasts until its client or [`Connection::leave`] ends it.
#[derive(Debug)]
pub struct Connection<I, S: Answer> {
    socket: I,
    service: S,
    limits: &'static Limits,
    bell: Arc<Bell>,
    socket_waker: Waker,
    clock: Pin<Box<Sleep>>,
    clock_waker: Waker,
    streams: Streams<S::Body, S::Error>,
    /// Streams have rung while there was no room for anything.
    streams_wait: bool,
    /// The next to be asked, when not all could be.
    next_place: usize,
    reading: Reading,
    writing: Writing,
    course: Course,
    heard_at: Instant,
    /// It was asked for a sign of life since.
    is_asked: bool,
}

/// How far a connection is from its end.
#[derive(Debug)]
enum Course {
    Open,
    /// This side wants no more streams,
    Leave,
    /// has said so,
    Announced,
    /// and the client knows.
    Leaving,
    /// What is left is written, and the socket closed.
    Over(Option<Error>),
}

thread_local! {
    /// Where a connection of this thread writes while it has its turn.
    static OUTPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Larger ones are not kept for the next connection.
const OUTPUT_KEPT_MAX: usize = 256 * 1024;

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer> Connection<I, S> {
    /// `limits` holds for all connections.
    pub fn new(socket: I, service: S, limits: &'static Limits) -> Self {
        assert!(usize::from(limits.streams) <= PLACES, "a connection has {PLACES} streams at most");
        // What each stream keeps to itself leaves room for the others.
        let kept = u32::from(limits.streams) * RELEASE_BYTES;
        assert!(
            limits.window_bytes > WINDOW_AT_FIRST && limits.window_bytes / 2 >= kept,
            "the window is too small"
        );
        let (now, bell) = (Instant::now(), Bell::new());
        let mut writing = Writing::default();
        write_greeting(&mut writing.out, limits);
        Self {
            socket,
            service,
            limits,
            socket_waker: bell.waker(bell::SOCKET),
            clock: Box::pin(tokio::time::sleep_until(now + limits.ping_after)),
            clock_waker: bell.waker(bell::CLOCK),
            bell,
            streams: Streams::new(),
            streams_wait: false,
            next_place: 0,
            reading: Reading::new(limits.window_bytes),
            writing,
            course: Course::Open,
            heard_at: now,
            is_asked: false,
        }
    }

    /// Wakes the connection as if it had something to do, and has [`Connection::was_called`] say so once.
    pub fn caller(&self) -> Waker {
        self.bell.caller()
    }

    /// Whether somebody called since this was asked last. True at first.
    pub fn was_called(&self) -> bool {
        self.bell.take_call()
    }

    /// Tells the client that no more streams are wanted, and ends when those that are open have ended. To be followed by a poll.
    pub fn leave(&mut self) {
        if matches!(self.course, Course::Open) {
            self.course = Course::Leave;
        }
    }

    /// One round. True when the connection is at its end.
    fn round(&mut self) -> Result<bool, Error> {
        if self.bell.take(bell::SOCKET) {
            self.write_again()?;
            if self.read()? {
                return self.closed();
            }
        }
        if self.bell.take(bell::CLOCK) {
            self.look_at_clock()?;
        }
        if matches!(self.course, Course::Leave) {
            self.course = Course::Announced;
            let out = &mut self.writing.out;
            frame::write_go_away(out, u32::MAX >> 1, Reason::NO_ERROR, "");
            frame::write(out, kind::PING, 0, 0, LEAVING);
        }
        if self.bell.take(bell::STREAMS) {
            self.streams_wait = true;
        }
        if self.streams_wait && !self.writing.is_blocked {
            self.streams_wait = false;
            self.tell();
        }
        self.write()?;
        if !self.writing.is_blocked {
            if self.streams_wait {
                self.bell.ring(bell::STREAMS);
            }
            if std::mem::take(&mut self.reading.is_paused) {
                self.bell.ring(bell::SOCKET);
            }
        }
        let is_leaving = matches!(self.course, Course::Leaving) || self.reading.is_left;
        Ok(is_leaving && self.streams.is_empty() && self.writing.is_empty())
    }

    /// The client closed.
    fn closed(&self) -> Result<bool, Error> {
        if self.streams.is_empty() && !self.reading.is_amid() {
            return Ok(true);
        }
        Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }

    fn look_at_clock(&mut self) -> Result<(), Error> {
        while self.clock.as_mut().poll(&mut Context::from_waker(&self.clock_waker)).is_ready() {
            let now = Instant::now();
            if self.writing.is_blocked {
                // It could not be asked, and may not be read from either. The socket has a patience of its own.
                (self.heard_at, self.is_asked) = (now, false);
            }
            let Limits { ping_after, ping_answer, unread, .. } = *self.limits;
            let silent_for = now.saturating_duration_since(self.heard_at);
            if silent_for >= ping_after + ping_answer {
                return Err(Error::Silent);
            }
            if silent_for >= ping_after && !std::mem::replace(&mut self.is_asked, true) {
                frame::write(&mut self.writing.out, kind::PING, 0, 0, ALIVE);
            }
            let patience = if self.is_asked { ping_after + ping_answer } else { ping_after };
            let next = self.reset_unread(now, unread).unwrap_or(now + ping_after);
            self.clock.as_mut().reset(next.min(self.heard_at + patience));
        }
        Ok(())
    }

    /// Looks at the clock then, if not before.
    fn look_at(&mut self, at: Instant) {
        if at < self.clock.deadline() {
            self.clock.as_mut().reset(at);
            self.bell.ring(bell::CLOCK);
        }
    }

    /// The connection is over. What the client is to know of it is still said.
    fn finish(&mut self, error: Option<Error>) -> Poll<Result<(), Error>> {
        match error {
            Some(Error::Protocol { reason, text }) => {
                frame::write_go_away(&mut self.writing.out, self.reading.last_stream, reason, text);
            }
            Some(error) => return Poll::Ready(Err(error)),
            None => {}
        }
        self.streams = Streams::new();
        self.course = Course::Over(error);
        self.clock.as_mut().reset(Instant::now() + LAST_WORDS);
        self.bell.ring(bell::SOCKET | bell::CLOCK);
        Poll::Pending
    }

    /// Writes what is left, closes, and reads what the client says until it has closed as well: it might not get to read
    /// anything if it were told that nobody listens.
    fn end(&mut self) -> Poll<()> {
        self.bell.take(bell::STREAMS);
        if self.bell.take(bell::CLOCK)
            && self.clock.as_mut().poll(&mut Context::from_waker(&self.clock_waker)).is_ready()
        {
            return Poll::Ready(());
        }
        if !self.bell.take(bell::SOCKET) {
            return Poll::Pending;
        }
        if self.write_again().and_then(|()| self.write()).is_err() {
            return Poll::Ready(());
        }
        let context = &mut Context::from_waker(&self.socket_waker);
        if !self.writing.is_empty() || Pin::new(&mut self.socket).poll_shutdown(context).is_pending() {
            return Poll::Pending;
        }
        match reading::discard(&mut self.socket, context) {
            Discarded::Closed => return Poll::Ready(()),
            Discarded::All => {}
            Discarded::Some => self.bell.ring(bell::SOCKET),
        }
        Poll::Pending
    }

    fn rounds(&mut self, context: &Context<'_>) -> Poll<Result<(), Error>> {
        for _ in 0..ROUNDS_MAX {
            if matches!(self.course, Course::Over(_)) {
                if self.end().is_ready()
                    && let Course::Over(error) = &mut self.course
                {
                    return Poll::Ready(error.take().map_or(Ok(()), Err));
                }
            } else {
                let finished = match self.round() {
                    Ok(false) => Poll::Pending,
                    Ok(true) => self.finish(None),
                    Err(error) => self.finish(Some(error)),
                };
                if finished.is_ready() {
                    return finished;
                }
            }
            // Whoever runs the connection is to look first.
            if self.bell.take(bell::CALL) && self.bell.is_called() {
                break;
            }
            if self.bell.rest() {
                return Poll::Pending;
            }
        }
        self.bell.pause();
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer + Unpin> Future for Connection<I, S> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = self.get_mut();
        this.bell.begin(context.waker());
        this.writing.take_buffer();
        let ended = this.rounds(context);
        this.writing.put_buffer();
        ended
    }
}

/// What this side says first.
fn write_greeting(out: &mut Vec<u8>, limits: &Limits) {
    let settings = [
        (setting::MAX_CONCURRENT_STREAMS, u32::from(limits.streams)),
        (setting::INITIAL_WINDOW_SIZE, limits.window_bytes),
        (setting::MAX_HEADER_LIST_SIZE, limits.header_bytes),
    ];
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame::write(out, kind::SETTINGS, 0, 0, &payload);
    frame::write_window_update(out, 0, limits.window_bytes - WINDOW_AT_FIRST);
}

/// Confirms what the client has said.
fn write_acknowledgement(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    frame::write(out, kind, flag::ACK, 0, payload);
}
