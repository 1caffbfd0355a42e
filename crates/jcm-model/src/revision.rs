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

/// Where a store is: the revision that its last commit came to.
///
/// Whoever works something out names the head that it was worked out on. The revision alone would not do: a restored
/// store may come to the same one with other definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Head {
    /// Which store.
    pub store: StoreId,
    /// Up to where its log goes.
    pub revision: Revision,
}

impl Head {
    /// The same store at another revision.
    #[must_use]
    pub fn at(self, revision: Revision) -> Self {
        Self { revision, ..self }
    }

    /// Whether the log up to here tells what became of a commit that was conditional on another head: it is past that
    /// one, so what it does not hold can come to be no more. The log of another store tells nothing.
    #[must_use]
    pub fn settles(self, on: Self) -> bool {
        self.store == on.store && self.revision > on.revision
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "revision {} of store {}", self.revision, self.store)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_head_of_the_same_store_settles_what_was_submitted() {
        let head =
            |store, revision| Head { store: StoreId(Uuid::from_u128(store)), revision: Revision(revision) };
        assert!(head(1, 5).settles(head(1, 4)));
        for on in [head(1, 5), head(1, 6), head(2, 4)] {
            assert!(!head(1, 5).settles(on), "{on}");
        }
    }
}
