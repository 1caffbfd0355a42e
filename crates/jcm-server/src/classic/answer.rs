//! What the facade answers: always HTTP 200, with a code inside. 0 is success.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use jcm_model::Invalid;
use serde::Serialize;

use crate::http::Problem;
use crate::registry::WriteError;

/// The request cannot be carried out as it is. The only code that the original's own handlers had.
const REFUSED: i32 = -1;
/// This server cannot carry it out for now, and nothing was changed. The original's code for a leader out of reach.
const UNAVAILABLE: i32 = -2;
/// It may or may not have happened.
const UNKNOWN: i32 = -3;

/// The wrapping of every answer but that to a poll.
#[derive(Debug, Serialize)]
struct Wrapped<T> {
    code: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// It was done.
pub(super) fn done() -> Response {
    Json(Wrapped::<()> { code: 0, msg: None, data: None }).into_response()
}

/// It was done, and there is something to say about it.
pub(super) fn remarked(remark: String) -> Response {
    Json(Wrapped::<()> { code: 0, msg: Some(remark), data: None }).into_response()
}

/// What was asked for.
pub(super) fn data(data: impl Serialize) -> Response {
    Json(Wrapped { code: 0, msg: None, data: Some(data) }).into_response()
}

/// It was not done.
#[derive(Debug)]
pub(super) struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    pub(super) fn not_found(what: impl std::fmt::Display) -> Self {
        Self { code: REFUSED, message: format!("not found: {what}") }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        Json(Wrapped::<()> { code: self.code, msg: Some(self.message), data: None }).into_response()
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let (code, kind) = match problem.status() {
            StatusCode::NOT_FOUND => (REFUSED, "not found"),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => (UNAVAILABLE, "failed"),
            StatusCode::GATEWAY_TIMEOUT => (UNKNOWN, "outcome unknown"),
            status if status.is_server_error() => (UNAVAILABLE, "failed"),
            _ => (REFUSED, "invalid argument"),
        };
        Self { code, message: format!("{kind}: {}", problem.detail()) }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Problem::from(invalid).into()
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        Problem::from(error).into()
    }
}
