//! Where definitions live, and who may change them.
//!
//! One trait, [`Store`], with several backends behind it that pass one suite of tests. A store keeps definitions, the
//! log of their changes and the ids of recent operations; it never keeps a verdict. It decides nothing: what a
//! mutation means was worked out before, and a commit is refused unless the head is still where that was worked out.

pub mod store;

mod restoration;
mod submission;
mod tail;

pub mod memory;

pub mod embedded;

pub mod zookeeper;

pub mod membership;

#[cfg(feature = "planted")]
pub mod planted;

pub use embedded::EmbeddedStore;
pub use membership::{JoinError, Member, Membership, RingMembers, Roster, Solo, Standing};
pub use memory::MemoryStore;
pub use store::{ChangeFeed, CommitError, Feed, LoadError, RestoreError, Snapshot, Store};
pub use zookeeper::{ZooKeeper, ZooKeeperMembership, ZooKeeperStore};
