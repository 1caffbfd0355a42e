//! The same for threads without a runtime. Feature `blocking`.
//!
//! ```no_run
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use jcm_subscriber::{Policy, Retry, blocking::Subscriber};
//!
//! let jcm = Subscriber::builder().servers(["http://127.0.0.1:8080"]).build()?;
//! let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe()?;
//!
//! let node = orders.alloc()?;
//! let outcome = std::net::TcpStream::connect(node.addr("http")?);
//! node.report(&outcome);
//!
//! let stream = orders.call(Retry::default(), |node| {
//!     std::net::TcpStream::connect(node.addr("http").map_err(std::io::Error::other)?)
//! })?;
//! # jcm.shutdown();
//! # Ok(())
//! # }
//! ```
//!
//! One thread of its own, named `jcm-subscriber`, does what the tasks of a [`crate::Subscriber`] do. It ends with
//! [`Subscriber::shutdown`], or when the last handle is dropped.
//!
//! Whatever waits here parks the calling thread and drives no runtime, so it neither panics nor deadlocks inside of
//! one; it does hold up the tasks of the thread that it is called on. In `async` code use [`crate::Subscriber`], or
//! [`Cluster::as_async`] of a handle that is there.

mod cluster;
mod park;
mod registration;
mod subscriber;

pub use cluster::{Changes, Cluster};
pub use registration::{Registration, RegistrationBuilder};
pub use subscriber::{BuildError, Builder, ClusterBuilder, Subscriber};
