//! The harness of the suites: real `jcm-server` processes, a real ZooKeeper, real nodes, plain HTTP.
//!
//! It knows JCM only from outside, by its programs and its HTTP shapes, so that a suite fails when a user
//! would. Nothing here imports a JCM crate; the suites use `jcm-subscriber`, as a program would.
//! Everything that is started is ended by its owner's drop, and every wait has a deadline.

pub mod api;
pub mod binary;
pub mod events;
pub mod group;
pub mod history;
pub mod loopback;
pub mod memory;
pub mod network;
pub mod process;
pub mod proxy;
pub mod quota;
pub mod raw;
pub mod server;
pub mod target;
pub mod wait;
pub mod zookeeper;

pub use api::{Answer, Client};
pub use events::{Event, Events};
pub use group::Group;
pub use network::Network;
pub use proxy::Proxy;
pub use quota::Quota;
pub use server::Server;
pub use target::Target;
pub use wait::{eventually, try_eventually};
pub use zookeeper::Ensemble;
