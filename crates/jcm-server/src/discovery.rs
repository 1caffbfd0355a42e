//! The watch stream: one for all clusters of a subscriber, fed with events that are encoded once for everybody.
//!
//! A stream has no task of its own and no queue. It is the body of its answer: the connection asks it for the next
//! message, one ahead of the room for it, and what changes meanwhile is told from the latest view.

mod requests;
mod servers;
mod session;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tonic::transport::server::TcpConnectInfo;

use crate::app::App;
use session::Session;

/// The one route of this door. By hand, because its answers are bytes already.
pub(crate) fn routes(app: App) -> Router<App> {
    // One for all streams, each of which keeps it for as long as it lives.
    Router::new().route("/jcm.v1.Discovery/Watch", post(watch)).with_state(Arc::new(app))
}

async fn watch(State(app): State<Arc<App>>, request: Request) -> Response {
    if request.version() != Version::HTTP_2 {
        let text = "a watch stream is gRPC, which needs HTTP/2; server-sent events are at /v1/watch";
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, text).into_response();
    }
    let peer = request.extensions().get::<TcpConnectInfo>().and_then(|info| info.remote_addr);
    let session = Session::new(app, peer, requests::read(request.into_body()));
    let mut response = Body::new(session).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
