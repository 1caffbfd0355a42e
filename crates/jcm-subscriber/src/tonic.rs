//! gRPC clients whose calls go to nodes of a cluster. Feature `tonic`.
//!
//! A [`Channel`] stands where a [`tonic::transport::Channel`] would, and every generated client takes it:
//!
//! ```no_run
//! # use tonic_like::OrdersClient;
//! # mod tonic_like {
//! #     pub struct OrdersClient<T>(pub T);
//! #     impl<T: tower::Service<http::Request<tonic::body::Body>>> OrdersClient<T> {
//! #         pub fn new(channel: T) -> Self { Self(channel) }
//! #     }
//! # }
//! # async fn run(jcm: jcm_subscriber::Subscriber) -> Result<(), Box<dyn std::error::Error>> {
//! let orders = jcm.cluster("orders").subscribe().await?;
//! let client = OrdersClient::new(jcm_subscriber::tonic::Channel::new(&orders));
//! # Ok(())
//! # }
//! ```
//!
//! JCM picks a node for each call, by the policy of the handle, out of what checks find well: a node that is down is
//! not called at all, before its connection breaks and whatever that looks like. Each node has one connection, made for
//! its first call.
//!
//! What becomes of calls:
//!
//! | | the node | the call |
//! |---|---|---|
//! | no connection, or the request was not taken any more | failed | goes to another node |
//! | it breaks, or its status is one of [`Fault::Broken`](crate::Fault::Broken) (`UNAVAILABLE`, `UNKNOWN` …) before a message | failed | goes to another node if [`Retry::repeatable`](crate::Retry::repeatable), else the error or status |
//! | the same after a message | failed | the error or status |
//! | any other status | succeeded | the status |
//!
//! A call is in flight until its last message was read, or its stream is dropped: then it succeeded if a message had
//! come, and counts as cancelled if none had.

mod channel;
mod fault;
mod replay;
mod timeout;

pub use channel::{Builder, Channel};
