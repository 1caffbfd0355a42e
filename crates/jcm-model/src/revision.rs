//! The counters and ids that order everything: revision, store id, operation id.

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

/// The position in the one order of all mutations of a store.
///
/// Every mutation is +1, also within one transaction; a revision is never reused within a store and never comes from
/// a clock. Revisions compare only within one [`StoreId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of a store in which nothing was ever written.
    pub const ZERO: Self = Self(0);

    /// The revision that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which store this is. A store that is born empty or restored gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub Uuid);

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What makes one write recognisable when it is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub Uuid);

impl OperationId {
    /// The operation that a principal names with an idempotency key: the same pair is the same operation on every server.
    pub fn from_key(principal: &str, key: &str) -> Self {
        let mut bytes = Vec::with_capacity(principal.len() + key.len() + 8);
        // The length keeps ("ab", "c") apart from ("a", "bc").
        bytes.extend_from_slice(&(principal.len() as u64).to_be_bytes());
        bytes.extend_from_slice(principal.as_bytes());
        bytes.extend_from_slice(key.as_bytes());
        Self(Uuid::from_u128(xxh3_128(&bytes)))
    }
}

impl std::fmt::Display for OperationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
