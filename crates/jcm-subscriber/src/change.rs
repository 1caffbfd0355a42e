//! What changed in a cluster between two moments.
//!
//! Changes are levels, not a log: whoever looks late sees one change from what it saw last to what is held now.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use jcm_model::{ClusterName, Node, NodeId, Revision, Verdict};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::balancer::Balancer;
use crate::cluster::{NodeStatus, Properties};
use crate::core::Published;
use crate::status::{Standing, Status};
use crate::view::View;

/// What a program held of a cluster before, and what it holds now.
#[derive(Debug, Clone)]
pub struct Change {
    before: Option<Published>,
    after: Published,
    balancer: Arc<Balancer>,
}

/// A node whose verdict turned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Which node.
    pub node: NodeId,
    /// Its verdict before; `Unknown` for a node that was not there.
    pub from: Verdict,
    /// Its verdict now.
    pub to: Verdict,
}

impl Change {
    pub(crate) fn between(before: Option<Published>, after: Published, balancer: Arc<Balancer>) -> Self {
        Self { before, after, balancer }
    }

    /// Which cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.after.view.name
    }

    /// How far what is held now can be relied on.
    pub fn status(&self) -> Status {
        self.after.standing.status()
    }

    /// The cluster's revision, if its definition is held.
    pub fn revision(&self) -> Option<Revision> {
        self.after.view.revision()
    }

    /// Whether protection routes to nodes that are not fit, by the threshold of the cluster's definition; for that of a
    /// handle's policy see [`Cluster::is_panicking`](crate::Cluster::is_panicking).
    pub fn is_panicking(&self) -> bool {
        self.after.view.routing.panic
    }

    /// The cluster's free configuration.
    pub fn properties(&self) -> Properties {
        Properties::of(&self.after.view)
    }

    /// Every node of the cluster as it is now; counts of calls are as of this question.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        NodeStatus::all(&self.after.view, &self.balancer)
    }

    /// The nodes whose verdict turned, in the order of their ids.
    pub fn turns(&self) -> Vec<Turn> {
        let before = |id| self.view_before().and_then(|view| verdict(view, id)).unwrap_or_default();
        self.after
            .view
            .nodes()
            .iter()
            .map(|node| Turn {
                node: node.id.clone(),
                from: before(&node.id),
                to: verdict(&self.after.view, &node.id).unwrap_or_default(),
            })
            .filter(|turn| turn.from != turn.to)
            .collect()
    }

    /// The nodes that were not there before.
    pub fn added(&self) -> Vec<Arc<Node>> {
        missing_from(self.view_before(), &self.after.view)
    }

    /// The nodes that are not there any more.
    pub fn removed(&self) -> Vec<Arc<Node>> {
        self.view_before().map_or_else(Vec::new, |before| missing_from(Some(&self.after.view), before))
    }

    fn view_before(&self) -> Option<&View> {
        self.before.as_ref().map(|before| before.view.as_ref())
    }
}

fn verdict(view: &View, id: &NodeId) -> Option<Verdict> {
    view.state()?.judged(id).map(|judged| judged.verdict)
}

fn missing_from(one: Option<&View>, other: &View) -> Vec<Arc<Node>> {
    let held = one.and_then(View::state);
    other
        .nodes()
        .iter()
        .filter(|node| held.is_none_or(|state| state.cluster().node(&node.id).is_none()))
        .cloned()
        .collect()
}

/// The changes of a cluster, the latest only: the first is from nothing to what is held, and changes that come faster
/// than they are read become one. It ends when the subscriber is shut down or its last handle is gone.
#[derive(Debug)]
pub struct Changes {
    inner: WatchStream<Published>,
    before: Option<Published>,
    balancer: Arc<Balancer>,
    /// Nothing is published any more after this.
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Changes {
    /// Beginning with what is held now.
    pub(crate) fn from_nothing(
        published: watch::Receiver<Published>,
        balancer: Arc<Balancer>,
        ended: CancellationToken,
    ) -> Self {
        let ended = Box::pin(ended.cancelled_owned());
        Self { inner: WatchStream::new(published), before: None, balancer, ended }
    }

    /// Beginning with what changes from now on.
    pub(crate) fn from_now(
        mut published: watch::Receiver<Published>,
        balancer: Arc<Balancer>,
        ended: CancellationToken,
    ) -> Self {
        let before = Some(published.borrow_and_update().clone());
        let ended = Box::pin(ended.cancelled_owned());
        Self { inner: WatchStream::from_changes(published), before, balancer, ended }
    }

    /// The next change; `None` when there will be none any more. Nothing is lost when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Change> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    fn poll_published(&mut self, context: &mut Context<'_>) -> Poll<Option<Published>> {
        if let Poll::Ready(published) = Pin::new(&mut self.inner).poll_next(context) {
            return Poll::Ready(published);
        }
        if self.ended.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // What was published last may have come between the two.
        match Pin::new(&mut self.inner).poll_next(context) {
            Poll::Ready(published) => Poll::Ready(published),
            Poll::Pending => Poll::Ready(None),
        }
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Change>> {
        loop {
            let Poll::Ready(published) = self.poll_published(context) else {
                return Poll::Pending;
            };
            let Some(after) = published else {
                return Poll::Ready(None);
            };
            let before = self.before.replace(after.clone());
            // Before anything is known there is nothing to tell.
            if before.is_some() || after.standing != Standing::Unknown {
                return Poll::Ready(Some(Change::between(before, after, Arc::clone(&self.balancer))));
            }
        }
    }
}
