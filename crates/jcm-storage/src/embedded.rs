//! The embedded store, in a file.

/// Stub replaced next.
#[derive(Debug)]
pub struct EmbeddedStore;
