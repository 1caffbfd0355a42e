//! Whose turn it is to check a node: the ring, who of it is heard, and what stands on the board.
//!
//! Pure: what is known is told, and so is the time. The rules:
//!
//! 1. The first server in the node's order checks it, and the next one when that one has been silent for a session
//!    timeout and one interval. Nothing is agreed on: each server works out its own part, and two that check at once
//!    do no harm, because stamps order what they find.
//! 2. Silence counts only for a server that hears somebody, or that has lost the store. One that hears nobody while the
//!    store goes on naming the others is the one that is cut off: they check their nodes, and may reach what this one
//!    does not. With the store gone as well they may all be dead, and somebody has to check.
//! 3. A server outside the ring checks what nobody in it can, unless another server that is heard does already.
//! 4. A verdict of a later ring shows that this server is behind: whoever stamped it checks the node. Where that lasts although
//!    the store is in reach, it is the store that counts anew.
//!
//! No terms are kept here: the board has them. A verdict is stamped just beyond the one that stands there, so whoever
//! substitutes is one term up, and so is the owner who takes back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jcm_health::ring::{Place, Ring};
use jcm_model::{ServerId, Stamp, StoreId};
use jcm_storage::RingMembers;

/// A server that has left the ring goes on checking for so many intervals where nobody is seen to have begun: the first
/// check of whoever follows it comes within one, and is told on after that.
const KEPT_INTERVALS: u32 = 2;

/// Whose turn it is to check a node, as this server sees it.
#[derive(Debug, Clone)]
pub(crate) struct Duty {
    own: ServerId,
    session_timeout: Duration,
    /// The store whose nodes these are.
    store: Option<StoreId>,
    ring: Ring,
    /// The number under which the store named it.
    ring_read: u64,
    /// Since when the store has named an older ring, or verdicts have been stamped under a later one.
    out_of_step: Option<Instant>,
    seen: Seen,
    /// Servers of the ring that are not known as members: since when. It takes a moment until one is listened for.
    strangers: BTreeMap<ServerId, Instant>,
    at: Instant,
    leaving: Option<Leaving>,
}

/// What a server can see of the others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// How long each other member has been silent.
    pub(crate) silences: BTreeMap<ServerId, Duration>,
    /// From this silence on a server counts as not heard.
    pub(crate) silent_after: Duration,
    /// The store is out of reach: the ring is not kept up to date.
    pub(crate) store_is_out: bool,
    /// This server is about to stop.
    pub(crate) draining: bool,
    /// The latest ring under which a verdict was stamped that stands here.
    pub(crate) latest_epoch: u64,
}

/// This server leaves: what it checks it keeps until others have begun.
#[derive(Debug, Clone)]
struct Leaving {
    ring_epoch: u64,
    /// When it was seen outside the ring: from then on others begin.
    left: Option<Instant>,
}

/// All that whose turn it is follows from, but for the board: as long as it is the same, nothing has to be worked out
/// again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Signature {
    ring: Ring,
    hears_anybody: bool,
    store_is_out: bool,
    /// For each server that is silent: of how many policies that is beyond the time.
    given_up: BTreeMap<ServerId, usize>,
    left: Option<usize>,
}

impl Duty {
    /// `ring` is the last one known from an earlier run.
    pub(crate) fn new(own: ServerId, session_timeout: Duration, ring: Ring, now: Instant) -> Self {
        Self {
            own,
            session_timeout,
            store: None,
            ring_read: ring.epoch(),
            ring,
            out_of_step: None,
            seen: Seen::default(),
            strangers: BTreeMap::new(),
            at: now,
            leaving: None,
        }
    }

    /// The ring that counts.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// The nodes are those of this store from now on. Answers whether they were those of another one: what the ring's
    /// epoch says means nothing any more then. The same servers go on until the ring of this store is read.
    pub(crate) fn belong_to(&mut self, store: StoreId) -> bool {
        let was_other = self.store.replace(store).is_some_and(|before| before != store);
        if was_other {
            self.ring = Ring::new(0, self.ring.servers().iter().cloned());
            self.ring_read = 0;
            self.out_of_step = None;
        }
        was_other
    }

    /// Takes in the ring as it is read now, unless it is another store's, and what is seen of the others.
    pub(crate) fn observe(&mut self, ring: &RingMembers, seen: Seen, now: Instant) {
        if seen.draining && self.leaving.is_none() {
            self.leaving = Some(Leaving { ring_epoch: self.ring.epoch(), left: None });
        }
        self.take_ring(ring, &seen, now);
        let is_outside = self.ring.position(&self.own).is_none();
        if let Some(leaving) = self.leaving.as_mut().filter(|leaving| is_outside && leaving.left.is_none()) {
            leaving.left = Some(now);
        }
        self.seen = seen;
        self.at = now;
        let unknown = |server: &&ServerId| **server != self.own && !self.seen.silences.contains_key(*server);
        let strangers: BTreeSet<ServerId> = self.ring.servers().iter().filter(unknown).cloned().collect();
        self.strangers.retain(|server, _| strangers.contains(server));
        for server in strangers {
            self.strangers.entry(server).or_insert(now);
        }
    }

    /// All that the answers follow from. `intervals` are those of all policies.
    pub(crate) fn signature(&self, intervals: &BTreeSet<Duration>) -> Signature {
        let beyond = |silence: Duration| {
            intervals.iter().take_while(|interval| silence >= self.session_timeout + **interval).count()
        };
        let known = self.seen.silences.keys().chain(self.strangers.keys());
        let given_up = known.map(|server| (server.clone(), beyond(self.silence(server))));
        let left = |leaving: &Leaving| {
            let gone_for = self.gone_for(leaving);
            intervals.iter().take_while(|interval| gone_for >= **interval * KEPT_INTERVALS).count()
        };
        Signature {
            ring: self.ring.clone(),
            hears_anybody: self.hears_anybody(),
            store_is_out: self.seen.store_is_out,
            given_up: given_up.filter(|(_, policies)| *policies > 0).collect(),
            left: self.leaving.as_ref().map(left),
        }
    }

    /// Whether this server is to check the node. `held` is the stamp of the verdict that stands, `is_checked` whether
    /// this server checks it already.
    pub(crate) fn is_mine(
        &self,
        place: Place,
        interval: Duration,
        held: Option<&Stamp>,
        is_checked: bool,
    ) -> bool {
        if self.responsible(place, interval, held) == &self.own {
            return true;
        }
        self.leaving.as_ref().is_some_and(|leaving| {
            let others_began =
                held.is_some_and(|held| held.server != self.own && held.ring_epoch > leaving.ring_epoch);
            is_checked && !others_began && self.gone_for(leaving) < interval * KEPT_INTERVALS
        })
    }

    /// Who is to check the node, as far as this server can tell.
    pub(crate) fn responsible<'a>(
        &'a self,
        place: Place,
        interval: Duration,
        held: Option<&'a Stamp>,
    ) -> &'a ServerId {
        let held = held.map(|held| (held.ring_epoch, &held.server));
        let other = held.filter(|(_, server)| **server != self.own && !self.is_gone(server, interval));
        if let Some((epoch, server)) = other
            && epoch > self.ring.epoch()
        {
            return server;
        }
        let may = |at: usize| {
            let server = &self.ring.servers()[at];
            *server == self.own || !self.is_given_up(server, interval)
        };
        match self.ring.first(place, may) {
            Some(at) => &self.ring.servers()[at],
            None => other.map_or(&self.own, |(_, server)| server),
        }
    }

    /// The stamp of this server's next verdict on a node: later than the one that stands.
    pub(crate) fn stamp(&self, held: Option<&Stamp>, incarnation: u64, sequence: u64) -> Stamp {
        let ring_epoch = held.map_or(0, |held| held.ring_epoch).max(self.ring.epoch());
        let term = match held.filter(|held| held.ring_epoch == ring_epoch) {
            Some(held)
                if held.server == self.own && (held.incarnation, held.sequence) < (incarnation, sequence) =>
            {
                held.term
            }
            // Another server's, or this one's from a data directory that is lost, which counted further.
            Some(held) => held.term.saturating_add(1),
            None => 0,
        };
        Stamp { ring_epoch, term, server: self.own.clone(), incarnation, sequence }
    }

    /// The other members that are not heard, and for how long.
    pub(crate) fn silent(&self) -> BTreeMap<ServerId, Duration> {
        let silent = |silence: &Duration| *silence >= self.seen.silent_after;
        let known = self.seen.silences.iter();
        known
            .filter(|(_, silence)| silent(silence))
            .map(|(server, silence)| (server.clone(), *silence))
            .collect()
    }

    /// The other members that are heard.
    pub(crate) fn heard(&self) -> impl Iterator<Item = &ServerId> {
        let known = self.seen.silences.iter();
        known.filter(|(_, silence)| **silence < self.seen.silent_after).map(|(server, _)| server)
    }

    /// The ring that is read counts at once, unless its number is lower than that of the one before. Then the reading comes
    /// late, or the store was put back to an earlier state, in which rings are counted from a lower number on. What it has
    /// gone on saying for a session timeout is no late reading: its servers count from then on, under a number that no
    /// verdict which stands is beyond. So all who share in it agree again on whose turn it is and which verdict is later.
    fn take_ring(&mut self, ring: &RingMembers, seen: &Seen, now: Instant) {
        // Definitions and servers are read apart, and follow to a restored store one before the other.
        if ring.store.is_some() && ring.store != self.store {
            return;
        }
        let was_read = ring.epoch > 0 && !seen.store_is_out;
        let is_older = ring.epoch < self.ring_read;
        let is_beyond = seen.latest_epoch > self.ring.epoch().max(ring.epoch);
        if !was_read || !(is_older || is_beyond) {
            self.out_of_step = None;
        } else {
            self.out_of_step.get_or_insert(now);
        }
        let out_of_step_for = self.out_of_step.map(|since| now.saturating_duration_since(since));
        let is_put_back = out_of_step_for.is_some_and(|time| time >= self.session_timeout);
        if is_older && !is_put_back {
            return;
        }
        let mut epoch = self.ring.epoch().max(ring.epoch);
        if is_put_back {
            epoch = epoch.max(seen.latest_epoch);
            self.out_of_step = None;
        }
        self.ring_read = ring.epoch;
        if (epoch, ring.servers.as_slice()) != (self.ring.epoch(), self.ring.servers()) {
            self.ring = Ring::new(epoch, ring.servers.iter().cloned());
        }
    }

    /// For how long this server has been outside the ring that it leaves.
    fn gone_for(&self, leaving: &Leaving) -> Duration {
        leaving.left.map_or(Duration::ZERO, |left| self.at.saturating_duration_since(left))
    }

    fn is_given_up(&self, server: &ServerId, interval: Duration) -> bool {
        (self.seen.store_is_out || self.hears_anybody()) && self.is_gone(server, interval)
    }

    fn is_gone(&self, server: &ServerId, interval: Duration) -> bool {
        self.silence(server) >= self.session_timeout + interval
    }

    fn hears_anybody(&self) -> bool {
        self.heard().next().is_some()
    }

    fn silence(&self, server: &ServerId) -> Duration {
        let stranger = || self.strangers.get(server).map(|since| self.at.saturating_duration_since(*since));
        self.seen.silences.get(server).copied().or_else(stranger).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests;
