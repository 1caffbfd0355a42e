//! What a push is measured against: a bare broadcast with tonic, and bare writes to sockets. Processes of their own, which
//! send one message to all with every line on their standard input, and say where they listen.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::{BroadcastStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Request, Response, Status, Streaming};

use crate::wire;

/// The path of the bare call.
pub(crate) const PATH: &str = "/bare.Bare/Watch";

/// A message of the same bytes as the one that is compared: one field that holds them all, shared by all streams until
/// tonic encodes it for each.
#[derive(Clone, PartialEq, prost::Message)]
struct Message {
    #[prost(bytes = "bytes", optional, tag = "2")]
    view: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "3")]
    delta: Option<Bytes>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<Message, Status>> + Send>>;

#[derive(Debug, Clone)]
struct Bare(broadcast::Sender<Message>);

impl tonic::server::StreamingService<Message> for Bare {
    type Response = Message;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, _request: Request<Streaming<Message>>) -> Self::Future {
        let events = BroadcastStream::new(self.0.subscribe());
        let first = Message { view: Some(Bytes::from_static(b"first")), delta: None };
        let messages = futures_util::stream::iter([Ok(first)])
            .chain(events.map(|event| event.map_err(|_| Status::data_loss("behind"))));
        Box::pin(async move { Ok(Response::new(Box::pin(messages) as Messages)) })
    }
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let bare = self.clone();
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<Message, Message>::default();
            Ok(tonic::server::Grpc::new(codec).streaming(bare, request).await)
        })
    }
}

impl tonic::server::NamedService for Bare {
    const NAME: &'static str = "bare.Bare";
}

/// A broadcast as tonic's own documentation writes it, with as many threads as the machine has processors.
pub(crate) fn tonic(event: &Bytes) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        let (sender, _) = broadcast::channel(16);
        let (lines, mut triggers) = mpsc::channel(16);
        std::thread::spawn(move || {
            for _ in std::io::stdin().lines() {
                if lines.blocking_send(()).is_err() {
                    return;
                }
            }
            std::process::exit(0);
        });
        let (events, delta) = (sender.clone(), event.clone());
        tokio::spawn(async move {
            while triggers.recv().await.is_some() {
                let _ = events.send(Message { view: None, delta: Some(delta.clone()) });
            }
        });
        let incoming = TcpListenerStream::new(listener).inspect(|socket| {
            if let Ok(socket) = socket {
                let _ = socket.set_nodelay(true);
            }
        });
        let served =
            tonic::transport::Server::builder().add_service(Bare(sender)).serve_with_incoming(incoming).await;
        served.map_err(std::io::Error::other)
    })
}

/// One write of the same bytes to every connection, from one thread.
pub(crate) fn socket(event: &[u8]) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let mut delta = vec![0x1a];
    prost::encoding::encode_varint(event.len() as u64, &mut delta);
    delta.extend_from_slice(event);
    let (first, event) = (wire::message(1, b"\x12\x05first"), wire::message(1, &delta));
    let sockets = Arc::new(Mutex::new(Vec::new()));
    let accepted = Arc::clone(&sockets);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.expect("a connection");
            let _ = socket.set_nodelay(true);
            socket.write_all(&first).expect("a reader that reads");
            accepted.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
    });
    for _ in BufReader::new(std::io::stdin()).lines() {
        for socket in sockets.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            socket.write_all(&event)?;
        }
    }
    Ok(())
}

/// Where a process that was just started says that it listens.
pub(crate) fn listening(line: &str) -> Option<SocketAddr> {
    line.trim().parse().ok()
}
