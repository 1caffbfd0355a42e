//! Errors as gRPC clients see them: a status with the text that HTTP clients get, the stable code in `jcm-code`, and each
//! fact beside the text in a trailer of its own.

use axum::http::StatusCode;
use jcm_proto::Malformed;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataKey, MetadataValue};
use tonic::{Code, Status};

use crate::http::Problem;

/// How long to wait before the next try, where trying again is all that is needed.
const RETRY_AFTER_MS: &str = "1000";

/// The error as a status.
#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
pub(super) fn refused(problem: Problem) -> Status {
    let code = code(&problem);
    let mut status = Status::new(code, problem.detail());
    let trailers = status.metadata_mut();
    trailers.insert("jcm-code", MetadataValue::from_static(problem.code()));
    for (name, value) in problem.more() {
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let key = format!("jcm-{}", name.replace('_', "-"));
        // What is no plain text stays out: the message names it.
        if let (Ok(key), Ok(value)) =
            (key.parse::<MetadataKey<Ascii>>(), MetadataValue::<Ascii>::try_from(text))
        {
            trailers.insert(key, value);
        }
    }
    if matches!(code, Code::Unavailable | Code::ResourceExhausted) {
        trailers.insert("jcm-retry-after-ms", MetadataValue::from_static(RETRY_AFTER_MS));
    }
    status
}

/// A message that is no valid value.
pub(super) fn malformed(error: Malformed) -> Status {
    refused(match error {
        Malformed::Value(invalid) => invalid.into(),
        other => Problem::invalid(other.to_string()),
    })
}

fn code(problem: &Problem) -> Code {
    match (problem.status(), problem.code()) {
        (StatusCode::NOT_FOUND, _) => Code::NotFound,
        (StatusCode::CONFLICT, _) => Code::AlreadyExists,
        // Somebody else wrote meanwhile: read again, work it out again (AIP-154).
        (StatusCode::PRECONDITION_FAILED, _) => Code::Aborted,
        (StatusCode::PAYLOAD_TOO_LARGE, _) => Code::OutOfRange,
        (StatusCode::TOO_MANY_REQUESTS, _) => Code::ResourceExhausted,
        // What retries of a channel would not repair.
        (StatusCode::SERVICE_UNAVAILABLE, "QUARANTINED") => Code::DataLoss,
        (StatusCode::SERVICE_UNAVAILABLE, _) => Code::Unavailable,
        // It may have happened: channels do not repeat this by themselves.
        (StatusCode::GATEWAY_TIMEOUT | StatusCode::REQUEST_TIMEOUT, _) => Code::DeadlineExceeded,
        (status, _) if status.is_client_error() => Code::InvalidArgument,
        _ => Code::Internal,
    }
}
