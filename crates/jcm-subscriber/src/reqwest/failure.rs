//! What a failed request says about its node.

use std::error::Error as _;

use crate::fault::{self, Fault, Faulty};
use crate::picked::NoSuchPort;

/// An attempt that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The node has no port for it: another one may.
    Port(NoSuchPort),
    /// reqwest, or a middleware that stands behind.
    Request { error: reqwest_middleware::Error, can_repeat: bool },
}

impl Faulty for Failure {
    fn fault(&self) -> Fault {
        match self {
            Self::Port(_) => Fault::Refused,
            Self::Request { error: reqwest_middleware::Error::Reqwest(error), .. } => of_request(error),
            Self::Request { error: reqwest_middleware::Error::Middleware(error), .. } => {
                let inner = error.chain().find_map(|cause| cause.downcast_ref::<::reqwest::Error>());
                inner.map_or_else(|| fault::of_causes(error.as_ref()), of_request)
            }
        }
    }

    fn can_repeat(&self) -> bool {
        !matches!(self, Self::Request { can_repeat: false, .. })
    }
}

fn of_request(error: &::reqwest::Error) -> Fault {
    // A request that cannot be, or that was sent from node to node, is not the last node's fault.
    if error.is_builder() || error.is_redirect() {
        return Fault::Answered;
    }
    let unsent = || error.source().is_some_and(|cause| fault::causes(cause).any(fault::is_unsent));
    if error.is_connect() || unsent() { Fault::Refused } else { fault::of_causes(error) }
}
