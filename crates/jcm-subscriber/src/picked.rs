//! A node to call, for as long as the call takes.

use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;

use jcm_model::{ClusterName, Node, NodeId};

use crate::alloc;
use crate::latency::Micros;
use crate::plan::{ENTRIES_MAX, Plan};

/// A node that was picked for one call. Hold it while the call is under way, and [`report`](Self::report) how it went;
/// dropped without a report, the call counts as cancelled.
///
/// It stays what it was when it was picked, however the cluster changes meanwhile.
#[must_use = "a node that is not held counts as a call that was cancelled at once"]
pub struct Picked {
    /// `Some` until the call is over. Not dropped by itself, for then each drop would look a second time whether it is there.
    plan: Option<ManuallyDrop<Arc<Plan>>>,
    call: Call,
}

/// What a call was begun with, in one word: a pick is then two, and is handed on in two registers wherever it goes. Never 0, so
/// that no pick is two words as well. From the lowest bit on: 15 bits for the entry of the plan, [`NOTED`], 15 bits for the
/// slot, one that is always set, and 32 for when the call began, where the policy wants to know.
#[derive(Clone, Copy)]
struct Call(NonZeroU64);

const ENTRY_BITS: u32 = 15;
/// Set where the plan keeps account of the call, so that others need not ask it when they end.
const NOTED: u64 = 1 << ENTRY_BITS;
const SLOT_AT: u32 = 16;
/// A bit that is always set.
const ALWAYS: NonZeroU64 = NonZeroU64::new(1 << 31).expect("one bit is not 0");
const BEGAN_AT: u32 = 32;
const _: () = assert!(
    jcm_model::cluster::NODES_MAX <= ENTRIES_MAX
        && ENTRIES_MAX < 1 << ENTRY_BITS
        && alloc::SLOTS_MAX < 1 << 15
);

impl Call {
    #[inline]
    fn new(slot: usize, entry: u32) -> Self {
        Self(ALWAYS | u64::from(entry) | (slot as u64) << SLOT_AT)
    }

    #[inline]
    fn noted(self, began: Micros) -> Self {
        Self(self.0 | NOTED | u64::from(began.0) << BEGAN_AT)
    }

    #[inline]
    fn is_noted(self) -> bool {
        self.0.get() & NOTED != 0
    }

    #[inline]
    fn entry(self) -> u32 {
        (self.0.get() & (NOTED - 1)) as u32
    }

    #[inline]
    fn slot(self) -> usize {
        (self.0.get() >> SLOT_AT) as usize & 0x7fff
    }

    fn began(self) -> Micros {
        Micros((self.0.get() >> BEGAN_AT) as u32)
    }

    /// Tells the plan of its end. By itself, so that little is left of a pick that there is nothing to tell of.
    #[inline(never)]
    fn settle(self, plan: Arc<Plan>, succeeded: Option<bool>) {
        // Every policy that takes the time counts as well.
        if succeeded.is_some() || plan.choice.times() {
            self.learn(&plan, succeeded);
        }
        if self.is_noted() {
            plan.end(self.entry());
        }
        alloc::give_back(self.slot(), plan);
    }

    #[inline(never)]
    fn learn(self, plan: &Plan, succeeded: Option<bool>) {
        plan.learn(self.entry(), self.began(), succeeded, Micros::now);
    }
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
    /// A call to an entry of a plan begins.
    #[inline]
    pub(crate) fn begin(plan: Arc<Plan>, slot: usize, entry: u32) -> Self {
        let mut call = Call::new(slot, entry);
        if plan.choice.counts() {
            plan.begin(entry);
            call = call.noted(if plan.choice.times() { Micros::now() } else { Micros::default() });
        }
        Self { plan: Some(ManuallyDrop::new(plan)), call }
    }

    /// The same where it is known that calls are not counted.
    #[inline]
    pub(crate) fn in_turn(plan: Arc<Plan>, slot: usize, entry: u32) -> Self {
        Self { plan: Some(ManuallyDrop::new(plan)), call: Call::new(slot, entry) }
    }

    #[inline]
    fn plan(&self) -> &Plan {
        self.plan.as_ref().expect("only a drop takes it")
    }

    /// The name of its cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.plan().view.name
    }

    /// The definition of the node.
    pub fn node(&self) -> &Node {
        self.plan().node(self.call.entry())
    }

    /// Of the plan that it was picked from: a later plan has a higher number.
    #[cfg(any(feature = "tonic", feature = "tower"))]
    pub(crate) fn generation(&self) -> u64 {
        self.plan().generation
    }

    /// Whether that node was there in the same form when this one was picked.
    #[cfg(any(feature = "tonic", feature = "tower"))]
    pub(crate) fn knows(&self, id: &NodeId, node: &Node) -> bool {
        let held = self.plan().view.state().and_then(|state| state.cluster().node(id));
        held.is_some_and(|held| held.same_form(node))
    }

    #[cfg(any(feature = "tonic", feature = "tower"))]
    pub(crate) fn shared_node(&self) -> Arc<Node> {
        Arc::clone(self.plan().node(self.call.entry()))
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
            cluster: self.cluster().clone(),
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
        self.call.learn(self.plan(), succeeded);
    }

    /// Ends the call, at most once. `None` is a call that came to nothing, which says nothing but how long it took at least.
    #[inline]
    fn finish(&mut self, succeeded: Option<bool>) {
        if let Some(plan) = self.plan.take().map(ManuallyDrop::into_inner) {
            if self.call.is_noted() || succeeded.is_some() {
                self.call.settle(plan, succeeded);
            } else {
                alloc::give_back(self.call.slot(), plan);
            }
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
            .field("cluster", self.cluster())
            .field("node", self.id())
            .finish_non_exhaustive()
    }
}
