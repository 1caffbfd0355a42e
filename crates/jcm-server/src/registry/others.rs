//! The other servers, as far as a write needs them: a seam, so that forwarding is tried without a network.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use jcm_model::ServerId;

use super::write::{Answer, Write};
use crate::peers::{PeerError, Peers};

/// How long the answer of another server is waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// From one sign that it gets on to the next, and to the first.
    pub(crate) without_a_sign: Duration,
    /// In all.
    pub(crate) in_all: Duration,
}

/// The other servers, as far as a write needs them.
#[tonic::async_trait]
pub(crate) trait Others: Send + Sync + Debug {
    /// The servers that can be asked now, without those that are about to stop.
    fn connected(&self) -> Vec<ServerId>;

    /// Lets the server carry the write out by itself. Unless the error says that nothing was done, it may have been.
    async fn forward(&self, to: &ServerId, write: &Write, patience: Patience) -> Result<Answer, PeerError>;
}

#[tonic::async_trait]
impl Others for Peers {
    fn connected(&self) -> Vec<ServerId> {
        let liveness = Arc::clone(&self.liveness().borrow());
        let mut connected = Peers::connected(self);
        connected.retain(|server| !liveness.standing(server).draining);
        connected
    }

    async fn forward(&self, to: &ServerId, write: &Write, patience: Patience) -> Result<Answer, PeerError> {
        Peers::forward(self, to, write, patience).await
    }
}
