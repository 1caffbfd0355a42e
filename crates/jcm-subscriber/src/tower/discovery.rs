//! The nodes of a cluster as changes for tower's balancers.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::tower::discover::Change;
use futures_core::Stream;
use jcm_model::{Node, NodeId};

use crate::balancer::Balancer;
use crate::change::Changes;
use crate::cluster::Cluster;

/// A [`Discover`](::tower::discover::Discover) of one cluster, see [`Cluster::discover`].
///
/// Changes come as the cluster's do, the latest only: a node that went and came back before anybody looked is no
/// change. A node that moved to another address or port is inserted again, which replaces its service. It ends when the
/// subscriber is shut down or its last handle is gone.
pub struct Discovery<F> {
    changes: Changes,
    balancer: Arc<Balancer>,
    make: F,
    /// What was told.
    told: BTreeMap<NodeId, Arc<Node>>,
    /// What is still to be told: `None` of nodes that are gone.
    untold: VecDeque<(NodeId, Option<Arc<Node>>)>,
}

impl Cluster {
    /// The nodes that this handle chooses among, as they come and go, for tower's balancers: each with the service that
    /// `make` makes for it. See [`tower`](crate::tower).
    ///
    /// Those are the nodes to which [`alloc`](Self::alloc) may come: a node that checks find down or that this program
    /// ejected is removed, and so is one of another priority, or outside of the subset.
    ///
    /// ```
    /// # use jcm_subscriber::testing::FakeCluster;
    /// # use jcm_subscriber::{Node, Policy};
    /// use tower::discover::Change;
    /// use tokio_stream::StreamExt as _;
    ///
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    /// # runtime.block_on(async {
    /// # let fake = FakeCluster::new("orders", ["127.0.0.1:8081"]);
    /// # let orders = fake.subscribe(Policy::round_robin());
    /// let mut nodes = orders.discover(|node: &Node| node.address);
    /// match nodes.next().await {
    ///     Some(Ok(Change::Insert(id, service))) => println!("{id} is there: {service}"),
    ///     Some(Ok(Change::Remove(id))) => println!("{id} is gone"),
    ///     None => println!("the subscriber was shut down"),
    ///     Some(Err(never)) => match never {},
    /// }
    /// # });
    /// ```
    pub fn discover<S, F: FnMut(&Node) -> S>(&self, make: F) -> Discovery<F> {
        let changes = self.stream();
        let balancer = Arc::clone(self.balancer());
        Discovery { changes, balancer, make, told: BTreeMap::new(), untold: VecDeque::new() }
    }
}

impl<F> Discovery<F> {
    /// Works out what is to be told; the plan is at least as new as the change that led here.
    fn compare(&mut self) {
        let plan = self.balancer.plan();
        let now: BTreeMap<&NodeId, &Arc<Node>> = plan.chosen_nodes().map(|node| (&node.id, node)).collect();
        for id in self.told.keys().filter(|id| !now.contains_key(id)) {
            self.untold.push_back((id.clone(), None));
        }
        for (id, node) in now {
            if self.told.get(id).is_none_or(|told| !told.same_form(node)) {
                self.untold.push_back((id.clone(), Some(Arc::clone(node))));
            }
        }
        for (id, node) in &self.untold {
            match node {
                None => drop(self.told.remove(id)),
                Some(node) => drop(self.told.insert(id.clone(), Arc::clone(node))),
            }
        }
    }
}

impl<S, F: FnMut(&Node) -> S + Unpin> Stream for Discovery<F> {
    type Item = Result<Change<NodeId, S>, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some((id, node)) = this.untold.pop_front() {
                let change = match node {
                    Some(node) => Change::Insert(id, (this.make)(&node)),
                    None => Change::Remove(id),
                };
                return Poll::Ready(Some(Ok(change)));
            }
            match Pin::new(&mut this.changes).poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Ready(Some(_)) => this.compare(),
            }
        }
    }
}

impl<F> std::fmt::Debug for Discovery<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery").field("told", &self.told.keys()).finish_non_exhaustive()
    }
}
