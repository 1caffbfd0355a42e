//! The channel that picks a node for each call.

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ::tonic::body::Body;
use ::tonic::transport::{self, Endpoint};
use ::tonic::{Status, TimeoutExpired};
use http::{HeaderMap, Request, Response};
use jcm_model::Node;
use tokio::time::Instant;
use tower_service::Service;

use crate::call::{self, CallError, Settled};
use crate::cluster::Cluster;
use crate::fault::{self, Fault, Faulty as _};
use crate::guarded::{End, Guarded};
use crate::kept::Kept;
use crate::picked::Picked;
use crate::retry::Retry;
use crate::tonic::fault::Failure;
use crate::tonic::replay::Replay;
use crate::tonic::timeout;

/// A node that swallows connections is left for another one after this long, unless an endpoint of one's own says
/// otherwise.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(1);

type MakeEndpoint = dyn Fn(SocketAddr, &Node) -> Endpoint + Send + Sync;

/// A gRPC channel to a cluster, see [`tonic`](crate::tonic). Clones are cheap and share the connections.
#[derive(Debug, Clone)]
pub struct Channel {
    cluster: Cluster,
    retry: Retry,
    port: Arc<str>,
    /// `None` for a node without that port.
    connections: Arc<Kept<Option<transport::Channel>>>,
}

/// What a [`Channel`] is made of.
#[must_use = "a builder does nothing until `build` is called"]
pub struct Builder {
    cluster: Cluster,
    retry: Retry,
    port: String,
    endpoint: Box<MakeEndpoint>,
}

impl Channel {
    /// A channel to the nodes that this handle picks, at their port `grpc`. Connections come about on the runtime that
    /// calls are made on.
    pub fn new(cluster: &Cluster) -> Self {
        Self::builder(cluster).build()
    }

    /// The same with wishes.
    pub fn builder(cluster: &Cluster) -> Builder {
        let endpoint = |address: SocketAddr, _: &Node| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"));
            let endpoint = endpoint.expect("an address and a port make a URI");
            endpoint.connect_timeout(CONNECT_TIMEOUT_DEFAULT).tcp_nodelay(true)
        };
        Builder {
            cluster: cluster.clone(),
            retry: Retry::default(),
            port: "grpc".to_owned(),
            endpoint: Box::new(endpoint),
        }
    }
}

impl Builder {
    /// The name of the nodes' port: `grpc` unless set. A node without it refuses calls.
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.port = name.into();
        self
    }

    /// When a failed call is made again: 3 attempts unless set, of calls that a node did not take. They have as long as
    /// the caller says (`Request::set_timeout`), and without that for ever, because nobody knows how long a stream
    /// lasts; [`Retry::deadline`] bounds the time until an answer begins.
    ///
    /// To make calls again that broke, say [`Retry::repeatable`], if doing them twice does no harm. That takes requests
    /// whose bodies are at most 64 KiB; longer ones are made again only if nothing was sent of them.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How a node is connected to, for TLS, time-outs, window sizes and the like:
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use jcm_subscriber::tonic::Channel;
    /// use tonic::transport::Endpoint;
    ///
    /// # fn run(orders: jcm_subscriber::Cluster) {
    /// let channel = Channel::builder(&orders)
    ///     .endpoint(|address, _node| {
    ///         let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a good address");
    ///         endpoint.connect_timeout(Duration::from_millis(300)).timeout(Duration::from_secs(2))
    ///     })
    ///     .build();
    /// # }
    /// ```
    pub fn endpoint(mut self, make: impl Fn(SocketAddr, &Node) -> Endpoint + Send + Sync + 'static) -> Self {
        self.endpoint = Box::new(make);
        self
    }

    /// The channel. No connection is made before a call needs it.
    pub fn build(self) -> Channel {
        let Self { cluster, retry, port, endpoint } = self;
        let port: Arc<str> = port.into();
        let named = Arc::clone(&port);
        let connect = move |node: &Node| {
            let address = SocketAddr::new(node.address, node.port(Some(&named))?);
            Some(endpoint(address, node).connect_lazy())
        };
        Channel { cluster, retry, port, connections: Arc::new(Kept::new(connect)) }
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cluster, retry, port, .. } = self;
        f.debug_struct("Builder")
            .field("cluster", &cluster.name())
            .field("retry", retry)
            .field("port", port)
            .finish_non_exhaustive()
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.make(request).await })
    }
}

impl Channel {
    async fn make(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        let (head, body) = request.into_parts();
        let within = self.retry.deadline_or(Duration::MAX);
        let said = timeout::of(&head.headers);
        let until = said.and_then(|said| Instant::now().checked_add(said));
        let retry = self.retry.deadline(said.map_or(within, |said| said.min(within)));
        let (head, body) = (&head, &Replay::new(body));
        let attempt = move |node: Arc<Picked>| async move {
            let request = Request::from_parts(head.clone(), Body::new(body.copy()));
            let response = self.send(&node, request, body, until).await?;
            answered(response, node, body)
        };
        let balancer = self.cluster.balancer();
        call::call(balancer, None, retry, Settled::ByHolder, attempt).await.or_else(given_up)
    }

    async fn send(
        &self,
        node: &Picked,
        mut request: Request<Body>,
        body: &Replay,
        until: Option<Instant>,
    ) -> Result<Response<Body>, Failure> {
        let Some(mut connection) = self.connections.of(node) else {
            return Err(Failure::Port(node.addr(&self.port).expect_err("there is none")));
        };
        let failed = |source| Failure::Transport { source, can_repeat: body.is_whole() };
        std::future::poll_fn(|context| connection.poll_ready(context)).await.map_err(failed)?;
        if let Some(until) = until {
            // A node that is told of more time than there is works on when nobody waits any more.
            let left = until.saturating_duration_since(Instant::now());
            request.headers_mut().insert(timeout::NAME, timeout::header(left));
        }
        connection.call(request).await.map_err(failed)
    }
}

/// An answer that says at once that the node failed is a failure; any other is judged by how it ends.
fn answered(
    response: Response<Body>,
    node: Arc<Picked>,
    request: &Replay,
) -> Result<Response<Body>, Failure> {
    let status = match response.status() {
        http::StatusCode::OK => Status::from_header_map(response.headers()),
        other => Some(Status::unavailable(format!("HTTP status {other} instead of an answer"))),
    };
    match status {
        Some(status) if status.fault() != Fault::Answered => {
            let can_repeat = request.is_whole();
            Err(Failure::Answer { status, response: Box::new(response), can_repeat })
        }
        status => Ok(response.map(|body| {
            let mut body = Guarded::new(body, node, End::Trailers(is_good));
            if status.is_some() {
                // Without a message there are no trailers: the head has said it all.
                body.settle(true);
            }
            Body::new(body)
        })),
    }
}

/// Whether trailers say that the node works.
fn is_good(trailers: &HeaderMap) -> bool {
    Status::from_header_map(trailers).is_some_and(|status| status.fault() == Fault::Answered)
}

/// What the caller gets of a call that came to nothing.
fn given_up(error: CallError<Failure>) -> Result<Response<Body>, Status> {
    let text = error.to_string();
    let cause = match error {
        CallError::Alloc(error) => return Err(Status::unavailable(format!("{text}: {error}"))),
        CallError::Deadline { .. } => return Err(Status::deadline_exceeded(text)),
        CallError::Failed { source, .. } => source,
    };
    let cause = match cause {
        Failure::Answer { response, .. } => return Ok(*response),
        Failure::Port(error) => Status::unavailable(error.to_string()),
        // The connection counts the caller's time as well, and may be the first to see that it is up.
        Failure::Transport { source, .. }
            if fault::causes(&source).any(<dyn Error>::is::<TimeoutExpired>) =>
        {
            return Err(Status::deadline_exceeded(text));
        }
        Failure::Transport { source, .. } => Status::from_error(Box::new(source)),
    };
    let mut status = Status::new(cause.code(), format!("{text}: {}", cause.message()));
    status.set_source(Arc::new(cause));
    Err(status)
}
