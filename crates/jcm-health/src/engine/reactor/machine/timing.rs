//! What the clock says to a target: that its round is due, that its probe has had its time, and when it comes again.
//!
//! No round that was missed is made up for, and none is missed in silence: each is counted, told in the log, and owed until
//! there is a result again.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tracing::{debug, warn};

use super::super::exchange::Step;
use super::Machine;
use super::slot::{Slot, State};
use crate::engine::schedule::Next;
use crate::outcome::{LocalTrouble, Outcome, Phase};

impl Machine {
    /// The time of a target has come: for its round, or for the end of it.
    pub(super) fn timer(&mut self, id: u32, now: Instant) {
        let is_full = self.is_full;
        let slot = self.slot(id);
        match slot.state {
            State::Resting if is_full => self.held_back.push(id),
            State::Resting => {
                let is_overdue = slot.schedule().is_overdue(slot.due, slot.owed, now);
                let is_late = now.saturating_duration_since(slot.due) > slot.schedule().late_max();
                if is_overdue {
                    self.shared.overdue_rounds.fetch_add(1, Relaxed);
                }
                if is_late { self.give_up(id, now) } else { self.begin(id, now) }
            }
            State::Queued { since } => {
                let late_max = slot.schedule().late_max();
                let stood = now.saturating_duration_since(since);
                if stood >= late_max {
                    slot.stood(stood);
                    self.conclude(id, Outcome::Local(LocalTrouble::Crowded), now, true);
                } else {
                    self.arm(id, since + late_max);
                }
            }
            _ if now < slot.deadline() => {
                let at = slot.deadline();
                self.arm(id, at);
            }
            State::Connecting => self.conclude(id, Outcome::TimedOut(Phase::Connecting), now, false),
            State::Writing { .. } => self.conclude(id, Outcome::TimedOut(Phase::Writing), now, false),
            State::Reading { .. } => {
                let with = Outcome::TimedOut(slot.phase());
                match slot.end(with) {
                    Step::Done { outcome, .. } | Step::Unanswered(outcome) => {
                        self.conclude(id, outcome, now, false);
                    }
                    Step::Waiting => unreachable!("an end is an end"),
                }
            }
        }
    }

    /// Until the next round. `is_late`: what this one came to was thrown away.
    pub(super) fn rest(&mut self, id: u32, is_late: bool, now: Instant) {
        let slot = self.slot(id);
        let next = slot.schedule().next(slot.due, slot.started, now);
        let owed = match () {
            // It had to wait because other nodes did not answer: that says nothing of this server's own pace.
            () if !slot.waited.is_zero() => next.due,
            () if is_late => slot.owed,
            () => next.owed,
        };
        self.wait_for(id, Next { owed, ..next });
    }

    /// The round is not begun: it would come too late.
    fn give_up(&mut self, id: u32, now: Instant) {
        self.count_late(id);
        let slot = self.slot(id);
        let next = slot.schedule().next_instead(slot.due, slot.owed, now);
        self.wait_for(id, next);
    }

    fn wait_for(&mut self, id: u32, next: Next) {
        if next.skipped > 0 {
            self.shared.skipped_rounds.fetch_add(next.skipped, Relaxed);
        }
        let slot = self.slot(id);
        slot.state = State::Resting;
        (slot.due, slot.owed) = (next.due, next.owed);
        self.arm(id, next.due);
    }

    pub(super) fn count_late(&mut self, id: u32) {
        self.shared.late_rounds.fetch_add(1, Relaxed);
        debug!(address = %self.slot(id).target.address, "late round thrown away");
    }

    pub(super) fn tell_what_is_lost(&mut self, now: Instant) {
        let (late, skipped) =
            (self.shared.late_rounds.load(Relaxed), self.shared.skipped_rounds.load(Relaxed));
        if let Some((late, skipped)) = self.lost.tell(late, skipped, now) {
            warn!(
                late,
                skipped,
                targets = self.by_key.len(),
                in_flight = self.in_flight,
                waiting_to_connect = self.admission.waiting(),
                unread_reports = self.unsent.len(),
                "checks are behind their schedule: rounds were thrown away or skipped"
            );
        }
    }

    /// Milliseconds since the reactor began.
    pub(super) fn tick(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        since.as_secs() * 1_000 + u64::from(since.subsec_millis())
    }

    /// Comes back to the target at the first tick at which the instant is over.
    pub(super) fn arm(&mut self, id: u32, at: Instant) {
        let since = at.saturating_duration_since(self.epoch);
        self.wheel.set(id, since.as_secs() * 1_000 + u64::from(since.subsec_nanos().div_ceil(1_000_000)));
    }
}

impl Slot {
    /// The clock of the probe stood still for so long.
    pub(super) fn stood(&mut self, stood: Duration) {
        self.started += stood;
        self.waited += stood;
    }
}
