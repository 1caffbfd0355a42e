//! Why a peer was not asked, or did not answer.

use std::time::Duration;

use jcm_model::ServerId;

/// Why a peer was not asked, or did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// There is no connection. Nothing was sent.
    #[error("server `{server}` is not connected")]
    NotConnected { server: ServerId },
    /// It could not be asked. Nothing was sent.
    #[error("server `{server}` was not asked: {reason}")]
    NotSent { server: ServerId, reason: String },
    /// It refused to look at it, for example because it knows another token. Nothing was done.
    #[error("server `{server}` refused: {reason}")]
    Refused { server: ServerId, reason: String },
    /// No answer came in time. It may have been done.
    #[error("server `{server}` did not answer within {} ms", within.as_millis())]
    TimedOut { server: ServerId, within: Duration },
    /// The connection broke before the answer. It may have been done.
    #[error("the connection to server `{server}` broke: {reason}")]
    Broken { server: ServerId, reason: String },
    /// Its answer cannot be read. It may have been done.
    #[error("the answer of server `{server}` cannot be read: {reason}")]
    Malformed { server: ServerId, reason: String },
}

impl PeerError {
    /// Whether it is certain that nothing was done.
    pub(crate) fn is_undone(&self) -> bool {
        matches!(self, Self::NotConnected { .. } | Self::NotSent { .. } | Self::Refused { .. })
    }
}
