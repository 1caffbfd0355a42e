//! What every door works with: the server's parts, each with its one owner elsewhere.

use std::sync::Arc;

use jcm_model::ServerId;
use jcm_storage::{Membership, Roster, Store};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::checker::Asker;
use crate::measure::Metrics;
use crate::peers::Peers;
use crate::registry::Registry;
use crate::staleness::Staleness;
use crate::subscribers::Subscribers;
use crate::views::Views;

/// What every door works with.
#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) server: ServerId,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) registry: Registry,
    pub(crate) views: Arc<Views>,
    pub(crate) asker: Asker,
    pub(crate) peers: Peers,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) staleness: Staleness,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) metrics: Arc<Metrics>,
    /// Places for requests to probe a node now.
    pub(crate) probing: Arc<Semaphore>,
    /// Cancelled when this server begins to stop: it is not ready any more, and still does everything.
    pub(crate) stopping: CancellationToken,
    /// Cancelled when readers are to go elsewhere.
    pub(crate) draining: CancellationToken,
    /// Cancelled when those that have not gone are cut.
    pub(crate) cut: CancellationToken,
}

impl App {
    /// The servers as they are known now.
    pub(crate) fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.membership.roster().borrow())
    }
}
