//! The way of definitions to the views and the checker.

use std::sync::Arc;

use jcm_model::{Change, Cluster};
use tokio::sync::mpsc;

use crate::catalog::Audience;
use crate::snapshot::Snapshot;
use crate::views::{Verdicts, Views};

/// Changes of definitions that may wait here: the writer of definitions waits when there are more.
const CHANGES_QUEUE_MAX: usize = 1024;

/// What the catalog's follower tells: every change of definitions reaches the views and the checker, in order.
#[derive(Debug)]
pub(crate) struct Definitions {
    views: Arc<Views>,
    checker: mpsc::Sender<Defined>,
    /// Verdicts of an earlier run, published with the first definitions and before anybody is answered.
    remembered: Verdicts,
}

/// News of definitions.
pub(super) enum Defined {
    /// All of them, in the place of what was before.
    Everything(Arc<Snapshot>),
    /// One transaction: each change with what all of them left of its cluster.
    Changed(Vec<(Change, Option<Arc<Cluster>>)>),
}

impl Definitions {
    /// The audience of the catalog, and where the checker finds what it was told.
    pub(super) fn new(views: Arc<Views>, remembered: Verdicts) -> (Self, mpsc::Receiver<Defined>) {
        let (checker, received) = mpsc::channel(CHANGES_QUEUE_MAX);
        (Self { views, checker, remembered }, received)
    }
}

impl Audience for Definitions {
    async fn loaded(&mut self, snapshot: Arc<Snapshot>) {
        self.views.load(Arc::clone(&snapshot));
        self.views.judge(std::mem::take(&mut self.remembered));
        // Nobody listens any more only while the server stops.
        let _ = self.checker.send(Defined::Everything(snapshot)).await;
    }

    async fn committed(&mut self, snapshot: Arc<Snapshot>, changes: Vec<(Change, Option<Arc<Cluster>>)>) {
        self.views.apply(snapshot, changes.iter().map(|(change, _)| change));
        let _ = self.checker.send(Defined::Changed(changes)).await;
    }
}
