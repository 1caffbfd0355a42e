//! Vose's alias method: a draw by weight is one random number and one look at a table, whatever the number of weights.

use crate::random::{Random, scale};

/// A table from which positions are drawn in proportion to weights.
#[derive(Debug)]
pub(crate) struct Alias {
    columns: Box<[Column]>,
}

/// One of equally likely columns, shared by at most two positions.
#[derive(Debug, Clone, Copy)]
struct Column {
    /// Of 2^32 draws of this column, how many stay with its own position.
    own: u32,
    other: u32,
}

impl Alias {
    /// The table for weights above 0; `None` where all are the same, so that no table is needed.
    pub(crate) fn new(weights: &[f64]) -> Option<Self> {
        let first = weights.first()?;
        if weights.iter().all(|weight| weight.to_bits() == first.to_bits()) {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
        let count = weights.len() as f64;
        let total: f64 = weights.iter().sum();
        let mut shares: Vec<f64> = weights.iter().map(|weight| weight * count / total).collect();
        // What no other position fills up stays its own: rounding leaves such at the end.
        let mut columns: Vec<Column> =
            (0..).take(weights.len()).map(|at| Column { own: u32::MAX, other: at }).collect();
        let positions = 0..u32::try_from(weights.len()).unwrap_or(u32::MAX);
        let (mut small, mut large): (Vec<u32>, Vec<u32>) =
            positions.partition(|at| shares[*at as usize] < 1.0);
        while let (Some(less), Some(more)) = (small.pop(), large.pop()) {
            let share = shares[less as usize];
            columns[less as usize] = Column { own: fraction(share), other: more };
            let rest = shares[more as usize] - (1.0 - share);
            shares[more as usize] = rest;
            if rest < 1.0 { small.push(more) } else { large.push(more) }
        }
        Some(Self { columns: columns.into() })
    }

    /// The position that 64 random bits fall on.
    #[inline]
    pub(crate) fn at(&self, bits: u64) -> u32 {
        let (high, low) = Random::halves(bits);
        #[expect(clippy::cast_possible_truncation, reason = "a cluster has at most 20,000 nodes")]
        let at = scale(high, self.columns.len() as u32);
        let column = self.columns[at as usize];
        if low <= column.own { at } else { column.other }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is from 0 to 1")]
fn fraction(share: f64) -> u32 {
    (share * f64::from(u32::MAX)) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_weights_need_no_table() {
        assert!(Alias::new(&[3.0, 3.0]).is_none() && Alias::new(&[]).is_none());
    }

    proptest! {
        #[test]
        fn the_columns_add_up_to_the_weights(weights in prop::collection::vec(1_u16..=1000, 2..300)) {
            let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
            let Some(alias) = Alias::new(&weights) else { return Ok(()) };
            let mut sums = vec![0.0; weights.len()];
            for (at, column) in alias.columns.iter().enumerate() {
                let own = f64::from(column.own) / f64::from(u32::MAX);
                sums[at] += own;
                sums[column.other as usize] += 1.0 - own;
            }
            let total: f64 = weights.iter().sum();
            #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
            let count = weights.len() as f64;
            for (sum, weight) in sums.iter().zip(&weights) {
                prop_assert!((sum / count - weight / total).abs() < 1e-7, "{sums:?}");
            }
        }
    }
}
