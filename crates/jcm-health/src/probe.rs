//! Asking one node once: connect, ask, read, within one deadline for all of it.
//!
//! A prober belongs to one target and keeps that target's connection between probes, where the policy allows it. It
//! follows no redirect, unpacks no body, stores nothing that a node says and sends no header that a user chose.

mod answer;
mod dialer;
mod http;
mod once;
mod stopwatch;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;

use jcm_model::{Check, CheckKind};

pub(crate) use dialer::{Dialer, OPENING_MAX};
pub use once::{NotProbed, OnceProber, Probed};
pub(crate) use stopwatch::Stopwatch;

use crate::Outcome;

/// Probes one target, again and again.
#[derive(Debug)]
pub(crate) enum Prober {
    Tcp(tcp::TcpProber),
    Http(http::HttpProber),
}

impl Prober {
    /// A prober for this kind of check; `None` for a kind that nobody probes.
    pub(crate) fn new(address: SocketAddr, check: Arc<Check>) -> Option<Self> {
        match check.kind {
            CheckKind::Tcp => Some(Self::Tcp(tcp::TcpProber::new(address))),
            CheckKind::Http => Some(Self::Http(http::HttpProber::new(address, check))),
            CheckKind::None | CheckKind::Https | CheckKind::Grpc | CheckKind::Lease => None,
        }
    }

    /// Probes once. Ends at the stopwatch's deadline at the latest.
    pub(crate) async fn probe(&mut self, dialer: &Dialer, watch: &mut Stopwatch) -> Outcome {
        let asked = match self {
            Self::Tcp(prober) => prober.probe(dialer, watch).await,
            Self::Http(prober) => prober.probe(dialer, watch).await,
        };
        asked.unwrap_or_else(|failure| failure)
    }
}
