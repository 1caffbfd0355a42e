//! Bytes in memory where the HTTP/2 library expects a socket.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What may wait to be sent. A question and the settings take some hundred bytes; a node that makes this side answer
/// more (each ping is answered) waits for it.
pub(super) const BYTES_MAX: usize = 16 * 1024;

/// One end is the library's, the other whoever carries bytes to and from the network. Never shared between threads: the
/// lock is there because both ends must be able to move to the thread that probes.
#[derive(Debug, Clone, Default)]
pub(super) struct Pipe(Arc<Mutex<Bytes>>);

#[derive(Debug, Default)]
struct Bytes {
    inbox: Vec<u8>,
    taken: usize,
    outbox: Vec<u8>,
    moved: usize,
}

impl Pipe {
    /// Gives the library what came.
    pub(super) fn put(&self, bytes: &[u8]) {
        self.bytes().inbox.extend_from_slice(bytes);
    }

    /// Takes from the library what is to be sent.
    pub(super) fn drain(&self, outbox: &mut Vec<u8>) {
        outbox.append(&mut self.bytes().outbox);
    }

    /// How many bytes the library has read and written so far.
    pub(super) fn moved(&self) -> usize {
        self.bytes().moved
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.bytes();
        let count = buffer.remaining().min(bytes.inbox.len() - bytes.taken);
        if count == 0 {
            return Poll::Pending;
        }
        buffer.put_slice(&bytes.inbox[bytes.taken..bytes.taken + count]);
        bytes.taken += count;
        bytes.moved = bytes.moved.wrapping_add(count);
        if bytes.taken == bytes.inbox.len() {
            bytes.inbox.clear();
            bytes.taken = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let mut bytes = self.bytes();
        let count = buffer.len().min(BYTES_MAX.saturating_sub(bytes.outbox.len()));
        if count == 0 {
            return Poll::Pending;
        }
        bytes.outbox.extend_from_slice(&buffer[..count]);
        bytes.moved = bytes.moved.wrapping_add(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
