//! Random numbers for spreading load: fast, and not for secrets.
#![expect(clippy::cast_possible_truncation, reason = "random bits are cut to size on purpose")]

use std::hash::{BuildHasher, RandomState};

/// A generator of the wyrand kind: one multiplication a number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts where no other thread or process starts.
    pub(crate) fn from_entropy() -> Self {
        // The standard library seeds its hashers from the system's entropy, which saves a dependency.
        Self(RandomState::new().hash_one(0_u8))
    }

    /// Starts at a place that a test can start at again.
    #[cfg(test)]
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0xa076_1d64_78bd_642f);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0xe703_7ed1_a0b4_28db);
        fold(product)
    }

    /// A number below `bound`, which is not 0.
    #[inline]
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        scale(self.next() as u32, bound)
    }

    /// Two different numbers below `bound`, which is at least 2.
    #[inline]
    pub(crate) fn two_below(&mut self, bound: u32) -> (u32, u32) {
        let bits = self.next();
        let first = scale((bits >> 32) as u32, bound);
        let second = scale(bits as u32, bound - 1);
        (first, second + u32::from(second >= first))
    }
}

#[inline]
fn fold(product: u128) -> u64 {
    (product >> 64) as u64 ^ product as u64
}

/// Maps 32 random bits to a number below `bound` without a division.
#[inline]
fn scale(bits: u32, bound: u32) -> u32 {
    ((u64::from(bits) * u64::from(bound)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_differ_and_every_pair_comes_up() {
        let mut random = Random::seeded(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..1000 {
            let (first, second) = random.two_below(4);
            assert!(first != second && first < 4 && second < 4);
            seen.insert((first, second));
        }
        assert_eq!(seen.len(), 12);
    }
}
