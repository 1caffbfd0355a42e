//! JCM under [tower]'s services. Feature `tower`.
//!
//! Two ways, which do not go together:
//!
//! - **JCM picks**: [`PickLayer`] picks a node for each request by the policy of the handle, tells the node's outcome,
//!   and goes to another node when one refuses, under the same budget as [`Cluster::call`](crate::Cluster::call), whose
//!   machinery it is. Below it stands a service of [`Placed`] requests: your own, or [`PerNode`], which keeps one
//!   service a node.
//! - **tower picks**: [`Cluster::discover`](crate::Cluster::discover) is a [`Discover`](::tower::discover::Discover) of
//!   the nodes that the handle chooses among, for `tower::balance`. Verdicts, zones, priorities, protection and
//!   ejection hold; weights and the rest of the policy do not, and nobody reports outcomes.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use jcm_subscriber::testing::FakeCluster; // or a `Subscriber`
//! use jcm_subscriber::tower::{PerNode, PickLayer};
//! use jcm_subscriber::{Failed, Policy, Retry};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! let fake = FakeCluster::new("orders", ["127.0.0.1:8081", "127.0.0.1:8082"]);
//! let orders = fake.subscribe(Policy::round_robin());
//!
//! // One service a node: a connection, in earnest.
//! let nodes = PerNode::new(|node: &jcm_subscriber::Node| {
//!     let id = node.id.clone();
//!     service_fn(move |request: &'static str| {
//!         let id = id.clone();
//!         // The first node refuses, so the request goes to the other.
//!         async move {
//!             if id.as_str().ends_with("8081") { Err(Failed::refused("full")) } else { Ok(format!("{id} took {request}")) }
//!         }
//!     })
//! });
//! let service = ServiceBuilder::new().layer(PickLayer::new(&orders).retry(Retry::default())).service(nodes);
//!
//! assert_eq!(service.oneshot("order 7").await.unwrap(), "127.0.0.1:8082 took order 7");
//! # });
//! ```

mod discovery;
mod per_node;
mod pick;

pub use discovery::Discovery;
pub use per_node::PerNode;
pub use pick::{Pick, PickLayer, Placed};
