//! Which servers are heard: directly, or by a server that is heard.
//!
//! Silence is measured up to the moment of the last update and not to the reader's, and not before this server began
//! to listen: a server that was paused itself must not take the others for silent. Time is an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jcm_model::ServerId;

use super::Standing;

/// After this time without a word a server is silent: three heartbeats.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Which servers are heard.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    own: ServerId,
    /// The moment that this is about.
    at: Instant,
    /// Since when this server listens without a break.
    listening_since: Instant,
    lives: BTreeMap<ServerId, Life>,
}

#[derive(Debug, Clone)]
struct Life {
    known_since: Instant,
    heard: Option<Instant>,
    standing: Standing,
    /// When it heard others, as it last told.
    hears: BTreeMap<ServerId, Instant>,
}

impl Liveness {
    pub(super) fn new(own: ServerId, now: Instant) -> Self {
        Self { own, at: now, listening_since: now, lives: BTreeMap::new() }
    }

    /// How long nobody that is heard has heard the server. One that is no member is silent for good.
    pub(crate) fn silence(&self, server: &ServerId) -> Duration {
        if *server == self.own {
            return Duration::ZERO;
        }
        let Some(life) = self.lives.get(server) else {
            return Duration::MAX;
        };
        let told = self.lives.iter().filter(|(id, _)| *id != server && self.is_heard(id));
        let told = told.filter_map(|(_, life)| life.hears.get(server).copied()).max();
        self.since(life.heard.max(told).unwrap_or(life.known_since))
    }

    /// Whether the server is heard, directly or by another one that is.
    pub(crate) fn is_live(&self, server: &ServerId) -> bool {
        self.silence(server) < SILENT_AFTER
    }

    /// Whether the server itself is heard here.
    pub(crate) fn is_heard(&self, server: &ServerId) -> bool {
        let heard = self.lives.get(server).and_then(|life| life.heard);
        heard.is_some_and(|heard| self.since(heard) < SILENT_AFTER)
    }

    /// How the server stands, as it last told itself.
    pub(crate) fn standing(&self, server: &ServerId) -> Standing {
        self.lives.get(server).map(|life| life.standing).unwrap_or_default()
    }

    /// The servers whose opinion counts now: heard directly, trusting themselves, and staying.
    pub(crate) fn well(&self) -> impl Iterator<Item = &ServerId> {
        let is_well = |id: &ServerId, life: &Life| self.is_heard(id) && life.standing == Standing::default();
        self.lives.iter().filter(move |(id, life)| is_well(id, life)).map(|(id, _)| id)
    }

    /// Every other member, whether heard or not.
    pub(crate) fn others(&self) -> impl Iterator<Item = &ServerId> {
        self.lives.keys()
    }

    fn since(&self, moment: Instant) -> Duration {
        self.at.saturating_duration_since(moment.max(self.listening_since))
    }
}
