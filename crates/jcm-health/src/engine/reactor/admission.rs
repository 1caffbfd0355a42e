//! Who may open a connection: within a bound, and fairly between clusters.
//!
//! Healthy nodes accept in about a millisecond and never meet the bound. It is for those that swallow SYNs: thousands of
//! them would keep as many sockets waiting, and with one queue for all, the healthy nodes of other clusters behind them.
//! So leave goes to the cluster that has the fewest connections being opened. To open one is also what costs a thread most:
//! whoever gives leave gives it for a part of each turn only, and the rest waits here, so that a cluster with thousands to
//! open does not keep the thread from all others. Pure.

use std::collections::{HashMap, VecDeque};

/// Which cluster a target belongs to, as far as an engine knows: targets that share one policy value.
pub(super) type Group = usize;

/// Leave to open connections.
#[derive(Debug)]
pub(super) struct Admission {
    opening: usize,
    opening_max: usize,
    groups: HashMap<Group, Line>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Line {
    opening: usize,
    waiting: VecDeque<u32>,
}

impl Admission {
    pub(super) fn new(opening_max: usize) -> Self {
        Self { opening: 0, opening_max, groups: HashMap::new(), waiting: 0 }
    }

    /// How many wait for leave.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Asks for leave: answers whether it is given now, where it may be; else the target waits.
    pub(super) fn ask(&mut self, group: Group, id: u32, may_be_now: bool) -> bool {
        let line = self.groups.entry(group).or_default();
        if may_be_now && self.opening < self.opening_max && self.waiting == 0 {
            self.opening += 1;
            line.opening += 1;
            return true;
        }
        line.waiting.push_back(id);
        self.waiting += 1;
        false
    }

    /// A connection is open, or will not be: leave is given back.
    pub(super) fn give_back(&mut self, group: Group) {
        let Some(line) = self.groups.get_mut(&group) else { return };
        self.opening -= 1;
        line.opening -= 1;
        self.forget_if_idle(group);
    }

    /// The target no longer waits.
    pub(super) fn withdraw(&mut self, group: Group, id: u32) {
        let Some(line) = self.groups.get_mut(&group) else { return };
        // Whoever gives up has waited for longest, so it stands near the front: thousands may give up in one turn.
        if let Some(place) = line.waiting.iter().position(|waiting| *waiting == id) {
            line.waiting.remove(place);
            self.waiting -= 1;
        }
        self.forget_if_idle(group);
    }

    /// Whether there is leave, and one who waits for it.
    pub(super) fn has_next(&self) -> bool {
        self.waiting > 0 && self.opening < self.opening_max
    }

    /// The next target to which leave is given.
    pub(super) fn next(&mut self) -> Option<u32> {
        if !self.has_next() {
            return None;
        }
        let line = self
            .groups
            .values_mut()
            .filter(|line| !line.waiting.is_empty())
            .min_by_key(|line| line.opening)?;
        line.opening += 1;
        self.opening += 1;
        self.waiting -= 1;
        line.waiting.pop_front()
    }

    fn forget_if_idle(&mut self, group: Group) {
        if self.groups.get(&group).is_some_and(|line| line.opening == 0 && line.waiting.is_empty()) {
            self.groups.remove(&group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_fills_every_place_does_not_keep_another_waiting_behind_its_own_queue() {
        let mut admission = Admission::new(4);
        let granted = (0..100).filter(|id| admission.ask(1, *id, true)).count();
        assert_eq!(granted, 4);
        assert!(!admission.ask(2, 1_000, true), "every place is taken");
        assert_eq!(admission.next(), None);
        admission.give_back(1);
        assert_eq!(admission.next(), Some(1_000), "the one with nothing under way is first");
        admission.give_back(1);
        assert_eq!(admission.next(), Some(4), "then the one that has waited longest");
    }

    #[test]
    fn leave_is_neither_lost_nor_made() {
        let mut admission = Admission::new(2);
        assert!(admission.ask(1, 0, true) && admission.ask(2, 1, true));
        assert!(!admission.ask(1, 2, true));
        assert_eq!(admission.waiting(), 1);
        admission.withdraw(1, 2);
        assert_eq!(admission.waiting(), 0);
        admission.give_back(1);
        admission.give_back(2);
        assert!(admission.groups.is_empty());
        assert!(admission.ask(3, 3, true) && admission.ask(3, 4, true) && !admission.ask(3, 5, true));
    }

    #[test]
    fn whoever_comes_when_no_leave_is_given_waits_and_is_not_overtaken() {
        let mut admission = Admission::new(8);
        assert!(!admission.ask(1, 0, false));
        assert!(!admission.ask(1, 1, true), "another one of its cluster waits already");
        assert_eq!((admission.next(), admission.next(), admission.next()), (Some(0), Some(1), None));
    }
}
