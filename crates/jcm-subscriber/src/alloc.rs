//! The pick: each thread keeps its own part of every handle, so that threads share nothing but what they read.
//!
//! A thread's slot holds the plan it last saw, its turn, its random numbers, and *spare* counted references to that
//! plan. A pick takes a spare reference and its drop puts it back, so that in the steady state no shared count is
//! touched; only policies that count calls write, to those of the node that they chose. A slot is refilled when the
//! generation of the handle's plan changes: that is the one place that loads the shared plan, and the only one that
//! allocates.
//!
//! What a slot needs to tell whether a reference fits, and where a round robin is, lies in the slot itself, and the node in
//! hand knows its slot: a pick by even turns and its drop read nothing of the plan at all. Whatever else a pick may have to do
//! is a function of its own that ends it, so that what nearly every pick does is short, and needs no room on the stack.
//!
//! The first slots have no destructor. Whoever comes to something of a thread that has one must ask each time whether it is
//! still there, and a pick would ask twice. [`Further`] has one, and empties them when the thread ends.
//!
//! Invariant: a slot is filled only while its thread's [`Further`] is there.

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell};
use std::mem::ManuallyDrop;
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

/// Slots that each thread has from its beginning: as many handles as nearly any process has, in two kilobytes.
const FIRST: usize = 32;
/// Further slots of a thread come in chunks, so that more can be added while one is in use.
const CHUNK: usize = 32;
/// Most chunks: 4096 handles of one process are picked from without a shared count.
const CHUNKS_MAX: usize = 127;
/// Slots of a thread. This number has none, and stands for all that would come after it.
pub(crate) const SLOTS_MAX: usize = FIRST + CHUNK * CHUNKS_MAX;

thread_local! {
    static SLOTS: [Slot; FIRST] = const { [const { Slot::empty() }; FIRST] };
    static FURTHER: Further = const { Further { chunks: [const { OnceCell::new() }; CHUNKS_MAX] } };
}

/// The slots of a thread that are not the first.
struct Further {
    chunks: [OnceCell<Box<[Slot; CHUNK]>>; CHUNKS_MAX],
}

impl Further {
    /// The slot of a number; `None` where it was never used.
    fn get(&self, number: usize) -> Option<&Slot> {
        let number = number.checked_sub(FIRST)?;
        self.chunks.get(number / CHUNK)?.get().map(|chunk| &chunk[number % CHUNK])
    }

    /// The slot of a number; `None` where there can be none.
    fn get_or_make(&self, number: usize) -> Option<&Slot> {
        let number = number.checked_sub(FIRST)?;
        let chunk = self.chunks.get(number / CHUNK)?;
        let chunk = chunk.get_or_init(|| Box::new([const { Slot::empty() }; CHUNK]));
        Some(&chunk[number % CHUNK])
    }
}

impl Drop for Further {
    fn drop(&mut self) {
        // Where the system keeps what is a thread's own, the first slots may be gone before this.
        let _ = SLOTS.try_with(|first| first.iter().for_each(Slot::clear));
        self.chunks.iter().filter_map(OnceCell::get).for_each(|chunk| chunk.iter().for_each(Slot::clear));
    }
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

/// One thread's part of one handle, on one line of the cache. It drops nothing by itself: see [`Self::clear`]. All zeros at
/// first, so that a thread begins without a cost for slots that it may never use.
#[repr(align(64))]
struct Slot {
    /// Of the plan in `rest`; 0 when there is none.
    generation: Cell<u64>,
    /// Where that plan lies, and so who may be put back. It is compared and never looked through: while the slot holds the
    /// plan, nothing else can lie there.
    address: Cell<*const Plan>,
    /// The reference that the next pick takes and the last drop put back.
    spare: Cell<Option<ManuallyDrop<Arc<Plan>>>>,
    hand: Hand,
    rest: Cell<Option<ManuallyDrop<Box<Rest>>>>,
}

const _: () = assert!(size_of::<Slot>() == 64 && !std::mem::needs_drop::<Slot>());

/// What a slot has that hardly any pick needs.
struct Rest {
    plan: Arc<Plan>,
    /// References beyond the spare one, for threads with several calls in flight.
    stock: Vec<Arc<Plan>>,
}

impl Slot {
    const fn empty() -> Self {
        Self {
            generation: Cell::new(0),
            address: Cell::new(std::ptr::null()),
            spare: Cell::new(None),
            hand: Hand::empty(),
            rest: Cell::new(None),
        }
    }

    fn refill(&self, plan: Arc<Plan>) {
        let rest = self.take_out();
        if rest.is_none() {
            self.hand.seed(Random::from_entropy());
        }
        self.hand.begin(&plan);
        self.generation.set(plan.generation);
        self.address.set(Arc::as_ptr(&plan));
        let mut stock = rest.map_or_else(|| Vec::with_capacity(STOCK_MAX), |rest| rest.stock);
        stock.clear();
        self.rest.set(Some(ManuallyDrop::new(Box::new(Rest { plan, stock }))));
    }

    /// Leaves nothing in it that would have to be dropped.
    fn clear(&self) {
        drop(self.take_out());
    }

    fn take_out(&self) -> Option<Box<Rest>> {
        self.generation.set(0);
        self.address.set(std::ptr::null());
        drop(self.take_spare());
        self.rest.take().map(ManuallyDrop::into_inner)
    }

    fn take_spare(&self) -> Option<Arc<Plan>> {
        self.spare.take().map(ManuallyDrop::into_inner)
    }

    /// A counted reference to the plan in this slot.
    fn take(&self) -> Arc<Plan> {
        self.take_spare().unwrap_or_else(|| {
            let mut rest = self.rest.take().expect("a slot is refilled before it is used");
            let plan = rest.stock.pop().unwrap_or_else(|| Arc::clone(&rest.plan));
            self.rest.set(Some(rest));
            plan
        })
    }

    #[inline]
    fn put_back(&self, plan: Arc<Plan>) {
        if let Some(spare) = self.spare.replace(Some(ManuallyDrop::new(plan))) {
            self.put_into_stock(ManuallyDrop::into_inner(spare));
        }
    }

    #[inline(never)]
    fn put_into_stock(&self, plan: Arc<Plan>) {
        if let Some(mut rest) = self.rest.take() {
            if rest.stock.len() < STOCK_MAX {
                rest.stock.push(plan);
            }
            self.rest.set(Some(rest));
        }
    }

    /// The short way: with a spare reference, to a plan that has nodes. `None` is no refusal, see [`Self::pick`].
    #[inline]
    fn pick_with_spare(&self, number: usize) -> Option<Picked> {
        let plan = self.take_spare()?;
        match self.hand.next_turn() {
            Some(entry) => Some(Picked::in_turn(plan, number, entry)),
            None => self.choose_with_spare(plan, number),
        }
    }

    /// The same where the plan is to be looked at.
    #[inline(never)]
    fn choose_with_spare(&self, plan: Arc<Plan>, number: usize) -> Option<Picked> {
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
    SLOTS.with(move |first| match first.get(number) {
        Some(slot) if slot.generation.get() == balancer.generation() => slot.pick_with_spare(number),
        Some(_) => None,
        None => pick_further(balancer),
    })
}

#[inline(never)]
fn pick_further(balancer: &Balancer) -> Option<Picked> {
    let number = balancer.slot();
    let picked = FURTHER.try_with(|further| {
        let slot = further.get(number)?;
        if slot.generation.get() == balancer.generation() { slot.pick_with_spare(number) } else { None }
    });
    picked.ok().flatten()
}

/// The same with wishes.
pub(crate) fn pick_wanted(balancer: &Balancer, want: Want<'_>) -> Result<Picked, AllocError> {
    with_slot(balancer, |slot| slot.pick(balancer.slot(), want))
}

/// Uses the calling thread's slot of a handle, filled with the latest plan.
#[inline(never)]
fn with_slot<T>(balancer: &Balancer, use_slot: impl Fn(&Slot) -> T) -> T {
    let number = balancer.slot();
    let fill_and_use = |slot: &Slot| {
        if slot.generation.get() != balancer.generation() {
            slot.refill(balancer.plan());
        }
        use_slot(slot)
    };
    // Asked for the first slots as well: they are filled only while it is there.
    let in_thread = FURTHER.try_with(|further| {
        SLOTS.with(|first| first.get(number).or_else(|| further.get_or_make(number)).map(&fill_and_use))
    });
    // A thread that is ending has no slots any more, and may still pick.
    in_thread.ok().flatten().unwrap_or_else(|| {
        let passing = Passing(Slot::empty());
        fill_and_use(&passing.0)
    })
}

/// A slot for one use, which lets go of its plan even where that use panics.
struct Passing(Slot);

impl Drop for Passing {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Puts a reference back into the calling thread's slot of that number, if that holds the same plan.
#[inline]
pub(crate) fn give_back(number: usize, plan: Arc<Plan>) {
    // A thread that is ending may have none any more: then the reference is dropped with the closure.
    let _ = SLOTS.try_with(move |first| match first.get(number) {
        Some(slot) if slot.address.get() == Arc::as_ptr(&plan) => slot.put_back(plan),
        _ => give_back_further(number, plan),
    });
}

/// Where it fits nowhere the reference is dropped, here or with the closure of a thread that is ending.
#[inline(never)]
fn give_back_further(number: usize, plan: Arc<Plan>) {
    let _ = FURTHER.try_with(move |further| {
        if let Some(slot) = further.get(number)
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
        if let Some(number) = numbers.free.pop() {
            return Self(number);
        }
        let number = numbers.next;
        numbers.next = SLOTS_MAX.min(number + 1);
        Self(number)
    }

    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.0
    }
}

impl Drop for SlotNumber {
    fn drop(&mut self) {
        if self.0 < SLOTS_MAX {
            NUMBERS.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.0);
        }
    }
}
