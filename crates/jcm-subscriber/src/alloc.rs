//! The pick: each thread keeps its own part of every handle, so that threads share nothing but what they read.
//!
//! A thread's slot holds the plan it last saw, its turn, its random numbers, and *spare* counted references to that
//! plan. A pick takes a spare reference and its drop puts it back, so that in the steady state no shared count is
//! touched; only policies that count calls write, to those of the node that they chose. A slot is refilled when the
//! generation of the handle's plan changes: that is the one place that loads the shared plan, and the only one that
//! allocates.
//!
//! What a slot needs to tell whether a reference fits, and where a round robin is, lies in the slot itself, and the node in
//! hand knows its slot: a pick by even turns and its drop read nothing of the plan at all.

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};

use jcm_model::{ClusterName, NodeId, Revision};

use crate::balancer::Balancer;
use crate::latency::Micros;
use crate::picked::Picked;
use crate::plan::{Hand, Plan};
use crate::random::Random;
use crate::view::Content;

/// References that a thread keeps for one handle: as many calls as a thread has in flight without touching a shared
/// count. Beyond that a pick costs two atomic operations more.
const STOCK_MAX: usize = 64;

/// Slots of a thread come in chunks, so that more can be added while one is in use.
const CHUNK: usize = 32;
/// Most chunks: 4096 handles of one process are picked from at full speed, further ones at the cost of a shared count.
const CHUNKS_MAX: usize = 128;
/// Slots of a thread. Numbers from here on have none.
pub(crate) const SLOTS_MAX: usize = CHUNK * CHUNKS_MAX;

thread_local! {
    static SLOTS: [OnceCell<Box<[Slot; CHUNK]>>; CHUNKS_MAX] = const { [const { OnceCell::new() }; CHUNKS_MAX] };
}

/// Why there is no node to call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    /// Nothing is held of the cluster.
    #[error("cluster `{cluster}` is unknown: {}", .removed.map_or_else(
        || "no server has answered for it yet and there is no snapshot".to_owned(),
        |revision| format!("it was not there at revision {revision}")))]
    UnknownCluster {
        /// Which.
        cluster: ClusterName,
        /// The revision at which a server said that it is not there, if one did.
        removed: Option<Revision>,
    },
    /// The cluster is known, and traffic may go to none of its nodes.
    #[error("cluster `{cluster}` has no node to call: {}", none_of(*.nodes))]
    NoNode {
        /// Which.
        cluster: ClusterName,
        /// How many nodes it has.
        nodes: usize,
    },
    /// The caller excluded every node that may be called.
    #[error("cluster `{cluster}` has no node to call: all {candidates} candidates are excluded")]
    AllExcluded {
        /// Which.
        cluster: ClusterName,
        /// How many may be called.
        candidates: usize,
    },
}

fn none_of(nodes: usize) -> String {
    match nodes {
        0 => "it is defined without nodes".to_owned(),
        1 => "its one node is not routable".to_owned(),
        _ => format!("none of its {nodes} nodes is routable"),
    }
}

/// One thread's part of one handle.
struct Slot {
    /// Of the plan in `plan`; 0 when there is none.
    generation: Cell<u64>,
    /// Where that plan lies, and so who may be put back. It is compared and never looked through: while the slot holds the
    /// plan, nothing else can lie there.
    address: Cell<*const Plan>,
    /// The reference that the next pick takes and the last drop put back.
    spare: Cell<Option<Arc<Plan>>>,
    hand: Hand,
    /// References beyond that one, for threads with several calls in flight.
    stock: RefCell<Vec<Arc<Plan>>>,
    plan: RefCell<Option<Arc<Plan>>>,
}

impl Slot {
    fn empty() -> Self {
        Self {
            generation: Cell::new(0),
            address: Cell::new(std::ptr::null()),
            spare: Cell::new(None),
            hand: Hand::new(Random::from_entropy()),
            stock: RefCell::new(Vec::new()),
            plan: RefCell::new(None),
        }
    }

    fn refill(&self, plan: Arc<Plan>) {
        self.generation.set(plan.generation);
        self.address.set(Arc::as_ptr(&plan));
        self.hand.begin(&plan);
        self.spare.set(None);
        let mut stock = self.stock.borrow_mut();
        stock.clear();
        stock.reserve_exact(STOCK_MAX);
        *self.plan.borrow_mut() = Some(plan);
    }

    /// A counted reference to the plan in this slot.
    fn take(&self) -> Arc<Plan> {
        let held = self.spare.take().or_else(|| self.stock.borrow_mut().pop());
        held.unwrap_or_else(|| {
            let plan = self.plan.borrow();
            Arc::clone(plan.as_ref().expect("a slot is refilled before it is used"))
        })
    }

    #[inline]
    fn put_back(&self, plan: Arc<Plan>) {
        if let Some(plan) = self.spare.replace(Some(plan)) {
            self.put_into_stock(plan);
        }
    }

    #[inline(never)]
    fn put_into_stock(&self, plan: Arc<Plan>) {
        let mut stock = self.stock.borrow_mut();
        if stock.len() < STOCK_MAX {
            stock.push(plan);
        }
    }

    /// The short way: with a spare reference, to a plan that has nodes. `None` is no refusal, see [`Self::pick`].
    #[inline]
    fn pick_with_spare(&self, number: usize) -> Option<Picked> {
        let plan = self.spare.take()?;
        if let Some(entry) = self.hand.next_even() {
            return Some(Picked::in_turn(plan, number, entry));
        }
        if let Some(entry) = self.hand.choose(&plan, Micros::now) {
            return Some(Picked::begin(plan, number, entry));
        }
        self.put_back(plan);
        None
    }

    fn pick(&self, number: usize, want: Want<'_>) -> Result<Picked, AllocError> {
        let plan = self.take();
        let allowed = |entry: u32| !want.excluded.contains(&&plan.node(entry).id);
        let by_key = || {
            let key = want.key?;
            Hand::choose_for(&plan, key, Micros::now).filter(|entry| allowed(*entry))
        };
        let entry = match (want.excluded, want.key) {
            ([], None) => self.hand.choose(&plan, Micros::now),
            _ => by_key().or_else(|| self.hand.choose_allowed(&plan, allowed, Micros::now)),
        };
        match entry {
            Some(entry) => Ok(Picked::begin(plan, number, entry)),
            None => Err(refusal(&plan)),
        }
    }
}

/// What a pick is to be like.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Want<'a> {
    /// The hash of what is always to come to the same node.
    pub(crate) key: Option<u64>,
    /// Nodes that are not to be picked.
    pub(crate) excluded: &'a [&'a NodeId],
}

#[cold]
fn refusal(plan: &Plan) -> AllocError {
    let cluster = plan.view.name.clone();
    match &plan.view.content {
        Content::Nothing => AllocError::UnknownCluster { cluster, removed: None },
        Content::Removed(revision) => AllocError::UnknownCluster { cluster, removed: Some(*revision) },
        // Without exclusions one of the candidates would have been taken.
        Content::State(_) if plan.candidates() > 0 => {
            AllocError::AllExcluded { cluster, candidates: plan.candidates() }
        }
        Content::State(_) => AllocError::NoNode { cluster, nodes: plan.view.nodes().len() },
    }
}

/// Picks a node by the calling thread's part of the handle.
#[inline]
pub(crate) fn pick(balancer: &Balancer) -> Result<Picked, AllocError> {
    match pick_with_spare(balancer) {
        Some(picked) => Ok(picked),
        None => pick_wanted(balancer, Want::default()),
    }
}

/// What nearly every pick is. By itself, because it is two words and returns in registers; a `Result` with an error does
/// not.
#[inline]
fn pick_with_spare(balancer: &Balancer) -> Option<Picked> {
    let number = balancer.slot();
    let picked = SLOTS.try_with(|slots| {
        let slot = slot(slots, number)?;
        if slot.generation.get() != balancer.generation() {
            return None;
        }
        slot.pick_with_spare(number)
    });
    picked.ok().flatten()
}

/// The same with wishes.
pub(crate) fn pick_wanted(balancer: &Balancer, want: Want<'_>) -> Result<Picked, AllocError> {
    with_slot(balancer, |slot| slot.pick(balancer.slot(), want))
}

#[inline]
fn slot(slots: &[OnceCell<Box<[Slot; CHUNK]>>; CHUNKS_MAX], number: usize) -> Option<&Slot> {
    slots.get(number / CHUNK)?.get().map(|chunk| &chunk[number % CHUNK])
}

/// Uses the calling thread's slot of a handle, filled with the latest plan.
#[inline(never)]
fn with_slot<T>(balancer: &Balancer, use_slot: impl Fn(&Slot) -> T) -> T {
    let in_thread = SLOTS.try_with(|slots| {
        let chunk = slots.get(balancer.slot() / CHUNK)?;
        let chunk = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::empty())));
        let slot = &chunk[balancer.slot() % CHUNK];
        if slot.generation.get() != balancer.generation() {
            slot.refill(balancer.plan());
        }
        Some(use_slot(slot))
    });
    // A thread that is ending has no slots any more, and may still pick.
    in_thread.ok().flatten().unwrap_or_else(|| {
        let passing = Slot::empty();
        passing.refill(balancer.plan());
        use_slot(&passing)
    })
}

/// Puts a reference back into the calling thread's slot of that number, if that holds the same plan.
#[inline]
pub(crate) fn give_back(number: usize, plan: Arc<Plan>) {
    // Where it fits nowhere the reference is dropped, here or with the closure of a thread that is ending.
    let _ = SLOTS.try_with(|slots| {
        if let Some(slot) = slot(slots, number)
            && slot.address.get() == Arc::as_ptr(&plan)
        {
            slot.put_back(plan);
        }
    });
}

/// A place in every thread's slots. It is used again after its handle is gone: generations tell the two apart.
#[derive(Debug)]
pub(crate) struct SlotNumber(usize);

#[derive(Debug)]
struct Numbers {
    free: Vec<usize>,
    next: usize,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { free: Vec::new(), next: 0 });

impl SlotNumber {
    pub(crate) fn take() -> Self {
        let mut numbers = NUMBERS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = numbers.free.pop().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        });
        Self(number)
    }

    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.0
    }
}

impl Drop for SlotNumber {
    fn drop(&mut self) {
        NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.0);
    }
}
