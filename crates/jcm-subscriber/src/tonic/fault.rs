//! What a failed gRPC call says about its node.

use std::error::Error;

use ::tonic::body::Body;
use ::tonic::{ConnectError, Status};

use crate::fault::{self, Fault, Faulty};
use crate::picked::NoSuchPort;

/// An attempt that failed, in one of three ways.
#[derive(Debug)]
pub(super) enum Failure {
    /// The node has no port for this channel: another one may.
    Port(NoSuchPort),
    /// The connection failed.
    Transport { source: ::tonic::transport::Error, can_repeat: bool },
    /// The node's answer is that it does not work.
    Answer {
        status: Status,
        /// As it came, for a caller who gets it after all.
        response: Box<http::Response<Body>>,
        can_repeat: bool,
    },
}

impl Faulty for Failure {
    fn fault(&self) -> Fault {
        match self {
            Self::Port(_) => Fault::Refused,
            Self::Transport { source, .. } => of_connection(source),
            Self::Answer { status, .. } => status.fault(),
        }
    }

    fn can_repeat(&self) -> bool {
        match self {
            Self::Port(_) => true,
            Self::Transport { can_repeat, .. } | Self::Answer { can_repeat, .. } => *can_repeat,
        }
    }
}

/// Whether the node may have begun with what the connection failed for.
fn of_connection(error: &(dyn Error + 'static)) -> Fault {
    fault::causes(error)
        .find_map(|cause| {
            if cause.is::<ConnectError>() || fault::is_unsent(cause) {
                return Some(Fault::Refused);
            }
            // The other side says which requests it has not looked at: RFC 9113, sections 6.8 and 8.7.
            let reason = cause.downcast_ref::<h2::Error>().filter(|error| error.is_remote())?;
            let unprocessed = match reason.reason()? {
                h2::Reason::REFUSED_STREAM => reason.is_reset(),
                h2::Reason::NO_ERROR => reason.is_go_away(),
                _ => false,
            };
            unprocessed.then_some(Fault::Refused)
        })
        .unwrap_or_else(|| fault::of_causes(error))
}
