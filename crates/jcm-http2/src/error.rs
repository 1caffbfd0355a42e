//! Why a connection ended early.

use std::io;

use crate::frame::Reason;

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket broke, or its client went away in the middle of something.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The client did what it must not; it was told so.
    #[error("{text} ({reason:?})")]
    Protocol {
        /// As the client was told.
        reason: Reason,
        /// What it did.
        text: &'static str,
    },
    /// Nothing was heard of the client, not even when it was asked.
    #[error("the client gives no sign of life")]
    Silent,
}

impl Error {
    pub(crate) fn protocol(text: &'static str) -> Self {
        Self::Protocol { reason: Reason::PROTOCOL_ERROR, text }
    }
}
