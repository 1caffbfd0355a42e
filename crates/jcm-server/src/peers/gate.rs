//! Connections out that do not outlive a pause of this process: what was not sent before it is not sent after it, and
//! what came meanwhile is not read. Others have gone on without this server, and what it was about to ask, a forwarded
//! write above all, is from another time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use crate::pause::{Pulse, Stretch};

/// Lets connections be made, and used, in one stretch of time only.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    pulse: Pulse,
    stretch: Stretch,
}

impl Gate {
    /// One that is open until the next pause.
    pub(super) fn new(pulse: &Pulse) -> Self {
        Self { pulse: pulse.clone(), stretch: pulse.stretch() }
    }

    /// Waits for the pause.
    pub(super) async fn shut(&self) {
        self.pulse.over(self.stretch).await;
    }

    fn pass(&self) -> io::Result<()> {
        if self.pulse.is_over(self.stretch) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "it is from before a pause"));
        }
        Ok(())
    }

    async fn connect(self, address: &str) -> io::Result<Gated> {
        self.pass()?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Gated { stream, gate: self })
    }
}

impl Service<Uri> for Gate {
    type Response = TokioIo<Gated>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Gated>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let gate = self.clone();
        async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            gate.connect(&authority).await.map(TokioIo::new)
        }
        .boxed()
    }
}

/// A connection through the gate.
pub(super) struct Gated {
    stream: TcpStream,
    gate: Gate,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.gate.pass()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.gate.pass()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.gate.pass()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn after_a_pause_a_connection_sends_nothing_reads_nothing_and_is_not_made_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let pulse = Pulse::new();
        let gate = Gate::new(&pulse);
        let mut out = gate.clone().connect(&address).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        out.write_all(b"before").await.unwrap();
        other.write_all(b"answer").await.unwrap();
        pulse.stand_still();
        gate.shut().await;
        let aborted = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        aborted(out.write_all(b"after").await.unwrap_err());
        aborted(out.read_u8().await.unwrap_err());
        aborted(gate.connect(&address).await.err().expect("nothing passes"));
        drop(out);
        let mut read = Vec::new();
        // What was not read here makes it a reset there, where it does not end in order.
        let _ = other.read_to_end(&mut read).await;
        assert!(!read.ends_with(b"after"), "{read:?}");
        Gate::new(&pulse).connect(&address).await.unwrap();
    }
}
