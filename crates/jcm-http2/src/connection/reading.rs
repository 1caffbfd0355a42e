//! What comes in, frame by frame (RFC 9113, sections 4 to 6).

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::{Answer, Connection, Course, LEAVING, write_acknowledgement};
use crate::Error;
use crate::frame::{self, HEAD_BYTES, Head, PAYLOAD_BYTES_MAX, Reason, WINDOW_MAX, flag, kind, setting};
use crate::hpack::Decoder;

/// Room for two frames: one that has come in part, and what comes behind it.
const INPUT_BYTES: usize = 40 * 1024;

/// Reads of one round.
const READS_MAX: usize = 4;

/// Bytes of one block of header fields, as they are sent. Of the fields themselves the limits say how many there may be.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Requests that a client may give up, unanswered, within a time, or have this side give up for what it says of them: each has
/// cost work, and there can be new ones at once.
const GIVEN_UP_MAX: u32 = 1000;
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(10);

thread_local! {
    /// Where a connection of this thread reads while it has its turn.
    static INPUT: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "four questions, each with its own answer")]
pub(super) struct Reading {
    /// The beginning of a frame.
    rest: Vec<u8>,
    /// Header fields of which more is to come.
    block: Option<Box<Block>>,
    pub(super) decoder: Decoder,
    /// The client has said its settings, as it must before anything else.
    is_settled: bool,
    /// Of those that were opened.
    pub(super) last_stream: u32,
    /// So much more the client may send, on all streams together.
    window: i64,
    /// What was read, and was not credited to the client yet.
    pub(super) credit: u32,
    /// There is more room for what is said. Who waits for it is told once for all that was read: there may be many of both.
    has_widened: bool,
    /// Nothing is read until something is written.
    pub(super) is_paused: bool,
    /// The client wants no more streams of this connection.
    pub(super) is_left: bool,
    pub(super) given_up: GivenUp,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    is_last: bool,
    bytes: Vec<u8>,
}

/// Requests that were given up unanswered, lately.
#[derive(Debug)]
pub(super) struct GivenUp {
    since: Instant,
    count: u32,
}

impl GivenUp {
    pub(super) fn add(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) > GIVEN_UP_WITHIN {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
    }
}

impl Reading {
    pub(super) fn new(window_bytes: u32) -> Self {
        Self {
            rest: Vec::new(),
            block: None,
            decoder: Decoder::default(),
            is_settled: false,
            last_stream: 0,
            window: i64::from(window_bytes),
            credit: 0,
            has_widened: false,
            is_paused: false,
            is_left: false,
            given_up: GivenUp { since: Instant::now(), count: 0 },
        }
    }

    /// Whether the client is in the middle of something.
    pub(super) fn is_amid(&self) -> bool {
        !self.rest.is_empty() || self.block.is_some()
    }
}

/// How much was read and forgotten.
pub(super) enum Discarded {
    Some,
    All,
    /// All of it, and the client has closed.
    Closed,
}

/// Reads and forgets.
pub(super) fn discard(socket: &mut (impl AsyncRead + Unpin), context: &mut Context<'_>) -> Discarded {
    let mut bytes = [0; 4096];
    for _ in 0..READS_MAX {
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Discarded::All,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => return Discarded::Closed,
        }
    }
    Discarded::Some
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer> Connection<I, S> {
    /// Reads what there is. True when the client has closed.
    pub(super) fn read(&mut self) -> Result<bool, Error> {
        let mut input = INPUT.take();
        input.resize(INPUT_BYTES, 0);
        let closed = self.read_with(&mut input);
        INPUT.set(input);
        closed
    }

    fn read_with(&mut self, input: &mut [u8]) -> Result<bool, Error> {
        for _ in 0..READS_MAX {
            if !self.writing.has_room() {
                // Whoever does not read what is answered is not answered more.
                self.reading.is_paused = true;
                return Ok(false);
            }
            let rest = std::mem::take(&mut self.reading.rest);
            input[..rest.len()].copy_from_slice(&rest);
            let mut buffer = ReadBuf::new(input);
            buffer.set_filled(rest.len());
            let context = &mut Context::from_waker(&self.socket_waker);
            match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
                Poll::Pending => {
                    self.reading.rest = rest;
                    return Ok(false);
                }
                Poll::Ready(read) => read?,
            }
            let filled = buffer.filled().len();
            if filled == rest.len() {
                self.reading.rest = rest;
                return Ok(true);
            }
            (self.heard_at, self.is_asked) = (Instant::now(), false);
            let taken = self.frames(&input[..filled])?;
            self.reading.rest = input[taken..filled].to_vec();
            if std::mem::take(&mut self.reading.has_widened) {
                self.ring_blocked();
            }
        }
        self.bell.ring(crate::bell::SOCKET);
        Ok(false)
    }

    /// Takes whole frames. Answers how many bytes they were.
    fn frames(&mut self, input: &[u8]) -> Result<usize, Error> {
        let mut taken = 0;
        while let Some(head) = Head::read(&input[taken..]) {
            if head.length > PAYLOAD_BYTES_MAX {
                let text = "a frame is larger than was agreed";
                return Err(Error::Protocol { reason: Reason::FRAME_SIZE_ERROR, text });
            }
            let end = taken + HEAD_BYTES + head.length;
            let Some(payload) = input.get(taken + HEAD_BYTES..end) else { break };
            self.frame(head, payload)?;
            if self.reading.given_up.count > GIVEN_UP_MAX {
                let text = "too many requests are given up";
                return Err(Error::Protocol { reason: Reason::ENHANCE_YOUR_CALM, text });
            }
            taken = end;
        }
        Ok(taken)
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        if !self.reading.is_settled && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Error::protocol("the first frame is not the settings"));
        }
        if let Some(block) = &self.reading.block
            && (head.kind != kind::CONTINUATION || head.stream != block.stream)
        {
            return Err(Error::protocol("a header is not continued"));
        }
        let is_of_stream = match head.kind {
            kind::DATA | kind::HEADERS | kind::PRIORITY | kind::RST_STREAM | kind::CONTINUATION => true,
            kind::SETTINGS | kind::PING | kind::GOAWAY => false,
            _ => head.stream != 0,
        };
        if is_of_stream != (head.stream != 0) {
            return Err(Error::protocol("a frame has a stream that must have none, or the other way round"));
        }
        match head.kind {
            kind::DATA => self.take_data(head, payload),
            kind::HEADERS => self.take_headers(head, payload),
            kind::CONTINUATION => self.take_continuation(head, payload),
            kind::RST_STREAM => self.take_reset(head, payload),
            kind::SETTINGS => self.take_settings(head, payload),
            kind::PING => self.take_ping(head, payload),
            kind::WINDOW_UPDATE => self.take_window_update(head, payload),
            kind::PRIORITY => fixed::<5>(payload).map(drop),
            kind::GOAWAY => {
                self.reading.is_left = true;
                payload.first_chunk().map_or_else(|| fixed::<8>(payload), Ok).map(drop)
            }
            kind::PUSH_PROMISE => Err(Error::protocol("a client has pushed")),
            // There are more kinds, and there will be others: whoever does not know one passes it by.
            _ => Ok(()),
        }
    }

    fn take_data(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        self.must_be_opened(head.stream)?;
        let bytes = unpadded(head, payload)?;
        // Padding counts as well.
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.reading.window -= i64::from(length);
        if self.reading.window < 0 {
            let text = "more data than the connection has room for";
            return Err(Error::Protocol { reason: Reason::FLOW_CONTROL_ERROR, text });
        }
        let place = self.streams.place(head.stream);
        let is_last = head.has(flag::END_STREAM);
        match place.map(|place| (place, self.put_data(place, length, bytes, is_last))) {
            Some((_, Ok(()))) => return Ok(()),
            // What comes on a stream that was reset may have been under way.
            None => {}
            Some((place, Err(reason))) => self.reset(place, reason),
        }
        self.reading.credit += length;
        self.credit_connection();
        Ok(())
    }

    /// Hands data to whoever reads the request. `Err`: it was not taken, and the stream is to be reset.
    fn put_data(&mut self, place: usize, length: u32, bytes: &[u8], is_last: bool) -> Result<(), Reason> {
        let stream = self.streams.get_mut(place).ok_or(Reason::STREAM_CLOSED)?;
        let request = stream.request.as_mut().filter(|request| !request.is_whole);
        let request = request.ok_or(Reason::STREAM_CLOSED)?;
        if request.window < i64::from(length) {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let left =
            request.left.map(|left| left.checked_sub(bytes.len() as u64).ok_or(Reason::PROTOCOL_ERROR));
        let left = left.transpose()?;
        if is_last && left.is_some_and(|left| left > 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        request.left = left;
        request.window -= i64::from(length);
        request.unread += length;
        let is_read = !bytes.is_empty() && request.intake.push(bytes);
        let read = if is_read { length - u32::try_from(bytes.len()).unwrap_or(0) } else { length };
        if is_last {
            request.is_whole = true;
            request.intake.finish(None);
        }
        self.credit_read(place, read);
        self.bell.ring_stream(place);
        Ok(())
    }

    fn take_headers(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let mut fragment = unpadded(head, payload)?;
        if head.has(flag::PRIORITY) {
            let text = "a header is shorter than its priority";
            fragment = fragment.get(5..).ok_or(Error::Protocol { reason: Reason::FRAME_SIZE_ERROR, text })?;
        }
        let is_last = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.take_block(head.stream, is_last, fragment);
        }
        let block = Block { stream: head.stream, is_last, bytes: fragment.to_vec() };
        self.reading.block = Some(Box::new(block));
        Ok(())
    }

    fn take_continuation(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let text = "there is no header to be continued";
        let mut block = self.reading.block.take().ok_or(Error::protocol(text))?;
        block.bytes.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.take_block(block.stream, block.is_last, &block.bytes);
        }
        // Frames without anything in them would never make it too long.
        if block.bytes.len() > BLOCK_BYTES_MAX || payload.is_empty() {
            let text = "a header goes on for too long";
            return Err(Error::Protocol { reason: Reason::ENHANCE_YOUR_CALM, text });
        }
        self.reading.block = Some(block);
        Ok(())
    }

    fn take_reset(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        fixed::<4>(payload)?;
        self.must_be_opened(head.stream)?;
        if let Some(place) = self.streams.place(head.stream) {
            self.remove(place);
        }
        Ok(())
    }

    fn take_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        self.reading.is_settled = true;
        if head.has(flag::ACK) {
            return fixed::<0>(payload).map(drop);
        }
        let (settings, rest) = payload.as_chunks::<6>();
        fixed::<0>(rest)?;
        for [n0, n1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*n0, *n1]) {
                setting::ENABLE_PUSH if value > 1 => {
                    return Err(Error::protocol("a setting has no such value"));
                }
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > WINDOW_MAX => return Err(too_wide()),
                setting::INITIAL_WINDOW_SIZE => {
                    self.writing.stream_window = i64::from(value);
                    self.reading.has_widened = true;
                }
                // Larger ones than every client takes are not made use of.
                setting::MAX_FRAME_SIZE if !(PAYLOAD_BYTES_MAX..1 << 24).contains(&(value as usize)) => {
                    return Err(Error::protocol("a setting has no such value"));
                }
                _ => {}
            }
        }
        write_acknowledgement(&mut self.writing.out, kind::SETTINGS, &[]);
        Ok(())
    }

    fn take_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let payload = fixed::<8>(payload)?;
        if !head.has(flag::ACK) {
            write_acknowledgement(&mut self.writing.out, kind::PING, payload);
        } else if payload == LEAVING && matches!(self.course, Course::Announced) {
            self.course = Course::Leaving;
            let last = self.reading.last_stream;
            frame::write_go_away(&mut self.writing.out, last, Reason::NO_ERROR, "");
        }
        Ok(())
    }

    fn take_window_update(&mut self, head: Head, payload: &[u8]) -> Result<(), Error> {
        let more = i64::from(u32::from_be_bytes(*fixed::<4>(payload)?) & 0x7fff_ffff);
        if head.stream == 0 {
            if more == 0 {
                return Err(Error::protocol("a window grows by nothing"));
            }
            self.writing.window += more;
            if self.writing.window > WINDOW_MAX {
                return Err(too_wide());
            }
            self.writing.window_grew_at = self.heard_at;
            self.reading.has_widened = true;
            return Ok(());
        }
        self.must_be_opened(head.stream)?;
        let Some(place) = self.streams.place(head.stream) else { return Ok(()) };
        let Some(stream) = self.streams.get_mut(place) else { return Ok(()) };
        stream.window += more;
        if more == 0 {
            self.reset(place, Reason::PROTOCOL_ERROR);
        } else if self.writing.stream_window + stream.window > WINDOW_MAX {
            self.reset(place, Reason::FLOW_CONTROL_ERROR);
        } else if stream.blocked_since.is_some() {
            self.bell.ring_stream(place);
        }
        Ok(())
    }

    fn must_be_opened(&self, stream: u32) -> Result<(), Error> {
        if stream.is_multiple_of(2) || stream > self.reading.last_stream {
            // One that came when nobody wanted it any more was never opened here.
            if !matches!(self.course, Course::Leaving) {
                return Err(Error::protocol("a frame of a stream that was not opened"));
            }
        }
        Ok(())
    }

    pub(super) fn reset(&mut self, place: usize, reason: Reason) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        frame::write_reset(&mut self.writing.out, stream.id, reason);
        self.remove(place);
    }

    /// Credits to the client what was read of a stream's request.
    pub(super) fn credit(&mut self, place: usize) {
        let request = self.streams.get_mut(place).and_then(|stream| stream.request.as_ref());
        if let Some(released) = request.map(|request| request.intake.take_released())
            && released > 0
        {
            self.credit_read(place, released);
        }
    }

    fn credit_read(&mut self, place: usize, bytes: u32) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let Some(request) = stream.request.as_mut() else { return };
        request.unread -= bytes;
        request.credit += bytes;
        if !request.is_whole && request.credit >= self.limits.window_bytes / 2 {
            frame::write_window_update(&mut self.writing.out, stream.id, request.credit);
            request.window += i64::from(std::mem::take(&mut request.credit));
        }
        self.reading.credit += bytes;
        self.credit_connection();
    }

    /// Sooner than a stream: it takes part of the window of all with it that it does not tell at once.
    pub(super) fn credit_connection(&mut self) {
        if self.reading.credit >= self.limits.window_bytes / 4 {
            frame::write_window_update(&mut self.writing.out, 0, self.reading.credit);
            self.reading.window += i64::from(std::mem::take(&mut self.reading.credit));
        }
    }
}

/// A payload without its padding.
fn unpadded(head: Head, payload: &[u8]) -> Result<&[u8], Error> {
    if !head.has(flag::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) =
        payload.split_first().ok_or(Error::protocol("a frame is shorter than its padding"))?;
    let end = rest.len().checked_sub(usize::from(*padding));
    end.map(|end| &rest[..end]).ok_or(Error::protocol("a frame is shorter than its padding"))
}

fn fixed<const LENGTH: usize>(payload: &[u8]) -> Result<&[u8; LENGTH], Error> {
    let text = "a frame has not the length of its kind";
    payload.try_into().map_err(|_| Error::Protocol { reason: Reason::FRAME_SIZE_ERROR, text })
}

fn too_wide() -> Error {
    Error::Protocol { reason: Reason::FLOW_CONTROL_ERROR, text: "a window is wider than there may be" }
}
