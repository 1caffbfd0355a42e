//! Weights as a table of turns, so that a weighted pick costs what an even one costs.
//!
//! Invariant: every entry comes up at least once, its share of the table is its share of the weights as closely as the
//! table's bound allows, and its turns are spread evenly over the table.

/// Longest table that is expanded in full: half a megabyte for a cluster of very uneven weights. It carries 20,000
/// nodes of which some are degraded without rounding.
pub(crate) const TURNS_MAX: u64 = 131_072;

/// The order of turns: each is a position in the weights it was made from.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    count: usize,
    /// `None` where every weight is the same: then each turn is its own position, and a pick reads no table.
    table: Option<Box<[u32]>>,
}

impl Turns {
    /// The turns for the given weights.
    pub(crate) fn new(weights: &[u16]) -> Self {
        match table(weights) {
            Some(table) => Self { count: table.len(), table: Some(table) },
            None => Self { count: weights.len(), table: None },
        }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whose turn it is; `None` beyond the last.
    #[inline]
    pub(crate) fn get(&self, turn: usize) -> Option<u32> {
        match &self.table {
            Some(table) => table.get(turn).copied(),
            None if turn < self.count => u32::try_from(turn).ok(),
            None => None,
        }
    }
}

fn table(weights: &[u16]) -> Option<Box<[u32]>> {
    let counts = counts(weights);
    let total: u64 = counts.iter().sum();
    if total == counts.len() as u64 {
        return None;
    }
    // Each turn at the middle of its share of the table: three of A and one of B become A, A, B, A.
    let mut turns: Vec<(u64, u32)> = Vec::with_capacity(usize::try_from(total).unwrap_or_default());
    for (entry, count) in (0_u32..).zip(&counts) {
        turns.extend((0..*count).map(|turn| (((2 * turn + 1) << 40) / (2 * count), entry)));
    }
    turns.sort_unstable();
    Some(turns.into_iter().map(|(_, entry)| entry).collect())
}

fn counts(weights: &[u16]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let total: u64 = weights.iter().map(|weight| u64::from(*weight / divisor)).sum();
    weights
        .iter()
        .map(|weight| {
            let count = u64::from(*weight / divisor);
            if total > TURNS_MAX { count * TURNS_MAX / total } else { count }
        })
        .map(|count| count.max(1))
        .collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn turns(weights: &[u16]) -> Vec<u32> {
        let turns = Turns::new(weights);
        assert!(turns.get(turns.len()).is_none());
        (0..turns.len()).map(|turn| turns.get(turn).unwrap()).collect()
    }

    #[test]
    fn even_weights_take_turns_in_order() {
        assert_eq!(turns(&[100, 100, 100]), [0, 1, 2]);
        assert_eq!(turns(&[7]), [0]);
        assert!(turns(&[]).is_empty());
    }

    #[test]
    fn turns_of_a_heavy_node_are_spread() {
        assert_eq!(turns(&[300, 100]), [0, 0, 1, 0]);
        assert_eq!(turns(&[100, 25]), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn the_largest_cluster_stays_within_bounds() {
        let mut weights = vec![1000; jcm_model::cluster::NODES_MAX];
        weights[0] = 1;
        weights[1] = 999;
        let turns = turns(&weights);
        assert!(turns.len() as u64 <= TURNS_MAX + weights.len() as u64);
        assert_eq!(turns.iter().filter(|entry| **entry == 0).count(), 1);
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1_u16..=1000, 1..40)) {
            let turns = turns(&weights);
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for (entry, weight) in weights.iter().enumerate() {
                let count = turns.iter().filter(|turn| **turn as usize == entry).count();
                #[expect(clippy::cast_precision_loss, reason = "tables are far shorter than 2^52")]
                let share = count as f64 / turns.len() as f64;
                prop_assert!((share - f64::from(*weight) / total).abs() < 1e-9, "entry {entry}: {share}");
            }
        }
    }
}
