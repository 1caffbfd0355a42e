//! The reference store, in memory.

/// Stub replaced next.
#[derive(Debug)]
pub struct MemoryStore;
