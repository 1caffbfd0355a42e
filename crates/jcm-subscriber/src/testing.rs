//! Clusters for a program's own unit tests: no server, no network, no runtime, and chance that is fixed. Feature `testing`.
//!
//! A [`FakeCluster`] is told what a server would say, and its handles are ordinary [`Cluster`](crate::Cluster)s: whatever
//! picks, calls or watches in the program is what is tested, by the very policies, protection and ejection that it will meet.
//!
//! ```
//! use jcm_subscriber::testing::FakeCluster;
//! use jcm_subscriber::{Cluster, Policy};
//!
//! /// Something of the program.
//! fn url(orders: &Cluster) -> Result<String, Box<dyn std::error::Error>> {
//!     let node = orders.alloc()?;
//!     Ok(format!("http://{}/orders", node.addr("http")?))
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let fake = FakeCluster::new("orders", ["127.0.0.1:8081", "127.0.0.1:8082"]);
//! let orders = fake.subscribe(Policy::round_robin());
//! assert_eq!(url(&orders)?, "http://127.0.0.1:8081/orders");
//! assert_eq!(url(&orders)?, "http://127.0.0.1:8082/orders");
//!
//! fake.down("127.0.0.1:8081");
//! assert_eq!(url(&orders)?, "http://127.0.0.1:8082/orders");
//! assert_eq!(url(&orders)?, "http://127.0.0.1:8082/orders");
//! # Ok(())
//! # }
//! ```
//!
//! What is said takes effect before the call returns. Chance is fixed: after each change every thread begins anew,
//! round robin with the first node by its id. Time is not: [`FakeCluster::pass`] moves the clock, and with it slow starts,
//! ejections and budgets for retries, beyond the real time that passes as well. Peak EWMA goes by how long calls really
//! took, so its picks differ from run to run.
//!
//! Where a program subscribes by itself, give it a [`subscriber`] of fakes.
//!
//! What such a program registers, stands at once and goes when it is left; no cluster shows it.
//!
//! Wrong use, like a node that is not there, panics and says what there is.

mod fake;
mod node;
mod registrations;

pub use fake::{FakeCluster, subscriber};
pub use node::FakeNode;
pub(crate) use registrations::Registrations;
