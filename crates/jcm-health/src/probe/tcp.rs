//! The TCP check: a node that accepts a connection works.

use std::net::SocketAddr;

use super::{Dialer, Stopwatch};
use crate::Outcome;

#[derive(Debug)]
pub(crate) struct TcpProber {
    address: SocketAddr,
}

impl TcpProber {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address }
    }

    pub(crate) async fn probe(&self, dialer: &Dialer, watch: &mut Stopwatch) -> Result<Outcome, Outcome> {
        dialer.connect(self.address, watch).await.map(|_| Outcome::Connected)
    }
}
