//! A client's socket: its first bytes come again, and it is cut when its client stops reading.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::patience::Reads;

/// How long a write may wait for its client to read. What is not read for so long is not wanted, and holds a
/// descriptor and memory.
pub(crate) const UNREAD_MAX: Duration = Duration::from_secs(30);

pub(super) struct Socket {
    stream: TcpStream,
    /// Bytes that were read already, and how many of them were given again.
    prefix: Vec<u8>,
    given: usize,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    reads: Option<Reads>,
}

impl Socket {
    pub(super) fn new(prefix: Vec<u8>, stream: TcpStream) -> Self {
        Self { stream, prefix, given: 0, stalled: None, reads: None }
    }

    /// Counts every read from now on.
    pub(super) fn counted(self, reads: Reads) -> Self {
        Self { reads: Some(reads), ..self }
    }

    /// Passes a write's result on, unless writes have waited for too long.
    fn paced(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + UNREAD_MAX)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let left = &self.prefix[self.given..];
        if left.is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            if let Some(reads) = &self.reads {
                reads.add();
            }
            return Poll::Ready(Ok(()));
        }
        if let Some(reads) = &self.reads {
            reads.add();
        }
        let count = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..count]);
        self.given += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.paced(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        // What an event comes to is one slice, and the system's way for that is shorter.
        let written = match slices {
            [slice] => stream.poll_write(context, slice),
            slices => stream.poll_write_vectored(context, slices),
        };
        self.paced(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(Vec::new(), listener.accept().await.unwrap().0);
        // Paused only now: what waits from here on waits for the deadline alone.
        tokio::time::pause();
        let (started, chunk) = (Instant::now(), vec![0; 64 * 1024]);
        let error = loop {
            if let Err(error) = socket.write_all(&chunk).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(started.elapsed() >= UNREAD_MAX);
        drop(client);
    }
}
