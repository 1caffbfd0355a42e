//! One service a node.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use jcm_model::Node;
use tower_service::Service;

use crate::kept::Kept;
use crate::tower::Placed;

/// Sends each [`Placed`] request to the service of its node. See [`tower`](crate::tower).
///
/// The service of a node is made for its first request and kept as long as the node is in the cluster at the same
/// address and ports; what belongs to nodes that went is dropped with the next request. Clones share the services.
pub struct PerNode<S> {
    kept: Arc<Kept<S>>,
}

impl<S> PerNode<S> {
    /// `make` makes the service of a node. It must not block: a connection comes about within the service.
    pub fn new(make: impl Fn(&Node) -> S + Send + Sync + 'static) -> Self {
        Self { kept: Arc::new(Kept::new(make)) }
    }
}

impl<S> Clone for PerNode<S> {
    fn clone(&self) -> Self {
        Self { kept: Arc::clone(&self.kept) }
    }
}

impl<S, R> Service<Placed<R>> for PerNode<S>
where
    S: Service<R, Future: Send> + Clone + Send + 'static,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, placed: Placed<R>) -> Self::Future {
        let mut service = self.kept.of(&placed.node);
        Box::pin(async move {
            std::future::poll_fn(|context| service.poll_ready(context)).await?;
            service.call(placed.request).await
        })
    }
}

impl<S> std::fmt::Debug for PerNode<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerNode").field("kept", &self.kept).finish()
    }
}
