//! The parts of a request that several handlers read, and the way of a write.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use jcm_model::{Cluster, ClusterName, Mutation, Precondition};
use serde::de::DeserializeOwned;

use super::answer::Failure;
use crate::app::App;
use crate::definitions::PRINCIPAL;
use crate::http::{Problem, decode_body, read_body};
use crate::registry::{Wish, Write, WriteError, Written};

/// The cluster named in the path.
pub(super) struct Named(pub(super) ClusterName);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(name) = Path::<String>::from_request_parts(parts, state).await.map_err(|rejection| {
            Problem::invalid(format!("the path cannot be read: {}", rejection.body_text()))
        })?;
        Ok(Self(ClusterName::parse(&name)?))
    }
}

/// The cluster as this server has it.
pub(super) fn held(app: &App, name: &ClusterName) -> Result<Arc<Cluster>, Failure> {
    let snapshot = app.catalog.get();
    if let Some(reason) = snapshot.quarantined.get(name) {
        return Err(WriteError::Quarantined { cluster: name.clone(), reason: reason.to_string() }.into());
    }
    let cluster = snapshot.clusters.get(name).cloned();
    cluster.ok_or_else(|| Failure::not_found(format_args!("there is no cluster `{name}`")))
}

/// Reads and decodes a body. Its content type is not looked at: clients of 2015 send any.
pub(super) async fn take<T: DeserializeOwned>(body: Body, limit_bytes: usize) -> Result<T, Failure> {
    let bytes = read_body(body, limit_bytes).await?;
    Ok(decode_body(&bytes)?)
}

/// One mutation of one cluster.
pub(super) async fn write(
    app: &App,
    cluster: &ClusterName,
    mutation: Mutation,
    precondition: Precondition,
) -> Result<Written, WriteError> {
    let wish = Wish { cluster: cluster.clone(), mutation, precondition };
    let write = Write::new(PRINCIPAL, None, vec![wish], false);
    app.registry.write(write).await
}
