//! Requests of one connection, told who is at the other end, and let in while no pause came after its beginning.

use std::net::SocketAddr;
use std::pin::Pin;

use axum::Router;
use axum::response::Response;
use bytes::Bytes;
use http_body::Body;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tonic::transport::server::TcpConnectInfo;

use crate::pause::{Pulse, Stretch, come_in};

/// The way from one connection to the router.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    router: TowerToHyperService<Router>,
    peer: SocketAddr,
    pulse: Pulse,
    stretch: Stretch,
}

/// The request is from before a pause. It ends its connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("this process stood still after the connection was made")]
pub(super) struct Late;

impl Admission {
    pub(super) fn new(router: Router, peer: SocketAddr, pulse: Pulse, stretch: Stretch) -> Self {
        let router = TowerToHyperService::new(router);
        Self { router, peer, pulse, stretch }
    }
}

impl<B> Service<hyper::Request<B>> for Admission
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + 'static,
{
    type Response = Response;
    type Error = Late;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Late>> + Send>>;

    fn call(&self, mut request: hyper::Request<B>) -> Self::Future {
        if self.pulse.is_over(self.stretch) {
            return Box::pin(std::future::ready(Err(Late)));
        }
        let peer = TcpConnectInfo { local_addr: None, remote_addr: Some(self.peer) };
        request.extensions_mut().insert(peer);
        let answer = come_in(self.stretch, self.router.call(request));
        Box::pin(async move {
            let answered = answer.await;
            Ok(answered.unwrap_or_else(|never| match never {}))
        })
    }
}
