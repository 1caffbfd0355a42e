//! Maglev's look-up table: consistent hashing with even shares and one read a look-up.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4. Nodes take
//! places of the table in turn, each in an order of its own; weights slow the turns of lighter nodes down, as in Envoy's
//! `MaglevTable`.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Places for few nodes; the paper's small table. Prime, so that every skip comes to every place.
const PLACES_FEW: u64 = 65_537;
/// Places for many; the paper's large table.
const PLACES_MANY: u64 = 655_373;
/// Up to so many nodes a small table has 100 places each, which keeps shares within 1 % (the paper's rule).
const FEW_MAX: usize = 650;
/// Seeds of the two hashes that make a node's order.
const OFFSET: u64 = 0;
const SKIP: u64 = 1;

#[derive(Debug)]
pub(crate) struct Maglev {
    places: Box<[u16]>,
}

/// A node's order of places, and how far it has come.
struct Order {
    place: u64,
    skip: u64,
    share: f64,
    /// Rounds in which it had a turn, in parts of one.
    due: f64,
}

impl Maglev {
    /// The table for names of nodes with their weights, each above 0.
    pub(crate) fn new(nodes: &[(&str, f64)]) -> Self {
        let size = if nodes.len() <= FEW_MAX { PLACES_FEW } else { PLACES_MANY };
        let heaviest = nodes.iter().map(|(_, weight)| *weight).fold(0.0, f64::max);
        let mut orders: Vec<Order> = nodes
            .iter()
            .map(|(name, weight)| Order {
                place: xxh3_64_with_seed(name.as_bytes(), OFFSET) % size,
                skip: xxh3_64_with_seed(name.as_bytes(), SKIP) % (size - 1) + 1,
                share: weight / heaviest,
                // All have a turn in the first round: however light, a node can be reached.
                due: 1.0 - weight / heaviest,
            })
            .collect();
        let mut places: Vec<Option<u16>> = vec![None; usize::try_from(size).unwrap_or_default()];
        let mut left = places.len();
        while left > 0 && !orders.is_empty() {
            for (node, order) in (0_u16..).zip(&mut orders) {
                order.due += order.share;
                if order.due < 1.0 - 1e-9 {
                    continue;
                }
                order.due -= 1.0;
                let place = order.next_free(&places, size);
                places[place] = Some(node);
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Self { places: places.into_iter().flatten().collect() }
    }

    /// Whose the hash is; its first 32 bits decide.
    #[inline]
    pub(crate) fn at(&self, hash: u64) -> u32 {
        let place = (((hash >> 32) * self.places.len() as u64) >> 32) as usize;
        u32::from(self.places[place])
    }
}

impl Order {
    fn next_free(&mut self, places: &[Option<u16>], size: u64) -> usize {
        loop {
            let place = usize::try_from(self.place).unwrap_or_default();
            self.place = (self.place + self.skip) % size;
            if places[place].is_none() {
                return place;
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "places of a table are few")]
mod tests {
    use super::*;
    use crate::plan::tests::{Shares, names};

    fn table(names: &[String], weight: impl Fn(usize) -> f64) -> Maglev {
        let nodes: Vec<(&str, f64)> =
            names.iter().enumerate().map(|(at, name)| (name.as_str(), weight(at))).collect();
        Maglev::new(&nodes)
    }

    fn shares(table: &Maglev, nodes: usize) -> Shares {
        let mut shares = Shares::new(nodes);
        table.places.iter().for_each(|node| shares.add(u32::from(*node)));
        shares
    }

    #[test]
    fn shares_are_even_to_one_part_in_a_hundred() {
        for nodes in [1, 3, 10, 100, 650] {
            let table = table(&names(nodes), |_| 100.0);
            assert_eq!(table.places.len(), 65_537);
            let shares = shares(&table, nodes);
            for node in 0..nodes {
                // Turns are taken in rounds, so nobody has two places more than another.
                assert!((shares.of(node) * 65_537.0 - 65_537.0 / nodes as f64).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn shares_follow_the_weights() {
        let weight = |at: usize| [1000.0, 500.0, 250.0, 30.0][at % 4];
        let nodes = 40;
        let shares = shares(&table(&names(nodes), weight), nodes);
        let total: f64 = (0..nodes).map(weight).sum();
        for node in 0..nodes {
            let ratio = shares.of(node) / (weight(node) / total);
            assert!((ratio - 1.0).abs() < 0.02, "node {node}: {ratio} of its share");
        }
    }

    #[test]
    fn few_places_of_others_change_when_a_node_leaves() {
        for nodes in [10, 100, 600] {
            let all = names(nodes);
            let before = table(&all, |_| 1.0);
            let after = table(&all[..nodes - 1], |_| 1.0);
            let gone = u16::try_from(nodes - 1).unwrap();
            let changed =
                before.places.iter().zip(&after.places).filter(|(old, new)| **old != gone && old != new);
            let share = changed.count() as f64 / before.places.len() as f64;
            assert!(share < 0.03, "{share} of the places of others changed, of {nodes} nodes");
        }
    }

    #[test]
    fn the_largest_cluster_has_places_for_all() {
        let nodes = jcm_model::cluster::NODES_MAX;
        let shares = shares(&table(&names(nodes), |at| if at == 0 { 1000.0 } else { 999.0 }), nodes);
        assert!((0..nodes).all(|node| shares.of(node) > 0.0));
    }
}
