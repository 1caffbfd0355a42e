//! Whether this server should trust what it sees: when much goes wrong at once, the fault is rather its own.
//!
//! Three things make it suspect itself: the way to many nodes of many clusters is lost at once, its rounds are late, or
//! nobody of its peers is heard while its nodes fail. Then its bad verdicts are held, and peers are asked for a sample of
//! the nodes. Do they reach them, its share of the checks is handed over; do they not either, the verdicts stand; is there
//! nobody to ask, they stand one fall period later. A node that answers, even with a 500, proves that the way works.
//!
//! Pure: time and all that is known of others are arguments; what is wanted are levels that somebody else brings about.
//! Deliberately absent: the opinion on a single node, which protects it in any case.

mod losses;
mod reason;
mod tally;

use std::time::{Duration, Instant};

use jcm_health::{Opinion, TargetKey};
use jcm_model::{Check, ClusterName};

use super::opinions::GRACE;
use super::records::KeySet;
use losses::Losses;
pub(crate) use reason::Reason;
pub(super) use tally::Found;
use tally::Tally;

/// Nodes that peers are asked about.
pub(super) const SAMPLE_MAX: usize = 20;

/// A sample is given so much longer than its slowest probe may take: questions wait for their turn.
const SAMPLE_SLACK: Duration = Duration::from_millis(500);

/// Peers that say nothing of any node for so long are as good as none.
const UNHEEDED_MAX: Duration = Duration::from_secs(4);

/// Time between two samples.
const SAMPLE_PAUSE: Duration = Duration::from_secs(2);

/// For so long after the last late round this server is late.
const LATE_FOR: Duration = Duration::from_secs(3);

/// Within this time it comes out whether what is held stands, or is somebody else's to check.
const HOLD_MAX: Duration = Duration::from_secs(5);

/// Between two looks at the time there should be no more than a tenth of a second: after so much this process was away.
const AWAY_MIN: Duration = Duration::from_secs(1);

/// The share is handed over at most once in this time: rings that change all the time check badly.
const HANDOVER_PAUSE: Duration = Duration::from_mins(1);

/// Rounds in a row in which its own probes must work before a server takes its share again, one a second.
const RETURN_ROUNDS: u32 = 5;

/// The shortest time without a share. It doubles with each handover soon after the last return, up to the longest.
const APART_MIN: Duration = Duration::from_secs(10);

/// After this time a server takes its share again in any case: the nodes of its sample may be dead by now, and should its
/// own way still be cut, it finds out without harm.
const APART_MAX: Duration = Duration::from_mins(5);

/// A hold without anybody to ask ends after this time for the server as a whole; each node waits for its own.
const ALONE_MAX: Duration = Duration::from_mins(10);

/// Suspects its own server, or does not.
#[derive(Debug)]
pub(super) struct Suspicion {
    state: State,
    losses: Losses,
    /// Nodes whose failures are held for a further fall period, because nobody could be asked.
    alone: KeySet,
    looked: Instant,
    overdue_rounds: u64,
    late: Option<Late>,
    /// Peers have been asked for longer than that may take, and the share is still here.
    is_held_long: bool,
    /// There are no other servers.
    is_alone: bool,
    /// When the share was last handed over, and how long the server stays apart then.
    handed_over: Option<Instant>,
    apart: Duration,
}

/// What is known of everybody else at one moment.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four questions, each with its own answer")]
pub(super) struct Others {
    /// There are other members at all.
    pub(super) exist: bool,
    /// One of them at least is heard, answers questions and trusts itself.
    pub(super) can_be_asked: bool,
    /// None of them is heard, or none answers.
    pub(super) cut_off: bool,
    /// One of them shares the checks, is heard and trusts itself.
    pub(super) share: bool,
}

/// What has just been settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Nothing.
    Nothing,
    /// What was held may be decided now.
    Released,
    /// The share is handed over: what was seen lately is not held against any node.
    HandedOver,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Late {
    last: Instant,
    since: Instant,
    away: Option<Duration>,
}

#[derive(Debug)]
enum State {
    Trusting,
    /// Bad verdicts are held while peers probe a sample.
    Asking {
        reason: Reason,
        since: Instant,
        sample: Vec<TargetKey>,
        until: Instant,
    },
    /// Nobody can be asked, or, `unheeded`, those that can have nothing to say.
    Alone {
        reason: Reason,
        since: Instant,
        until: Instant,
        unheeded: bool,
    },
    /// Others check what was this server's share.
    Apart {
        reason: Reason,
        since: Instant,
        left: Instant,
        good_rounds: u32,
    },
}

impl Suspicion {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: State::Trusting,
            losses: Losses::default(),
            alone: KeySet::default(),
            looked: now,
            overdue_rounds: 0,
            late: None,
            is_held_long: false,
            is_alone: false,
            handed_over: None,
            apart: APART_MIN,
        }
    }

    /// Whether this server suspects itself: why, and since when.
    pub(super) fn suspended(&self) -> Option<(Reason, Instant)> {
        match self.state {
            State::Trusting => None,
            State::Asking { reason, since, .. }
            | State::Alone { reason, since, .. }
            | State::Apart { reason, since, .. } => Some((reason, since)),
        }
    }

    /// Whether bad verdicts are held for now.
    pub(super) fn holds(&self) -> bool {
        matches!(self.state, State::Asking { .. } | State::Apart { .. })
    }

    /// What an opinion on a node is worth now: bad ones are held, and where nobody can be asked about a mass of failures
    /// each node waits for a further fall period.
    ///
    /// A server that still holds after [`HOLD_MAX`], because it stays late or has nobody to hand its share to, goes on
    /// holding what it alone believes. What a well peer's own probe confirms is no illusion of this server's, and nobody
    /// else checks the node. A server that stays late and is the only one goes on as with any mass; one that has others
    /// and does not get their answers may be too late to read them.
    pub(super) fn weigh(&self, key: TargetKey, opinion: Opinion) -> Opinion {
        match opinion {
            Opinion::Reaches => Opinion::Reaches,
            Opinion::Agrees if self.is_held_long => Opinion::Agrees,
            Opinion::NobodyToAsk if self.is_held_long && self.is_alone => Opinion::NobodyInMass,
            _ if self.holds() => Opinion::Held,
            Opinion::NobodyToAsk if self.alone.contains(&key) => Opinion::NobodyInMass,
            other => other,
        }
    }

    /// Whether this server wants its share of the checks.
    pub(super) fn wants_share(&self) -> bool {
        !matches!(self.state, State::Apart { .. })
    }

    /// Nodes that peers are to be asked about.
    pub(super) fn sample(&self) -> &[TargetKey] {
        if let State::Asking { sample, .. } = &self.state { sample } else { &[] }
    }

    /// Whether this process was away since it was last here. To be called before anything else that happens.
    pub(super) fn look(&mut self, now: Instant) -> bool {
        let away = now.saturating_duration_since(self.looked);
        self.looked = now;
        if away < AWAY_MIN {
            return false;
        }
        self.note_late(now, Some(away));
        // How long the way to a node had been lost before the pause does not say how it is now.
        self.losses.forget_open();
        true
    }

    /// A probe came to something that is not trouble of this machine.
    pub(super) fn saw(
        &mut self,
        key: TargetKey,
        cluster: &ClusterName,
        check: &Check,
        reached: bool,
        now: Instant,
    ) {
        if reached {
            self.losses.find(key);
            self.alone.remove(&key);
            return;
        }
        let is_news = self.losses.lose(key, cluster, check, now);
        if is_news && matches!(self.state, State::Alone { .. }) {
            self.alone.insert(key);
        }
    }

    /// The node is down, and that is believed.
    pub(super) fn believed(&mut self, key: TargetKey) {
        self.losses.settle(key);
    }

    /// Keeps only what is about nodes that are still checked here.
    pub(super) fn retain(&mut self, is_checked: impl Fn(TargetKey) -> bool) {
        self.losses.retain(&is_checked);
        self.alone.retain(|key| is_checked(*key));
    }

    /// Looks at everything anew. `of` is how many nodes are checked here, `overdue_rounds` how many rounds have begun too
    /// late since the start, `found` what peers said of a node of the sample; `any` gives nodes to ask about where none
    /// is lost.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        of: usize,
        overdue_rounds: u64,
        others: Others,
        found: impl Fn(TargetKey) -> Found,
        any: impl FnOnce() -> Vec<TargetKey>,
    ) -> Settled {
        if overdue_rounds > std::mem::replace(&mut self.overdue_rounds, overdue_rounds) {
            self.note_late(now, None);
        }
        if self.late.is_some_and(|late| now.saturating_duration_since(late.last) > LATE_FOR) {
            self.late = None;
        }
        let settled = match &self.state {
            State::Trusting => self.while_trusting(now, of, others, any),
            State::Asking { reason, since, sample, until } => {
                let (reason, since, until) = (*reason, *since, *until);
                let tally = Tally::new(sample, found);
                self.while_asking(now, of, reason, since, until, tally, others, any)
            }
            State::Alone { reason, since, until, unheeded } => {
                let (reason, since, until, unheeded) = (*reason, *since, *until, *unheeded);
                self.while_alone(now, reason, since, until, others.can_be_asked && !unheeded, others)
            }
            State::Apart { .. } => self.while_apart(now, others),
        };
        let since = if let State::Asking { since, .. } = self.state { Some(since) } else { None };
        self.is_held_long = since.is_some_and(|since| now.saturating_duration_since(since) >= HOLD_MAX);
        self.is_alone = !others.exist;
        settled
    }

    /// What a round of this server's own probes came to while it is apart, of as many as were carried out.
    pub(super) fn probed_itself(&mut self, reached: usize, of: usize) {
        let late = self.late.is_some();
        if let State::Apart { good_rounds, .. } = &mut self.state {
            let is_good = of > 0 && reached * 5 >= of * 4 && !late;
            *good_rounds = if is_good { *good_rounds + 1 } else { 0 };
        }
    }

    fn while_trusting(
        &mut self,
        now: Instant,
        of: usize,
        others: Others,
        any: impl FnOnce() -> Vec<TargetKey>,
    ) -> Settled {
        let reason = match self.late {
            Some(Late { away: Some(away), .. }) => Some(Reason::Paused { away }),
            Some(_) => Some(Reason::Late),
            None => self.losses.mass(now, of, others, None),
        };
        if let Some(reason) = reason {
            self.begin(now, reason, now, others, any);
        }
        Settled::Nothing
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one state, taken apart by its only caller")]
    fn while_asking(
        &mut self,
        now: Instant,
        of: usize,
        reason: Reason,
        since: Instant,
        until: Instant,
        tally: Tally,
        others: Others,
        any: impl FnOnce() -> Vec<TargetKey>,
    ) -> Settled {
        if self.is_over(reason) {
            // Whatever was lost while time was short is looked at as if it had been lost just now.
            return match self.losses.mass(now, of, others, Some(since)).filter(|_| reason.is_about_time()) {
                Some(mass) => {
                    self.begin(now, mass, now, others, any);
                    Settled::Nothing
                }
                None => self.trust(),
            };
        }
        if tally.pending > 0 && now < until {
            return Settled::Nothing;
        }
        if reason.is_about_time() {
            // A mass counts the more for a server that is late: the nodes are protected by the hold itself.
            let persists = now.saturating_duration_since(since) >= HOLD_MAX;
            if persists && tally.are_reached() && self.may_hand_over(now, others) {
                return self.hand_over(now, reason, since);
            }
        } else if tally.answered() == 0 && !others.can_be_asked || others.cut_off {
            return self.hold_alone(now, reason, since, false);
        } else if tally.are_reached() && self.may_hand_over(now, others) {
            return self.hand_over(now, reason, since);
        } else if tally.answered() > 0 && !tally.are_reached() {
            return self.stand();
        }
        if now >= until {
            let unheeded = tally.answered() == 0 && now.saturating_duration_since(since) >= UNHEEDED_MAX;
            if unheeded && !reason.is_about_time() {
                return self.hold_alone(now, reason, since, true);
            }
            self.begin(now, reason, since, others, any);
        }
        Settled::Nothing
    }

    fn while_alone(
        &mut self,
        now: Instant,
        reason: Reason,
        since: Instant,
        until: Instant,
        can_be_asked: bool,
        others: Others,
    ) -> Settled {
        // Nodes that are called down meanwhile are no sign of recovery, so this counts all of the mass.
        if matches!(reason, Reason::Mass { lost, .. } | Reason::CutOff { lost, .. } if self.alone.len() * 2 < lost)
        {
            self.alone.clear();
            return self.trust();
        }
        if can_be_asked {
            self.alone.clear();
            self.begin(now, reason, since, others, Vec::new);
            return Settled::Nothing;
        }
        if now >= until { self.stand() } else { Settled::Nothing }
    }

    fn while_apart(&mut self, now: Instant, others: Others) -> Settled {
        let State::Apart { left, good_rounds, .. } = self.state else { return Settled::Nothing };
        let apart = now.saturating_duration_since(left);
        let works = good_rounds >= RETURN_ROUNDS && apart >= self.apart;
        // Checks by a server that doubts itself are better than none.
        if works || apart >= APART_MAX || !others.share {
            self.late = None;
            return self.trust();
        }
        Settled::Nothing
    }

    /// Holds bad verdicts and has peers asked.
    fn begin(
        &mut self,
        now: Instant,
        reason: Reason,
        since: Instant,
        others: Others,
        any: impl FnOnce() -> Vec<TargetKey>,
    ) {
        if !others.can_be_asked && !reason.is_about_time() {
            self.hold_alone(now, reason, since, false);
            return;
        }
        let mut sample = self.losses.sample();
        if sample.is_empty() && reason.is_about_time() {
            sample = any();
            sample.truncate(SAMPLE_MAX);
        }
        let patience = self.losses.slowest(&sample) + GRACE + SAMPLE_SLACK;
        let until = now + patience.max(SAMPLE_PAUSE);
        self.state = State::Asking { reason, since, sample, until };
    }

    fn hold_alone(&mut self, now: Instant, reason: Reason, since: Instant, unheeded: bool) -> Settled {
        let mut until = now;
        for (key, due) in self.losses.due() {
            self.alone.insert(key);
            until = until.max(due);
        }
        self.state = State::Alone { reason, since, until: until.min(now + ALONE_MAX), unheeded };
        // Each node's own further fall period decides from here on.
        Settled::Released
    }

    fn hand_over(&mut self, now: Instant, reason: Reason, since: Instant) -> Settled {
        let soon = self.handed_over.is_some_and(|last| now.saturating_duration_since(last) < APART_MAX * 2);
        self.apart = if soon { (self.apart * 2).min(APART_MAX) } else { APART_MIN };
        self.handed_over = Some(now);
        self.losses.clear();
        self.state = State::Apart { reason, since, left: now, good_rounds: 0 };
        Settled::HandedOver
    }

    fn may_hand_over(&self, now: Instant, others: Others) -> bool {
        let lately =
            self.handed_over.is_some_and(|last| now.saturating_duration_since(last) < HANDOVER_PAUSE);
        others.share && !lately
    }

    /// What is lost is believed.
    fn stand(&mut self) -> Settled {
        self.losses.settle_all();
        self.trust()
    }

    fn trust(&mut self) -> Settled {
        self.state = State::Trusting;
        Settled::Released
    }

    /// Whether what began it is no more.
    fn is_over(&self, reason: Reason) -> bool {
        match reason {
            Reason::Late | Reason::Paused { .. } => self.late.is_none(),
            Reason::Mass { lost, .. } | Reason::CutOff { lost, .. } => self.losses.open_count() * 2 < lost,
        }
    }

    fn note_late(&mut self, now: Instant, away: Option<Duration>) {
        let since = self.late.map_or(now, |late| late.since);
        self.late = Some(Late { last: now, since, away: away.or(self.late.and_then(|late| late.away)) });
    }
}

#[cfg(test)]
mod tests;
