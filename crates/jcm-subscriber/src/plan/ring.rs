//! A ring of hashes: consistent hashing whose keys stay where they are when other nodes come and go.
//!
//! Karger et al., "Consistent Hashing and Random Trees" (1997). Each node has points on the ring in proportion to its
//! weight; a key belongs to the node of the first point at or after its hash.

use xxhash_rust::xxh3::xxh3_64;

use crate::random::mixed;

/// Points of a node of mean weight: the share of a node is then within about 8 % (one standard deviation, 1/√160).
const POINTS_EACH: f64 = 160.0;
/// Most points altogether: 3 MB and some 15 ms to build. Beyond 1,600 nodes each has fewer than 160.
const POINTS_MAX: f64 = 262_144.0;

#[derive(Debug)]
pub(crate) struct Ring {
    /// In the order of hashes; the node's position among the weights.
    points: Box<[(u64, u32)]>,
    /// By the first bits of a hash, the first point that may be at or after it: a look-up reads a few points.
    starts: Box<[u32]>,
    shift: u32,
}

impl Ring {
    /// The ring for names of nodes with their weights, each above 0.
    pub(crate) fn new(nodes: &[(&str, f64)]) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
        let count = nodes.len() as f64;
        let mean: f64 = nodes.iter().map(|(_, weight)| weight).sum::<f64>() / count;
        let each = POINTS_EACH.min(POINTS_MAX / count);
        let mut points: Vec<(u64, u32)> = Vec::new();
        for (at, (name, weight)) in (0_u32..).zip(nodes) {
            let seed = xxh3_64(name.as_bytes());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "bounded by the most points"
            )]
            let number = ((weight / mean * each).round() as u64).max(1);
            points.extend((0..number).map(|point| (point_of(seed, point), at)));
        }
        points.sort_unstable();
        let bits = points.len().max(2).next_power_of_two().ilog2();
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        let mut point = 0;
        for start in 0..1_u64 << bits {
            while points.get(point).is_some_and(|(hash, _)| *hash >> shift < start) {
                point += 1;
            }
            starts.push(u32::try_from(point).expect("points are bounded"));
        }
        Self { points: points.into(), starts: starts.into(), shift }
    }

    /// Whose the hash is, then whose it would be without that one, and so on round the ring; nodes come up repeatedly.
    #[inline]
    pub(crate) fn walk(&self, hash: u64) -> impl Iterator<Item = u32> {
        #[expect(clippy::cast_possible_truncation, reason = "its first bits only")]
        let mut first = self.starts[(hash >> self.shift) as usize] as usize;
        while self.points.get(first).is_some_and(|(point, _)| *point < hash) {
            first += 1;
        }
        let (before, after) = self.points.split_at(first);
        after.iter().chain(before).map(|(_, node)| *node)
    }
}

fn point_of(seed: u64, number: u64) -> u64 {
    mixed(seed ^ mixed(number.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "counts of keys are small")]
mod tests {
    use super::*;
    use crate::plan::tests::{Shares, names};

    fn owner(ring: &Ring, key: u64) -> u32 {
        ring.walk(mixed(key)).next().unwrap()
    }

    #[test]
    fn a_look_up_finds_the_first_point_at_or_after_a_hash() {
        let ring = Ring::new(&names(7).iter().map(|name| (name.as_str(), 1.0)).collect::<Vec<_>>());
        for key in 0..20_000 {
            let hash = mixed(key);
            let wanted = ring.points.iter().find(|(point, _)| *point >= hash).unwrap_or(&ring.points[0]);
            assert_eq!(owner(&ring, key), wanted.1);
        }
        // Beyond the last point the ring begins anew.
        assert_eq!(ring.walk(u64::MAX).next(), Some(ring.points[0].1));
        assert_eq!(ring.walk(0).count(), ring.points.len());
    }

    #[test]
    fn keys_of_other_nodes_stay_when_one_leaves() {
        let names = names(20);
        let weighted: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 100.0)).collect();
        let (before, after) = (Ring::new(&weighted), Ring::new(&weighted[..19]));
        let mut moved = 0;
        for key in 0..100_000 {
            match (owner(&before, key), owner(&after, key)) {
                (19, _) => moved += 1,
                (old, new) => assert_eq!(old, new, "key {key}"),
            }
        }
        assert!((3_500..6_500).contains(&moved), "{moved} of 100000 keys were the node's own");
    }

    #[test]
    fn shares_follow_the_weights() {
        let names = names(50);
        let weight = |at: usize| [100.0, 50.0, 200.0, 25.0][at % 4];
        let weighted: Vec<(&str, f64)> =
            names.iter().enumerate().map(|(at, name)| (name.as_str(), weight(at))).collect();
        let ring = Ring::new(&weighted);
        let mut shares = Shares::new(50);
        (0..500_000).for_each(|key| shares.add(owner(&ring, key)));
        for (at, (_, weight)) in weighted.iter().enumerate() {
            let points = 160.0 * weight / 92.0;
            // Five standard deviations of a share that hangs on so many random points.
            let bound = 5.0 / f64::sqrt(points);
            let ratio = shares.of(at) / (weight / weighted.iter().map(|(_, weight)| weight).sum::<f64>());
            assert!((ratio - 1.0).abs() < bound, "node {at}: {ratio} of its share, ± {bound}");
        }
    }

    #[test]
    fn a_ring_of_many_nodes_is_bounded_and_reaches_all() {
        let names = names(20_000);
        let ring = Ring::new(&names.iter().map(|name| (name.as_str(), 1.0)).collect::<Vec<_>>());
        assert!(ring.points.len() as f64 <= POINTS_MAX * 1.05);
        let nodes: std::collections::BTreeSet<u32> = ring.points.iter().map(|(_, node)| *node).collect();
        assert_eq!(nodes.len(), 20_000);
    }
}
