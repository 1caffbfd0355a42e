//! The nodes that this program registered: what is written of them, and that they are kept. Pure, like the session that it is
//! a part of.
//!
//! Keeping costs one message for all of them about every third of the shortest ttl; nothing is stored by it. Only what
//! a server says is lost is written again.

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use jcm_model::{Lease, LeaseId};
use jcm_proto::v1::watch_request::{Held, Keep, Request};
use jcm_proto::v1::watch_response::Lost;
use tracing::warn;

use super::{Effect, LinkId};
use crate::random::Random;
use crate::registry::Outcome;
use entry::Entry;
pub(crate) use entry::Wanted;

/// Most registrations of one program: as many as the largest clusters that JCM is tried with have nodes.
pub(crate) const REGISTRATIONS_MAX: usize = 10_000;
/// Leases in one message: what a server takes.
const HELD_MAX: usize = 128;
/// Most messages that keep all leases of a program.
pub(crate) const KEEPS_MAX: usize = REGISTRATIONS_MAX.div_ceil(HELD_MAX);
/// Writes that are under way at once: a program with many nodes fills a server's batches, each of which costs about the same for
/// one node as for a hundred, and does not fill its queue.
const WRITES_MAX: usize = 128;
/// Registrations that are acknowledged within so long are kept for the first time in one message.
const GATHER_FOR: Duration = Duration::from_millis(20);
/// How often the own address is looked for while there is none.
const ADDRESS_AGAIN: Duration = Duration::from_secs(1);

/// What happened to registrations.
#[derive(Debug)]
pub(crate) enum LeaseEvent {
    /// The program registers itself.
    Register(Wanted),
    /// It is ready to be called.
    Ready { lease: LeaseId },
    /// It goes; callers have so long to notice.
    Leave { lease: LeaseId, drain: Duration },
    /// Nobody holds the registration any more: it lapses.
    Abandon { lease: LeaseId },
    /// What came of a write. There is one for each.
    Written { lease: LeaseId, outcome: Outcome },
    /// From which address this machine reaches the server of a link.
    Address { link: LinkId, found: Result<IpAddr, String> },
}

#[derive(Debug)]
pub(super) struct Leases {
    entries: BTreeMap<LeaseId, Entry>,
    /// When each of them wants to write, where it does.
    due: BTreeSet<(Instant, LeaseId)>,
    due_of: BTreeMap<LeaseId, Instant>,
    /// Those that wait for the own address.
    nowhere: BTreeSet<LeaseId>,
    address: Option<IpAddr>,
    /// The link whose local address is being looked for.
    looking: Option<LinkId>,
    look_at: Instant,
    writes_under_way: usize,
    /// The link that keeps leases and carries writes.
    link: Option<LinkId>,
    /// All are kept then, on the link in use.
    keep_at: Option<Instant>,
    /// Those that were not kept yet are kept then.
    fresh: BTreeSet<LeaseId>,
    keep_fresh_at: Option<Instant>,
}

impl Leases {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            entries: BTreeMap::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            nowhere: BTreeSet::new(),
            address: None,
            looking: None,
            look_at: now,
            writes_under_way: 0,
            link: None,
            keep_at: None,
            fresh: BTreeSet::new(),
            keep_fresh_at: None,
        }
    }

    pub(super) fn apply(
        &mut self,
        event: LeaseEvent,
        now: Instant,
        random: &mut Random,
        effects: &mut Vec<Effect>,
    ) {
        match event {
            LeaseEvent::Register(wanted) => {
                let lease = wanted.lease.id();
                let mut entry = Entry::new(wanted, now);
                match self.address {
                    Some(address) => entry.is_at(address),
                    None if entry.needs_address() => {
                        self.nowhere.insert(lease);
                    }
                    None => {}
                }
                self.entries.insert(lease, entry);
                self.settle(lease, effects);
            }
            LeaseEvent::Ready { lease } => self.change(lease, effects, Entry::ready),
            LeaseEvent::Leave { lease, drain } => self.change(lease, effects, |entry| entry.leave(drain)),
            LeaseEvent::Abandon { lease } => self.forget(lease),
            LeaseEvent::Written { lease, outcome } => {
                self.writes_under_way -= 1;
                // What was written is kept from now on; what is another's, a server is to say more of.
                let speaks = matches!(outcome, Outcome::Done(_) | Outcome::Leased { .. });
                self.change(lease, effects, |entry| entry.written(outcome, now, random));
                if speaks && self.entries.get(&lease).is_some_and(|entry| entry.held().is_some()) {
                    self.fresh.insert(lease);
                    self.keep_fresh_at.get_or_insert(now + GATHER_FOR);
                }
            }
            LeaseEvent::Address { link, found } => self.found(link, found, now, effects),
        }
    }

    /// A server says which leases do not stand.
    pub(super) fn lost(&mut self, lost: &Lost, now: Instant, random: &mut Random, effects: &mut Vec<Effect>) {
        for lost in &lost.leases {
            if let Ok(lease) = LeaseId::try_from(lost.lease.as_slice()) {
                let unkept = LeaseId::try_from(lost.unkept.as_slice()).ok();
                self.change(lease, effects, |entry| entry.lost(lost.reason(), unkept, now, random));
            }
        }
    }

    fn found(
        &mut self,
        link: LinkId,
        found: Result<IpAddr, String>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if self.looking != Some(link) {
            return;
        }
        self.looking = None;
        match found {
            Ok(address) => {
                self.address = Some(address);
                for lease in std::mem::take(&mut self.nowhere) {
                    self.change(lease, effects, |entry| entry.is_at(address));
                }
            }
            Err(reason) => {
                self.look_at = now + ADDRESS_AGAIN;
                warn!(
                    reason,
                    "the own address is not found; it is looked for again, unless `Me::address` says it"
                );
            }
        }
    }

    /// Changes one of them, and does what follows.
    fn change(&mut self, lease: LeaseId, effects: &mut Vec<Effect>, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&lease) {
            change(entry);
            self.settle(lease, effects);
        }
    }

    /// Tells the program how one of them stands, and notes when it is to be written next.
    fn settle(&mut self, lease: LeaseId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(&lease) else { return };
        if let Some(status) = entry.news() {
            effects.push(Effect::Tell { lease, status });
        }
        if entry.is_over() {
            return self.forget(lease);
        }
        let due = entry.due_at().filter(|_| !entry.needs_address());
        self.schedule(lease, due);
    }

    fn schedule(&mut self, lease: LeaseId, due: Option<Instant>) {
        let before = match due {
            Some(due) => self.due_of.insert(lease, due),
            None => self.due_of.remove(&lease),
        };
        if let Some(before) = before {
            self.due.remove(&(before, lease));
        }
        if let Some(due) = due {
            self.due.insert((due, lease));
        }
    }

    fn forget(&mut self, lease: LeaseId) {
        self.entries.remove(&lease);
        self.nowhere.remove(&lease);
        self.fresh.remove(&lease);
        self.schedule(lease, None);
    }

    /// Does what is due, over the link that is in use now.
    pub(super) fn advance(
        &mut self,
        link: Option<LinkId>,
        now: Instant,
        random: &mut Random,
        effects: &mut Vec<Effect>,
    ) {
        if std::mem::replace(&mut self.link, link) != link {
            self.looking = None;
            // Whoever is asked now may be the only one who hears of them.
            self.keep_at = link.map(|_| now);
        }
        let Some(link) = link else { return };
        if !self.nowhere.is_empty() && self.looking.is_none() && self.look_at <= now {
            self.looking = Some(link);
            effects.push(Effect::FindAddress { link });
        }
        while self.writes_under_way < WRITES_MAX
            && let Some(&(due, lease)) = self.due.first()
            && due <= now
        {
            if let Some(write) = self.entries.get_mut(&lease).and_then(Entry::begin) {
                self.writes_under_way += 1;
                effects.push(Effect::Write { link, lease, write: Box::new(write) });
            }
            self.schedule(lease, None);
        }
        self.keep(link, now, random, effects);
    }

    fn keep(&mut self, link: LinkId, now: Instant, random: &mut Random, effects: &mut Vec<Effect>) {
        let all = self.keep_at.is_some_and(|at| at <= now);
        let fresh = self.keep_fresh_at.is_some_and(|at| at <= now);
        if !all && !fresh {
            return;
        }
        self.keep_fresh_at = None;
        let fresh = std::mem::take(&mut self.fresh);
        let held: Vec<Held> = if all {
            self.entries.values().filter_map(Entry::held).collect()
        } else {
            fresh.iter().filter_map(|lease| self.entries.get(lease)?.held()).collect()
        };
        for held in held.chunks(HELD_MAX) {
            let request = Request::Keep(Keep { held: held.to_vec() });
            effects.push(Effect::Send { link, request });
        }
        let next = self.entries.values().map(Entry::ttl).min().map(|ttl| now + keep_after(ttl, random));
        self.keep_at = if all { next } else { [self.keep_at, next].into_iter().flatten().min() };
    }

    /// When time alone makes a difference next.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.link?;
        let due = self.due.first().map(|(due, _)| *due).filter(|_| self.writes_under_way < WRITES_MAX);
        let look = (!self.nowhere.is_empty() && self.looking.is_none()).then_some(self.look_at);
        [due, look, self.keep_at, self.keep_fresh_at].into_iter().flatten().min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// A third of the ttl, a little less by chance: programs that were cut off together do not all speak in one moment.
fn keep_after(ttl: Duration, random: &mut Random) -> Duration {
    let third = ttl / 3;
    let spread = u32::try_from(third.as_millis() / 8).unwrap_or(u32::MAX).max(1);
    third.saturating_sub(Duration::from_millis(random.below(spread).into()))
}

/// A lease that nobody else has.
pub(crate) fn new_lease(ttl: Duration) -> Result<Lease, jcm_model::Invalid> {
    Lease::new(LeaseId::new(*uuid::Uuid::new_v4().as_bytes()), ttl)
}
