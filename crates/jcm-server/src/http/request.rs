//! The parts of a request that several handlers read: names in the path, conditions, what a write comes with.

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, header};
use jcm_model::{ClusterName, NodeId, Precondition, Revision};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Problem;
use crate::definitions::{Freshness, Terms};

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
    min_revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

impl ReadParams {
    pub(super) fn freshness(&self) -> Freshness {
        Freshness { min_revision: self.min_revision, consistent: self.consistent }
    }
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

/// What a write comes with: conditions and key from its headers.
pub(super) fn terms(headers: &HeaderMap, params: &WriteParams) -> Result<Terms, Problem> {
    let precondition = precondition(headers)?;
    if headers.get_all("idempotency-key").iter().count() > 1 {
        return Err(Problem::invalid("`Idempotency-Key` stands there twice"));
    }
    let key = headers.get("idempotency-key").map(|key| key.to_str().map(str::to_owned)).transpose();
    let key = key.map_err(|_| Problem::invalid("`Idempotency-Key` is refused: visible ASCII characters"))?;
    Ok(Terms { precondition, key, dry_run: params.dry_run })
}
