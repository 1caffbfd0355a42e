//! The JSON API: thin handlers between requests and the registry and the views.

mod apply;
mod body;
mod check;
mod clusters;
mod convergence;
mod nodes;
mod problem;
mod request;
mod resolve;
mod ring;
mod snapshot;
mod status;
mod view;
mod watch;
mod why;

use axum::Router;
use axum::routing::{get, patch, post};

use crate::app::App;
pub(crate) use body::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, decode as decode_body, read as read_body};
pub(crate) use check::REQUESTS_MAX as PROBES_MAX;
pub(crate) use problem::Problem;

/// What is answered as soon as it is known.
pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/v1/clusters", get(clusters::list))
        .route(
            "/v1/clusters/{cluster}",
            get(clusters::get).put(clusters::put).patch(clusters::patch).delete(clusters::delete),
        )
        .route("/v1/clusters/{cluster}/nodes", post(nodes::post))
        .route("/v1/clusters/{cluster}/nodes/{node}", patch(nodes::patch).delete(nodes::delete))
        .route("/v1/clusters/{cluster}/nodes/{node}/why", get(why::get))
        .route("/v1/apply", post(apply::post))
        .route("/v1/resolve/{cluster}", get(resolve::get))
        .route("/v1/operations/{operation}", get(status::operation))
        .route("/v1/convergence/{cluster}", get(convergence::get))
        .route("/v1/servers", get(status::servers))
        .route("/v1/ring", get(ring::get))
        .route("/v1/status", get(status::status))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
}

/// What waits for news, or carries everything.
pub(crate) fn waiting_routes() -> Router<App> {
    Router::new()
        .route("/v1/watch", get(watch::get))
        .route("/v1/clusters/{cluster}/view", get(view::get))
        // A policy may give a probe a minute.
        .route("/v1/clusters/{cluster}/nodes/{node}/check", post(check::post))
        .route("/v1/snapshot", get(snapshot::get).post(snapshot::post))
}
