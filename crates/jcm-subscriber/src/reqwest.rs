//! HTTP requests to nodes of a cluster, by its name in the URL. Feature `reqwest`.
//!
//! [`Clusters`] is a middleware of [`reqwest_middleware`]. With it `http://orders.jcm/path` goes to a node of the
//! cluster `orders`, and every other URL goes where it always went:
//!
//! ```no_run
//! use jcm_subscriber::reqwest::Clusters;
//! use reqwest_middleware::ClientBuilder;
//!
//! # async fn run(jcm: jcm_subscriber::Subscriber) -> Result<(), Box<dyn std::error::Error>> {
//! let orders = jcm.cluster("orders").subscribe().await?;
//! let users = jcm.cluster("users").subscribe().await?;
//! let http = ClientBuilder::new(reqwest::Client::new()).with(Clusters::new([&orders, &users])).build();
//!
//! let order = http.get("http://orders.jcm/orders/7").send().await?.text().await?;
//! # Ok(())
//! # }
//! ```
//!
//! A node is picked for each request, by the policy of the handle. What becomes of it:
//!
//! | | the node | the request |
//! |---|---|---|
//! | no connection came about, or nothing was sent | failed | goes to another node, whatever its method |
//! | it broke under way | failed | goes to another node if [`Retry::repeatable`](crate::Retry::repeatable) *and* the method is idempotent (RFC 9110, 9.2.2), else the error |
//! | the status is 500 or above | failed | the response |
//! | any other status | succeeded, unless the body breaks while it is read | the response |
//!
//! A request whose body is a stream is sent once. A call is in flight until the body was read or the response is
//! dropped. [`Retry::deadline`](crate::Retry::deadline), 10 s unless set, bounds the time until a response begins.
//!
//! **Host.** A node is asked under its own address, as its checks ask it: `Host: 127.0.0.1:8081`, not `orders.jcm`. A
//! request that has a `Host` header keeps it, for nodes with virtual hosts. `https://orders.jcm/` goes to the port
//! `https`, and the certificate must be for the node's IP address.
//!
//! **Redirects** are followed by reqwest itself, past this middleware: one to `http://orders.jcm/` does not get there.

mod clusters;
mod failure;

pub use clusters::{Clusters, Error};
