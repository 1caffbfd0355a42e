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
    pub(crate) const fn seeded(seed: u64) -> Self {
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

    /// 64 random bits as two numbers of 32.
    #[inline]
    pub(crate) fn halves(bits: u64) -> (u32, u32) {
        ((bits >> 32) as u32, bits as u32)
    }
}

/// Two different numbers below `bound`, which is at least 2, from 64 random bits.
#[inline]
pub(crate) fn two_below(bits: u64, bound: u32) -> (u32, u32) {
    let (high, low) = Random::halves(bits);
    let (first, second) = (scale(high, bound), scale(low, bound - 1));
    (first, second + u32::from(second >= first))
}

/// Spreads 64 bits over all of their places, one to one: the finalizer of splitmix64 (Steele, Lea, Flood, "Fast Splittable
/// Pseudorandom Number Generators", 2014).
#[inline]
pub(crate) fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[inline]
fn fold(product: u128) -> u64 {
    (product >> 64) as u64 ^ product as u64
}

/// Maps 32 random bits to a number below `bound` without a division.
#[inline]
pub(crate) fn scale(bits: u32, bound: u32) -> u32 {
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
            let (first, second) = two_below(random.next(), 4);
            assert!(first != second && first < 4 && second < 4);
            seen.insert((first, second));
        }
        assert_eq!(seen.len(), 12);
    }
}
