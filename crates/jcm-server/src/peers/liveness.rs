//! Which servers are heard: directly, or by a server that is heard.
//!
//! A pure state machine: it is fed what was heard and told, who the members are, and the time. Silence is measured up to
//! the moment of the last update and not to the reader's. It does not count from before this server listened: when the
//! updates themselves stopped for a while, it was this server that was paused, and whoever was live before that gets
//! the whole time again to be heard. Nobody is told that somebody was heard who was not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jcm_model::ServerId;

use super::Standing;

/// After this time without a word a server is silent: three heartbeats.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(3);

/// After this time without an update this server itself was paused, or far too slow: updates come several times a
/// second, whoever is heard or not.
const PAUSED_AFTER: Duration = Duration::from_secs(1);

/// Which servers are heard.
#[derive(Debug, Clone)]
pub(crate) struct Liveness {
    own: ServerId,
    /// The moment that this is about.
    at: Instant,
    lives: BTreeMap<ServerId, Life>,
}

#[derive(Debug, Clone)]
struct Life {
    /// Whether the roster names it. One that it no longer names stays for as long as it is heard.
    is_member: bool,
    /// Silence counts from here on: when it became known, or when a pause of this server ended.
    counted_from: Instant,
    /// When it was heard itself.
    heard: Option<Instant>,
    /// When a pause of this server ended before which it was heard.
    excused: Option<Instant>,
    standing: Standing,
    /// When it heard others, as it last told.
    hears: BTreeMap<ServerId, Instant>,
}

impl Liveness {
    pub(super) fn new(own: ServerId, now: Instant) -> Self {
        Self { own, at: now, lives: BTreeMap::new() }
    }

    /// How long nobody that is heard has heard the server. One that is no member is silent for good.
    pub(crate) fn silence(&self, server: &ServerId) -> Duration {
        if *server == self.own {
            return Duration::ZERO;
        }
        let Some(life) = self.lives.get(server) else {
            return Duration::MAX;
        };
        let told = self.hearers(server).map(|(_, heard)| heard).max();
        self.since(life.counted_from.max(life.heard.max(told).unwrap_or(life.counted_from)))
    }

    /// Whether the server is heard, directly or by another one that is.
    pub(crate) fn is_live(&self, server: &ServerId) -> bool {
        self.silence(server) < SILENT_AFTER
    }

    /// Whether the server itself is heard here.
    pub(crate) fn is_heard(&self, server: &ServerId) -> bool {
        self.lives.get(server).is_some_and(|life| self.hears(life))
    }

    /// How the server stands, as it last told itself.
    pub(crate) fn standing(&self, server: &ServerId) -> Standing {
        self.lives.get(server).map(|life| life.standing).unwrap_or_default()
    }

    /// The servers whose opinion counts now: heard directly, trusting themselves, and staying.
    pub(crate) fn well(&self) -> impl Iterator<Item = &ServerId> {
        let is_well = |life: &Life| self.hears(life) && life.standing == Standing::default();
        self.lives.iter().filter(move |(_, life)| is_well(life)).map(|(id, _)| id)
    }

    /// Whether there are others and none of them is heard here. Those count that stopped since the store was last in reach.
    pub(crate) fn hears_nobody(&self) -> bool {
        !self.lives.is_empty() && !self.lives.values().any(|life| self.hears(life))
    }

    /// Every other member, whether heard or not, and who is none any more and still heard.
    pub(crate) fn others(&self) -> impl Iterator<Item = &ServerId> {
        self.lives.keys()
    }

    /// How long the server itself was not heard here, whatever others hear.
    pub(super) fn own_silence(&self, server: &ServerId) -> Duration {
        let silence = |life: &Life| self.since(life.heard.max(life.excused).unwrap_or(life.counted_from));
        self.lives.get(server).map_or(Duration::MAX, silence)
    }

    /// Who is heard here and hears the server itself, and when each last did.
    pub(super) fn hearers(&self, server: &ServerId) -> impl Iterator<Item = (&ServerId, Instant)> {
        let others = self.lives.iter().filter(move |(id, life)| *id != server && self.hears(life));
        others.filter_map(move |(id, life)| Some((id, *life.hears.get(server)?)))
    }

    /// How long ago this was.
    pub(super) fn age(&self, moment: Instant) -> Duration {
        self.since(moment)
    }

    /// Who was heard here itself, and how long ago: what this server tells of others.
    pub(super) fn ages(&self, now: Instant) -> impl Iterator<Item = (&ServerId, Duration)> {
        let age = move |life: &Life| Some(now.saturating_duration_since(life.heard?));
        self.lives.iter().filter_map(move |(id, life)| Some((id, age(life)?)))
    }

    /// The members are these now, and this server.
    pub(super) fn follow(&mut self, members: &BTreeSet<ServerId>, now: Instant) {
        self.advance(now);
        for (id, life) in &mut self.lives {
            life.is_member = members.contains(id);
        }
        for id in members.iter().filter(|id| **id != self.own) {
            self.lives.entry(id.clone()).or_insert_with(|| Life {
                is_member: true,
                counted_from: now,
                heard: None,
                excused: None,
                standing: Standing::default(),
                hears: BTreeMap::new(),
            });
        }
        self.forget();
    }

    /// A word came from the server. Answers whether it was silent before.
    pub(super) fn heard(&mut self, server: &ServerId, now: Instant) -> bool {
        self.advance(now);
        let was_heard = self.is_heard(server);
        let Some(life) = self.lives.get_mut(server) else {
            return false;
        };
        life.heard = Some(now);
        !was_heard
    }

    /// The server told how it stands, and how long ago it heard others. Answers whether anything turned by that.
    pub(super) fn told(
        &mut self,
        server: &ServerId,
        standing: Standing,
        hears: &[(ServerId, Duration)],
        now: Instant,
    ) -> bool {
        let was_silent = self.heard(server, now);
        let known = |(id, age): &(ServerId, Duration)| {
            let heard = now.checked_sub(*age)?;
            (id != server && self.lives.contains_key(id)).then(|| (id.clone(), heard))
        };
        let hears = hears.iter().filter_map(known).collect();
        let Some(life) = self.lives.get_mut(server) else {
            return false;
        };
        life.hears = hears;
        let stood = std::mem::replace(&mut life.standing, standing);
        was_silent || stood != standing
    }

    /// Time went on.
    pub(super) fn tick(&mut self, now: Instant) {
        self.advance(now);
        self.forget();
    }

    fn advance(&mut self, now: Instant) {
        if now.saturating_duration_since(self.at) > PAUSED_AFTER {
            let live: Vec<(ServerId, bool)> = self
                .lives
                .keys()
                .filter(|id| self.is_live(id))
                .cloned()
                .map(|id| {
                    let heard = self.is_heard(&id);
                    (id, heard)
                })
                .collect();
            for (id, was_heard) in live {
                let life = self.lives.get_mut(&id).expect("it was found there");
                life.counted_from = now;
                life.excused = was_heard.then_some(now);
            }
        }
        self.at = self.at.max(now);
    }

    /// Those who left the roster go once they are no longer heard.
    fn forget(&mut self) {
        let gone = |life: &Life| !life.is_member && !self.hears(life);
        let gone: Vec<ServerId> =
            self.lives.iter().filter(|(_, life)| gone(life)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.lives.remove(&id);
        }
    }

    fn hears(&self, life: &Life) -> bool {
        life.heard.is_some_and(|heard| self.since(heard.max(life.excused.unwrap_or(heard))) < SILENT_AFTER)
    }

    fn since(&self, moment: Instant) -> Duration {
        self.at.saturating_duration_since(moment)
    }
}

#[cfg(test)]
mod tests;
