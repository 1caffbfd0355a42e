//! Two lists of nodes side by side, both in the order of their ids.
//!
//! Most nodes are the very same value before and after a change: they are paired without being looked at, so that a
//! walk over a large cluster costs little beside what changed in it.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::node::Node;

/// The places of one id in two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Where it stands in the first list, if it does.
    pub before: Option<usize>,
    /// Where it stands in the second one, if it does.
    pub now: Option<usize>,
}

/// Every id of either list once, in order.
#[derive(Debug)]
pub struct Walk<'a> {
    before: &'a [Arc<Node>],
    now: &'a [Arc<Node>],
    at: (usize, usize),
}

/// Walks over two lists, each in the order of its ids and with each id once.
pub fn walk<'a>(before: &'a [Arc<Node>], now: &'a [Arc<Node>]) -> Walk<'a> {
    Walk { before, now, at: (0, 0) }
}

impl Iterator for Walk<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        let (before, now) = self.at;
        let order = match (self.before.get(before), self.now.get(now)) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(held), Some(node)) if Arc::ptr_eq(held, node) => Ordering::Equal,
            (Some(held), Some(node)) => held.id.cmp(&node.id),
        };
        let pair = Pair { before: order.is_le().then_some(before), now: order.is_ge().then_some(now) };
        self.at = (before + usize::from(order.is_le()), now + usize::from(order.is_ge()));
        Some(pair)
    }
}
