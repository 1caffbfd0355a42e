//! Where definitions live and who the servers are, as configured: opened, and found to be the right store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use jcm_model::{Head, Revision};
use jcm_proto::SavedDefinitions;
use jcm_storage::zookeeper::{self, ZooKeeper};
use jcm_storage::{EmbeddedStore, LoadError, Membership, Solo, Store};
use tracing::{error, info, warn};

use crate::catalog::{Catalog, Followed};
use crate::config::{self, StoreKind};
use crate::data_dir::DataDir;
use crate::snapshot::Snapshot;
use crate::{digest, saved};

/// How long a server that has definitions of its own on disk waits for the store before it serves those.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// How long names are waited for.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);

/// Pause between two attempts at a store that does not answer.
const RETRY_PAUSE: Duration = Duration::from_millis(300);

/// How often a server that cannot start without its store says so.
const REMIND_AFTER: Duration = Duration::from_secs(5);

/// Where definitions live and who the servers are.
pub(super) struct Backend {
    pub(super) store: Arc<dyn Store>,
    pub(super) membership: Arc<dyn Membership>,
    /// Definitions of the right store from this server's disk, and why the store itself cannot be followed.
    pub(super) saved: Option<(SavedDefinitions, Arc<str>)>,
    /// Where definitions are saved; `None`: the store is on this disk itself.
    pub(super) files: Option<saved::Files>,
    zookeeper: Option<ZooKeeper>,
}

impl Backend {
    /// Opens what is configured and binds the data directory to it.
    pub(super) async fn open(config: &config::Store, data_dir: &mut DataDir) -> Result<Self> {
        match config.kind {
            StoreKind::Embedded => Self::embedded(data_dir),
            StoreKind::ZooKeeper => Self::zookeeper(&config.zookeeper, data_dir).await,
        }
    }

    fn embedded(data_dir: &mut DataDir) -> Result<Self> {
        let file = data_dir.file("definitions.redb");
        data_dir.refuse_if_store_is_missing(&file)?;
        let store = EmbeddedStore::open(&file).with_context(|| format!("{}", file.display()))?;
        data_dir.follow(store.id(), &store.replaced())?;
        Ok(Self {
            store: Arc::new(store),
            membership: Arc::new(Solo::default()),
            saved: None,
            files: None,
            zookeeper: None,
        })
    }

    async fn zookeeper(config: &config::ZooKeeper, data_dir: &mut DataDir) -> Result<Self> {
        let started = Instant::now();
        let digest = config.digest_file.as_deref().map(digest::load).transpose()?;
        let mut files = saved::Files::of(data_dir);
        let bound = data_dir.store();
        let saved = bound.and_then(|store| files.load(store));
        let revision = saved.as_ref().map_or(Revision::ZERO, |saved| saved.revision);
        let held = bound.map(|store| Head { store, revision });
        refuse_unless_resolved(config, saved.is_some()).await?;
        let zookeeper = ZooKeeper::connect(zookeeper::Config {
            hosts: config.members().collect::<Vec<_>>().join(","),
            root: config.full_root(),
            session_timeout: config.session_timeout,
            digest,
        })?;
        let store = zookeeper.store();
        let mut said: Option<Instant> = None;
        let saved = loop {
            let attempt = async { store.open(held).await.map(|id| (id, store.replaced())) };
            let reason = match tokio::time::timeout(STORE_PATIENCE, attempt).await {
                Ok(Ok((id, replaced))) => {
                    data_dir.follow(id, &replaced)?;
                    break None;
                }
                Ok(Err(error @ LoadError::Unusable { .. })) => {
                    return Err(error).context(format!("ZooKeeper at {}{}", config.hosts, config.root));
                }
                // What is on this disk may be all there is left of them.
                Ok(Err(error @ LoadError::Lost { .. })) => {
                    let place = || format!("ZooKeeper at {}{}", config.hosts, config.root);
                    let Some(saved) = saved else { return Err(error).with_context(place) };
                    error!(
                        place = place(),
                        reason = %error,
                        revision = %saved.revision,
                        clusters = saved.clusters.len(),
                        nodes = saved.node_count(),
                        "starting from the definitions saved on disk, marked stale; writes are refused"
                    );
                    break Some((saved, Arc::from(error.to_string())));
                }
                Ok(Err(LoadError::Unavailable { reason })) => reason,
                Err(_) => "no answer".to_owned(),
            };
            if let Some(saved) = &saved
                && started.elapsed() + RETRY_PAUSE >= STORE_PATIENCE
            {
                warn!(
                    hosts = config.hosts,
                    reason,
                    revision = %saved.revision,
                    clusters = saved.clusters.len(),
                    nodes = saved.node_count(),
                    "ZooKeeper does not answer: starting from the definitions saved on disk, marked stale"
                );
                break Some((saved.clone(), Arc::from(reason)));
            }
            if said.is_none_or(|at| at.elapsed() >= REMIND_AFTER) {
                let waiting_for = started.elapsed();
                warn!(
                    hosts = config.hosts,
                    reason,
                    ?waiting_for,
                    "ZooKeeper does not answer, and no definitions are saved on this disk: nothing is served until it does"
                );
                said = Some(Instant::now());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        if said.is_some() {
            info!(hosts = config.hosts, "ZooKeeper answers");
        }
        let membership = zookeeper.membership();
        Ok(Self { store, membership, saved, files: Some(files), zookeeper: Some(zookeeper) })
    }

    /// All definitions, and where to follow the store from; or why not, and then they are from this server's disk.
    pub(super) async fn definitions(&self) -> Result<(Snapshot, Result<Followed, Arc<str>>)> {
        if let Some((saved, because)) = self.saved.clone() {
            return Ok((saved::into_memory(saved), Err(because)));
        }
        let started = Instant::now();
        let mut said: Option<Instant> = None;
        loop {
            let (reason, is_lost) = match Catalog::fetch(self.store.as_ref()).await {
                Ok((snapshot, followed)) => return Ok((snapshot, Ok(followed))),
                Err(LoadError::Unavailable { reason }) => (reason, false),
                Err(error @ LoadError::Lost { .. }) => (error.to_string(), true),
                Err(error @ LoadError::Unusable { .. }) => return Err(error.into()),
            };
            // It was there a moment ago.
            if (is_lost || started.elapsed() >= STORE_PATIENCE)
                && let Some(saved) = self.files.clone().and_then(|mut files| files.load(self.store.id()))
            {
                warn!(reason, revision = %saved.revision, "the store cannot be followed: starting from the definitions saved on disk, marked stale; writes are refused");
                return Ok((saved::into_memory(saved), Err(Arc::from(reason))));
            }
            if said.is_none_or(|at| at.elapsed() >= REMIND_AFTER) {
                warn!(
                    reason,
                    "definitions cannot be loaded from the store: nothing is served until they are"
                );
                said = Some(Instant::now());
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Ends the session with the store, where there is one. Bounded in time.
    pub(super) async fn close(&self) {
        if let Some(zookeeper) = &self.zookeeper {
            zookeeper.shutdown().await;
        }
    }
}

/// A name that does not resolve is most likely a wrong one. Where none does, only a server that has definitions of its
/// own goes on: the trouble may pass.
async fn refuse_unless_resolved(config: &config::ZooKeeper, has_saved: bool) -> Result<()> {
    let lookups = config.members().map(|member| async move {
        let found = tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(member)).await;
        let reason = match found {
            Ok(Ok(mut addresses)) => match addresses.next() {
                Some(_) => return None,
                None => "it has no address".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", RESOLVE_DEADLINE.as_secs()),
        };
        Some((member.to_owned(), reason))
    });
    let outcomes = futures_util::future::join_all(lookups).await;
    let members = outcomes.len();
    let failed: BTreeMap<String, String> = outcomes.into_iter().flatten().collect();
    if failed.len() == members && !has_saved {
        let listed: Vec<String> = failed.iter().map(|(member, why)| format!("`{member}` ({why})")).collect();
        bail!(
            "store.zookeeper.hosts: {} cannot be resolved: correct the name, or the name service",
            listed.join(", ")
        );
    }
    for (member, reason) in failed {
        warn!(member, reason, "a member of store.zookeeper.hosts cannot be resolved");
    }
    Ok(())
}
