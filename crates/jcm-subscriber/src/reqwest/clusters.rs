//! The middleware that sends requests to nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use ::reqwest::{Body, Method, Request, Response, ResponseBuilderExt as _, Url};
use async_trait::async_trait;
use http::Extensions;
use reqwest_middleware::{Middleware, Next};

use crate::alloc::AllocError;
use crate::call::{self, CallError, Settled};
use crate::cluster::Cluster;
use crate::guarded::{End, Guarded};
use crate::picked::{NoSuchPort, Picked};
use crate::reqwest::failure::Failure;
use crate::retry::Retry;

/// What hosts of clusters end in. No public name does.
const SUFFIX: &str = ".jcm";

/// Sends requests for `http://NAME.jcm/` to nodes of the cluster NAME, see [`reqwest`](crate::reqwest).
#[derive(Debug, Clone)]
pub struct Clusters {
    /// By their names in lower case, as hosts in URLs are.
    by_name: BTreeMap<String, Cluster>,
    retry: Retry,
    port: Option<String>,
}

/// Why a request to a cluster came to nothing, where that is not reqwest's to say. It comes as
/// [`reqwest_middleware::Error::Middleware`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL names a cluster that this client does not know.
    #[error("`{url}` is of no cluster that this client was given: those are {known}")]
    UnknownCluster {
        /// What was asked for.
        url: Url,
        /// What could be.
        known: String,
    },
    /// The URL names a port.
    #[error("`{url}` names a port: each node of a cluster has its own, which are chosen by name")]
    Port {
        /// What was asked for.
        url: Url,
    },
    /// There is no node to call.
    #[error("no request was made")]
    Alloc(#[from] AllocError),
    /// The node has no port of that name.
    #[error("no request was made")]
    NoSuchPort(#[from] NoSuchPort),
    /// Time was up.
    #[error("{0}")]
    Deadline(String),
}

impl Clusters {
    /// These clusters, each by the policy of its handle, with [`Retry::default`]. Of two handles of one cluster the
    /// last counts.
    pub fn new<'a>(clusters: impl IntoIterator<Item = &'a Cluster>) -> Self {
        let named = |cluster: &Cluster| (cluster.name().as_str().to_ascii_lowercase(), cluster.clone());
        Self { by_name: clusters.into_iter().map(named).collect(), retry: Retry::default(), port: None }
    }

    /// When a failed request is made again, at another node.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// The name of the nodes' port: the scheme of the URL, `http` or `https`, unless set. A node without it refuses
    /// requests.
    #[must_use]
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.port = Some(name.into());
        self
    }

    /// The cluster that a URL means; `None` for one that is none of ours.
    fn meant(&self, url: &Url) -> Result<Option<&Cluster>, Error> {
        let Some(name) = url.host_str().and_then(|host| host.strip_suffix(SUFFIX)) else {
            return Ok(None);
        };
        let Some(cluster) = self.by_name.get(name) else {
            let known: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
            return Err(Error::UnknownCluster { url: url.clone(), known: known.join(", ") });
        };
        if url.port().is_some() {
            return Err(Error::Port { url: url.clone() });
        }
        Ok(Some(cluster))
    }

    /// The URL of the same thing at a node.
    fn at(&self, url: &Url, node: &Picked) -> Result<(Url, SocketAddr), NoSuchPort> {
        let address = node.addr(self.port.as_deref().unwrap_or(url.scheme()))?;
        let mut placed = url.clone();
        placed.set_ip_host(address.ip()).expect("a URL with a host takes another");
        placed.set_port(Some(address.port())).expect("a URL with a host takes a port");
        Ok((placed, address))
    }
}

#[async_trait]
impl Middleware for Clusters {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let url = request.url().clone();
        let Some(cluster) = self.meant(&url).map_err(reqwest_middleware::Error::middleware)? else {
            return next.run(request, extensions).await;
        };
        let retry = self.retry.repeatable_if(is_idempotent(request.method()));
        let request = Mutex::new(Some(request));
        // One attempt at a time, each with what the one before left.
        let extensions = tokio::sync::Mutex::new(extensions);
        let (url, request, extensions, next) = (&url, &request, &extensions, &next);
        let attempt = move |node: Arc<Picked>| async move {
            // A node without the port leaves the request, which may be there only once, for another.
            let (placed, address) = self.at(url, &node).map_err(Failure::Port)?;
            let (mut request, can_repeat) = taken(request);
            *request.url_mut() = placed;
            let mut extensions = extensions.lock().await;
            let sent = next.clone().run(request, &mut extensions).await;
            sent.map(|response| guarded(response, node)).map_err(|error| Failure::Request {
                error,
                node: address,
                can_repeat,
            })
        };
        call::call(cluster.balancer(), None, retry, Settled::ByHolder, attempt).await.map_err(given_up)
    }
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// What an attempt sends, and whether another one could.
fn taken(request: &Mutex<Option<Request>>) -> (Request, bool) {
    let mut held = request.lock().unwrap_or_else(PoisonError::into_inner);
    let original = held.take().expect("nobody tries again what cannot be repeated");
    match original.try_clone() {
        Some(copy) => {
            *held = Some(original);
            (copy, true)
        }
        // Its body is a stream.
        None => (original, false),
    }
}

/// The response, which ends the call when it ends.
fn guarded(response: Response, node: Arc<Picked>) -> Response {
    let (url, failed) = (response.url().clone(), response.status().is_server_error());
    let (mut head, body) = http::Response::<Body>::from(response).into_parts();
    let mut body = Guarded::new(body, node, End::Whole);
    if failed {
        body.settle(false);
    } else if http_body::Body::is_end_stream(&body) {
        body.settle(true);
    }
    let mut named = http::Response::builder().url(url).body(()).expect("only a URL was said").into_parts().0;
    head.extensions.extend(std::mem::take(&mut named.extensions));
    http::Response::from_parts(head, Body::wrap(body)).into()
}

fn given_up(error: CallError<Failure>) -> reqwest_middleware::Error {
    let said = error.to_string();
    let error = match error {
        CallError::Failed { source: Failure::Request { error, .. }, .. } => {
            tracing::debug!(reason = said, "request failed");
            return error;
        }
        CallError::Failed { source: Failure::Port(error), .. } => error.into(),
        CallError::Alloc(error) => error.into(),
        CallError::Deadline { .. } => Error::Deadline(said),
    };
    reqwest_middleware::Error::middleware(error)
}
