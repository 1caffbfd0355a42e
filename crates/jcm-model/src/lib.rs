//! What JCM is about, without any way of doing it: names, definitions, verdicts, and the pure functions between them.
//!
//! Everything here is a value or a function of values. There is no clock, no socket, no task and no file in this
//! crate, so that servers, subscribers, the command line and a simulation all reach the same answer from the same
//! input. The types that people write (clusters, nodes, check policies) carry the public JSON shape: a value that
//! exists is valid, and a refusal names the field and what is allowed.

pub mod address;
pub mod change;
pub mod check;
pub mod cluster;
pub mod duration;
pub mod edit;
pub mod invalid;
pub mod lease;
pub mod mutation;
pub mod name;
pub mod node;
pub mod object;
pub mod pairs;
pub mod revision;
pub mod routing;
pub mod state;
pub mod text;
pub mod verdict;
pub mod view;
pub mod walk;

pub use address::TargetPolicy;
pub use change::{Change, Effect};
pub use check::{Check, CheckKind, CheckSpec};
pub use cluster::{Cluster, ClusterSpec, Header};
pub use edit::Edit;
pub use invalid::Invalid;
/// A point on the wall clock, for people: nothing is decided by it.
pub use jiff::Timestamp;
pub use lease::{Lapsed, Lease, LeaseId};
pub use mutation::{Mutation, Precondition, Refusal};
pub use name::{ClusterName, NodeId, ServerId};
pub use node::{Admin, Node, NodeSpec};
pub use revision::{Head, OperationId, Revision, StoreId};
pub use state::{ClusterState, Delta};
pub use verdict::{Judged, Stamp, Verdict};
