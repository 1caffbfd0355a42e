//! The choice of an entry: what a pick costs. No lock, no allocation, and nothing that grows with the number of nodes.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use crate::latency::Micros;
use crate::plan::hashed::{Lookup, Made};
use crate::plan::turns::{Ahead, Turns};
use crate::plan::{Entry, Plan, Table};
use crate::policy::Choice;
use crate::random::{Random, mixed, scale, two_below};

/// How many nodes the least loaded is looked for among. Of this many random ones it is nearly always the least of all.
const SCANNED_MAX: u32 = 32;
/// By how much a node on the ring may have more than its share of the calls in flight: the paper's c, as `hash-balance-factor 125` of
/// `HAProxy`.
const LOAD_BOUND: f32 = 1.25;
/// Chances that the policy itself gets to meet a node that is not excluded before all are looked through.
const TRIES_MAX: usize = 8;
/// Places of a table that are looked at for a node that is still there: at least every other one is, so that of a million keys
/// one finds none.
const LOOKS_MAX: usize = 20;

/// What a thread brings to a choice.
#[derive(Debug)]
pub(crate) struct Hand {
    /// The next turn, beyond those in `ahead`.
    turn: Cell<u32>,
    /// How many turns there are in all, where each is its own entry; else 0. So a pick by even turns need not ask the plan.
    even_turns: Cell<u32>,
    /// How many there are in all in any case. A pick does not read it.
    turns: Cell<u32>,
    /// Turns of others.
    ahead: Cell<Ahead>,
    random: Cell<Random>,
}

impl Hand {
    /// One that is to be [seeded](Self::seed).
    pub(crate) const fn empty() -> Self {
        Self {
            turn: Cell::new(0),
            even_turns: Cell::new(0),
            turns: Cell::new(0),
            ahead: Cell::new(Ahead::NONE),
            random: Cell::new(Random::seeded(0)),
        }
    }

    /// Gives it its own chance.
    pub(crate) fn seed(&self, random: Random) {
        self.random.set(random);
    }

    /// Another plan is to be chosen from.
    ///
    /// A thread that picks about once a plan has its shares by what it carries over from one plan to the next, so it must
    /// neither lose turns nor begin at the same few places again and again.
    pub(crate) fn begin(&self, plan: &Plan) {
        let (turns, are_even) = match &plan.table {
            Table::Turns(turns) => (turns.len(), turns.are_even()),
            Table::Draw(_) | Table::Hashed(_) => (0, false),
        };
        let turns_before = self.turns.replace(turns);
        let turn = self.turn.get();
        let not_taken = self.ahead.replace(Ahead::NONE).left();
        let turn = if let Some(random) = plan.chance {
            self.random.set(random);
            0
        } else if turns == turns_before {
            // It goes on where it was: turns that were read ahead and not taken are yet to come. These may reach back
            // beyond the first turn, but never further than once around: tables that are read ahead have three or more.
            turn.checked_sub(not_taken).unwrap_or_else(|| turn + turns - not_taken)
        } else {
            // A place in one table means nothing in another. Cut to fit, it would favour the first places; any place
            // leaves every node its share. Nor do threads that start together march together.
            scale((self.bits() >> 32) as u32, turns)
        };
        self.turn.set(turn);
        self.even_turns.set(if are_even { turns } else { 0 });
    }

    /// The entry whose turn it is, where that is known without a look at the plan.
    #[inline]
    pub(crate) fn next_turn(&self) -> Option<u32> {
        let (turn, turns) = (self.turn.get(), self.even_turns.get());
        // Branches that are nearly always guessed, so that the next pick does not wait for what this one compares.
        let turn = match turn {
            turn if turn < turns => turn,
            _ if turns > 0 => 0,
            _ => {
                let mut ahead = self.ahead.get();
                let entry = ahead.pop()?;
                self.ahead.set(ahead);
                return Some(entry);
            }
        };
        self.turn.set(turn + 1);
        Some(turn)
    }

    /// The same where the plan is to be looked at; `None` where nothing may be called.
    fn turn_of(&self, turns: &Turns) -> Option<u32> {
        self.next_turn().or_else(|| {
            let (ahead, turn) = turns.ahead(self.turn.get());
            self.ahead.set(ahead);
            self.turn.set(turn);
            self.next_turn()
        })
    }

    #[inline]
    fn bits(&self) -> u64 {
        let mut random = self.random.get();
        let bits = random.next();
        self.random.set(random);
        bits
    }

    /// The entry to call; `None` where nothing may be called.
    #[expect(
        clippy::inline_always,
        reason = "half of what a round robin pick does; a call would cost as much"
    )]
    #[inline(always)]
    pub(crate) fn choose(&self, plan: &Plan, now: impl Fn() -> Micros) -> Option<u32> {
        match &plan.table {
            Table::Turns(turns) => self.turn_of(turns),
            // The default policy, so it is worth a place here as well.
            Table::Draw(None) if plan.choice == Choice::P2c && plan.chosen > 1 => {
                let (first, second) = two_below(self.bits(), plan.chosen);
                Some(plan.less_busy(first, second))
            }
            _ => self.draw(plan, now),
        }
    }

    /// By itself, so that the code of all policies does not stand in the way of the cheapest.
    #[inline(never)]
    fn draw(&self, plan: &Plan, now: impl Fn() -> Micros) -> Option<u32> {
        plan.by_bits(|| self.bits(), now)
    }

    /// The entry for a key.
    pub(crate) fn choose_for(plan: &Plan, key: u64, now: impl Fn() -> Micros) -> Option<u32> {
        let mut bits = key;
        let draw = || {
            let drawn = bits;
            bits = mixed(bits.wrapping_add(1));
            drawn
        };
        plan.by_bits(draw, now)
    }

    /// An allowed entry: by the policy if it meets one, else any of those that are chosen among, else of those that stand by.
    pub(crate) fn choose_allowed(
        &self,
        plan: &Plan,
        allowed: impl Fn(u32) -> bool,
        now: impl Fn() -> Micros,
    ) -> Option<u32> {
        let by_policy = || self.choose(plan, &now).filter(|entry| allowed(*entry));
        (0..TRIES_MAX).find_map(|_| by_policy()).or_else(|| self.search(plan, allowed))
    }

    fn search(&self, plan: &Plan, allowed: impl Fn(u32) -> bool) -> Option<u32> {
        let start = scale((self.bits() >> 32) as u32, plan.chosen);
        let everyone = u32::try_from(plan.entries.len()).ok()?;
        (start..plan.chosen).chain(0..start).chain(plan.chosen..everyone).find(|entry| allowed(*entry))
    }
}

impl Plan {
    /// The entry that random bits, or those of a key, lead to.
    #[inline]
    fn by_bits(&self, mut bits: impl FnMut() -> u64, now: impl Fn() -> Micros) -> Option<u32> {
        if self.chosen == 0 {
            return None;
        }
        Some(match (&self.table, self.choice) {
            (Table::Turns(turns), _) => turns.get(scale((bits() >> 32) as u32, turns.len()))?,
            (Table::Hashed(lookup), _) => self.by_hash(lookup, bits()),
            (Table::Draw(_), Choice::Random) => self.draw(bits()),
            (Table::Draw(_), Choice::LeastInFlight) => self.least(bits),
            (Table::Draw(_), Choice::PeakEwma) => {
                let (first, second) = self.two(bits);
                let now = now();
                let cost = |entry: &Entry| entry.calls.latency.cost(entry.calls.in_flight(), now);
                self.better(first, second, cost)
            }
            (Table::Draw(_), _) => {
                let (first, second) = self.two(bits);
                self.less_busy(first, second)
            }
        })
    }

    /// A chosen entry by weight.
    #[inline]
    fn draw(&self, bits: u64) -> u32 {
        match &self.table {
            Table::Draw(Some(alias)) => alias.at(bits),
            _ => scale((bits >> 32) as u32, self.chosen),
        }
    }

    /// Two chosen entries by weight, different ones unless chance repeats itself.
    #[inline]
    fn two(&self, mut bits: impl FnMut() -> u64) -> (u32, u32) {
        match &self.table {
            Table::Draw(Some(alias)) => {
                let (first, second) = (alias.at(bits()), alias.at(bits()));
                (first, if second == first { alias.at(bits()) } else { second })
            }
            _ if self.chosen < 2 => (0, 0),
            _ => two_below(bits(), self.chosen),
        }
    }

    /// The one with fewer calls in flight for its weight.
    #[inline]
    fn less_busy(&self, first: u32, second: u32) -> u32 {
        #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
        self.better(first, second, |entry| entry.calls.in_flight() as f32)
    }

    /// The one with the lower cost for its weight. At rest both are 0 and the first stays, which leaves every node its share.
    #[inline]
    fn better(&self, first: u32, second: u32, cost: impl Fn(&Entry) -> f32) -> u32 {
        let (one, other) = (&self.entries[first as usize], &self.entries[second as usize]);
        if cost(one) * other.weight <= cost(other) * one.weight { first } else { second_choice(second) }
    }

    /// The one with the fewest calls in flight for its weight, of those from a random place on.
    fn least(&self, mut bits: impl FnMut() -> u64) -> u32 {
        // Drawn by weight, so that nodes have their shares where all are equal; only less loaded ones come before it.
        let mut best = self.draw(bits());
        let start = scale((bits() >> 32) as u32, self.chosen);
        for step in 0..self.chosen.min(SCANNED_MAX) {
            let at = start + step;
            let at = if at < self.chosen { at } else { at - self.chosen };
            let (one, other) = (&self.entries[best as usize], &self.entries[at as usize]);
            #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
            let load = |entry: &Entry| entry.calls.in_flight() as f32;
            if load(other) * one.weight < load(one) * other.weight {
                best = at;
            }
        }
        best
    }

    /// Whose the hash is, by a table of hashes.
    #[inline]
    fn by_hash(&self, lookup: &Lookup, hash: u64) -> u32 {
        let entry = match &lookup.hashed.table {
            Made::Ring(ring) => self.bounded(ring.walk(hash).filter_map(|node| lookup.entry(node))),
            Made::Maglev(maglev) => again_and_again(hash).find_map(|hash| lookup.entry(maglev.at(hash))),
        };
        // Nearly all nodes of a table are those of the plan, so hardly ever.
        entry.unwrap_or_else(|| scale((hash >> 32) as u32, self.chosen))
    }

    /// The first on the way that has room under the bound.
    fn bounded(&self, walk: impl Iterator<Item = u32>) -> Option<u32> {
        #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
        let with_this = (self.all_calls.0.load(Ordering::Relaxed) + 1) as f32;
        let mut owner = None;
        for entry in walk {
            owner.get_or_insert(entry);
            let Entry { calls, weight, .. } = &self.entries[entry as usize];
            let room = (LOAD_BOUND * with_this * weight / self.weight_sum).ceil();
            #[expect(clippy::cast_precision_loss, reason = "calls in flight are few")]
            if (calls.in_flight() + 1) as f32 <= room || self.chosen == 1 {
                return Some(entry);
            }
        }
        // All together have more room than there are calls, so only counts that change meanwhile lead here.
        owner
    }
}

/// A hash, and others that follow from it: for a key whose node is not there any more.
#[inline]
fn again_and_again(hash: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(hash), |hash| Some(mixed(hash.wrapping_add(1)))).take(LOOKS_MAX)
}

/// A call, so that the compiler makes a branch of it. The processor guesses the first choice, and fetches its counts for
/// writing while it still reads the ones they are compared with: other threads write them, so both are far away.
#[cold]
#[inline(never)]
fn second_choice(second: u32) -> u32 {
    second
}
