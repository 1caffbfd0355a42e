//! Weights as a table of turns, so that a weighted pick costs what an even one costs.
//!
//! Invariants: every entry comes up at least once; its share of the table is its share of the weights as closely as the
//! table's bound allows; and at every turn from the first on, each entry has had the turns that it should have had, rounded
//! up or down. (No order keeps to that from *every* turn on: for most weights there is none.)

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::plan::ENTRIES_MAX;

/// Longest table that is expanded in full: a quarter of a megabyte for a cluster of very uneven weights. It carries 20,000
/// nodes of which some are degraded without rounding.
pub(crate) const TURNS_MAX: u64 = 131_072;
/// Turns for each entry when weights are fractions: shares are then right to a hundredth of the mean share.
const TURNS_PER_FRACTION: u64 = 128;
/// Weights up to this are taken as they are if they are whole: all that a definition can say.
const WHOLE_MAX: f64 = jcm_model::node::WEIGHT_MAX as f64;

/// The order of turns: each is a position in the weights it was made from.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    count: u32,
    /// `None` where every weight is the same: then each turn is its own position, and a pick reads no table.
    table: Option<Box<[u16]>>,
}

/// The next few turns of a table in one word, the first in the lowest bits: so most picks by uneven turns read the table no
/// more than those by even ones do, and wait for nothing that is in it. Each is a position and a bit that is always set, so that
/// 0 is no turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ahead(u64);

impl Ahead {
    pub(crate) const NONE: Self = Self(0);
    const TURN_BITS: u32 = 16;
    const TURNS: u32 = u64::BITS / Self::TURN_BITS;
    const ALWAYS: u64 = 1 << (Self::TURN_BITS - 1);

    /// Takes the first turn.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let first = self.0 & (2 * Self::ALWAYS - 1);
        self.0 >>= Self::TURN_BITS;
        (first != 0).then_some((first & (Self::ALWAYS - 1)) as u32)
    }

    /// How many turns are left in it.
    pub(crate) fn left(self) -> u32 {
        // The highest bit of the last turn is the one that is always set.
        (u64::BITS - self.0.leading_zeros()) / Self::TURN_BITS
    }

    /// Sets the turn at a place that is free.
    fn put(&mut self, at: u32, position: u32) {
        self.0 |= (Self::ALWAYS | u64::from(position)) << (at * Self::TURN_BITS);
    }
}

const _: () = assert!((ENTRIES_MAX as u64) < Ahead::ALWAYS);

impl Turns {
    /// The turns for the given weights, each above 0.
    pub(crate) fn new(weights: &[f64]) -> Self {
        let counts = counts(weights);
        if counts.iter().all(|count| *count == 1) {
            return Self { count: bounded(counts.len()), table: None };
        }
        let table = laid_out(&counts);
        Self { count: bounded(table.len()), table: Some(table) }
    }

    #[inline]
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// Whether each turn is its own position.
    pub(crate) fn are_even(&self) -> bool {
        self.table.is_none()
    }

    /// Whose turn it is; `None` beyond the last.
    #[inline]
    pub(crate) fn get(&self, turn: u32) -> Option<u32> {
        match &self.table {
            Some(table) => table.get(turn as usize).copied().map(u32::from),
            None => (turn < self.count).then_some(turn),
        }
    }

    /// The turns from this one on, with the first after the last, and which comes after them.
    pub(crate) fn ahead(&self, turn: u32) -> (Ahead, u32) {
        let (mut ahead, mut next) = (Ahead::NONE, turn);
        for at in 0..Ahead::TURNS {
            next = if next < self.count { next } else { 0 };
            // Where there are no turns there is no first one either.
            let Some(position) = self.get(next) else { break };
            ahead.put(at, position);
            next += 1;
        }
        (ahead, next)
    }
}

fn bounded(turns: usize) -> u32 {
    u32::try_from(turns).expect("a table has at most a turn for each node and those of its bound")
}

/// Entries that have the same count of turns, and so the same windows that these must fall into.
#[derive(Debug)]
struct Kind {
    count: u64,
    entries: Vec<u16>,
    /// The turn of each entry that is laid out now, and how many have theirs.
    number: u64,
    done: usize,
}

impl Kind {
    /// The first turn at which an entry is not ahead of its share by having the one that is laid out now.
    fn release(&self, total: u64) -> u64 {
        self.number * total / self.count
    }

    /// The turn before which an entry must have it not to fall behind.
    fn deadline(&self, total: u64) -> u64 {
        ((self.number + 1) * total).div_ceil(self.count)
    }

    /// Of those that are due alike the one goes first whose window has its middle first: that spreads them.
    fn middle(&self, total: u64) -> u64 {
        (((2 * self.number + 1) * total) << 20) / (2 * self.count)
    }
}

/// Every entry its count of turns: at each turn, of those that are released the one that is due first.
///
/// Entries of one kind have theirs one after another, so what this costs grows with the number of kinds and hardly with that
/// of the nodes; and kinds are few, for each adds another count to a bounded sum. The next turn of a kind need not be thought
/// of before all have this one: it is released one turn at most before this one is due, and who is left then is due first.
fn laid_out(counts: &[u64]) -> Box<[u16]> {
    let total: u64 = counts.iter().sum();
    let mut kinds: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for (entry, count) in (0_u16..).zip(counts) {
        kinds.entry(*count).or_default().push(entry);
    }
    let kind = |(count, entries)| Kind { count, entries, number: 0, done: 0 };
    let mut kinds: Vec<Kind> = kinds.into_iter().map(kind).collect();

    let mut waiting: BinaryHeap<Reverse<(u64, usize)>> =
        (0..kinds.len()).map(|at| Reverse((0, at))).collect();
    let mut ready: BinaryHeap<Reverse<(u64, u64, usize)>> = BinaryHeap::with_capacity(kinds.len());
    let mut turns: Vec<u16> = Vec::with_capacity(counts.len());
    while (turns.len() as u64) < total {
        let turn = turns.len() as u64;
        while let Some(Reverse((release, at))) = waiting.peek().copied()
            && release <= turn
        {
            waiting.pop();
            ready.push(Reverse((kinds[at].deadline(total), kinds[at].middle(total), at)));
        }
        let Reverse((_, _, at)) =
            ready.peek().copied().expect("as many turns are released by then as come before it");
        // Until another kind is released it stays the one that is due first.
        let until = waiting.peek().map_or(total, |Reverse((release, _))| *release);
        let kind = &mut kinds[at];
        let run = kind.entries[kind.done..].iter().zip(turn..until);
        turns.extend(run.map(|(entry, _)| entry));
        kind.done += turns.len() - usize::try_from(turn).expect("a table is in memory");
        if kind.done == kind.entries.len() {
            ready.pop();
            (kind.number, kind.done) = (kind.number + 1, 0);
            if kind.number < kind.count {
                waiting.push(Reverse((kind.release(total), at)));
            }
        }
    }
    turns.into()
}

/// How many turns each weight is.
fn counts(weights: &[f64]) -> Vec<u64> {
    if weights.iter().all(|weight| weight.fract() == 0.0 && *weight <= WHOLE_MAX) {
        return whole_counts(weights);
    }
    let entries = weights.len() as u64;
    let length = (entries * TURNS_PER_FRACTION).clamp(1, TURNS_MAX.max(entries));
    let total: f64 = weights.iter().sum();
    #[expect(clippy::cast_precision_loss, reason = "a table is far shorter than 2^52")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of that is too")]
    let share = |weight: &f64| ((weight / total * length as f64).round() as u64).max(1);
    let counts: Vec<u64> = weights.iter().map(share).collect();
    reduced(counts)
}

fn whole_counts(weights: &[f64]) -> Vec<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and small")]
    let counts = reduced(weights.iter().map(|weight| *weight as u64).collect());
    let total: u64 = counts.iter().sum();
    let bounded = |count: u64| if total > TURNS_MAX { count * TURNS_MAX / total } else { count };
    counts.into_iter().map(|count| bounded(count).max(1)).collect()
}

fn reduced(counts: Vec<u64>) -> Vec<u64> {
    let divisor = counts.iter().copied().fold(0, greatest_common_divisor).max(1);
    counts.into_iter().map(|count| count / divisor).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "tables are far shorter than 2^52")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[f64]) -> Vec<u32> {
        let turns = Turns::new(weights);
        assert!(turns.get(turns.len()).is_none());
        (0..turns.len()).map(|turn| turns.get(turn).unwrap()).collect()
    }

    #[test]
    fn even_weights_take_turns_in_order() {
        assert_eq!(turns(&[100.0, 100.0, 100.0]), [0, 1, 2]);
        assert_eq!(turns(&[7.5]), [0]);
        assert_eq!(turns(&[0.1, 0.1]), [0, 1]);
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn turns_of_a_heavy_node_are_spread() {
        assert_eq!(turns(&[300.0, 100.0]), [0, 0, 1, 0]);
        assert_eq!(turns(&[500.0, 100.0, 100.0]), [0, 0, 0, 1, 0, 2, 0]);
    }

    #[test]
    fn the_largest_cluster_stays_within_bounds() {
        let mut weights = vec![1000.0; jcm_model::cluster::NODES_MAX];
        weights[0] = 1.0;
        weights[1] = 999.0;
        let turns = turns(&weights);
        assert!(turns.len() as u64 <= TURNS_MAX + weights.len() as u64);
        assert_eq!(turns.iter().filter(|entry| **entry == 0).count(), 1);
    }

    #[test]
    fn fractions_are_kept_to_a_hundredth() {
        let weights = [0.123, 0.3, 0.577, 0.01];
        let turns = turns(&weights);
        for (entry, weight) in weights.iter().enumerate() {
            let count = turns.iter().filter(|turn| **turn as usize == entry).count();
            let share = count as f64 / turns.len() as f64;
            assert!((share - weight / 1.01).abs() < 0.0025, "entry {entry}: {share}");
        }
    }

    /// Many kinds of one node each, and few of many.
    fn weights() -> impl Strategy<Value = Vec<u16>> {
        prop_oneof![prop::collection::vec(1_u16..=1000, 1..40), prop::collection::vec(1_u16..=5, 1..60)]
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights_and_no_prefix_is_a_turn_off(weights in weights()) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let turns = turns(&weights);
            let total: f64 = weights.iter().sum();
            let mut counts = vec![0_u32; weights.len()];
            let mut lags: Vec<(f64, f64)> = vec![(0.0, 0.0); weights.len()];
            for (done, turn) in turns.iter().enumerate() {
                counts[*turn as usize] += 1;
                for (entry, weight) in weights.iter().enumerate() {
                    let lag = f64::from(counts[entry]) - weight / total * (done + 1) as f64;
                    prop_assert!(lag.abs() < 1.0, "entry {entry} is off by {lag} after {done} turns");
                    lags[entry] = (lags[entry].0.min(lag), lags[entry].1.max(lag));
                }
            }
            for (entry, weight) in weights.iter().enumerate() {
                // A window between any two turns is off by the difference of their lags.
                prop_assert!(lags[entry].1 - lags[entry].0 < 2.0);
                let share = f64::from(counts[entry]) / turns.len() as f64;
                prop_assert!((share - weight / total).abs() < 1e-9, "entry {entry}: {share}");
            }
        }
    }
}
