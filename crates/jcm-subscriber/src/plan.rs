//! A view laid out for picking by one policy at one moment. It is made where views change, never by who picks.
//!
//! Invariant: the first entries are those that the policy chooses among, and its table names these alone; the others stand
//! by for calls that exclude nodes. Everything that a pick writes sits in a [`Calls`] of its own cache lines, or in the
//! picking thread.

mod alias;
mod choose;
pub(crate) mod hashed;
mod maglev;
mod ring;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
mod turns;
mod weigh;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use jcm_model::Node;
use tokio::sync::Notify;

pub(crate) use choose::Hand;

use crate::calls::Calls;
use crate::latency::Micros;
use crate::plan::alias::Alias;
use crate::plan::hashed::{Draft, Hashed, Lookup, Named};
use crate::plan::turns::Turns;
use crate::plan::weigh::{Weighed, weigh};
use crate::policy::{Choice, Policy};
use crate::random::Random;
use crate::view::{self, View};

#[derive(Debug)]
pub(crate) struct Plan {
    /// Differs from that of every other plan in this process.
    pub(crate) generation: u64,
    pub(crate) choice: Choice,
    table: Table,
    entries: Box<[Entry]>,
    /// How many of the entries are chosen among.
    chosen: u32,
    /// The sum of the weights of these.
    weight_sum: f32,
    all_calls: Arc<AllCalls>,
    pub(crate) view: Arc<View>,
    /// One for each node of the view, in its order.
    calls: Vec<Arc<Calls>>,
    alarm: Alarm,
    /// Whether protection routes to nodes that are not fit.
    pub(crate) panic: bool,
    /// Whether it is to be made anew as time passes.
    pub(crate) ramping: bool,
    /// What every thread begins to pick from it with; `None`: each with its own.
    pub(crate) chance: Option<Random>,
}

/// What a policy looks up.
#[derive(Debug)]
enum Table {
    Turns(Turns),
    /// `None` where every weight is the same.
    Draw(Option<Alias>),
    Hashed(Lookup),
}

/// Nodes that can be picked from: what a pick's own number of its node has room for.
pub(crate) const ENTRIES_MAX: usize = (1 << 15) - 1;

/// A node that may be picked.
#[derive(Debug, Clone)]
struct Entry {
    calls: Arc<Calls>,
    weight: f32,
    /// Its place in the view.
    node: u32,
}

/// Calls in flight to all nodes of one handle, for loads that are bounded by their mean; on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct AllCalls(AtomicU32);

/// Who is told when a node fails so often in a row that this is not to wait.
#[derive(Debug, Clone)]
pub(crate) struct Alarm {
    /// `None` where nothing is ejected.
    pub(crate) failures: Option<u32>,
    pub(crate) judge: Arc<Notify>,
}

/// What all plans of one handle have in common.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) policy: &'a Policy,
    pub(crate) all_calls: &'a Arc<AllCalls>,
    /// Tells this client's subset from others'.
    pub(crate) client: u64,
    pub(crate) chance: Option<Random>,
    /// Whether somebody makes the tables that take long, see [`Plan::draft`].
    pub(crate) tables_later: bool,
}

impl Plan {
    /// Lays a view out. What is known of calls to nodes, and tables that would come out the same, are taken over from the
    /// plan before.
    pub(crate) fn new(
        ground: &Ground<'_>,
        before: Option<&Self>,
        view: &Arc<View>,
        alarm: Alarm,
        now: Instant,
    ) -> Self {
        let Weighed { panic, mut chosen, mut standing_by, ramping } =
            weigh(view, ground.policy, ground.client, now);
        // No server has a cluster as large. One of another version that had would not make picks go wrong.
        chosen.truncate(ENTRIES_MAX);
        standing_by.truncate(ENTRIES_MAX - chosen.len());
        let calls = match before {
            Some(before) => view::carried(before.view.nodes(), &before.calls, view.nodes()),
            None => view.nodes().iter().map(|_| Arc::default()).collect(),
        };
        let entry = |(node, weight): (u32, f64)| {
            #[expect(clippy::cast_possible_truncation, reason = "loads are compared roughly")]
            let weight = weight as f32;
            Entry { calls: Arc::clone(&calls[node as usize]), weight, node }
        };
        let weights: Vec<f64> = chosen.iter().map(|(_, weight)| *weight).collect();
        let chosen_count = u32::try_from(chosen.len()).expect("a cluster has at most 20,000 nodes");
        let standing_by = standing_by.into_iter().map(|node| (node, 1.0));
        let entries: Box<[Entry]> = chosen.into_iter().chain(standing_by).map(entry).collect();
        let mut plan = Self {
            generation: next_generation(),
            choice: ground.policy.choice,
            table: Table::Draw(None),
            weight_sum: entries[..chosen_count as usize].iter().map(|entry| entry.weight).sum(),
            entries,
            chosen: chosen_count,
            all_calls: Arc::clone(ground.all_calls),
            view: Arc::clone(view),
            calls,
            alarm,
            panic,
            ramping,
            chance: ground.chance,
        };
        let former = before.and_then(|before| before.lookup()).map(|lookup| &lookup.hashed);
        plan.table = plan.table(&weights, former, ground.tables_later);
        plan
    }

    fn table(&self, weights: &[f64], former: Option<&Arc<Hashed>>, later: bool) -> Table {
        match self.choice {
            Choice::Turns => Table::Turns(Turns::new(weights)),
            choice if choice.hashes() => {
                Table::Hashed(Lookup::new(Draft::new(choice, self.named()), former, later))
            }
            _ => Table::Draw(Alias::new(weights)),
        }
    }

    /// The table that it lacks: it looks up in one that was made for others.
    pub(crate) fn draft(&self) -> Option<Draft> {
        self.lookup().filter(|lookup| !lookup.is_own())?;
        Some(Draft::new(self.choice, self.named()))
    }

    /// The same with another table, which may be for others again; `None` where it has its own, or would be served badly.
    pub(crate) fn with_table(&self, table: &Arc<Hashed>) -> Option<Self> {
        let lookup = Lookup::within(table, &self.draft()?)?;
        Some(Self {
            generation: next_generation(),
            choice: self.choice,
            table: Table::Hashed(lookup),
            entries: self.entries.clone(),
            chosen: self.chosen,
            weight_sum: self.weight_sum,
            all_calls: Arc::clone(&self.all_calls),
            view: Arc::clone(&self.view),
            calls: self.calls.clone(),
            alarm: self.alarm.clone(),
            panic: self.panic,
            ramping: self.ramping,
            chance: self.chance,
        })
    }

    fn lookup(&self) -> Option<&Lookup> {
        match &self.table {
            Table::Hashed(lookup) => Some(lookup),
            Table::Turns(_) | Table::Draw(_) => None,
        }
    }

    /// Whom a table is made for: those that are chosen among, in the order of ids.
    fn named(&self) -> Vec<Named> {
        let named = |entry: &Entry| (self.view.nodes()[entry.node as usize].id.clone(), entry.weight);
        self.chosen().iter().map(named).collect()
    }

    fn chosen(&self) -> &[Entry] {
        &self.entries[..self.chosen as usize]
    }

    /// The nodes that are chosen among.
    #[cfg(feature = "tower")]
    pub(crate) fn chosen_nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.chosen().iter().map(|entry| &self.view.nodes()[entry.node as usize])
    }

    /// How many nodes may be called, those that stand by included.
    pub(crate) fn candidates(&self) -> usize {
        self.entries.len()
    }

    /// The node behind an entry.
    pub(crate) fn node(&self, entry: u32) -> &Arc<Node> {
        &self.view.nodes()[self.entries[entry as usize].node as usize]
    }

    /// Calls of this handle to each of some nodes in the order of ids; `None` for one that is not of this plan.
    pub(crate) fn calls_of(&self, nodes: &[Arc<Node>]) -> impl Iterator<Item = Option<&Calls>> {
        let mut held = self.view.nodes().iter().zip(&self.calls).peekable();
        nodes.iter().map(move |node| {
            while held.next_if(|(old, _)| old.id < node.id).is_some() {}
            held.next_if(|(old, _)| old.id == node.id).map(|(_, calls)| calls.as_ref())
        })
    }

    /// A call to an entry begins, under a policy that [counts](Choice::counts) calls.
    #[inline]
    pub(crate) fn begin(&self, entry: u32) {
        self.entries[entry as usize].calls.start();
        if self.choice == Choice::RingHash {
            self.all_calls.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It ends, however it went.
    #[inline]
    pub(crate) fn end(&self, entry: u32) {
        self.entries[entry as usize].calls.end();
        if self.choice == Choice::RingHash {
            self.all_calls.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What a call that began then says of its node: `None` where it was dropped, else whether it succeeded.
    pub(crate) fn learn(&self, entry: u32, began: Micros, succeeded: Option<bool>, now: impl Fn() -> Micros) {
        let entry = &self.entries[entry as usize];
        if self.choice.times() {
            match succeeded {
                Some(true) => entry.calls.latency.observe(began, now()),
                Some(false) | None => entry.calls.latency.at_least(began, now()),
            }
        }
        let outcomes = &self.view.seats()[entry.node as usize].outcomes;
        match succeeded {
            Some(true) => outcomes.succeed(),
            // Only the failure that completes a row: what it leads to may be nothing, and is looked at again each second.
            Some(false) if Some(outcomes.fail()) == self.alarm.failures => self.alarm.judge.notify_one(),
            Some(false) | None => {}
        }
    }
}

/// Numbers start at 1: 0 is a thread that holds no plan.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}
