//! A node to call, for as long as the call takes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use jcm_model::{ClusterName, Node, NodeId};

use crate::alloc;
use crate::latency::Micros;
use crate::plan::Plan;

/// A node that was picked for one call. Hold it while the call is under way, and [`report`](Self::report) how it went;
/// dropped without a report, the call counts as cancelled.
///
/// It stays what it was when it was picked, however the cluster changes meanwhile.
#[must_use = "a node that is not held counts as a call that was cancelled at once"]
pub struct Picked {
    /// `Some` until it is dropped.
    plan: Option<Arc<Plan>>,
    /// Which entry of the plan.
    entry: u32,
    /// When the call began, where the policy wants to know. All fields together are two words: a pick then returns in two
    /// registers.
    began: Micros,
}

/// The node offers no port of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}` of cluster `{cluster}` has no port `{port}`: it offers {offered}")]
pub struct NoSuchPort {
    /// Which cluster.
    pub cluster: ClusterName,
    /// Which node.
    pub node: NodeId,
    /// What was asked for.
    pub port: String,
    /// What there is, for people.
    pub offered: String,
}

impl Picked {
    /// A call to an entry of `plan` begins; `reference` is to the same plan.
    #[inline]
    pub(crate) fn begin(plan: &Plan, reference: Arc<Plan>, entry: u32) -> Self {
        plan.begin(entry);
        let began = if plan.choice.times() { Micros::now() } else { Micros::default() };
        Self { plan: Some(reference), entry, began }
    }

    #[inline]
    fn plan(&self) -> &Plan {
        self.plan.as_ref().expect("only a drop takes it")
    }

    /// The definition of the node.
    pub fn node(&self) -> &Node {
        self.plan().node(self.entry)
    }

    /// Its id.
    pub fn id(&self) -> &NodeId {
        &self.node().id
    }

    /// Where it is.
    pub fn address(&self) -> IpAddr {
        self.node().address
    }

    /// Address and port under a port's name; it prints as `127.0.0.1:8080` or `[::1]:8080`.
    pub fn addr(&self, port: &str) -> Result<SocketAddr, NoSuchPort> {
        let node = self.node();
        match node.port(Some(port)) {
            Some(number) => Ok(SocketAddr::new(node.address, number)),
            None => Err(self.no_such_port(port)),
        }
    }

    #[cold]
    fn no_such_port(&self, port: &str) -> NoSuchPort {
        let offered: Vec<&str> = self.node().ports.iter().map(|(name, _)| name).collect();
        NoSuchPort {
            cluster: self.plan().view.name.clone(),
            node: self.id().clone(),
            port: port.to_owned(),
            offered: offered.join(", "),
        }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.node().attributes.labels().get(key).map(AsRef::as_ref)
    }

    /// Where it stands; empty when nobody said.
    pub fn zone(&self) -> &str {
        self.node().attributes.zone()
    }

    /// Ends the call and tells this program, and nobody else, how it went: [`Policy::peak_ewma`](crate::Policy::peak_ewma)
    /// learns how long it took since the pick, and [`Outliers`](crate::Outliers) whether it failed. An `Err` should be a
    /// failure of the node: a refused connection, a broken one, a time-out, an answer that says that the node does not work.
    pub fn report<T, E>(mut self, outcome: &Result<T, E>) {
        self.finish(Some(outcome.is_ok()));
    }

    /// Learns from a call that goes on being held.
    pub(crate) fn learn(&self, succeeded: Option<bool>) {
        self.plan().learn(self.entry, self.began, succeeded, Micros::now);
    }

    /// Ends the call, at most once. `None` is a call that came to nothing, which says nothing but how long it took at least.
    #[inline]
    fn finish(&mut self, succeeded: Option<bool>) {
        if let Some(plan) = self.plan.take() {
            if succeeded.is_some() || plan.choice.times() {
                plan.learn(self.entry, self.began, succeeded, Micros::now);
            }
            plan.end(self.entry);
            alloc::give_back(plan);
        }
    }
}

impl Drop for Picked {
    #[inline]
    fn drop(&mut self) {
        self.finish(None);
    }
}

impl std::fmt::Debug for Picked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picked")
            .field("cluster", &self.plan().view.name)
            .field("node", self.id())
            .finish_non_exhaustive()
    }
}
