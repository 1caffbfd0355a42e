//! The parts of a request that several handlers read: names in the path, conditions, the operation, waiting.

use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use jcm_model::{ClusterName, NodeId, OperationId, Precondition, Revision};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use xxhash_rust::xxh3::Xxh3;

use super::Problem;
use crate::app::App;

/// Longest wait for `min_revision` and `consistent`.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(5);

/// Longest idempotency key.
const KEY_BYTES_MAX: usize = 256;

/// Who asks. Without tokens there is one principal.
pub(crate) const PRINCIPAL: &str = "anonymous";

/// The cluster named in the path.
pub(super) struct InCluster(pub(super) ClusterName);

impl<S: Send + Sync> FromRequestParts<S> for InCluster {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(path_refused)?;
        Ok(Self(ClusterName::parse(&name)?))
    }
}

/// The cluster and node named in the path.
pub(super) struct InNode(pub(super) ClusterName, pub(super) NodeId);

impl<S: Send + Sync> FromRequestParts<S> for InNode {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path((name, id)) =
            Path::<(String, String)>::from_request_parts(parts, state).await.map_err(path_refused)?;
        Ok(Self(ClusterName::parse(&name)?, NodeId::parse(&id)?))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of `map_err`")]
fn path_refused(rejection: PathRejection) -> Problem {
    Problem::invalid(format!("the path cannot be read: {}", rejection.body_text()))
}

/// The query, with unknown and malformed parameters refused by name.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let refused = |rejection: QueryRejection| {
            Problem::invalid(format!("the query cannot be read: {}", rejection.body_text()))
        };
        let Query(params) = Query::<T>::from_request_parts(parts, state).await.map_err(refused)?;
        Ok(Self(params))
    }
}

/// Parameters of a write.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WriteParams {
    #[serde(default)]
    pub(super) dry_run: bool,
}

/// Parameters of a read of one cluster.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadParams {
    pub(super) min_revision: Option<u64>,
    #[serde(default)]
    pub(super) consistent: bool,
}

/// Waits until this server's memory is as new as the reader asks for.
pub(super) async fn caught_up(app: &App, min_revision: Option<u64>, consistent: bool) -> Result<(), Problem> {
    let mut wanted = Revision(min_revision.unwrap_or(0));
    if consistent {
        let unavailable =
            |reason: String| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", reason);
        let head = tokio::time::timeout(CATCH_UP_DEADLINE, app.store.head()).await;
        let head = head.map_err(|_| {
            unavailable(format!("the store did not answer within {} s", CATCH_UP_DEADLINE.as_secs()))
        })?;
        wanted = wanted.max(head.map_err(|error| unavailable(error.to_string()))?);
    }
    if tokio::time::timeout(CATCH_UP_DEADLINE, app.catalog.reached(wanted)).await.is_err() {
        let have = app.catalog.get().revision;
        let detail = format!(
            "this server is at revision {have} and did not reach {wanted} within {} s",
            CATCH_UP_DEADLINE.as_secs()
        );
        return Err(Problem::not_loaded(detail).with("revision", have.0));
    }
    Ok(())
}

/// The conditions `If-Match: 42` and `If-None-Match: *`.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition, Problem> {
    let text = |name: header::HeaderName| -> Result<Option<String>, Problem> {
        let mut values = headers.get_all(&name).iter();
        let first = values.next();
        if values.next().is_some() {
            return Err(Problem::invalid(format!("`{name}` stands there twice")));
        }
        let readable = |value: &HeaderValue| value.to_str().map(|text| text.trim().to_owned());
        first
            .map(readable)
            .transpose()
            .map_err(|_| Problem::invalid(format!("`{name}` is not readable text")))
    };
    let mut precondition = Precondition::default();
    if let Some(value) = text(header::IF_MATCH)? {
        let number = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(&value);
        let revision = number.parse().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()));
        let revision: u64 = revision.ok_or_else(|| {
            Problem::invalid(format!(
                "`If-Match` {} is refused: write a revision like `42`",
                jcm_model::invalid::quoted(&value)
            ))
        })?;
        precondition.revision = Some(Revision(revision));
    }
    if let Some(value) = text(header::IF_NONE_MATCH)? {
        if value != "*" {
            return Err(Problem::invalid("`If-None-Match` is refused unless it is `*`: create only"));
        }
        precondition.absent = true;
    }
    if precondition.absent && precondition.revision.is_some() {
        return Err(Problem::invalid("`If-Match` and `If-None-Match` exclude each other"));
    }
    Ok(precondition)
}

/// The operation of a write, and the digest of what it asks for.
pub(super) fn operation(headers: &HeaderMap, parts: &[&[u8]]) -> Result<(OperationId, u64), Problem> {
    let mut hasher = Xxh3::new();
    for part in parts.iter().copied().chain(
        [header::IF_MATCH, header::IF_NONE_MATCH]
            .iter()
            .filter_map(|name| Some(headers.get(name)?.as_bytes())),
    ) {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    if headers.get_all("idempotency-key").iter().count() > 1 {
        return Err(Problem::invalid("`Idempotency-Key` stands there twice"));
    }
    let id = match headers.get("idempotency-key") {
        None => OperationId(Uuid::now_v7()),
        Some(key) => match key.to_str() {
            Ok(key) if !key.is_empty() && key.len() <= KEY_BYTES_MAX => OperationId::from_key(PRINCIPAL, key),
            _ => {
                return Err(Problem::invalid(format!(
                    "`Idempotency-Key` is refused: 1 to {KEY_BYTES_MAX} visible ASCII characters"
                )));
            }
        },
    };
    Ok((id, hasher.digest()))
}
