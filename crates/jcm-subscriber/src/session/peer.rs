//! One link as the session sees it: how it stands, and what was asked on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Head, StoreId};

use crate::servers::Server;

use super::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, LinkId, SETTLED_AFTER};

/// A client that hears nothing for so many heartbeats looks elsewhere.
const HEARTBEATS_MISSED_MAX: u32 = 3;
/// Heartbeats as servers may announce them. Shorter would call any hiccup silence; longer, silence would go unnoticed.
const HEARTBEAT_MIN: Duration = Duration::from_millis(100);
const HEARTBEAT_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) link: LinkId,
    pub(super) server: Server,
    begun: Instant,
    /// When the last message came; before the first, when the link was begun.
    pub(super) heard: Instant,
    pub(super) welcomed: Option<Instant>,
    /// The version of the protocol that is spoken; 0 before it is welcomed.
    pub(super) protocol: u32,
    /// Since when it asks to be left.
    pub(super) leaving: Option<Instant>,
    pub(super) talks: BTreeMap<ClusterName, Talk>,
    /// It may be behind its store, as it said last.
    pub(super) stale: bool,
    heartbeat: Duration,
    settled: bool,
    /// Clusters of which it was not told what is held, and when it will be.
    pub(super) unacknowledged: BTreeSet<ClusterName>,
    pub(super) acknowledge_at: Option<Instant>,
}

/// What was asked of one server about one cluster.
#[derive(Debug, Default)]
pub(super) struct Talk {
    /// The store that the next delta counts in.
    pub(super) store: Option<StoreId>,
    pub(super) awaits: Awaits,
    /// The server could not tell.
    pub(super) unsure: bool,
    /// The server was behind, and was told so.
    pub(super) corrected: bool,
    /// What it was last told is held: a revision of the cluster, and of which store.
    pub(super) acknowledged: Option<Head>,
    /// When a question was asked that was not answered yet.
    asked: Option<Instant>,
}

/// What a server is expected to say next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Awaits {
    /// What counts from what it said last.
    #[default]
    Anything,
    /// An answer to the last question: what counts from what it said before is on its way, and is passed over. A newer link
    /// had taken the cluster over, so this one's word did not count meanwhile.
    Answer,
    /// A full view: until it comes, what does not fit is no surprise.
    View,
}

impl Peer {
    pub(super) fn new(link: LinkId, server: Server, now: Instant) -> Self {
        Self {
            link,
            server,
            begun: now,
            heard: now,
            welcomed: None,
            protocol: 0,
            leaving: None,
            talks: BTreeMap::new(),
            stale: false,
            heartbeat: HEARTBEAT_MAX,
            settled: false,
            unacknowledged: BTreeSet::new(),
            acknowledge_at: None,
        }
    }

    /// A message came. Answers whether this link has just proved itself.
    pub(super) fn hear(&mut self, now: Instant) -> bool {
        self.heard = now;
        let proved = !self.settled
            && self.leaving.is_none()
            && self.welcomed.is_some_and(|since| since + SETTLED_AFTER <= now);
        self.settled |= proved;
        proved
    }

    pub(super) fn welcome(&mut self, protocol: u32, heartbeat: Duration, now: Instant) {
        self.protocol = protocol;
        self.welcomed = Some(now);
        self.heartbeat = heartbeat.clamp(HEARTBEAT_MIN, HEARTBEAT_MAX);
        // The server could not answer before it was there.
        for talk in self.talks.values_mut() {
            talk.asked = talk.asked.map(|_| now);
        }
    }

    /// From when on it counts as silent, unless it speaks.
    pub(super) fn silent_at(&self) -> Instant {
        match self.welcomed {
            // Other messages do not replace the welcome.
            None => self.begun + CONNECT_TIMEOUT,
            Some(_) => self.heard + self.heartbeat * HEARTBEATS_MISSED_MAX,
        }
    }

    pub(super) fn talk(&mut self, cluster: &ClusterName) -> &mut Talk {
        self.talks.entry(cluster.clone()).or_default()
    }

    /// When the first question is due that was not answered.
    pub(super) fn answer_due_at(&self) -> Option<Instant> {
        self.welcomed?;
        self.talks.values().filter_map(Talk::due_at).min()
    }
}

impl Talk {
    pub(super) fn ask(&mut self, full: bool, store: Option<StoreId>, now: Instant) {
        self.store = store;
        self.awaits = match self.awaits {
            _ if full => Awaits::View,
            Awaits::Answer => Awaits::Answer,
            Awaits::Anything | Awaits::View => Awaits::Anything,
        };
        self.unsure = false;
        self.asked = Some(now);
    }

    /// An answer that counts from nothing: later deltas count from it.
    pub(super) fn full_view_came(&mut self, store: Option<StoreId>) {
        self.store = store;
        self.awaits = Awaits::Anything;
    }

    pub(super) fn answered(&mut self) {
        self.unsure = false;
        self.corrected = false;
        self.asked = None;
        self.awaits = Awaits::Anything;
    }

    /// What it said cannot be read, so that nothing that counts from it fits what is held, until a question is answered.
    pub(super) fn unreadable(&mut self, now: Instant) {
        self.store = None;
        self.awaits = Awaits::View;
        self.wait(now);
    }

    /// The question stands, and is asked again in a while.
    pub(super) fn wait(&mut self, now: Instant) {
        self.unsure = true;
        self.asked = Some(now);
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.asked.map(|asked| asked + ANSWER_TIMEOUT)
    }
}
