//! The handle of one cluster: what a program picks from and looks at.

use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use jcm_model::routing::Reason;
use jcm_model::{ClusterName, Header, Node, NodeId, Revision, Verdict};

use crate::alloc::{self, AllocError, Want};
use crate::balancer::Balancer;
use crate::call::{self, CallError, Settled};
use crate::calls::Calls;
use crate::change::{Change, Changes};
use crate::core::{Core, Published};
use crate::fault::Faulty;
use crate::key;
use crate::outlier::Cause;
use crate::picked::Picked;
use crate::retry::Retry;
use crate::status::Status;
use crate::subscriber::Shared;
use crate::view::View;

/// One cluster, kept up to date while any handle of it lives. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct Cluster {
    core: Arc<Core>,
    balancer: Arc<Balancer>,
    shared: Arc<Shared>,
}

impl Cluster {
    pub(crate) fn new(core: Arc<Core>, balancer: Arc<Balancer>, shared: Arc<Shared>) -> Self {
        Self { core, balancer, shared }
    }

    #[cfg(any(feature = "blocking", feature = "reqwest", feature = "tonic", feature = "tower"))]
    pub(crate) fn balancer(&self) -> &Arc<Balancer> {
        &self.balancer
    }

    /// A node to call. It takes no lock, waits for nothing and allocates nothing, except when the calling thread meets
    /// a new view of the cluster for the first time.
    #[inline]
    pub fn alloc(&self) -> Result<Picked, AllocError> {
        alloc::pick(&self.balancer)
    }

    /// A node to call for a key. With [`Policy::ring_hash`](crate::Policy::ring_hash) and
    /// [`Policy::maglev`](crate::Policy::maglev) a key comes to the same node from every program on the same platform, and
    /// few keys move when nodes come and go. With the others a key comes to the same node as long as nothing changes
    /// in the cluster, and most keys move when something does; with those that compare loads it comes to
    /// the same two nodes, of which the better is taken.
    ///
    /// What counts as the key is what its [`Hash`](std::hash::Hash) feeds: `"7"` and `String::from("7")` are the same, and so
    /// are a value and a reference to it; `7_u32` and `7_u64` differ.
    pub fn alloc_for<K: Hash + ?Sized>(&self, key: &K) -> Result<Picked, AllocError> {
        let want = Want { key: Some(key::hash_of(key)), excluded: &[] };
        alloc::pick_wanted(&self.balancer, want)
    }

    /// A node to call that is none of the given ones: for another try elsewhere. When all nodes of the first choice are
    /// excluded, those that stand by are taken: other priorities and zones, what is outside of the subset, and at last what
    /// this program ejected.
    pub fn alloc_excluding(&self, excluded: &[&NodeId]) -> Result<Picked, AllocError> {
        alloc::pick_wanted(&self.balancer, Want { key: None, excluded })
    }

    /// Makes a call at a node of this handle's policy, and at another one when it fails, as far as `retry` allows. Nodes
    /// learn from each attempt as from a [`report`](Picked::report).
    ///
    /// Dropped, the attempt that is under way counts as cancelled.
    ///
    /// ```no_run
    /// # async fn run(orders: jcm_subscriber::Cluster) -> Result<(), Box<dyn std::error::Error>> {
    /// use jcm_subscriber::Retry;
    /// use tokio::net::TcpStream;
    ///
    /// let stream = orders
    ///     .call(Retry::default(), |node| async move {
    ///         let address = node.addr("http").map_err(std::io::Error::other)?;
    ///         TcpStream::connect(address).await
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn call<T, E, F>(
        &self,
        retry: Retry,
        attempt: impl FnMut(Arc<Picked>) -> F,
    ) -> Result<T, CallError<E>>
    where
        E: Faulty,
        F: Future<Output = Result<T, E>>,
    {
        call::call(&self.balancer, None, retry, Settled::ByAnswer, attempt).await
    }

    /// The same for a key, see [`alloc_for`](Self::alloc_for): further attempts go elsewhere.
    pub async fn call_for<K, T, E, F>(
        &self,
        key: &K,
        retry: Retry,
        attempt: impl FnMut(Arc<Picked>) -> F,
    ) -> Result<T, CallError<E>>
    where
        K: Hash + ?Sized,
        E: Faulty,
        F: Future<Output = Result<T, E>>,
    {
        let key = key::hash_of(key);
        call::call(&self.balancer, Some(key), retry, Settled::ByAnswer, attempt).await
    }

    /// Its name.
    pub fn name(&self) -> ClusterName {
        self.core.view().name.clone()
    }

    /// How far what is held can be relied on.
    pub fn status(&self) -> Status {
        self.core.standing().status()
    }

    /// The revision of the definition that is held; `None` while there is none.
    pub fn revision(&self) -> Option<Revision> {
        self.core.view().revision()
    }

    /// Whether too few nodes are fit, so that picks go to every online one: by the threshold of this handle's policy, or
    /// by that of the cluster's definition.
    pub fn is_panicking(&self) -> bool {
        self.balancer.plan().panic
    }

    /// Every node with what is known of it, at one moment, in the order of ids.
    pub fn nodes(&self) -> Vec<NodeStatus> {
        NodeStatus::all(&self.core.view(), &self.balancer)
    }

    /// What was counted from the beginning on, for metrics: to be asked for as often as they are collected.
    pub fn counts(&self) -> Counts {
        let totals = self.balancer.spent().totals();
        let (successes, failures, ejections) = self.core.counts();
        let (calls, retries, retries_denied) = (totals.calls, totals.retries, totals.denied);
        Counts { successes, failures, ejections, calls, retries, retries_denied }
    }

    /// The cluster's free configuration, at one moment.
    pub fn properties(&self) -> Properties {
        Properties::of(&self.core.view())
    }

    /// The changes of this cluster, the latest only. The first is what is held now.
    pub fn stream(&self) -> Changes {
        Changes::from_nothing(self.core.subscribe(), Arc::clone(&self.balancer), self.shared.ended())
    }

    /// Calls `callback` for what changes from now on, from a task of this subscriber, until that is shut down or its last
    /// handle is gone. Changes that come faster than it returns become one. A panic in it is
    /// logged and ends nothing. It must not block for long: it runs on a thread of the runtime.
    pub fn on_change(&self, mut callback: impl FnMut(&Change) + Send + 'static) {
        let mut changes =
            Changes::from_now(self.core.subscribe(), Arc::clone(&self.balancer), self.shared.ended());
        self.shared.spawn(async move {
            while let Some(change) = changes.next().await {
                if catch_unwind(AssertUnwindSafe(|| callback(&change))).is_err() {
                    tracing::error!(cluster = %change.cluster(), "a change callback panicked");
                }
            }
        });
    }

    /// Waits until the definition held is at least of the given revision. The caller sets the deadline. Answers `false`
    /// when the subscriber was shut down before.
    pub async fn reached(&self, revision: Revision) -> bool {
        let reached = |published: &Published| published.view.revision().is_some_and(|held| held >= revision);
        self.shared.until(&self.core, reached).await
    }

    /// Waits until anything is known of the cluster: from a server or from disk, be it that it was removed. The caller
    /// sets the deadline. Answers `false` when the subscriber was shut down before.
    ///
    /// [`subscribe`](crate::ClusterBuilder::subscribe) has waited for this already, as long as the ready timeout
    /// allows.
    pub async fn ready(&self) -> bool {
        self.shared.until(&self.core, Published::is_known).await
    }
}

/// A node with what is known of it, at one moment.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// Its definition.
    pub node: Arc<Node>,
    /// What checks found.
    pub verdict: Verdict,
    /// Whether it may be picked.
    pub routable: bool,
    /// Its share of the traffic; 0 when it gets none.
    pub effective_weight: u16,
    /// Why; `None` for a healthy node in use.
    pub reason: Option<Reason>,
    /// Calls through this handle that are under way; 0 where its policy does not count them (round robin, random, Maglev).
    pub in_flight: u32,
    /// What a call is expected to take; `None` where nothing is known, or the policy is not
    /// [`peak_ewma`](crate::Policy::peak_ewma).
    pub latency: Option<Duration>,
    /// Calls of this program that were reported as succeeded.
    pub successes: u64,
    /// Calls of this program that were reported as failed.
    pub failures: u64,
    /// Set while this program leaves the node alone because its own calls to it fail.
    pub ejected: Option<Ejected>,
}

/// What was counted of one cluster from the beginning on; each count only rises. They are kept anyway, so a pick costs
/// nothing for them. How old a view is [`Cluster::status`] says, and what is under way [`NodeStatus::in_flight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Reports of this program that a call succeeded, those included that nodes had when they went.
    pub successes: u64,
    /// Reports of this program that a call failed, those included that nodes had when they went.
    pub failures: u64,
    /// How often this program began to leave a node alone.
    pub ejections: u64,
    /// Calls by [`Cluster::call`] and what is built on it, through handles of this subscription.
    pub calls: u64,
    /// Further attempts of these calls.
    pub retries: u64,
    /// Further attempts that were not made, because the budget was spent.
    pub retries_denied: u64,
}

/// A node that this program leaves alone for a while, see [`Outliers`](crate::Outliers).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ejected {
    /// For how much longer.
    pub left: Duration,
    /// Why.
    pub cause: Cause,
}

impl NodeStatus {
    pub(crate) fn all(view: &View, balancer: &Balancer) -> Vec<Self> {
        let Some(state) = view.state() else {
            return Vec::new();
        };
        let plan = balancer.plan();
        let mut calls = plan.calls_of(view.nodes());
        let now = balancer.world.now();
        state
            .nodes()
            .zip(&view.routing.nodes)
            .zip(view.seats())
            .map(|(((node, judged), route), seat)| {
                let calls = calls.next().flatten();
                let tally = seat.outcomes.tally();
                Self {
                    node: Arc::clone(node),
                    verdict: judged.map_or(Verdict::Unknown, |judged| judged.verdict),
                    routable: route.routable,
                    effective_weight: route.effective_weight,
                    reason: route.reason,
                    in_flight: calls.map_or(0, Calls::in_flight),
                    latency: calls.and_then(|calls| calls.latency.estimate()),
                    successes: tally.successes,
                    failures: tally.failures,
                    ejected: seat
                        .ejected()
                        .map(|(until, cause)| Ejected { left: until.saturating_duration_since(now), cause }),
                }
            })
            .collect()
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        &self.node.id
    }
}

/// Free configuration that is watched with a cluster, at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties(Arc<Header>);

impl Properties {
    pub(crate) fn of(view: &View) -> Self {
        Self(view.state().map_or_else(Arc::default, |state| Arc::clone(&state.cluster().header)))
    }

    /// The value under a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.properties.get(key).map(AsRef::as_ref)
    }

    /// All of them in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.properties.iter().map(|(key, value)| (key, value.as_ref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.properties.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.properties.is_empty()
    }
}
