//! Holding a node that flaps: whether a better verdict may be said yet.
//!
//! A node that comes and goes costs its callers more than one that is away, so after some turns in a minute it has to
//! prove itself: the better verdict must be due for the whole length of the hold without a break. While it goes on
//! flapping, the length doubles.
//!
//! Invariant: a turn to down is never held back. Whatever is better than down therefore turns only while that leaves
//! room in the minute for the way down, and a node is held where it is worst: down, or degraded if it never fell.
//!
//! Pure: time is an argument, and monotonic.

use std::time::{Duration, Instant};

use jcm_model::Verdict;

/// Turns in a minute that a node has; what would go beyond is held.
pub const TURNS_MAX: usize = 4;

/// The time over which turns are counted, and after which a hold that is over counts half.
pub const TURNS_WINDOW: Duration = Duration::from_mins(1);

/// How long the first hold lasts.
pub const HOLD_MIN: Duration = Duration::from_secs(10);

/// How long a hold lasts at most.
pub const HOLD_MAX: Duration = Duration::from_mins(5);

/// Turns of one node, and whether it is held because of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Hold {
    /// When the verdict last turned, newest first. With as many in the last minute as are kept, nothing but a turn to
    /// down has room, so more need not be known.
    turns: [Option<Instant>; TURNS_MAX - 1],
    /// Of a node that has been held. Few ever are, and all of them have a judge.
    flapping: Option<Box<Flapping>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Flapping {
    /// The length of the hold, or of the last one.
    length: Duration,
    held: Option<Held>,
    /// When the last hold was over.
    ended: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// Since when the hold has its length.
    since: Instant,
    /// Since when the better verdict has been due without a break.
    due_since: Option<Instant>,
    /// When the node last fell back from that.
    flapped: Instant,
}

impl Hold {
    /// A result was judged, from which `wish` would follow: whether the verdict may turn to it now.
    pub(crate) fn permits(
        &mut self,
        from: Verdict,
        wish: Option<Verdict>,
        success: bool,
        now: Instant,
    ) -> bool {
        match wish {
            Some(Verdict::Healthy) => self.permits_healthy(from, now),
            Some(Verdict::Degraded) => self.turns_lately(now) <= TURNS_MAX - 2,
            _ => {
                // A success without a wish begins a streak, perhaps after a gap that was this server's own.
                if !success && let Some(flapping) = &mut self.flapping {
                    flapping.fell(now);
                }
                true
            }
        }
    }

    /// The verdict turned.
    pub(crate) fn turned(&mut self, now: Instant) {
        self.turns.rotate_right(1);
        self.turns[0] = Some(now);
    }

    /// Until when the node is held, at the earliest. `None`: it is not.
    pub(crate) fn until(&self, now: Instant) -> Option<Instant> {
        let flapping = self.flapping.as_ref()?;
        flapping.held.map(|held| held.due_since.unwrap_or(now) + flapping.length)
    }

    fn permits_healthy(&mut self, from: Verdict, now: Instant) -> bool {
        if let Some(is_over) = self.flapping.as_mut().and_then(|flapping| flapping.is_over(now)) {
            return is_over;
        }
        // One turn is kept for the way down, and from degraded one more for the way back to that.
        let room = if from == Verdict::Degraded { TURNS_MAX - 3 } else { TURNS_MAX - 2 };
        let is_free = self.turns_lately(now) <= room;
        if !is_free {
            self.flapping.get_or_insert_default().begin(now);
        }
        is_free
    }

    fn turns_lately(&self, now: Instant) -> usize {
        let is_late = |turn: &&Instant| now.saturating_duration_since(**turn) < TURNS_WINDOW;
        self.turns.iter().flatten().filter(is_late).count()
    }
}

impl Flapping {
    /// The better verdict is due: whether the hold is over. `None`: there is none.
    fn is_over(&mut self, now: Instant) -> Option<bool> {
        let due_since = *self.held.as_mut()?.due_since.get_or_insert(now);
        let is_over = now.saturating_duration_since(due_since) >= self.length;
        if is_over {
            self.end(now);
        }
        Some(is_over)
    }

    fn begin(&mut self, now: Instant) {
        let windows =
            self.ended.map(|ended| now.saturating_duration_since(ended).as_secs() / TURNS_WINDOW.as_secs());
        let halvings = windows.and_then(|windows| u32::try_from(windows).ok()).unwrap_or(u32::MAX);
        let divisor = 2_u32.checked_pow(halvings).unwrap_or(u32::MAX);
        self.length = (self.length * 2 / divisor).clamp(HOLD_MIN, HOLD_MAX);
        self.held = Some(Held { since: now, due_since: Some(now), flapped: now });
    }

    /// The node failed.
    fn fell(&mut self, now: Instant) {
        let Some(held) = &mut self.held else { return };
        if held.due_since.take().is_some() {
            held.flapped = now;
            if now.saturating_duration_since(held.since) >= self.length {
                held.since = now;
                self.length = (self.length * 2).min(HOLD_MAX);
            }
        } else if now.saturating_duration_since(held.flapped) >= self.length {
            // It does not flap any more: it is simply not well.
            self.end(now);
        }
    }

    fn end(&mut self, now: Instant) {
        self.held = None;
        self.ended = Some(now);
    }
}

#[cfg(test)]
mod tests;
