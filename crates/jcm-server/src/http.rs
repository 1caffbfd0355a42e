//! The JSON API: thin handlers between requests and the registry, the catalog and the views.

mod apply;
mod body;
mod clusters;
mod nodes;
mod problem;
mod request;
mod resolve;
mod status;
mod view;
pub(crate) mod watch;
mod why;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jcm_model::ServerId;
use jcm_storage::{Membership, Store};
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::checker::Asker;
use crate::measure::Metrics;
use crate::registry::Registry;
use crate::views::Views;
pub(crate) use body::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, decode as decode_body, read as read_body};
pub(crate) use problem::Problem;
pub(crate) use request::PRINCIPAL;

/// Total time of a request that waits for nothing but this server: body, write and answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(40);

/// What every handler works with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) server: ServerId,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) registry: Registry,
    pub(crate) views: Arc<Views>,
    pub(crate) asker: Asker,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) subscribers: Arc<crate::discovery::Subscribers>,
    pub(crate) metrics: Arc<Metrics>,
    /// Cancelled when streams shall end because the server stops.
    pub(crate) draining: CancellationToken,
}

/// All routes of the port, gRPC included.
pub(crate) fn router(app: App) -> Router {
    let waiting = Router::new()
        .route("/v1/watch", get(watch::get))
        .route("/v1/clusters/{cluster}/view", get(view::get))
        .route(
            "/jcm.v1.Discovery/Watch",
            axum::routing::post(crate::discovery::watch),
        );
    let prompt = Router::new()
        .route("/v1/clusters", get(clusters::list))
        .route(
            "/v1/clusters/{cluster}",
            get(clusters::get)
                .put(clusters::put)
                .patch(clusters::patch)
                .delete(clusters::delete),
        )
        .route("/v1/clusters/{cluster}/nodes", axum::routing::post(nodes::post))
        .route(
            "/v1/clusters/{cluster}/nodes/{node}",
            axum::routing::patch(nodes::patch).delete(nodes::delete),
        )
        .route("/v1/clusters/{cluster}/nodes/{node}/why", get(why::get))
        .route("/v1/apply", axum::routing::post(apply::post))
        .route("/v1/resolve/{cluster}", get(resolve::get))
        .route("/v1/operations/{operation}", get(status::operation))
        .route("/v1/servers", get(status::servers))
        .route("/v1/status", get(status::status))
        .route("/livez", get(status::livez))
        .route("/readyz", get(status::readyz))
        .route("/metrics", get(status::metrics))
        .merge(crate::classic::routes())
        .layer(middleware::from_fn(deadline));
    waiting
        .merge(prompt)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(measure))
        .with_state(app)
}

async fn unknown_path(uri: Uri) -> Problem {
    let path = jcm_model::invalid::quoted(uri.path());
    Problem::new(
        StatusCode::NOT_FOUND,
        "NOT_FOUND",
        format!("there is nothing at {path}; the API begins at /v1/clusters"),
    )
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    let path = jcm_model::invalid::quoted(uri.path());
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        format!("{path} has no {method}"),
    )
}

/// Bounds the whole of a request: nothing here legitimately takes as long.
async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "TIMEOUT",
            format!(
                "the request was not finished within {} s",
                REQUEST_DEADLINE.as_secs()
            ),
        )
        .into_response(),
    }
}

async fn measure(request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let path = request
        .extensions()
        .get::<axum::extract::MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let started = std::time::Instant::now();
    let response = next.run(request).await;
    let route = path.unwrap_or_else(|| "unknown".to_owned());
    let status = response.status().as_u16().to_string();
    metrics::counter!("jcm_http_requests_total", "route" => route.clone(), "method" => method.to_string(), "status" => status)
        .increment(1);
    metrics::histogram!("jcm_http_request_seconds", "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    tracing::debug!(%method, route, status = response.status().as_u16(), "request answered");
    response
}
