//! Errors as clients see them: problem details of RFC 9457, with a stable code and what to try.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jcm_model::{Invalid, Refusal};
use serde_json::{Map, Value, json};

use crate::registry::{WRITE_DEADLINE, WriteError};

/// One error.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    more: Map<String, Value>,
}

impl Problem {
    /// An error with a stable code; `detail` says what, where and what to try.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), more: Map::new() }
    }

    /// A fact beside the text.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID", detail)
    }

    pub(crate) fn no_cluster(name: &jcm_model::ClusterName) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NO_CLUSTER",
            format!("there is no cluster `{name}`; `GET /v1/clusters` lists what is there"),
        )
    }

    pub(crate) fn too_large(limit_bytes: usize) -> Self {
        let detail = format!("the body is larger than the limit of {limit_bytes} bytes for this request");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "TOO_LARGE", detail).with("limit_bytes", limit_bytes)
    }

    pub(crate) fn not_loaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "NOT_LOADED", detail)
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The stable code.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// The facts beside the text.
    pub(crate) fn more(&self) -> &Map<String, Value> {
        &self.more
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:jcm:problem:{}", self.code),
            "code": self.code,
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(fields) = &mut body {
            fields.extend(self.more);
        }
        let mut response = (self.status, body.to_string()).into_response();
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(self.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Invalid> for Problem {
    fn from(invalid: Invalid) -> Self {
        let problem = Self::invalid(invalid.to_string());
        if invalid.field.is_empty() { problem } else { problem.with("field", invalid.field) }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            Refusal::NoCluster { cluster } => Self::no_cluster(&cluster),
            Refusal::NoNode { .. } => Self::new(StatusCode::NOT_FOUND, "NO_NODE", detail),
            Refusal::Condition { found, .. } => {
                let detail = format!("{detail}; read it again and repeat the change on what is there");
                Self::new(StatusCode::PRECONDITION_FAILED, "CONDITION", detail)
                    .with("found", found.map(|revision| revision.0))
            }
            Refusal::Lease { found, .. } => Self::new(StatusCode::PRECONDITION_FAILED, "LEASE", detail)
                .with("found", found.map(|lease| lease.to_string())),
            Refusal::Clash { other, .. } => {
                Self::new(StatusCode::CONFLICT, "CLASH", detail).with("other", other.as_str())
            }
            Refusal::IdTaken { node, .. } => {
                Self::new(StatusCode::CONFLICT, "ID_TAKEN", detail).with("node", node.as_str())
            }
            Refusal::Invalid(invalid) => invalid.into(),
        }
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let detail = error.to_string();
        match error {
            WriteError::Refused { refusal, .. } => refusal.into(),
            WriteError::OperationReused { operation } => {
                let detail =
                    format!("{detail}: an `Idempotency-Key` belongs to one request, so send another one");
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "KEY_REUSED", detail)
                    .with("operation", operation.to_string())
            }
            WriteError::Quarantined { cluster, .. } => {
                let detail = format!(
                    "{detail}; restore it from a backup, or delete it with `DELETE /v1/clusters/{cluster}`"
                );
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "QUARANTINED", detail)
            }
            WriteError::Busy { .. } => Self::new(StatusCode::TOO_MANY_REQUESTS, "BUSY", detail),
            WriteError::TooLarge { size_bytes, limit_bytes } => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "TOO_LARGE",
                format!("{detail}; split the cluster or the request"),
            )
            .with("size_bytes", size_bytes)
            .with("limit_bytes", limit_bytes),
            WriteError::Unavailable { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "STORE_UNAVAILABLE",
                format!("{detail}; nothing was changed"),
            ),
            WriteError::OutcomeUnknown { operation, .. } => {
                let detail = format!(
                    "{detail}; repeat it with the same `Idempotency-Key`, or ask `GET /v1/operations/{operation}` (a write takes at most {WRITE_DEADLINE:?})"
                );
                Self::new(StatusCode::GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN", detail)
                    .with("operation", operation.to_string())
            }
        }
    }
}
