//! The client library of JCM: which nodes of a cluster work, and one of them to call.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use jcm_subscriber::{Policy, Subscriber};
//!
//! let jcm = Subscriber::builder()
//!     .servers(["http://127.0.0.1:8080"])
//!     .snapshot_dir("/var/lib/app/jcm")
//!     .build()
//!     .await?;
//! let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe().await?;
//!
//! let node = orders.alloc()?; // sync, no lock, no allocation
//! let outcome = std::net::TcpStream::connect(node.addr("http")?);
//! node.report(&outcome); // dropped without a report = cancelled
//! # jcm.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! One stream to one server carries all clusters of a [`Subscriber`]; the other servers are there for when it fails.
//! What a program holds only goes forward: a late or restarted server cannot take it back, and only a message that
//! says so on purpose empties it. With no server reachable a program keeps what it holds, and starts from what it wrote
//! to disk the last time.
//!
//! A program can be a node itself while it lives: [`Subscriber::register`].
//!
//! Cargo features put it into what programs use, each a module of its name: `testing` (clusters for unit tests),
//! `blocking` (threads without a runtime), `tower`, `tonic` and `reqwest`. None is on unless asked for.
//!
//! Decisions are pure and sit in `held`, `session`, `outlier` and `plan`; sockets, files and time are in `driver`, `link` and
//! `disk`. There is no wall clock in any decision.

mod subscriber;

mod call;
mod change;
mod cluster;
mod fault;
mod me;
mod outlier;
mod picked;
mod policy;
mod registration;
mod retry;
mod status;

mod alloc;
mod balancer;
mod calls;
mod core;
mod key;
mod latency;
mod plan;
mod view;
mod world;

mod driver;
mod held;
mod link;
mod registry;
mod servers;
mod session;

mod disk;
mod snapshot;

mod random;
#[cfg(test)]
mod sketch;

#[cfg(any(feature = "reqwest", feature = "tonic"))]
mod guarded;
#[cfg(any(feature = "tonic", feature = "tower"))]
mod kept;

#[cfg(feature = "blocking")]
pub mod blocking;
#[cfg(feature = "reqwest")]
pub mod reqwest;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tonic")]
pub mod tonic;
#[cfg(feature = "tower")]
pub mod tower;

pub use alloc::AllocError;
pub use call::{CallError, Ended};
pub use change::{Change, Changes, Turn};
pub use cluster::{Cluster, Counts, Ejected, NodeStatus, Properties};
pub use fault::{Failed, Fault, Faulty};
pub use me::Me;
pub use outlier::{Cause, Outliers};
pub use picked::{NoSuchPort, Picked};
pub use policy::Policy;
pub use registration::{
    LeaveError, RegisterError, Registration, RegistrationBuilder, RegistrationEnd, RegistrationOver,
    RegistrationStatus,
};
pub use retry::Retry;
pub use status::Status;
pub use subscriber::{BuildError, Builder, ClusterBuilder, SubscribeError, Subscriber};

pub use jcm_model::routing::Reason;
pub use jcm_model::{ClusterName, LeaseId, Node, NodeId, Revision, Verdict};
