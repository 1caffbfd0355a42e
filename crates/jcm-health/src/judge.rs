//! The judge of one node: results in, verdict out.
//!
//! Pure: no clock, no channel, no knowledge of other nodes. Three rules move a verdict: `fall` failures in a row make
//! a node down, `rise` successes in a row bring it back, and a rate of failures over a *full* window makes it degraded.
//! A node that comes back from down starts with an empty window, so that the failures that brought it down are not
//! held against it twice.
//!
//! `fall` failures alone make nobody down: a peer that probed the node itself has to agree, or there is nobody to ask. While
//! its opinion is still due, the node is *undecided*: the failures count, and the verdict waits for [`Judge::decide`].
//!
//! A node that [flaps](crate::hold) keeps its worse verdict until it has been well for a while.
//!
//! What is absent: the mass of failures (a checker that loses everything at once suspects itself). It looks at more than
//! one node, and belongs to the owner of the judges.

mod needs;

use std::fmt;
use std::time::Instant;

use jcm_model::{Check, Verdict};

use crate::Outcome;
use crate::hold::Hold;
pub use needs::Need;

/// Judges one node. Kept for every checked node, so it is small and holds no heap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judge {
    /// The newest results, one bit each, newest lowest: set when it failed. Bits beyond `filled` are zero.
    window: u64,
    /// How many results the window holds.
    filled: u8,
    /// Failures in a row that no peer contradicted. Stops counting at its maximum, which is beyond every `fall`.
    failures: u8,
    /// Successes in a row, of this server or of a peer.
    successes: u8,
    /// Failures in a row seen from here, whatever peers say: decides whom to ask, never the verdict.
    own_failures: u8,
    /// Successes in a row seen from here.
    own_successes: u8,
    /// Failures since a peer was last asked about a node that is down.
    unasked: u8,
    /// A peer reached the node when this server did not, and they have not agreed for `rise` rounds since.
    contradicted: bool,
    verdict: Verdict,
    single_vantage: bool,
    hold: Hold,
}

/// A node that is down is asked about at each so many failures: often enough that one which came back for everybody but
/// this server is noticed, seldom enough that a thousand dead ones are no load.
const ASK_DOWN_EVERY: u8 = 10;

/// What a peer that was asked for its own probe of the node says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opinion {
    /// There is no well peer, or none that was asked answered in time.
    NobodyToAsk,
    /// The same while a mass of nodes fails at once: that is rather this server's own trouble, so the node is down after
    /// twice as many failures.
    NobodyInMass,
    /// A peer is asked and may still answer in time.
    Pending,
    /// This server suspects itself: nothing bad follows from what it sees until that is settled.
    Held,
    /// The peer's own probe failed too.
    Agrees,
    /// The peer's own probe succeeded: one vantage that reaches the node is enough.
    Reaches,
}

/// What follows from one result.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[must_use]
pub struct Step {
    /// The verdict's turn, if it turned.
    pub turn: Option<Turn>,
    /// Whether a peer should probe the node before the next result is judged. First said at failure
    /// max(1, `fall` − 1), so that the opinion is there when the last failure comes; then at every failure, and where a
    /// peer reached the node until both agree for `rise` rounds. Of a node that is down: now and then.
    pub ask_peer: bool,
    /// There were failures enough to be down, and the verdict waits for an opinion: see [`Judge::decide`].
    pub undecided: bool,
    /// A node that was down on the word of this server alone is so on that of a peer now.
    pub confirmed: bool,
}

/// A verdict that turned, with its evidence. `Display` says which threshold moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// The verdict before.
    pub from: Verdict,
    /// The verdict now.
    pub to: Verdict,
    /// The threshold that moved, with its figures.
    pub cause: Cause,
    /// Whether the node is called down on the word of this server alone.
    pub single_vantage: bool,
}

/// The threshold that moved.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cause {
    /// A node that was never judged succeeded.
    FirstSuccess,
    /// So many failures in a row.
    Failures {
        /// How many there were.
        count: u32,
        /// How many it takes.
        fall: u32,
    },
    /// So many successes in a row.
    Successes {
        /// How many there were.
        count: u32,
        /// How many it takes.
        rise: u32,
    },
    /// The rate of failures over the full window.
    Rate {
        /// How many results of the window failed.
        failed: u32,
        /// How many results the window has.
        of: u32,
        /// The rate from which a node is degraded.
        degraded_at: f64,
    },
}

impl Judge {
    /// A judge who has seen nothing: verdict `unknown`.
    pub fn new() -> Self {
        Self::default()
    }

    /// A judge who takes over a node that was judged before, by another server or before a restart: the verdict
    /// stands until it turns by results of its own, and the streaks and the window start empty.
    pub fn resume(verdict: Verdict, single_vantage: bool) -> Self {
        Self { verdict, single_vantage: single_vantage && verdict == Verdict::Down, ..Self::default() }
    }

    /// The same after another server judged: the turns that this judge saw still count, so that a node which is passed
    /// about is held all the same.
    #[must_use]
    pub fn overruled(&self, verdict: Verdict, single_vantage: bool) -> Self {
        Self { hold: self.hold.clone(), ..Self::resume(verdict, single_vantage) }
    }

    /// The verdict as of the last result.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Whether the node is down on the word of this server alone.
    pub fn is_single_vantage(&self) -> bool {
        self.single_vantage
    }

    /// Failures in a row up to the last result.
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures.into()
    }

    /// Successes in a row up to the last result.
    pub fn successes_in_a_row(&self) -> u32 {
        self.successes.into()
    }

    /// How many results of the window failed, and how many results it holds.
    pub fn window(&self) -> (u32, u32) {
        (self.window.count_ones(), self.filled.into())
    }

    /// Until when the verdict stays because the node flaps, at the earliest. `None`: it is not held.
    pub fn held_until(&self, now: Instant) -> Option<Instant> {
        self.hold.until(now)
    }

    /// Takes one result into account, judged at this moment. `opinion` is what is known of a peer's view at this moment, and only matters
    /// when the result is a failure, or when it is [held](Opinion::Held). Local trouble changes nothing: it says nothing
    /// about the node.
    pub fn judge(&mut self, outcome: Outcome, opinion: Opinion, check: &Check, now: Instant) -> Step {
        if outcome.is_local_trouble() {
            return Step { undecided: self.is_undecided(check), ..Step::default() };
        }
        let own_success = outcome.is_success();
        let success = own_success || opinion == Opinion::Reaches;
        self.see(own_success, opinion, check);
        if success {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        self.record(success, check);
        let confirmed = !success && self.confirm(opinion);
        let turn = self.turn_if_permitted(success, opinion, check, now);
        let ask_peer = self.wants_opinion(own_success, check);
        Step { turn, ask_peer, undecided: self.is_undecided(check), confirmed }
    }

    /// Decides what the last result left undecided, now that more is known. Changes nothing otherwise, and nothing while
    /// the opinion is still [pending](Opinion::Pending) or [held](Opinion::Held).
    pub fn decide(&mut self, opinion: Opinion, check: &Check, now: Instant) -> Step {
        if !self.is_undecided(check) {
            return Step::default();
        }
        if opinion == Opinion::Reaches {
            // The peer's probe was made for the last failure, so that one is a success after all.
            self.window &= !1;
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            self.contradicted = true;
        }
        let turn = self.turn_if_permitted(opinion == Opinion::Reaches, opinion, check, now);
        Step { turn, undecided: self.is_undecided(check), ..Step::default() }
    }

    /// There was a time without results, as when this process was stopped: what came before and what comes after are not
    /// in a row. The verdict and the window stay.
    pub fn interrupt(&mut self) {
        (self.failures, self.own_failures) = (0, 0);
        (self.successes, self.own_successes) = (0, 0);
    }

    /// What was seen lately was this server's own trouble: none of it is held against the node. The verdict stays.
    pub fn absolve(&mut self) {
        self.interrupt();
        (self.window, self.filled) = (0, 0);
    }

    /// Whether there were failures enough to be down, and the verdict waits for an opinion.
    pub fn is_undecided(&self, check: &Check) -> bool {
        self.verdict != Verdict::Down && u32::from(self.failures) >= check.fall.max(1)
    }

    /// Adapts to a changed policy. The verdict and the streaks stay; of the window, as many of the newest results as
    /// the new one holds. Nothing turns here: the next result is judged by the new policy.
    pub fn repolicy(&mut self, check: &Check) {
        let size = window_size(check);
        self.window &= mask(size);
        self.filled = self.filled.min(size);
    }

    /// What this server sees by itself, which decides whom to ask.
    fn see(&mut self, own_success: bool, opinion: Opinion, check: &Check) {
        if own_success {
            self.own_successes = self.own_successes.saturating_add(1);
            self.own_failures = 0;
            self.contradicted &= u32::from(self.own_successes) < check.rise;
        } else {
            self.own_failures = self.own_failures.saturating_add(1);
            self.own_successes = 0;
            match opinion {
                Opinion::Reaches => self.contradicted = true,
                Opinion::Agrees => self.contradicted = false,
                _ => {}
            }
        }
    }

    fn wants_opinion(&mut self, own_success: bool, check: &Check) -> bool {
        if own_success || self.contradicted {
            self.unasked = 0;
            return self.contradicted;
        }
        if u32::from(self.own_failures) < check.fall.saturating_sub(1).max(1) {
            return false;
        }
        self.unasked = if self.verdict == Verdict::Down { self.unasked.saturating_add(1) } else { 0 };
        let due = self.unasked.is_multiple_of(ASK_DOWN_EVERY);
        if due {
            self.unasked = 0;
        }
        due || self.single_vantage
    }

    fn confirm(&mut self, opinion: Opinion) -> bool {
        let confirmed = self.single_vantage && opinion == Opinion::Agrees;
        self.single_vantage &= !confirmed;
        confirmed
    }

    fn record(&mut self, success: bool, check: &Check) {
        let size = window_size(check);
        self.window = ((self.window << 1) | u64::from(!success)) & mask(size);
        self.filled = self.filled.saturating_add(1).min(size);
    }

    fn next_verdict(&self, opinion: Opinion, check: &Check) -> Option<(Verdict, Cause)> {
        let (failures, successes) = (u32::from(self.failures), u32::from(self.successes));
        let fall = check.fall.max(1);
        let fallen = failures >= fall;
        let waits = match opinion {
            Opinion::Pending | Opinion::Held => true,
            Opinion::NobodyInMass => failures < fall.saturating_mul(2),
            Opinion::NobodyToAsk | Opinion::Agrees | Opinion::Reaches => false,
        };
        let (to, cause) = match self.verdict {
            Verdict::Down if successes >= check.rise.max(1) => {
                (Verdict::Healthy, Cause::Successes { count: successes, rise: check.rise })
            }
            Verdict::Down => return None,
            _ if fallen && waits => return None,
            _ if fallen => (Verdict::Down, Cause::Failures { count: failures, fall: check.fall }),
            Verdict::Unknown if successes > 0 => (Verdict::Healthy, Cause::FirstSuccess),
            Verdict::Unknown => return None,
            Verdict::Healthy | Verdict::Degraded => {
                let (failed, filled) = self.window();
                if filled < u32::from(window_size(check)) {
                    return None;
                }
                // Dividing, not multiplying, makes 3 of 10 meet 0.3 exactly: both are the double nearest to it.
                let degraded = f64::from(failed) / f64::from(filled) >= check.degraded_at;
                if degraded && opinion == Opinion::Held {
                    return None;
                }
                let to = if degraded { Verdict::Degraded } else { Verdict::Healthy };
                (to, Cause::Rate { failed, of: filled, degraded_at: check.degraded_at })
            }
        };
        (to != self.verdict).then_some((to, cause))
    }

    fn turn_if_permitted(
        &mut self,
        success: bool,
        opinion: Opinion,
        check: &Check,
        now: Instant,
    ) -> Option<Turn> {
        let next = self.next_verdict(opinion, check);
        let is_permitted = self.hold.permits(self.verdict, next.map(|(to, _)| to), success, now);
        let (to, cause) = next.filter(|_| is_permitted)?;
        self.hold.turned(now);
        Some(self.turn(to, cause, opinion))
    }

    fn turn(&mut self, to: Verdict, cause: Cause, opinion: Opinion) -> Turn {
        let from = std::mem::replace(&mut self.verdict, to);
        self.single_vantage = to == Verdict::Down && opinion != Opinion::Agrees;
        if from == Verdict::Down {
            (self.window, self.filled) = (0, 0);
        }
        Turn { from, to, cause, single_vantage: self.single_vantage }
    }
}

impl Cause {
    /// How many of the newest results it follows from.
    pub fn results(&self) -> usize {
        let count = match self {
            Self::FirstSuccess => 1,
            Self::Failures { count, .. } | Self::Successes { count, .. } | Self::Rate { of: count, .. } => {
                *count
            }
        };
        usize::try_from(count).unwrap_or(usize::MAX)
    }
}

/// The window in results: a policy that came through its constructor is in range, and one that did not is made to be.
fn window_size(check: &Check) -> u8 {
    u8::try_from(check.window).unwrap_or(u8::MAX).clamp(1, 64)
}

fn mask(size: u8) -> u64 {
    u64::MAX >> (64 - u32::from(size))
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if self.single_vantage { f.write_str(", single vantage") } else { Ok(()) }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FirstSuccess => f.write_str("first success"),
            Self::Failures { count: 1, fall } => write!(f, "1 failure in a row (fall {fall})"),
            Self::Failures { count, fall } => write!(f, "{count} failures in a row (fall {fall})"),
            Self::Successes { count: 1, rise } => write!(f, "1 success in a row (rise {rise})"),
            Self::Successes { count, rise } => write!(f, "{count} successes in a row (rise {rise})"),
            Self::Rate { failed, of, degraded_at } => {
                // One decimal at most, and none when it is nought: 40%, 12.5%.
                let percent = (degraded_at * 1_000.0).round() / 10.0;
                write!(f, "{failed} of {of} failed (degraded at {percent}%)")
            }
        }
    }
}

#[cfg(test)]
mod tests;
