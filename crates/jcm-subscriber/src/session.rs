//! What a subscriber does next: which server it talks to, what it asks, what it makes of the answers. Pure: time is an
//! argument, randomness is seeded, and what should happen outside comes back as [`Effect`]s.
//!
//! There is one link in use. A second stands beside it only while the first is being left for it: the newer takes over
//! cluster by cluster, with its first answer for each, so that a server can ask to be left without a gap.

mod followed;
mod hear;
pub(crate) mod leases;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jcm_model::invalid::quoted;
use jcm_model::{ClusterName, LeaseId};
use jcm_proto::WATCH_PROTOCOLS;
use jcm_proto::v1::watch_request::{self, Hello, Request, Unsubscribe};
use jcm_proto::v1::watch_response::Event as Answer;
use tracing::{debug, info, warn};

use crate::held::Held;
use crate::random::Random;
use crate::registration::RegistrationStatus;
use crate::registry::Write;
use crate::servers::{Server, Servers};
use crate::snapshot::Saved;
use crate::status::Standing;
use followed::Followed;
use leases::{LeaseEvent, Leases};
use peer::{Awaits, Peer};

/// Most clusters of one subscriber: what a server accepts on one stream.
pub(crate) const CLUSTERS_MAX: usize = 1000;
/// From asking for a connection to its first message. A server that needs longer is no help.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A link that held this long was no accident: its end begins a new round of short delays.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A server answers a subscription, or says within 5 seconds that it cannot tell, once it has let the stream in, which a herd
/// may make last 2.5; one that holds just what the client holds may say nothing. So silence for longer means that.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// How long a link that asked to be left is kept for clusters that its successor has no answer for.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a server is left without word of what is held: what changes meanwhile is told at once, and thousands of programs
/// that were told of one change do not all answer in the moment in which others still wait to be told.
const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(200);
const ACKNOWLEDGE_SPREAD_MS: u32 = 800;

/// Which link, among all that a session ever opened: later ones have higher numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkId(pub(crate) u64);

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The program wants to follow a cluster, and brings what it had on disk.
    Subscribe { cluster: ClusterName, saved: Option<Saved> },
    /// Nobody holds a handle of the cluster any more.
    Unsubscribe { cluster: ClusterName },
    /// A server sent a message.
    Message { link: LinkId, answer: Box<Answer> },
    /// Something about the nodes that this program registers.
    Lease(LeaseEvent),
    /// A link ended, or never came about.
    Closed { link: LinkId, reason: String },
    /// Time passed.
    Tick,
    /// The program is done: no link is left, and none is opened.
    Stop,
}

/// What should happen.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Open a link. What is sent on it from now on goes out once it is open.
    Connect { link: LinkId, server: Server },
    /// Send on a link.
    Send { link: LinkId, request: Request },
    /// End a link; no `Closed` is expected for it.
    Close { link: LinkId },
    /// Show programs what is held, or how far it can be relied on.
    Publish { cluster: ClusterName, changed: bool },
    /// Carry a write out over a link. What comes of it is told, whatever it is.
    Write { link: LinkId, lease: LeaseId, write: Box<Write> },
    /// Find out from which address this machine reaches the server of a link.
    FindAddress { link: LinkId },
    /// Tell the program how a registration stands.
    Tell { lease: LeaseId, status: RegistrationStatus },
}

/// The whole state.
#[derive(Debug)]
pub(crate) struct Session {
    client: String,
    servers: Servers,
    random: Random,
    clusters: BTreeMap<ClusterName, Followed>,
    /// Oldest first.
    peers: Vec<Peer>,
    leases: Leases,
    last_link: u64,
    /// When the next link may be opened.
    retry_at: Instant,
    /// Clusters of which something else is held than before the event at hand.
    changed: BTreeSet<ClusterName>,
    effects: Vec<Effect>,
    /// Programs were told that no server answers: once, not at every try.
    unreachable: bool,
    stopped: bool,
}

impl Session {
    pub(crate) fn new(client: String, servers: Servers, random: Random, now: Instant) -> Self {
        Self {
            client,
            servers,
            random,
            clusters: BTreeMap::new(),
            peers: Vec::new(),
            leases: Leases::new(now),
            last_link: 0,
            retry_at: now,
            changed: BTreeSet::new(),
            effects: Vec::new(),
            unreachable: false,
            stopped: false,
        }
    }

    /// What is held of a cluster that is followed.
    pub(crate) fn held(&self, cluster: &ClusterName) -> Option<&Held> {
        self.clusters.get(cluster).map(|followed| &followed.held)
    }

    /// How far that can be relied on.
    pub(crate) fn standing(&self, cluster: &ClusterName) -> Standing {
        self.clusters.get(cluster).map_or(Standing::Unknown, |followed| followed.standing)
    }

    /// Takes an event in and answers what should happen, in order.
    pub(crate) fn apply(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        match event {
            Event::Subscribe { cluster, saved } => self.follow(&cluster, saved, now),
            Event::Unsubscribe { cluster } => self.unfollow(&cluster),
            Event::Message { link, answer } => self.hear(link, *answer, now),
            Event::Lease(event) => self.leases.apply(event, now, &mut self.random, &mut self.effects),
            Event::Closed { link, reason } => self.lose(link, &reason, now),
            Event::Tick => {}
            Event::Stop => self.stop(now),
        }
        if !self.stopped {
            self.pass_time(now);
            let link = self.link_in_use();
            self.leases.advance(link, now, &mut self.random, &mut self.effects);
        }
        self.publish();
        std::mem::take(&mut self.effects)
    }

    /// When time alone makes a difference next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let retry = (!self.has_fresh_peer()).then_some(self.retry_at);
        let leave = self.peers.iter().any(|peer| peer.leaving.is_some()).then(|| self.leave_at()).flatten();
        let peers = self
            .peers
            .iter()
            .flat_map(|peer| [Some(peer.silent_at()), peer.answer_due_at(), peer.acknowledge_at]);
        let peers = peers.flatten();
        peers.chain(retry).chain(leave).chain(self.leases.deadline()).min()
    }

    fn follow(&mut self, cluster: &ClusterName, saved: Option<Saved>, now: Instant) {
        if self.clusters.contains_key(cluster) {
            return;
        }
        self.clusters.insert(cluster.clone(), Followed::new(saved, now));
        self.changed.insert(cluster.clone());
        for link in self.peers.iter().map(|peer| peer.link).collect::<Vec<_>>() {
            self.ask(link, cluster, false, now);
        }
    }

    fn unfollow(&mut self, cluster: &ClusterName) {
        if self.clusters.remove(cluster).is_none() {
            return;
        }
        for peer in &mut self.peers {
            peer.talks.remove(cluster);
            let request = Request::Unsubscribe(Unsubscribe { cluster: cluster.to_string() });
            self.effects.push(Effect::Send { link: peer.link, request });
        }
    }

    /// Says to a server what is held of a cluster, or that nothing is, so that it sends everything.
    fn ask(&mut self, link: LinkId, cluster: &ClusterName, full: bool, now: Instant) {
        let Some(followed) = self.clusters.get(cluster) else {
            return;
        };
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link) else {
            return;
        };
        let request = if full {
            watch_request::Subscribe { cluster: cluster.to_string(), ..Default::default() }
        } else {
            followed.held.to_subscribe(cluster)
        };
        peer.talk(cluster).ask(full, if full { None } else { followed.held.store() }, now);
        self.effects.push(Effect::Send { link, request: Request::Subscribe(request) });
    }

    /// A server wants to be left: first find another, then go.
    fn leave(&mut self, link: LinkId, reason: &str, now: Instant) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == link && peer.leaving.is_none())
        else {
            return;
        };
        info!(server = %peer.server, reason = %quoted(reason), "a server asks to be left");
        peer.leaving = Some(now);
        self.servers.avoid(&peer.server);
        self.retry_at = now + self.servers.delay(&mut self.random);
        // Two that want to be left: the one that carries less goes at once, so that there are never more than two links.
        let leaving: Vec<LinkId> =
            self.peers.iter().filter(|peer| peer.leaving.is_some()).map(|peer| peer.link).collect();
        if let [older, newer] = leaving[..] {
            let carries =
                |link| self.clusters.values().filter(|followed| followed.confirmed == Some(link)).count();
            let spare = if carries(newer) >= carries(older) { older } else { newer };
            self.effects.push(Effect::Close { link: spare });
            self.forget(spare, now);
        }
    }

    fn lose(&mut self, link: LinkId, reason: &str, now: Instant) {
        let Some(peer) = self.forget(link, now) else { return };
        if !self.has_fresh_peer() {
            let delay = self.servers.delay(&mut self.random);
            self.retry_at = now + delay;
            if peer.welcomed.is_some() {
                warn!(server = %peer.server, reason, retry_in = ?delay, "connection lost");
            } else if self.unreachable {
                debug!(server = %peer.server, reason, retry_in = ?delay, "no connection");
            } else {
                warn!(server = %peer.server, reason, "no connection; other servers are tried, and this one again");
                self.unreachable = true;
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopped = true;
        for link in self.peers.iter().map(|peer| peer.link).collect::<Vec<_>>() {
            self.effects.push(Effect::Close { link });
            self.forget(link, now);
        }
    }

    /// Takes a link out. What it kept up to date is as old as its last message; an older link that is still there takes that
    /// up again, beginning with what is held, for what it said meanwhile did not count.
    fn forget(&mut self, link: LinkId, now: Instant) -> Option<Peer> {
        let at = self.peers.iter().position(|peer| peer.link == link)?;
        let peer = self.peers.remove(at);
        let older: Vec<LinkId> =
            self.peers.iter().map(|peer| peer.link).filter(|other| *other < link).collect();
        let mut taken_up = Vec::new();
        for (cluster, followed) in &mut self.clusters {
            if followed.source == Some(link) {
                taken_up.extend(older.iter().map(|older| (*older, cluster.clone())));
            }
            followed.lost(link, peer.heard);
        }
        for (older, cluster) in taken_up {
            if let Some(peer) = self.peers.iter_mut().find(|peer| peer.link == older) {
                peer.talk(&cluster).awaits = Awaits::Answer;
            }
            self.ask(older, &cluster, false, now);
        }
        Some(peer)
    }

    /// The link that leases are kept on: the newest that is not being left, else the newest, of those whose servers know leases.
    fn link_in_use(&self) -> Option<LinkId> {
        let knowing = self.peers.iter().filter(|peer| peer.protocol >= jcm_proto::LEASES_SINCE);
        knowing.max_by_key(|peer| (peer.leaving.is_none(), peer.link)).map(|peer| peer.link)
    }

    fn has_fresh_peer(&self) -> bool {
        self.peers.iter().any(|peer| peer.leaving.is_none())
    }

    fn pass_time(&mut self, now: Instant) {
        for link in
            self.peers.iter().filter(|peer| peer.silent_at() <= now).map(|peer| peer.link).collect::<Vec<_>>()
        {
            self.effects.push(Effect::Close { link });
            self.lose(link, "it is silent", now);
        }
        self.close_what_is_left(now);
        self.read_silence(now);
        self.acknowledge(now);
        if !self.has_fresh_peer() && self.retry_at <= now {
            self.open(now);
        }
    }

    fn open(&mut self, now: Instant) {
        let server = self.servers.next(&mut self.random);
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.peers.push(Peer::new(link, server.clone(), now));
        self.effects.push(Effect::Connect { link, server });
        let hello = Hello {
            protocol: WATCH_PROTOCOLS.oldest(),
            newest_protocol: WATCH_PROTOCOLS.newest(),
            client: self.client.clone(),
            acknowledges: true,
        };
        self.effects.push(Effect::Send { link, request: Request::Hello(hello) });
        for cluster in self.clusters.keys().cloned().collect::<Vec<_>>() {
            self.ask(link, &cluster, false, now);
        }
    }

    /// When a link that asked to be left is left at the latest; `None` while there is no other.
    fn leave_at(&self) -> Option<Instant> {
        let fresh = self.peers.iter().filter(|peer| peer.leaving.is_none());
        fresh.filter_map(|peer| peer.welcomed).min().map(|since| since + LEAVE_TIMEOUT)
    }

    /// Ends links that asked to be left, once nothing needs them.
    fn close_what_is_left(&mut self, now: Instant) {
        let Some(leave_at) = self.leave_at() else { return };
        let done = |peer: &&Peer| {
            let needed = || self.clusters.values().any(|followed| followed.confirmed == Some(peer.link));
            peer.leaving.is_some() && (leave_at <= now || !needed())
        };
        for link in self.peers.iter().filter(done).map(|peer| peer.link).collect::<Vec<_>>() {
            self.effects.push(Effect::Close { link });
            self.forget(link, now);
        }
    }

    /// Questions that stayed without an answer.
    fn read_silence(&mut self, now: Instant) {
        let mut again = Vec::new();
        for peer in self.peers.iter_mut().filter(|peer| peer.welcomed.is_some()) {
            for (cluster, talk) in &mut peer.talks {
                let Some(followed) = self.clusters.get_mut(cluster) else {
                    continue;
                };
                if talk.due_at().is_none_or(|due| due > now) {
                    continue;
                }
                if followed.source.is_some_and(|source| source > peer.link) {
                    // A newer link answered meanwhile.
                    talk.answered();
                } else if talk.unsure
                    || talk.awaits == Awaits::View
                    || !matches!(followed.held, Held::View { .. })
                {
                    again.push((peer.link, cluster.clone(), talk.awaits == Awaits::View));
                } else {
                    talk.answered();
                    followed.confirmed_by(peer.link, peer.stale, now);
                }
            }
        }
        for (link, cluster, full) in again {
            self.ask(link, &cluster, full, now);
        }
    }

    fn publish(&mut self) {
        for (cluster, followed) in &mut self.clusters {
            let standing = followed.judge_standing();
            let changed = self.changed.contains(cluster);
            if changed || standing != followed.standing {
                followed.standing = standing;
                self.effects.push(Effect::Publish { cluster: cluster.clone(), changed });
            }
        }
        self.changed.clear();
    }
}
