//! The pick: each thread keeps its own part of every cluster, so that threads share nothing but what they read.
//!
//! A thread's slot holds the view it last saw, its turn, its random numbers, and a *stock* of counted references to
//! that view. A pick takes a reference out of the stock and its drop puts it back, so that in the steady state no shared
//! count is touched; only p2c writes, to the load of the node that it chose. A slot is refilled when the generation of
//! the cluster's view changes: that is the one place that loads the shared view, and the only one that allocates.

#[cfg(test)]
mod tests;

use std::cell::RefCell;
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

thread_local! {
    static SLOTS: RefCell<Vec<Slot>> = const { RefCell::new(Vec::new()) };
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
#[derive(Debug)]
struct Slot {
    /// Of the view in `view`; 0 when there is none.
    generation: u64,
    /// The next turn for round robin.
    turn: usize,
    random: Random,
    view: Option<Arc<View>>,
    stock: Vec<Arc<View>>,
}

impl Slot {
    fn empty() -> Self {
        let mut random = Random::from_entropy();
        Self {
            generation: 0,
            // Threads that start together must not march together.
            turn: random.below(u32::MAX) as usize,
            random,
            view: None,
            stock: Vec::new(),
        }
    }

    #[cold]
    fn refill(&mut self, view: Arc<View>) {
        self.generation = view.generation;
        if !view.turns.is_empty() {
            self.turn %= view.turns.len();
        }
        self.stock.clear();
        self.stock.reserve_exact(STOCK_MAX);
        self.view = Some(view);
    }

    /// A counted reference to the view in this slot.
    #[inline]
    fn take(&mut self) -> Arc<View> {
        match self.stock.pop() {
            Some(view) => view,
            None => Arc::clone(self.view.as_ref().expect("a slot is refilled before it is used")),
        }
    }

    #[inline]
    fn pick(&mut self, choice: Choice) -> Result<Picked, AllocError> {
        let view = self.take();
        let entry = match choice {
            Choice::RoundRobin => self.next_turn(&view),
            Choice::P2c => two_choices(&view, &mut self.random),
        };
        match entry {
            Some(entry) => Ok(Picked::new(view, entry, choice == Choice::P2c)),
            None => Err(refusal(&view)),
        }
    }

    #[inline]
    fn next_turn(&mut self, view: &View) -> Option<u32> {
        let entry = if let Some(entry) = view.turns.get(self.turn) {
            *entry
        } else {
            self.turn = 0;
            *view.turns.first()?
        };
        self.turn += 1;
        Some(entry)
    }

    fn pick_excluding(&mut self, choice: Choice, excluded: &[&NodeId]) -> Result<Picked, AllocError> {
        /// Chances that the policy itself gets to meet a node that is not excluded before all are looked through.
        const TRIES_MAX: usize = 8;
        let view = self.take();
        let allowed = |entry: u32| !excluded.contains(&&view.node(entry).id);
        let mut entry = None;
        for _ in 0..TRIES_MAX.min(view.turns.len()) {
            entry = match choice {
                Choice::RoundRobin => self.next_turn(&view),
                Choice::P2c => two_choices(&view, &mut self.random),
            };
            entry = entry.filter(|entry| allowed(*entry));
            if entry.is_some() {
                break;
            }
        }
        let entry = entry.or_else(|| self.search(&view, allowed));
        match entry {
            Some(entry) => Ok(Picked::new(view, entry, choice == Choice::P2c)),
            None if view.entries.is_empty() => Err(refusal(&view)),
            None => Err(AllocError::AllExcluded {
                cluster: view.name.clone(),
                candidates: view.entries.len(),
            }),
        }
    }

    /// Any allowed node of the first choice, from a random place on; then those that stand by.
    fn search(&mut self, view: &View, allowed: impl Fn(u32) -> bool) -> Option<u32> {
        let turns = &view.turns;
        let start = self.random.below(u32::try_from(turns.len()).ok()?.max(1)) as usize;
        let first_choice = turns.iter().cycle().skip(start).take(turns.len()).copied();
        let standing_by = 0..u32::try_from(view.entries.len()).ok()?;
        first_choice.chain(standing_by).find(|entry| allowed(*entry))
    }
}

#[inline]
fn two_choices(view: &View, random: &mut Random) -> Option<u32> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a table of turns is bounded far below 2^32"
    )]
    let count = view.turns.len() as u32;
    if count < 2 {
        return view.turns.first().copied();
    }
    // Drawn from the table of turns, so that weights count; compared by calls in flight for the weight. At rest both
    // are 0 and the first stays, which leaves every node its share.
    let (first, second) = random.two_below(count);
    let (first, second) = (view.turns[first as usize], view.turns[second as usize]);
    let (one, other) = (&view.entries[first as usize], &view.entries[second as usize]);
    let one_load = u64::from(one.load.in_flight()) * u64::from(other.weight);
    let other_load = u64::from(other.load.in_flight()) * u64::from(one.weight);
    Some(if one_load <= other_load { first } else { second })
}

#[cold]
fn refusal(view: &View) -> AllocError {
    let cluster = view.name.clone();
    match &view.content {
        Content::Nothing => AllocError::UnknownCluster {
            cluster,
            removed: None,
        },
        Content::Removed(revision) => AllocError::UnknownCluster {
            cluster,
            removed: Some(*revision),
        },
        Content::State(_) => AllocError::NoNode {
            cluster,
            nodes: view.nodes().len(),
        },
    }
}

/// Picks a node by the calling thread's part of the cluster.
#[inline]
pub(crate) fn pick(core: &Core, choice: Choice) -> Result<Picked, AllocError> {
    with_slot(core, |slot| slot.pick(choice))
}

pub(crate) fn pick_excluding(
    core: &Core,
    choice: Choice,
    excluded: &[&NodeId],
) -> Result<Picked, AllocError> {
    with_slot(core, |slot| slot.pick_excluding(choice, excluded))
}

#[inline]
fn with_slot<T>(core: &Core, mut use_slot: impl FnMut(&mut Slot) -> T) -> T {
    let in_thread = SLOTS.try_with(|slots| {
        let mut slots = slots.borrow_mut();
        if let Some(slot) = slots.get_mut(core.slot())
            && slot.generation == core.generation()
        {
            return use_slot(slot);
        }
        use_slot(refilled(&mut slots, core))
    });
    // A thread that is ending has no slots any more, and may still pick.
    in_thread.unwrap_or_else(|_| use_slot(&mut passing(core)))
}

#[cold]
fn refilled<'a>(slots: &'a mut Vec<Slot>, core: &Core) -> &'a mut Slot {
    while slots.len() <= core.slot() {
        slots.push(Slot::empty());
    }
    let slot = &mut slots[core.slot()];
    slot.refill(core.view());
    slot
}

#[cold]
fn passing(core: &Core) -> Slot {
    let mut slot = Slot::empty();
    slot.refill(core.view());
    slot
}

/// Puts a reference back into the calling thread's stock, if that holds the same view and has room.
#[inline]
pub(crate) fn give_back(view: Arc<View>) {
    // Where it fits nowhere the reference is dropped, here or with the closure of a thread that is ending.
    let _ = SLOTS.try_with(|slots| {
        if let Ok(mut slots) = slots.try_borrow_mut()
            && let Some(slot) = slots.get_mut(view.slot)
            && slot.generation == view.generation
            && slot.stock.len() < STOCK_MAX
        {
            slot.stock.push(view);
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

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers {
    free: Vec::new(),
    next: 0,
});

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
        NUMBERS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free
            .push(self.0);
    }
}
