//! What a server stands on before it does anything: its directory, its port, its store, its place among the others.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use jcm_storage::{JoinError, Member};
use tokio::net::TcpListener;
use tracing::warn;

use super::backend::Backend;
use crate::config::Config;
use crate::data_dir::DataDir;

/// What a server stands on.
pub(super) struct Ground {
    pub(super) data_dir: DataDir,
    pub(super) listener: TcpListener,
    pub(super) bound: SocketAddr,
    pub(super) member: Member,
    pub(super) backend: Backend,
}

impl Ground {
    /// Takes it, or says what is in the way. It waits for a store without which there is nothing to serve.
    pub(super) async fn take(config: &Config) -> Result<Self> {
        // 2. The data directory: who this server is, and that nobody else is it.
        let mut data_dir = DataDir::open(&config.server.data, config.server.id.as_ref())?;

        // 3. The port is taken early, so that a clash is told before anything else is done; it is served from last.
        let listener = TcpListener::bind(config.server.listen).await;
        let listener = listener
            .with_context(|| format!("server.listen = {} cannot be listened on", config.server.listen))?;
        let bound = listener.local_addr().context("the port that was bound is not known")?;
        if !bound.ip().is_loopback() {
            warn!(listen = %bound, "INSECURE: no tokens and no TLS, whoever reaches this port may change everything");
        }

        // 4. The store that this server belongs to, and no other; without it what was saved of it, where that is here.
        let backend = Backend::open(&config.store, &mut data_dir).await?;

        // 5. The members: this server becomes one as soon as the store is there, unless another has its id.
        let member = Member {
            id: data_dir.server().clone(),
            instance: data_dir.instance(),
            advertise: config.server.advertise.clone().unwrap_or_else(|| bound.to_string()),
            zone: config.server.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if backend.saved.is_some() {
            backend.membership.announce(member.clone());
        } else {
            match backend.membership.join(member.clone()).await {
                Err(taken @ JoinError::Taken { .. }) => return Err(taken.into()),
                Err(error @ JoinError::Unavailable { .. }) => {
                    warn!(%error, "not known to the other servers yet");
                }
                Ok(()) => {}
            }
        }
        Ok(Self { data_dir, listener, bound, member, backend })
    }
}
