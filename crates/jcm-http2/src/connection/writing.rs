//! What goes out.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::{Answer, Connection, OUTPUT, OUTPUT_KEPT_MAX};
use crate::Error;
use crate::frame::{Head, PAYLOAD_BYTES_MAX, WINDOW_AT_FIRST, flag, kind};
use crate::hpack;

/// What is gathered before it is written: a connection that has more to say goes on when that is gone.
pub(super) const GATHER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Writing {
    /// What is to be written, and how much of it was.
    pub(super) out: Vec<u8>,
    written: usize,
    /// The socket has no room.
    pub(super) is_blocked: bool,
    /// So much the client has room for, on all streams together.
    pub(super) window: i64,
    /// When it grew last.
    pub(super) window_grew_at: Instant,
    /// And on each stream at first.
    pub(super) stream_window: i64,
    /// A header was written.
    has_begun: bool,
}

impl Default for Writing {
    fn default() -> Self {
        Self {
            out: Vec::new(),
            written: 0,
            is_blocked: false,
            window: i64::from(WINDOW_AT_FIRST),
            window_grew_at: Instant::now(),
            stream_window: i64::from(WINDOW_AT_FIRST),
            has_begun: false,
        }
    }
}

impl Writing {
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.out.len()
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() - self.written < GATHER_BYTES
    }

    /// For one turn.
    pub(super) fn take_buffer(&mut self) {
        if self.out.capacity() == 0 {
            self.out = OUTPUT.take();
        }
    }

    /// What could not be written stays with the connection.
    pub(super) fn put_buffer(&mut self) {
        if self.is_empty() {
            let mut out = std::mem::take(&mut self.out);
            (self.written, self.is_blocked) = (0, false);
            if out.capacity() <= OUTPUT_KEPT_MAX {
                out.clear();
                OUTPUT.set(out);
            }
        } else {
            self.out.drain(..self.written);
            self.written = 0;
            if self.out.capacity() > 2 * self.out.len() {
                self.out.shrink_to_fit();
            }
        }
    }

    /// A frame of header fields, with those that continue it where it is too long for one.
    pub(super) fn fields(&mut self, stream: u32, is_last: bool, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.len();
        let out = &mut self.out;
        let end_stream = if is_last { flag::END_STREAM } else { 0 };
        let mut head = Head { length: 0, kind: kind::HEADERS, flags: end_stream | flag::END_HEADERS, stream };
        head.write(out);
        let fields = out.len();
        if !std::mem::replace(&mut self.has_begun, true) {
            hpack::begin(out);
        }
        write(out);
        head.length = out.len() - fields;
        if head.length <= PAYLOAD_BYTES_MAX {
            let mut written = Vec::with_capacity(fields - begin);
            head.write(&mut written);
            out[begin..fields].copy_from_slice(&written);
            return;
        }
        let block = out.split_off(fields);
        out.truncate(begin);
        let mut parts = block.chunks(PAYLOAD_BYTES_MAX).peekable();
        (head.kind, head.flags) = (kind::HEADERS, end_stream);
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                head.flags |= flag::END_HEADERS;
            }
            Head { length: part.len(), ..head }.write(out);
            out.extend_from_slice(part);
            (head.kind, head.flags) = (kind::CONTINUATION, 0);
        }
    }

    pub(super) fn data(&mut self, stream: u32, is_last: bool, bytes: &[u8]) {
        let flags = if is_last { flag::END_STREAM } else { 0 };
        Head { length: bytes.len(), kind: kind::DATA, flags, stream }.write(&mut self.out);
        self.out.extend_from_slice(bytes);
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin, S: Answer> Connection<I, S> {
    /// The socket may have room again.
    pub(super) fn write_again(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.writing.is_blocked) { self.write() } else { Ok(()) }
    }

    /// Writes what there is, as far as there is room.
    pub(super) fn write(&mut self) -> Result<(), Error> {
        let writing = &mut self.writing;
        while !writing.is_empty() && !writing.is_blocked {
            let context = &mut Context::from_waker(&self.socket_waker);
            match Pin::new(&mut self.socket).poll_write(context, &writing.out[writing.written..]) {
                Poll::Pending => writing.is_blocked = true,
                Poll::Ready(Ok(0)) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(written) => writing.written += written?,
            }
        }
        if writing.is_empty() {
            writing.out.clear();
            writing.written = 0;
        }
        Ok(())
    }
}
