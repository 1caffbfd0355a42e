//! What can go wrong between this program and the servers, and what its reader is told.

use reqwest::StatusCode;
use serde_json::Value;

use crate::failure::{Exit, Failure};
use crate::settings::Server;

/// Longest part of a foreign body that is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No server took the request; nothing was changed.
    #[error("no server is reachable: {}", tried.iter().map(|(server, reason)| format!("{server}: {reason}")).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// Each server with what happened there.
        tried: Vec<(String, String)>,
    },
    /// A write was sent, and nobody knows whether it was carried out.
    #[error("outcome unknown, the write may have been carried out: {server}: {reason}")]
    OutcomeUnknown {
        /// The server it was sent to.
        server: String,
        /// What happened there.
        reason: String,
        /// The operation to ask for.
        operation: Option<String>,
        /// The key under which the whole command can be repeated.
        key: String,
    },
    /// A server answered that it will not, or cannot now.
    #[error("{0}")]
    Refused(Problem),
    /// An answer that is not JCM's.
    #[error("the answer of {server} cannot be read: {what}")]
    Malformed {
        /// Who answered.
        server: String,
        /// What is wrong with it.
        what: String,
    },
}

/// A refusal as servers word it (RFC 9457).
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub server: String,
    pub status: StatusCode,
    pub title: String,
    pub detail: String,
    /// With 412: the revision the cluster has; `None` when it is not there.
    pub found: Option<u64>,
    /// With 504: the operation to ask for.
    pub operation: Option<String>,
}

impl Problem {
    /// Reads a refusal; one that is no problem document is shown as it is.
    pub(crate) fn new(server: &Server, status: StatusCode, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let text = |field: &str| json[field].as_str().map(str::to_owned);
        let foreign = || {
            let shown: String = String::from_utf8_lossy(body).chars().take(SHOWN_CHARS_MAX).collect();
            shown.trim().to_owned()
        };
        Self {
            server: server.to_string(),
            status,
            title: text("title").unwrap_or_else(|| status.canonical_reason().unwrap_or_default().to_owned()),
            detail: text("detail").unwrap_or_else(foreign),
            found: json["found"].as_u64(),
            operation: text("operation"),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = if self.detail.is_empty() { &self.title } else { &self.detail };
        write!(f, "{said}")?;
        if let Some(found) = self.found
            && !said.contains(&found.to_string())
        {
            write!(f, ", found revision {found}")?;
        }
        write!(f, " ({}, {})", self.status.as_u16(), self.server)
    }
}

impl Error {
    /// Whether a server said that the thing asked for is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(problem) if problem.status == StatusCode::NOT_FOUND)
    }

    /// Whether asking again later, or elsewhere, may go better.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(problem) => {
                problem.status.is_server_error() || problem.status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::OutcomeUnknown { .. } | Self::Malformed { .. } => false,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let what = error.to_string();
        match &error {
            Error::Unreachable { .. } => {
                Failure::new(Exit::Unreachable, what).next("jcmctl --server http://HOST:PORT version")
            }
            Error::OutcomeUnknown { key, operation, .. } => {
                let what = match operation {
                    Some(operation) => format!("{what}, operation {operation}"),
                    None => what,
                };
                Failure::new(Exit::Failure, what).next(format!(
                    "the same command with --idempotency-key {key} (it cannot be applied twice)"
                ))
            }
            Error::Malformed { .. } => {
                Failure::new(Exit::Failure, what).next("jcmctl --server http://HOST:PORT version")
            }
            Error::Refused(problem) => {
                let exit = exit_of(problem.status);
                let failure = Failure::new(exit, what);
                match exit {
                    Exit::Unauthorised => failure.next("the same command with --token-file PATH"),
                    Exit::Unreachable => failure.next("the same command again, or with another --server"),
                    Exit::NotFound | Exit::Conflict | Exit::Condition => failure.next("jcmctl cluster list"),
                    _ => failure,
                }
            }
        }
    }
}

/// The exit status of a refusal. A failed condition is a conflict of revisions, unless the command asked for absence:
/// only the command knows that.
fn exit_of(status: StatusCode) -> Exit {
    match status {
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::CONFLICT | StatusCode::PRECONDITION_FAILED => Exit::Conflict,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Unauthorised,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unreachable,
        _ => Exit::Failure,
    }
}

/// The innermost cause of a transport error says what happened; the outer layers repeat the address.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let inner = cause.to_string();
    if error.is_connect() {
        format!("cannot connect: {inner}")
    } else {
        format!("the connection broke: {inner}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_map_to_the_exit_statuses_of_the_help() {
        let server = Server::parse("127.0.0.1:1").unwrap();
        for (status, exit) in [
            (400, Exit::Failure),
            (401, Exit::Unauthorised),
            (403, Exit::Unauthorised),
            (404, Exit::NotFound),
            (409, Exit::Conflict),
            (412, Exit::Conflict),
            (413, Exit::Failure),
            (422, Exit::Failure),
            (429, Exit::Failure),
            (500, Exit::Failure),
            (503, Exit::Unreachable),
        ] {
            let problem = Problem::new(&server, StatusCode::from_u16(status).unwrap(), b"{}");
            let failure = Failure::from(Error::Refused(problem));
            assert_eq!(failure.exit, exit, "{status}");
        }
    }

    #[test]
    fn a_refusal_that_is_no_problem_document_is_shown_bounded() {
        let server = Server::parse("127.0.0.1:1").unwrap();
        let page = format!("<html>{}", "x".repeat(10_000));
        let problem = Problem::new(&server, StatusCode::BAD_REQUEST, page.as_bytes());
        assert!(problem.to_string().len() < 300);
        assert!(problem.to_string().contains("(400, http://127.0.0.1:1)"), "{problem}");
    }

    #[test]
    fn a_failed_condition_names_the_revision_found() {
        let server = Server::parse("127.0.0.1:1").unwrap();
        let body = br#"{"title":"Condition not met","detail":"cluster `orders` differs","found":42}"#;
        let problem = Problem::new(&server, StatusCode::PRECONDITION_FAILED, body);
        assert_eq!(
            problem.to_string(),
            "cluster `orders` differs, found revision 42 (412, http://127.0.0.1:1)"
        );
    }
}
