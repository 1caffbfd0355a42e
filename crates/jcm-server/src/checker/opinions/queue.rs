//! Questions that wait to be sent to one server: clusters take turns, so that one which fails as a whole does not delay
//! the only failure of another.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use jcm_health::TargetKey;
use jcm_model::ClusterName;

use crate::peers::Question;

/// One question, and the round that it belongs to.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) key: TargetKey,
    pub(super) round: u64,
    pub(super) since: Instant,
    pub(super) question: Question,
}

/// Questions that wait. Bounded by the nodes that are checked here: each has one open round.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Those of one cluster under one timeout, the oldest first; none is empty.
    lanes: HashMap<Lane, VecDeque<Queued>>,
    /// Whose turn it is.
    turns: VecDeque<Lane>,
}

type Lane = (ClusterName, Duration);

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(super) fn push(&mut self, timeout: Duration, queued: Queued) {
        let lane = (queued.question.cluster.clone(), timeout);
        let waiting = self.lanes.entry(lane.clone()).or_default();
        if waiting.is_empty() {
            self.turns.push_back(lane);
        }
        waiting.push_back(queued);
    }

    /// The next questions, of one timeout: answers come together, so those in a hurry go apart from slow ones. What is
    /// not wanted any more is dropped.
    pub(super) fn take(
        &mut self,
        max: usize,
        is_wanted: impl Fn(&Queued) -> bool,
    ) -> Option<(Duration, Vec<Queued>)> {
        let mut taken: Vec<Queued> = Vec::new();
        let mut timeout = None;
        // Lanes whose turn is later because they have another timeout, in their order.
        let mut later = VecDeque::new();
        while taken.len() < max
            && let Some(lane) = self.turns.pop_front()
        {
            if *timeout.get_or_insert(lane.1) != lane.1 {
                later.push_back(lane);
                continue;
            }
            let Some(waiting) = self.lanes.get_mut(&lane) else { continue };
            let next = std::iter::from_fn(|| waiting.pop_front()).find(|queued| is_wanted(queued));
            let is_over = waiting.is_empty();
            if is_over {
                self.lanes.remove(&lane);
            } else {
                self.turns.push_back(lane);
            }
            match next {
                Some(queued) => taken.push(queued),
                // Whatever had this timeout was not wanted: another one may be.
                None if taken.is_empty() && is_over => {
                    timeout = None;
                    later.append(&mut self.turns);
                    std::mem::swap(&mut later, &mut self.turns);
                }
                None => {}
            }
        }
        later.append(&mut self.turns);
        self.turns = later;
        let timeout = timeout.filter(|_| !taken.is_empty())?;
        Some((timeout, taken))
    }

    /// Takes out what has waited for too long: the oldest of each lane, as long as they have.
    pub(super) fn expire(&mut self, too_long: impl Fn(Instant) -> bool) -> impl Iterator<Item = Queued> {
        let mut over = Vec::new();
        for waiting in self.lanes.values_mut() {
            while waiting.front().is_some_and(|queued| too_long(queued.since)) {
                over.extend(waiting.pop_front());
            }
        }
        self.lanes.retain(|_, waiting| !waiting.is_empty());
        self.turns.retain(|lane| self.lanes.contains_key(lane));
        over.into_iter()
    }
}
