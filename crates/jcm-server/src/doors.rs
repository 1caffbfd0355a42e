//! The one router of the port: every door, and what holds for all of them.

mod drained;

use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use crate::app::App;
use crate::http::Problem;
use crate::{classic, discovery, grpc, http, peers};
use drained::Drained;

/// Total time of a request that waits for nothing but this server: body, write and answer.
pub(crate) const REQUEST_DEADLINE: Duration = Duration::from_secs(40);

/// All routes of the port, gRPC included.
pub(crate) fn router(app: App) -> Router {
    let prompt = http::routes().merge(classic::routes()).layer(middleware::from_fn(deadline));
    let waiting = http::waiting_routes();
    let between_servers = peers::routes(&app.peers, &app.asker, &app.registry);
    prompt
        .merge(waiting)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::map_request(drain))
        // A watch is read for as long as it lives: there is nothing to drain.
        .merge(discovery::routes(app.clone()))
        .merge(grpc::routes(app.clone()))
        .merge(between_servers)
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
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", format!("{path} has no {method}"))
}

/// Bounds the whole of a request: nothing here legitimately takes as long.
async fn deadline(request: Request, next: Next) -> Response {
    tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        let detail = format!("the request was not finished within {} s", REQUEST_DEADLINE.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "TIMEOUT", detail).into_response()
    })
}

/// Whatever a handler leaves of a body is read after its answer, so that the sender gets to see that.
async fn drain(request: Request) -> Request {
    request.map(|body| axum::body::Body::new(Drained::new(body)))
}

async fn measure(request: Request, next: Next) -> Response {
    let method = known(request.method());
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let started = Instant::now();
    let response = next.run(request).await;
    let route = path.unwrap_or_else(|| "unknown".to_owned());
    let status = response.status().as_u16();
    metrics::counter!("jcm_http_requests_total", "route" => route.clone(), "method" => method, "status" => status.to_string())
        .increment(1);
    metrics::histogram!("jcm_http_request_seconds", "route" => route.clone())
        .record(started.elapsed().as_secs_f64());
    tracing::debug!(method, route, status, "request answered");
    response
}

/// A method as it may become a label: what clients make up must not make a series each.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}
