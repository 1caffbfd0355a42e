//! A server that says what a test tells it to, and shows what it was asked.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use jcm_proto::v1::discovery_server::{Discovery, DiscoveryServer};
use jcm_proto::v1::watch_request::{Hello, Request, Subscribe};
use jcm_proto::v1::watch_response::{self as wire, Event};
use jcm_proto::v1::{WatchRequest, WatchResponse};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Response, Status, Streaming};

/// Every wait of a test for something that must come.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// The server. Dropped, it is gone with all its connections, as if killed.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    task: JoinHandle<()>,
}

/// One stream of a client.
pub(crate) struct Stream {
    requests: Streaming<WatchRequest>,
    answers: mpsc::Sender<Result<WatchResponse, Status>>,
}

struct Service(mpsc::Sender<Stream>);

#[tonic::async_trait]
impl Discovery for Service {
    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: tonic::Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, queue) = mpsc::channel(64);
        let stream = Stream { requests: request.into_inner(), answers };
        self.0.send(stream).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

impl Fake {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts at an address, for a server that comes back.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(64);
        let service = DiscoveryServer::new(Service(sender)).max_encoding_message_size(usize::MAX);
        let task = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        Self { address, streams, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream that a client opens, before a word is said.
    pub(crate) async fn accept(&mut self) -> Stream {
        let next = tokio::time::timeout(DEADLINE, self.streams.recv()).await;
        next.expect("a client opens a stream in time").expect("the server runs")
    }

    /// The next stream, welcomed.
    pub(crate) async fn welcome(&mut self) -> Stream {
        let mut stream = self.accept().await;
        stream.hello().await;
        stream.send(Event::Welcome(wire::Welcome {
            protocol: jcm_proto::WATCH_PROTOCOLS.newest(),
            server: "fake".to_owned(),
            heartbeat_ms: 30_000,
        }));
        stream
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Stream {
    /// Says something. A client that is gone is no fault: some tests end streams from there.
    pub(crate) fn send(&self, event: Event) {
        let _ = self.answers.try_send(Ok(WatchResponse { event: Some(event) }));
    }

    /// The next request; `None` when the client ended the stream.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let next =
            tokio::time::timeout(DEADLINE, self.requests.next()).await.expect("the client speaks in time");
        next?.ok()?.request
    }

    pub(crate) async fn hello(&mut self) -> Hello {
        match self.request().await {
            Some(Request::Hello(hello)) => hello,
            other => panic!("a stream begins with hello, not {other:?}"),
        }
    }

    /// The next subscription; what comes before it is skipped.
    pub(crate) async fn subscription(&mut self) -> Subscribe {
        loop {
            let request = self.request().await;
            if let Request::Subscribe(subscribe) =
                request.expect("the client subscribes before it ends the stream")
            {
                return subscribe;
            }
        }
    }

    /// Waits until the client acknowledges a revision.
    pub(crate) async fn acknowledged(&mut self, revision: u64) {
        loop {
            match self.request().await.expect("the client acknowledges before it ends the stream") {
                Request::Acknowledge(acknowledge) if acknowledge.revision >= revision => return,
                _ => {}
            }
        }
    }

    /// Waits until the client has ended the stream.
    pub(crate) async fn ended(mut self) {
        while self.request().await.is_some() {}
    }
}
