//! What a failed request says about its node.

use std::error::Error as _;
use std::net::SocketAddr;

use crate::fault::{self, Fault, Faulty};
use crate::picked::NoSuchPort;

/// An attempt that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The node has no port for it: another one may.
    Port(NoSuchPort),
    /// reqwest, or a middleware that stands behind.
    Request { error: reqwest_middleware::Error, node: SocketAddr, can_repeat: bool },
}

impl Faulty for Failure {
    fn fault(&self) -> Fault {
        match self {
            Self::Port(_) => Fault::Refused,
            Self::Request { error: reqwest_middleware::Error::Reqwest(error), node, .. } => {
                of_request(error, *node)
            }
            Self::Request { error: reqwest_middleware::Error::Middleware(error), node, .. } => {
                let inner = error.chain().find_map(|cause| cause.downcast_ref::<::reqwest::Error>());
                inner.map_or_else(|| fault::of_causes(error.as_ref()), |error| of_request(error, *node))
            }
        }
    }

    fn can_repeat(&self) -> bool {
        !matches!(self, Self::Request { can_repeat: false, .. })
    }
}

fn of_request(error: &::reqwest::Error, node: SocketAddr) -> Fault {
    // A request that cannot be, or that was sent from node to node, is not the last node's fault.
    if error.is_builder() || error.is_redirect() {
        return Fault::Answered;
    }
    if error.is_connect() {
        // reqwest follows redirects within the attempt: where the connection that failed was to somewhere else, the node has
        // taken the request. Only the text of what led to the error says where it was to.
        let is_to_node = format!("{:?}", error.source()).contains(&node.to_string());
        return if is_to_node || error.is_timeout() { Fault::Refused } else { Fault::Broken };
    }
    let unsent = || error.source().is_some_and(|cause| fault::causes(cause).any(fault::is_unsent));
    if unsent() { Fault::Refused } else { fault::of_causes(error) }
}
