//! Streams as they begin: from header fields to a request that is being answered (RFC 9113, section 8).

use bytes::Bytes;
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Answer, Connection, Course};
use crate::Error;
use crate::body::{Incoming, Intake};
use crate::frame::{self, Reason};
use crate::head::{self, Fields, Refused};
use crate::stream::{Phase, Request, Stream};

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer> Connection<I, S> {
    /// All fields of a header, or of trailers.
    pub(super) fn take_block(&mut self, id: u32, is_last: bool, block: &[u8]) -> Result<(), Error> {
        let mut fields = Fields::new(self.limits.header_bytes as usize);
        // Also those of a request that nobody wants: what comes later refers to them.
        self.reading.decoder.decode(block, |name, value| fields.add(name, value)).map_err(|_| {
            let text = "a header cannot be read";
            Error::Protocol { reason: Reason::COMPRESSION_ERROR, text }
        })?;
        if let Some(place) = self.streams.place(id) {
            self.take_trailers(place, is_last, fields);
            return Ok(());
        }
        if id.is_multiple_of(2) {
            return Err(Error::protocol("a client opens streams of odd numbers"));
        }
        if id <= self.reading.last_stream {
            // Trailers of a stream that was reset may have been under way.
            return Ok(());
        }
        if matches!(self.course, Course::Leaving) {
            // The client knows, and asks elsewhere.
            return Ok(());
        }
        self.reading.last_stream = id;
        self.open(id, is_last, fields);
        Ok(())
    }

    fn take_trailers(&mut self, place: usize, is_last: bool, fields: Fields) {
        let Some(stream) = self.streams.get_mut(place) else { return };
        let request = stream.request.as_mut().filter(|request| !request.is_whole);
        let Some(request) = request else { return self.reset(place, Reason::STREAM_CLOSED) };
        match fields.into_trailers() {
            Ok(trailers) if is_last && request.left.is_none_or(|left| left == 0) => {
                request.is_whole = true;
                request.intake.finish(Some(trailers));
                self.bell.ring_stream(place);
            }
            _ => self.reset(place, Reason::PROTOCOL_ERROR),
        }
    }

    /// A stream begins.
    fn open(&mut self, id: u32, is_last: bool, fields: Fields) {
        if self.streams.len() >= usize::from(self.limits.streams) {
            return frame::write_reset(&mut self.writing.out, id, Reason::REFUSED_STREAM);
        }
        let request = fields.into_request().and_then(|request| {
            let length = head::content_length(request.headers())?;
            if is_last && length.is_some_and(|length| length > 0) {
                Err(Refused::Malformed)
            } else {
                Ok((request, length))
            }
        });
        let (request, length) = match request {
            Ok(request) => request,
            Err(Refused::TooLarge) => {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                self.writing.fields(id, true, |block| head::write_status(block, status));
                if !is_last {
                    frame::write_reset(&mut self.writing.out, id, Reason::NO_ERROR);
                }
                return;
            }
            Err(Refused::Malformed) => {
                return frame::write_reset(&mut self.writing.out, id, Reason::PROTOCOL_ERROR);
            }
        };
        let place = self.streams.vacant();
        let waker = self.bell.stream_waker(place);
        let intake = (!is_last).then(|| Intake::new(waker.clone(), length));
        let body = intake.clone().map_or_else(Incoming::default, Incoming::new);
        let answer = self.service.answer(request.map(|()| body));
        let window = i64::from(self.limits.window_bytes);
        self.streams.insert(Stream {
            id,
            waker,
            phase: Phase::Answering(tokio::spawn(answer)),
            pending: Bytes::new(),
            is_last: false,
            blocked_since: None,
            window: 0,
            request: intake.map(|intake| Request {
                intake,
                window,
                credit: 0,
                unread: 0,
                left: length,
                is_whole: false,
            }),
        });
        self.bell.ring_stream(place);
    }
}
