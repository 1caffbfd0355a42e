//! One timer for each target of a reactor, in a wheel of milliseconds.
//!
//! Setting, moving and cancelling a timer cost the same whatever their number, because tens of thousands of them move
//! twice a second. A timer beyond the wheel's reach stays in its slot and is looked at once a turn. Pure: time is an
//! argument, in milliseconds since the reactor began.

/// Milliseconds of one turn: most intervals and timeouts lie within it.
const SLOTS: usize = 8_192;

/// No timer, and the end of a list.
const NONE: u32 = u32::MAX;

/// One timer for each id.
#[derive(Debug)]
pub(super) struct Wheel {
    /// The first timer of each slot.
    heads: Vec<u32>,
    /// One bit for each slot that is not empty.
    occupied: Vec<u64>,
    timers: Vec<Timer>,
    /// Everything up to this millisecond has expired.
    at: u64,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    previous: u32,
    next: u32,
    /// `u64::MAX`: not set.
    due: u64,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { heads: vec![NONE; SLOTS], occupied: vec![0; SLOTS / 64], timers: Vec::new(), at: 0 }
    }

    /// Lets the timer expire at `due`, or as soon as can be when that is over; it replaces the one that was set.
    pub(super) fn set(&mut self, id: u32, due: u64) {
        self.cancel(id);
        let index = id as usize;
        if index >= self.timers.len() {
            self.timers.resize(index + 1, Timer { previous: NONE, next: NONE, due: u64::MAX });
        }
        let due = due.max(self.at + 1);
        let slot = slot_of(due);
        let next = self.heads[slot];
        self.timers[index] = Timer { previous: NONE, next, due };
        if next != NONE {
            self.timers[next as usize].previous = id;
        }
        self.heads[slot] = id;
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    pub(super) fn cancel(&mut self, id: u32) {
        let Some(timer) = self.timers.get_mut(id as usize).filter(|timer| timer.due != u64::MAX) else {
            return;
        };
        let Timer { previous, next, due } = *timer;
        timer.due = u64::MAX;
        if next != NONE {
            self.timers[next as usize].previous = previous;
        }
        if previous == NONE {
            let slot = slot_of(due);
            self.heads[slot] = next;
            if next == NONE {
                self.occupied[slot / 64] &= !(1 << (slot % 64));
            }
        } else {
            self.timers[previous as usize].next = next;
        }
    }

    /// Takes out all timers that are due by now.
    pub(super) fn expire(&mut self, now: u64, expired: &mut Vec<u32>) {
        if now <= self.at {
            return;
        }
        // After a turn every slot was seen once, however long ago the last call was.
        let first = (self.at + 1).max(now.saturating_sub(SLOTS as u64 - 1));
        for tick in first..=now {
            let slot = slot_of(tick);
            if self.occupied[slot / 64] & (1 << (slot % 64)) == 0 {
                continue;
            }
            let mut id = self.heads[slot];
            while id != NONE {
                let Timer { next, due, .. } = self.timers[id as usize];
                if due <= now {
                    self.cancel(id);
                    expired.push(id);
                }
                id = next;
            }
        }
        self.at = now;
    }

    /// When to look again at the latest: not after the first timer is due, at most a turn from now.
    pub(super) fn next(&self) -> Option<u64> {
        let start = slot_of(self.at + 1);
        let words = self.occupied.len();
        // The first word twice: its upper part now, its lower part a turn later.
        for step in 0..=words {
            let word = (start / 64 + step) % words;
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                let ahead = (slot + SLOTS - start) % SLOTS;
                return Some(self.at + 1 + ahead as u64);
            }
        }
        None
    }
}

fn slot_of(tick: u64) -> usize {
    usize::try_from(tick % SLOTS as u64).expect("less than the number of slots")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timer_beyond_one_turn_waits_for_its_own() {
        let mut wheel = Wheel::new();
        wheel.set(3, 3 * SLOTS as u64 + 5);
        let mut expired = Vec::new();
        for now in (0..3 * SLOTS as u64 + 5).step_by(7) {
            wheel.expire(now, &mut expired);
            assert!(expired.is_empty(), "{now}");
        }
        wheel.expire(3 * SLOTS as u64 + 5, &mut expired);
        assert_eq!(expired, [3]);
        assert_eq!(wheel.next(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u32, u64),
        Cancel(u32),
        Advance(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..20_u32, prop_oneof![0..50_u64, 0..40_000_u64]).prop_map(|(id, ahead)| Step::Set(id, ahead)),
            1 => (0..20_u32).prop_map(Step::Cancel),
            4 => prop_oneof![0..30_u64, 0..30_000_u64].prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn timers_expire_when_they_are_due_and_never_before(steps in proptest::collection::vec(step(), 1..200)) {
            let (mut wheel, mut model, mut now) = (Wheel::new(), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Set(id, ahead) => {
                        wheel.set(id, now + ahead);
                        model.insert(id, (now + ahead).max(now + 1));
                    }
                    Step::Cancel(id) => {
                        wheel.cancel(id);
                        model.remove(&id);
                    }
                    Step::Advance(by) => {
                        now += by;
                        let mut expired = Vec::new();
                        wheel.expire(now, &mut expired);
                        expired.sort_unstable();
                        let due: Vec<u32> = model.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id).collect();
                        model.retain(|_, due| *due > now);
                        prop_assert_eq!(expired, due);
                    }
                }
                // It may ask to look too early, never too late.
                let first = model.values().min().copied();
                prop_assert_eq!(wheel.next().is_some(), first.is_some());
                if let (Some(next), Some(first)) = (wheel.next(), first) {
                    prop_assert!(now < next && next <= first, "{now} {next} {first}");
                }
            }
        }
    }
}
