//! The pick: each thread keeps its own part of every cluster, so that threads share nothing but what they read.
//!
//! A thread's slot holds the view it last saw, its turn, its random numbers, and *spare* counted references to that
//! view. A pick takes a spare reference and its drop puts it back, so that in the steady state no shared count is
//! touched; only p2c writes, to the load of the node that it chose. A slot is refilled when the generation of
//! the cluster's view changes: that is the one place that loads the shared view, and the only one that allocates.

#[cfg(test)]
mod tests;

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::{Arc, Mutex, PoisonError};

use jcm_model::{ClusterName, NodeId, Revision};

use crate::core::Core;
use crate::picked::Picked;
use crate::policy::Choice;
use crate::random::Random;
use crate::view::{Content, View};

/// References that a thread keeps for one cluster: as many calls as a thread has in flight without touching a shared
/// count. Beyond that a pick costs two atomic operations more.
const STOCK_MAX: usize = 64;

/// Slots of a thread come in chunks, so that more can be added while one is in use.
const CHUNK: usize = 32;
/// Most chunks: 4096 clusters of one process are picked from at full speed, further ones at the cost of a shared count.
const CHUNKS_MAX: usize = 128;

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

/// One thread's part of one cluster.
struct Slot {
    /// Of the view in `view`; 0 when there is none.
    generation: Cell<u64>,
    /// The next turn for round robin.
    turn: Cell<usize>,
    random: Cell<Random>,
    /// The reference that the next pick takes and the last drop put back.
    spare: Cell<Option<Arc<View>>>,
    /// References beyond that one, for threads with several calls in flight.
    stock: RefCell<Vec<Arc<View>>>,
    view: RefCell<Option<Arc<View>>>,
}

impl Slot {
    fn empty() -> Self {
        let mut random = Random::from_entropy();
        Self {
            generation: Cell::new(0),
            // Threads that start together must not march together.
            turn: Cell::new(random.below(u32::MAX) as usize),
            random: Cell::new(random),
            spare: Cell::new(None),
            stock: RefCell::new(Vec::new()),
            view: RefCell::new(None),
        }
    }

    fn refill(&self, view: Arc<View>) {
        self.generation.set(view.generation);
        self.turn.set(self.turn.get() % view.turns.len().max(1));
        self.spare.set(None);
        let mut stock = self.stock.borrow_mut();
        stock.clear();
        stock.reserve_exact(STOCK_MAX);
        *self.view.borrow_mut() = Some(view);
    }

    /// A counted reference to the view in this slot.
    fn take(&self) -> Arc<View> {
        let held = self.spare.take().or_else(|| self.stock.borrow_mut().pop());
        held.unwrap_or_else(|| {
            let view = self.view.borrow();
            Arc::clone(view.as_ref().expect("a slot is refilled before it is used"))
        })
    }

    #[inline]
    fn put_back(&self, view: Arc<View>) {
        if let Some(view) = self.spare.replace(Some(view)) {
            self.put_into_stock(view);
        }
    }

    #[inline(never)]
    fn put_into_stock(&self, view: Arc<View>) {
        let mut stock = self.stock.borrow_mut();
        if stock.len() < STOCK_MAX {
            stock.push(view);
        }
    }

    /// The short way: with a spare reference, to a view that has nodes. `None` is no refusal, see [`Self::pick`].
    ///
    /// It looks at the view through the slot's own reference and hands the spare one out unseen. That one went through
    /// memory with the last drop; a processor that had to wait for it could not look ahead to this pick meanwhile.
    #[inline]
    fn pick_with_spare(&self, choice: Choice) -> Option<Picked> {
        let reference = self.spare.take()?;
        let view = self.view.borrow();
        let view = view.as_deref()?;
        let entry = self.choose(view, choice)?;
        Some(Picked::begin(view, reference, entry, choice))
    }

    fn pick(&self, choice: Choice) -> Result<Picked, AllocError> {
        let view = self.take();
        match self.choose(&view, choice) {
            Some(entry) => Ok(Picked::begin(&Arc::clone(&view), view, entry, choice)),
            None => Err(refusal(&view)),
        }
    }

    #[expect(
        clippy::inline_always,
        reason = "half of what a round robin pick does; a call would cost as much"
    )]
    #[inline(always)]
    fn choose(&self, view: &View, choice: Choice) -> Option<u32> {
        match choice {
            Choice::RoundRobin => self.next_turn(view),
            Choice::P2c => self.two_choices(view),
        }
    }

    #[inline]
    fn next_turn(&self, view: &View) -> Option<u32> {
        let mut turn = self.turn.get();
        if turn >= view.turns.len() {
            turn = 0;
        }
        self.turn.set(turn + 1);
        view.turns.get(turn)
    }

    #[inline]
    fn two_choices(&self, view: &View) -> Option<u32> {
        #[expect(clippy::cast_possible_truncation, reason = "a table of turns is bounded far below 2^32")]
        let count = view.turns.len() as u32;
        if count < 2 {
            return view.turns.get(0);
        }
        let mut random = self.random.get();
        let (first, second) = random.two_below(count);
        self.random.set(random);
        // Drawn from the table of turns, so that weights count; compared by calls in flight for the weight. At rest both
        // are 0 and the first stays, which leaves every node its share.
        let (first, second) = (view.turns.get(first as usize)?, view.turns.get(second as usize)?);
        let (one, other) = (&view.entries[first as usize], &view.entries[second as usize]);
        let one_load = u64::from(one.load.in_flight()) * u64::from(other.weight);
        let other_load = u64::from(other.load.in_flight()) * u64::from(one.weight);
        Some(if one_load <= other_load { first } else { second_choice(second) })
    }

    fn pick_excluding(&self, choice: Choice, excluded: &[&NodeId]) -> Result<Picked, AllocError> {
        /// Chances that the policy itself gets to meet a node that is not excluded before all are looked through.
        const TRIES_MAX: usize = 8;
        let view = self.take();
        let allowed = |entry: &u32| !excluded.contains(&&view.node(*entry).id);
        let entry = (0..TRIES_MAX.min(view.turns.len()))
            .find_map(|_| self.choose(&view, choice).filter(allowed))
            .or_else(|| self.search(&view, allowed));
        match entry {
            Some(entry) => Ok(Picked::begin(&Arc::clone(&view), view, entry, choice)),
            None if view.entries.is_empty() => Err(refusal(&view)),
            None => {
                Err(AllocError::AllExcluded { cluster: view.name.clone(), candidates: view.entries.len() })
            }
        }
    }

    /// Any allowed node of the first choice, from a random place on; then those that stand by.
    fn search(&self, view: &View, allowed: impl Fn(&u32) -> bool) -> Option<u32> {
        let turns = &view.turns;
        let mut random = self.random.get();
        let start = random.below(u32::try_from(turns.len()).ok()?.max(1)) as usize;
        self.random.set(random);
        let first_choice = (start..turns.len()).chain(0..start).filter_map(|turn| turns.get(turn));
        let standing_by = 0..u32::try_from(view.entries.len()).ok()?;
        first_choice.chain(standing_by).find(allowed)
    }
}

/// A call, so that the compiler makes a branch of it. The processor guesses the first choice, and fetches its counts for
/// writing while it still reads the ones they are compared with: other threads write them, so both are far away.
#[cold]
#[inline(never)]
fn second_choice(second: u32) -> u32 {
    second
}

#[cold]
fn refusal(view: &View) -> AllocError {
    let cluster = view.name.clone();
    match &view.content {
        Content::Nothing => AllocError::UnknownCluster { cluster, removed: None },
        Content::Removed(revision) => AllocError::UnknownCluster { cluster, removed: Some(*revision) },
        Content::State(_) => AllocError::NoNode { cluster, nodes: view.nodes().len() },
    }
}

/// Picks a node by the calling thread's part of the cluster.
#[inline]
pub(crate) fn pick(core: &Core, choice: Choice) -> Result<Picked, AllocError> {
    match pick_with_spare(core, choice) {
        Some(picked) => Ok(picked),
        None => with_slot(core, |slot| slot.pick(choice)),
    }
}

/// What nearly every pick is. By itself, because it returns in registers and a `Result` with an error does not.
fn pick_with_spare(core: &Core, choice: Choice) -> Option<Picked> {
    let picked = SLOTS.try_with(|slots| {
        let slot = slot(slots, core.slot())?;
        if slot.generation.get() != core.generation() {
            return None;
        }
        slot.pick_with_spare(choice)
    });
    picked.ok().flatten()
}

pub(crate) fn pick_excluding(
    core: &Core,
    choice: Choice,
    excluded: &[&NodeId],
) -> Result<Picked, AllocError> {
    with_slot(core, |slot| slot.pick_excluding(choice, excluded))
}

#[inline]
fn slot(slots: &[OnceCell<Box<[Slot; CHUNK]>>; CHUNKS_MAX], number: usize) -> Option<&Slot> {
    slots.get(number / CHUNK)?.get().map(|chunk| &chunk[number % CHUNK])
}

/// Uses the calling thread's slot of a cluster, filled with the latest view.
#[inline(never)]
fn with_slot<T>(core: &Core, use_slot: impl Fn(&Slot) -> T) -> T {
    let in_thread = SLOTS.try_with(|slots| {
        let chunk = slots.get(core.slot() / CHUNK)?;
        let chunk = chunk.get_or_init(|| Box::new(std::array::from_fn(|_| Slot::empty())));
        let slot = &chunk[core.slot() % CHUNK];
        if slot.generation.get() != core.generation() {
            slot.refill(core.view());
        }
        Some(use_slot(slot))
    });
    // A thread that is ending has no slots any more, and may still pick.
    in_thread.ok().flatten().unwrap_or_else(|| {
        let passing = Slot::empty();
        passing.refill(core.view());
        use_slot(&passing)
    })
}

/// Puts a reference back into the calling thread's slot, if that holds the same view.
#[inline]
pub(crate) fn give_back(view: Arc<View>) {
    // Where it fits nowhere the reference is dropped, here or with the closure of a thread that is ending.
    let _ = SLOTS.try_with(|slots| {
        if let Some(slot) = slot(slots, view.slot)
            && slot.generation.get() == view.generation
        {
            slot.put_back(view);
        }
    });
}

/// A place in every thread's slots. It is used again after its cluster is gone: generations tell the two apart.
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
