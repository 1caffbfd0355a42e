//! One stream to one server: opens it, hands its messages on, says once that it ended. It decides nothing.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jcm_proto::v1::discovery_client::DiscoveryClient;
use jcm_proto::v1::watch_request::Request;
use jcm_proto::v1::{WatchRequest, WatchResponse};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::servers::Server;
use crate::session::leases::KEEPS_MAX;
use crate::session::{CLUSTERS_MAX, CONNECT_TIMEOUT, Event, LinkId};

/// Requests that wait to be sent: a hello, and a subscription of every cluster and what keeps every lease twice over. A
/// server that does not take them is not reading.
const REQUESTS_MAX: usize = 2 * (CLUSTERS_MAX + KEEPS_MAX) + 8;
/// Largest message: a full view of the largest cluster, with long labels.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Not the deadline, which the session keeps: only what ends an attempt that nobody waits for any more.
const OPEN_TIMEOUT: Duration = CONNECT_TIMEOUT.saturating_mul(2);

/// The handle of a link: dropped, the link ends.
#[derive(Debug)]
pub(crate) struct Link {
    server: Server,
    requests: mpsc::Sender<WatchRequest>,
    /// The connection, once there is one.
    channel: Arc<OnceLock<Channel>>,
    stop: CancellationToken,
}

/// The queue of a link has no room, or the link has ended.
#[derive(Debug)]
pub(crate) struct NotReading;

impl Link {
    /// The link's handle and its task, which ends after the handle is dropped.
    pub(crate) fn new(
        id: LinkId,
        server: Server,
        inbox: mpsc::Sender<Event>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (requests, queue) = mpsc::channel(REQUESTS_MAX);
        let stop = CancellationToken::new();
        let channel = Arc::new(OnceLock::new());
        let work = run(id, server.clone(), Arc::clone(&channel), queue, inbox);
        let run = stop.clone().run_until_cancelled_owned(work);
        (Self { server, requests, channel, stop }, async move {
            run.await;
        })
    }

    /// The connection, for calls beside the stream; `None` before it is there.
    pub(crate) fn channel(&self) -> Option<Channel> {
        self.channel.get().cloned()
    }

    /// The server at its other end.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Queues a request.
    pub(crate) fn send(&self, request: Request) -> Result<(), NotReading> {
        let acknowledges = matches!(request, Request::Acknowledge(_));
        match self.requests.try_send(WatchRequest { request: Some(request) }) {
            Ok(()) => Ok(()),
            // Only operators look at acknowledgements, and the next one says the same and more.
            Err(_) if acknowledges => Ok(()),
            Err(_) => Err(NotReading),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// From which address this machine reaches a server: what the system chooses for datagrams to it, of which none is sent.
pub(crate) async fn own_address(server: Server) -> Result<IpAddr, String> {
    let authority = server.to_string();
    let look_up = async {
        let mut last = None;
        for remote in tokio::net::lookup_host(&authority).await? {
            let any = if remote.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let chosen = async {
                let socket = UdpSocket::bind(any).await?;
                socket.connect(remote).await?;
                socket.local_addr()
            };
            match chosen.await {
                Ok(local) => return Ok(local.ip()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| std::io::Error::other("its name has no address")))
    };
    let found = tokio::time::timeout(OPEN_TIMEOUT, look_up).await;
    let found = found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    found.map_err(|error: std::io::Error| format!("towards server {authority}: {error}"))
}

async fn run(
    id: LinkId,
    server: Server,
    channel: Arc<OnceLock<Channel>>,
    queue: mpsc::Receiver<WatchRequest>,
    inbox: mpsc::Sender<Event>,
) {
    let reason = match open(&server, &channel, queue).await {
        Err(reason) => reason,
        Ok(messages) => forward(id, messages, &inbox).await,
    };
    // The driver is gone only when everything stops.
    let _ = inbox.send(Event::Closed { link: id, reason }).await;
}

async fn open(
    server: &Server,
    connection: &OnceLock<Channel>,
    queue: mpsc::Receiver<WatchRequest>,
) -> Result<Streaming<WatchResponse>, String> {
    let attempt = async {
        let endpoint = Endpoint::from(server.uri().clone()).connect_timeout(OPEN_TIMEOUT).tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(|error| chain(&error))?;
        let channel = connection.get_or_init(|| channel).clone();
        let mut client = DiscoveryClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let response = client.watch(ReceiverStream::new(queue)).await.map_err(|status| said(&status))?;
        Ok(response.into_inner())
    };
    tokio::time::timeout(OPEN_TIMEOUT, attempt).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
}

async fn forward(id: LinkId, mut messages: Streaming<WatchResponse>, inbox: &mpsc::Sender<Event>) -> String {
    loop {
        match messages.next().await {
            None => return "it ended the stream".to_owned(),
            Some(Err(status)) => return said(&status),
            // A kind of message that this version does not know says nothing to it.
            Some(Ok(WatchResponse { event: None })) => {}
            Some(Ok(WatchResponse { event: Some(answer) })) => {
                let event = Event::Message { link: id, answer: Box::new(answer) };
                if inbox.send(event).await.is_err() {
                    return "this program stops".to_owned();
                }
            }
        }
    }
}

fn said(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), jcm_model::invalid::quoted(status.message()))
}

/// An error with its sources, for a log line: tonic's own text is just "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
