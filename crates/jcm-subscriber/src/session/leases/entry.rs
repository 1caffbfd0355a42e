//! One registration: what its program wants, what is known of its node, and the write that leads from one to the other.
//!
//! There is one write at a time, repeated unchanged under one key until it is known what came of it. Only then is it worked
//! out anew what to write, from what is wanted by then.

use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Lease, LeaseId, NodeId, Revision};
use jcm_proto::v1::watch_request::Held;
use jcm_proto::v1::watch_response::lost_lease::Reason;
use tracing::{info, warn};

use crate::me::Me;
use crate::random::Random;
use crate::registration::{RegistrationEnd, RegistrationStatus};
use crate::registry::{Outcome, Place, What, Write};

/// Bounds of the delay before a write is repeated.
const AGAIN_BASE: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// The same where somebody has to do something first: create the cluster, or mend it.
const REFUSED_BASE: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_mins(1);
/// For a server to say what it means that a node has another lease: most often it does, and then the write is a different one.
const DOUBT_PAUSE: Duration = Duration::from_millis(200);
/// A lease is kept by nobody when that was said for so long: servers tell one another of renewals several times a second.
pub(super) const UNKEPT_FOR: Duration = Duration::from_secs(1);
/// Nodes that were cleared away together come back spread over this time.
const GONE_SPREAD: Duration = Duration::from_millis(500);

/// What a program asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) cluster: ClusterName,
    pub(crate) me: Me,
    pub(crate) lease: Lease,
    /// In use as soon as it is there.
    pub(crate) online: bool,
    /// A cluster that is not there is waited for.
    pub(crate) patient: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    wanted: Wanted,
    /// Set once the program leaves: for how long the node takes nothing new before it goes.
    leave: Option<Duration>,
    stage: Stage,
    /// It was there once. From then on only somebody else's claim ends it, whatever a server refuses.
    was_there: bool,
    /// A node of another lease may be replaced: until it was there for the first time, and once more whenever it is found gone.
    /// Of two programs that live, the one that is replaced is told so, and ends: it replaces nobody.
    may_replace: bool,
    /// A write found that the node has another lease, and no server has said yet what that means.
    doubt: Option<Doubt>,
    /// The lease that the node has instead: nobody keeps it, and this program leaves under it.
    instead: Option<LeaseId>,
    pending: Option<Pending>,
    /// Writes that were worked out.
    writes: u64,
    /// Failures in a row, of whatever kind.
    failures: u32,
    /// Why it is not there.
    trouble: Option<String>,
    /// Nothing is written before.
    not_before: Instant,
    /// What the program was told last.
    told: RegistrationStatus,
}

#[derive(Debug)]
enum Stage {
    /// It is not there, as far as is known. It is put in the place of a node with this lease, or of none.
    Away {
        over: Option<LeaseId>,
    },
    There {
        place: Place,
        online: bool,
    },
    /// It takes nothing new, and goes then.
    Draining {
        place: Place,
        until: Instant,
    },
    Over(RegistrationEnd),
}

/// Another process has the place, or the store was set back to a time when the node had another lease. Servers tell: "taken", or
/// "gone" once they know that nobody keeps that lease. One that may be kept they say nothing of.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    found: LeaseId,
    since: Instant,
    /// When a server said first that nobody keeps that lease.
    unkept_since: Option<Instant>,
}

/// A write of which it is not known what came of it.
#[derive(Debug)]
struct Pending {
    write: Write,
    attempts: u32,
    under_way: bool,
}

impl Entry {
    pub(super) fn new(wanted: Wanted, now: Instant) -> Self {
        Self {
            wanted,
            leave: None,
            stage: Stage::Away { over: None },
            was_there: false,
            may_replace: true,
            doubt: None,
            instead: None,
            pending: None,
            writes: 0,
            failures: 0,
            trouble: None,
            not_before: now,
            told: RegistrationStatus::Trying { reason: None },
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        self.wanted.lease.ttl()
    }

    pub(super) fn needs_address(&self) -> bool {
        !self.wanted.me.has_address()
    }

    pub(super) fn is_at(&mut self, address: std::net::IpAddr) {
        self.wanted.me.is_at(address);
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over(_))
    }

    /// The program is ready to be called.
    pub(super) fn ready(&mut self) {
        self.wanted.online = true;
    }

    /// The program goes.
    pub(super) fn leave(&mut self, drain: Duration) {
        self.leave.get_or_insert(drain);
        self.reconsider();
    }

    /// What leaving makes of a write that is not under way.
    fn reconsider(&mut self) {
        if self.leave.is_none() || self.pending.as_ref().is_some_and(|pending| pending.under_way) {
            return;
        }
        match (&self.stage, &self.pending) {
            (Stage::Away { .. }, None | Some(Pending { attempts: 0, .. })) => self.end(RegistrationEnd::Left),
            // It may be there after all.
            (Stage::Away { .. }, Some(Pending { write: Write { what: What::Put(_), .. }, .. })) => {
                self.pending = self.pending_for(What::Delete);
            }
            (Stage::There { .. }, Some(Pending { write: Write { what: What::Online, .. }, .. })) => {
                self.pending = None;
            }
            _ => {}
        }
    }

    /// When something is to be written; `None` while nothing is.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match (&self.pending, &self.stage) {
            (Some(pending), _) => (!pending.under_way).then_some(self.not_before),
            (None, Stage::Draining { until, .. }) => Some(self.not_before.max(*until)),
            (None, _) => self.next().map(|_| self.not_before),
        }
    }

    /// What leads from what is there to what is wanted.
    fn next(&self) -> Option<What> {
        match &self.stage {
            Stage::Over(_) => None,
            Stage::Away { .. } => {
                let spec = self.wanted.me.spec(Some(self.wanted.lease), self.wanted.online);
                spec.ok().map(|spec| What::Put(Box::new(spec)))
            }
            Stage::Draining { .. } => Some(What::Delete),
            Stage::There { online, .. } => match self.leave {
                Some(Duration::ZERO) => Some(What::Delete),
                Some(_) => Some(What::Drain),
                None => (self.wanted.online && !online).then_some(What::Online),
            },
        }
    }

    fn pending_for(&mut self, what: What) -> Option<Pending> {
        let own = self.wanted.lease.id();
        let lease = match (&self.stage, &what) {
            (Stage::Away { over: Some(over) }, What::Put(_)) => *over,
            _ => self.instead.unwrap_or(own),
        };
        self.writes += 1;
        let write = Write {
            cluster: self.wanted.cluster.clone(),
            node: self.wanted.me.node_id()?,
            lease,
            key: format!("{own}-{}", self.writes),
            what,
        };
        Some(Pending { write, attempts: 0, under_way: false })
    }

    /// The write that is to be carried out now: its outcome comes back with [`Self::written`].
    pub(super) fn begin(&mut self) -> Option<Write> {
        if self.pending.is_none() {
            let what = self.next()?;
            self.pending = self.pending_for(what);
        }
        let pending = self.pending.as_mut().filter(|pending| !pending.under_way)?;
        pending.under_way = true;
        pending.attempts += 1;
        Some(pending.write.clone())
    }

    /// What came of the write that was under way.
    pub(super) fn written(&mut self, outcome: Outcome, now: Instant, random: &mut Random) {
        let Some(mut pending) = self.pending.take().filter(|pending| pending.under_way) else { return };
        pending.under_way = false;
        let what = &pending.write.what;
        match outcome {
            Outcome::Again { after, reason } => {
                self.delay(after, AGAIN_BASE, AGAIN_MAX, now, random);
                self.is_in_trouble(reason);
                self.pending = Some(pending);
            }
            Outcome::Done(place) => {
                self.stage = match what {
                    What::Put(spec) => Stage::There { place, online: spec.attributes.online() },
                    What::Online => Stage::There { place, online: true },
                    What::Drain => Stage::Draining { place, until: now + self.leave.unwrap_or_default() },
                    What::Delete => return self.end(RegistrationEnd::Left),
                };
                if let What::Put(_) = what {
                    info!(cluster = %pending.write.cluster, node = %pending.write.node, "registered");
                }
                self.was_there = true;
                self.may_replace = false;
                self.goes_well(now);
            }
            Outcome::Leased { found: Some(found) } if self.may_doubt(&pending.write, found) => {
                self.doubt(found, now, random);
            }
            Outcome::NoNode | Outcome::NoCluster | Outcome::Leased { .. } if *what == What::Delete => {
                self.end(RegistrationEnd::Left);
            }
            Outcome::Leased { found } => self.found(found, matches!(what, What::Put(_)), now),
            Outcome::NoCluster if matches!(what, What::Put(_)) => {
                if !(self.was_there || self.wanted.patient) {
                    return self.end(RegistrationEnd::NoCluster);
                }
                self.stage = Stage::Away { over: None };
                self.may_replace = true;
                self.delay(Duration::ZERO, REFUSED_BASE, REFUSED_MAX, now, random);
                self.is_in_trouble(format!("there is no cluster `{}`", self.wanted.cluster));
            }
            Outcome::NoNode | Outcome::NoCluster => self.gone(now, random),
            // Often it is the node of this very program, under another id, from before it was started again: a server replaces
            // that one once nobody has held its lease for its whole time.
            Outcome::Clash { reason } => {
                // Not all that wait for a place at once, and again and again.
                self.delay(self.clash_max() / 2, REFUSED_BASE, self.clash_max(), now, random);
                self.is_in_trouble(reason);
            }
            Outcome::Refused { reason } => {
                if !self.was_there {
                    return self.end(RegistrationEnd::Refused { reason });
                }
                self.delay(Duration::ZERO, REFUSED_BASE, REFUSED_MAX, now, random);
                self.is_in_trouble(reason);
            }
        }
        self.reconsider();
    }

    /// The node that is there has another lease than the write was about.
    fn found(&mut self, found: Option<LeaseId>, put: bool, now: Instant) {
        match found {
            None => self.end(RegistrationEnd::Adopted),
            // A put that seemed to have failed was carried out after all.
            Some(found) if found == self.wanted.lease.id() => {
                self.stage = Stage::Away { over: None };
                self.may_replace &= !self.was_there;
            }
            // Who comes last has the place: this program was there before, and was started again. Or it was there, and the
            // store was set back to a time when it had another lease, which nobody renews.
            Some(found) if put && self.may_replace => {
                self.may_replace = !self.was_there;
                self.stage = Stage::Away { over: Some(found) };
                self.not_before = now;
            }
            Some(_) => self.end(RegistrationEnd::Taken),
        }
    }

    /// Whether a write on the own lease that met another one says too little: this program was there.
    fn may_doubt(&self, write: &Write, found: LeaseId) -> bool {
        let own = self.wanted.lease.id();
        let stands = matches!(self.stage, Stage::There { .. } | Stage::Draining { .. });
        stands && write.lease == own && found != own && !matches!(write.what, What::Put(_))
    }

    /// The lease that was found is somebody else's, or this very program's from before it was started again. A server is asked, by
    /// keeping the own one; the write waits meanwhile.
    fn doubt(&mut self, found: LeaseId, now: Instant, random: &mut Random) {
        let doubt = self.doubt.filter(|doubt| doubt.found == found);
        let doubt = doubt.unwrap_or(Doubt { found, since: now, unkept_since: None });
        // Of a lease that nobody keeps they would have said so by now.
        if now.saturating_duration_since(doubt.since) >= 2 * self.ttl() {
            return self.end(RegistrationEnd::Taken);
        }
        self.doubt = Some(doubt);
        self.delay(DOUBT_PAUSE, AGAIN_BASE, AGAIN_MAX, now, random);
    }

    /// A server says what is not as this program takes it to be. While a write is under way more is known soon, and the server
    /// says it again.
    pub(super) fn lost(
        &mut self,
        reason: Reason,
        unkept: Option<LeaseId>,
        now: Instant,
        random: &mut Random,
    ) {
        let stands = matches!(self.stage, Stage::There { .. } | Stage::Draining { .. });
        let is_under_way = self.pending.as_ref().is_some_and(|pending| pending.under_way);
        if !stands || is_under_way || self.instead.is_some() {
            return;
        }
        match reason {
            Reason::Unknown => {}
            // A server that knows of no other lease is behind the one that has met it.
            Reason::Gone if self.doubt.is_some_and(|doubt| unkept != Some(doubt.found)) => {}
            Reason::Gone if !self.is_certain(now) => {}
            Reason::Gone => self.gone(now, random),
            Reason::Taken => self.end(RegistrationEnd::Taken),
            Reason::Adopted => self.end(RegistrationEnd::Adopted),
        }
    }

    /// Whether the lease that was met was said to be kept by nobody for long enough: one that was written just now may have been
    /// renewed without this server's having been told.
    fn is_certain(&mut self, now: Instant) -> bool {
        let Some(doubt) = &mut self.doubt else { return true };
        let since = *doubt.unkept_since.get_or_insert(now);
        now.saturating_duration_since(since) >= UNKEPT_FOR
    }

    /// It was cleared away while it could not be kept, or the store was set back to a time when it was not there.
    fn gone(&mut self, now: Instant, random: &mut Random) {
        let doubt = self.doubt.take();
        self.pending = None;
        if let Some(Doubt { found, .. }) = doubt
            && self.leave.is_some()
        {
            // What is there is this program's own, from before. It need not come back to leave.
            self.instead = Some(found);
            self.not_before = now;
            return;
        }
        self.stage = Stage::Away { over: None };
        self.may_replace = true;
        if self.leave.is_some() {
            return self.end(RegistrationEnd::Left);
        }
        let spread = u32::try_from(GONE_SPREAD.as_millis()).expect("less than a second");
        self.not_before = now + Duration::from_millis(random.below(spread).into());
        self.is_in_trouble("it was cleared away".to_owned());
    }

    fn goes_well(&mut self, now: Instant) {
        self.failures = 0;
        self.doubt = None;
        self.trouble = None;
        self.not_before = now;
    }

    /// Full jitter, as between servers.
    fn delay(&mut self, after: Duration, base: Duration, max: Duration, now: Instant, random: &mut Random) {
        let doubled = base.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(max);
        let bound = u32::try_from(doubled.as_millis()).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + after + Duration::from_millis(random.below(bound.max(1)).into());
    }

    /// The node that is in the way may be replaced after a ttl, most likely as long as this one's: soon after that this program
    /// asks again.
    fn clash_max(&self) -> Duration {
        (self.ttl() / 4).clamp(REFUSED_BASE, REFUSED_MAX)
    }

    fn is_in_trouble(&mut self, reason: String) {
        if self.trouble.is_none() {
            warn!(cluster = %self.wanted.cluster, node = ?self.node(), reason, "the registration does not stand; it is tried again");
        }
        self.trouble = Some(reason);
    }

    fn end(&mut self, end: RegistrationEnd) {
        let (cluster, node) = (&self.wanted.cluster, self.node());
        if end == RegistrationEnd::Left {
            info!(%cluster, ?node, "left");
        } else {
            warn!(%cluster, ?node, %end, "a registration is over");
        }
        self.pending = None;
        self.stage = Stage::Over(end);
    }

    fn node(&self) -> Option<NodeId> {
        self.wanted.me.node_id()
    }

    /// What it is kept by, while it is there.
    pub(super) fn held(&self) -> Option<Held> {
        if self.instead.is_some() {
            return None;
        }
        let (Stage::There { place, .. } | Stage::Draining { place, .. }) = &self.stage else { return None };
        Some(Held {
            cluster: self.wanted.cluster.to_string(),
            node: self.node()?.to_string(),
            lease: self.wanted.lease.id().as_bytes().to_vec(),
            store: place.store.clone(),
            revision: place.revision.0,
        })
    }

    /// How it stands, where the program was told something else last.
    pub(super) fn news(&mut self) -> Option<RegistrationStatus> {
        let registered = |online, revision: Revision| {
            let node = self.node().expect("what is there has an id");
            RegistrationStatus::Registered { node, revision, online }
        };
        let status = match &self.stage {
            Stage::Away { .. } => RegistrationStatus::Trying { reason: self.trouble.clone() },
            Stage::There { place, online } => registered(*online, place.revision),
            Stage::Draining { .. } => RegistrationStatus::Draining,
            Stage::Over(end) => RegistrationStatus::Ended(end.clone()),
        };
        (status != self.told).then(|| {
            self.told = status.clone();
            status
        })
    }
}
