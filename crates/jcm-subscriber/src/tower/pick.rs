//! A service that picks a node for each request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::call::CallError;
use crate::cluster::Cluster;
use crate::fault::Faulty;
use crate::picked::Picked;
use crate::retry::Retry;

/// A request with the node that it is to go to.
#[derive(Debug, Clone)]
pub struct Placed<R> {
    /// Where.
    pub node: Arc<Picked>,
    /// What.
    pub request: R,
}

/// Makes [`Pick`] out of a service of [`Placed`] requests. See [`tower`](crate::tower).
#[derive(Debug, Clone)]
pub struct PickLayer {
    cluster: Cluster,
    retry: Retry,
}

impl PickLayer {
    /// Picks from this handle, by its policy, with [`Retry::default`].
    pub fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), retry: Retry::default() }
    }

    /// When a failed request is made again, at another node.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }
}

impl<S> Layer<S> for PickLayer {
    type Service = Pick<S>;

    fn layer(&self, inner: S) -> Pick<S> {
        Pick { cluster: self.cluster.clone(), retry: self.retry, inner }
    }
}

/// Sends each request to a node that it picks, and to another one when that refuses, see [`PickLayer`].
///
/// Requests are cloned for every attempt. Each attempt takes a clone of the inner service and waits until that is
/// ready; the wait is a part of the attempt, so the service itself is always ready. What an error means for the node
/// and for another attempt its [`Faulty`] says.
#[derive(Debug, Clone)]
pub struct Pick<S> {
    cluster: Cluster,
    retry: Retry,
    inner: S,
}

impl<S, R> Service<R> for Pick<S>
where
    S: Service<Placed<R>, Error: Faulty + Send, Response: Send, Future: Send> + Clone + Send + 'static,
    R: Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = CallError<S::Error>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        let Self { cluster, retry, inner } = self.clone();
        Box::pin(async move {
            let attempt = move |node| {
                let (mut inner, request) = (inner.clone(), request.clone());
                async move {
                    std::future::poll_fn(|context| inner.poll_ready(context)).await?;
                    inner.call(Placed { node, request }).await
                }
            };
            cluster.call(retry, attempt).await
        })
    }
}
