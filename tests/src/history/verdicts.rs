//! What servers said of nodes, against how the nodes were.
//!
//! A *wrong down* is a node called down while it was well, and had been for long enough to be called healthy again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Violation;

/// What one server's view said of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub at: Duration,
    pub server: usize,
    pub node: String,
    /// `healthy`, `degraded`, `down`, `unknown`.
    pub verdict: String,
}

/// When nodes were broken on purpose, and what was seen meanwhile.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub seen: Vec<Seen>,
    /// From when to when each was broken; no end: to the end of the history.
    pub broken: BTreeMap<String, Vec<(Duration, Option<Duration>)>>,
    /// How long after it was well again a node may still be called down.
    pub grace: Duration,
}

impl History {
    pub fn violations(&self) -> Vec<Violation> {
        let mut reported = BTreeSet::new();
        let mut found = Vec::new();
        for seen in self.seen.iter().filter(|seen| seen.verdict == "down" && !self.may_be_down(seen)) {
            // Once for each node and server: a view is looked at many times.
            if reported.insert((seen.server, &seen.node)) {
                let text = format!(
                    "server {} called {} down at {:.1?}, and it was well",
                    seen.server, seen.node, seen.at
                );
                found.push(Violation::new("wrong-down", text));
            }
        }
        found
    }

    /// Nodes and servers of which one was called down without reason.
    pub fn wrong_downs(&self) -> usize {
        self.violations().len()
    }

    /// How often a server's word on a node turned, over all servers and nodes.
    pub fn turns(&self) -> usize {
        let mut last: BTreeMap<(usize, &str), &str> = BTreeMap::new();
        let mut seen: Vec<_> = self.seen.iter().collect();
        seen.sort_by_key(|seen| seen.at);
        let mut turns = 0;
        for seen in seen {
            let before = last.insert((seen.server, &seen.node), &seen.verdict);
            turns += usize::from(before.is_some_and(|before| before != seen.verdict));
        }
        turns
    }

    /// When a server first called a node down, at or after a moment.
    pub fn first_down(&self, node: &str, from: Duration) -> Option<Duration> {
        self.seen
            .iter()
            .filter(|seen| seen.node == node && seen.verdict == "down" && seen.at >= from)
            .map(|seen| seen.at)
            .min()
    }

    fn may_be_down(&self, seen: &Seen) -> bool {
        self.broken
            .get(&seen.node)
            .into_iter()
            .flatten()
            .any(|(from, to)| seen.at >= *from && to.is_none_or(|to| seen.at <= to + self.grace))
    }
}

#[cfg(test)]
mod tests {
    use super::super::assert_keys;
    use super::*;

    fn seen(at: u64, server: usize, node: &str, verdict: &str) -> Seen {
        Seen { at: Duration::from_secs(at), server, node: node.to_owned(), verdict: verdict.to_owned() }
    }

    fn history(seen: &[Seen]) -> History {
        let broken = [("a".to_owned(), vec![(Duration::from_secs(10), Some(Duration::from_secs(20)))])];
        History { seen: seen.to_vec(), broken: broken.into(), grace: Duration::from_secs(3) }
    }

    #[test]
    fn a_broken_node_may_be_down_and_some_time_after() {
        let history =
            history(&[seen(9, 0, "a", "healthy"), seen(12, 0, "a", "down"), seen(22, 0, "a", "down")]);
        assert_keys(&history.violations(), &[]);
        assert_eq!(history.turns(), 1);
        assert_eq!(history.first_down("a", Duration::ZERO), Some(Duration::from_secs(12)));
    }

    #[test]
    fn a_down_of_a_well_node_is_found_once_for_each_server() {
        for at in [9, 24] {
            let history =
                history(&[seen(at, 0, "a", "down"), seen(at, 0, "a", "down"), seen(at, 1, "a", "down")]);
            assert_keys(&history.violations(), &["wrong-down"]);
            assert_eq!(history.wrong_downs(), 2);
        }
        assert_keys(&history(&[seen(15, 0, "b", "down")]).violations(), &["wrong-down"]);
        assert_keys(&history(&[seen(15, 0, "b", "unknown")]).violations(), &[]);
    }
}
