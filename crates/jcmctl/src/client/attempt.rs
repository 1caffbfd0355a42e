//! One attempt at one server: what its answer means for the request, and what all attempts together come to.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use super::Answer;
use super::error::{self, Error, Problem};
use crate::settings::Server;

/// Largest answer that is read: a cluster at its limits is far below.
pub(super) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Why an attempt leads to another one.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) reason: String,
    /// The write may have been carried out.
    pub(super) unknown: bool,
    /// Waiting may help: something is there, it only cannot do this now.
    pub(super) passing: bool,
    pub(super) problem: Option<Problem>,
    pub(super) wait: Option<Duration>,
}

pub(super) enum Attempt {
    Answered(Answer),
    Final(Error),
    Elsewhere(Elsewhere),
}

/// What an answer means for the request as a whole.
pub(super) fn judge(server: &Server, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Attempt {
    if status.is_success() {
        let text = headers.get("etag").and_then(|value| value.to_str().ok());
        let revision = text.and_then(|text| text.trim_start_matches("W/").trim_matches('"').parse().ok());
        let body = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice(body) };
        return match body {
            Ok(body) => Attempt::Answered(Answer { revision, body }),
            Err(error) => {
                Attempt::Final(Error::Malformed { server: server.to_string(), what: error.to_string() })
            }
        };
    }
    let problem = Problem::new(server, status, body);
    let unknown = matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT);
    let passing = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    if !unknown && !passing {
        return Attempt::Final(Error::Refused(problem));
    }
    let wait = headers.get("retry-after").and_then(|value| value.to_str().ok());
    Attempt::Elsewhere(Elsewhere {
        reason: problem.to_string(),
        unknown,
        passing: true,
        problem: Some(problem),
        wait: wait.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
    })
}

/// The error of a request that no attempt settled.
pub(super) fn end(
    unknown: Option<(Server, Elsewhere)>,
    mut round: Vec<(Server, Elsewhere)>,
    key: &str,
) -> Error {
    if let Some((server, elsewhere)) = unknown {
        return Error::OutcomeUnknown {
            server: server.to_string(),
            operation: elsewhere.problem.and_then(|problem| problem.operation),
            reason: elsewhere.reason,
            key: key.to_owned(),
        };
    }
    // A server that says why tells more than one that is not there.
    if let Some(at) = round.iter().position(|(_, elsewhere)| elsewhere.problem.is_some())
        && let Some(problem) = round.swap_remove(at).1.problem
    {
        return Error::Refused(problem);
    }
    Error::Unreachable {
        tried: round.into_iter().map(|(server, elsewhere)| (server.to_string(), elsewhere.reason)).collect(),
    }
}

/// What kept an answer from being read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{}", error::chain(.0))]
    Transport(#[from] reqwest::Error),
    #[error("answer too large")]
    TooLarge,
}

pub(super) async fn read(mut response: Response) -> Result<Vec<u8>, Broken> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
