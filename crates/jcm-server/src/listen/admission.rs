//! Requests of one connection, told who is at the other end, and let in while no pause came after its beginning.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tonic::transport::server::TcpConnectInfo;

use super::together::Streams;
use crate::discovery;
use crate::pause::{Pulse, Stretch, come_in};

/// The way from one connection to the router.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    pulse: Pulse,
    stretch: Stretch,
    streams: Streams,
}

/// The request is from before a pause. It ends its connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("this process stood still after the connection was made")]
pub(super) struct Late;

impl Admission {
    pub(super) fn new(router: Router, peer: SocketAddr, pulse: Pulse, stretch: Stretch) -> Self {
        let router = TowerToHyperService::new(router);
        Self { router, peer, pulse, stretch, streams: Streams::default() }
    }

    /// What runs the streams of this connection, where it has several.
    pub(super) fn streams(&self) -> Streams {
        self.streams.clone()
    }
}

impl Service<hyper::Request<Incoming>> for Admission {
    type Response = Response;
    type Error = Late;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Late>> + Send>>;

    fn call(&self, mut request: hyper::Request<Incoming>) -> Self::Future {
        if self.pulse.is_over(self.stretch) {
            return Box::pin(std::future::ready(Err(Late)));
        }
        let peer = TcpConnectInfo { local_addr: None, remote_addr: Some(self.peer) };
        request.extensions_mut().insert(peer);
        if request.version() == http::Version::HTTP_2 && request.uri().path() == discovery::PATH {
            let inbox = Arc::default();
            self.streams.expect_watch(&inbox);
            request.extensions_mut().insert(inbox);
        }
        let answer = come_in(self.stretch, self.router.call(request));
        Box::pin(async move {
            let answered = answer.await;
            Ok(answered.unwrap_or_else(|never| match never {}))
        })
    }
}
