//! One target of a reactor: where its round is, its connection, and what has come of an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::super::Once;
use super::super::admission::Group;
use super::super::exchange::{Exchange, Step};
use super::super::talk::Talk;
use crate::engine::Target;
use crate::engine::schedule::Schedule;
use crate::outcome::{Outcome, Phase, Phases};

/// One target. Of many thousands each is long out of the processor's caches when its turn comes, so it is what a round needs
/// and little else, in four lines of a cache, which `fetch` fetches together.
#[repr(C, align(64))]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) connection: Option<Connection>,
    /// After so many more successes in a row, one more is no news.
    pub(super) restless: u32,
    /// Where its schedule began.
    pub(super) origin: Instant,

    /// When the round that is awaited is to begin, or when the one under way was to.
    pub(super) due: Instant,
    /// When it would have been to, had every round before it been begun and kept in time.
    pub(super) owed: Instant,
    pub(super) started: Instant,
    /// For how long the round under way has waited for leave to connect.
    pub(super) waited: Duration,

    pub(super) target: Target,
    /// Asked once, by somebody who waits.
    pub(super) once: Option<tokio::sync::oneshot::Sender<Once>>,

    pub(super) phases: Phases,
    /// An answer that comes in pieces, as nearly none does.
    pub(super) exchange: Option<Box<Exchange>>,
}

// With debug assertions a socket is larger.
#[cfg(not(debug_assertions))]
const _: () = assert!(size_of::<Option<Slot>>() == 4 * 64, "a slot is four lines of a cache");

impl Slot {
    pub(super) fn talk(&self) -> Option<&Talk> {
        self.connection.as_ref()?.talk.as_deref()
    }

    pub(super) fn schedule(&self) -> Schedule {
        Schedule::from_origin(self.origin, self.target.check.interval)
    }

    /// When the round under way has had its time.
    pub(super) fn deadline(&self) -> Instant {
        self.started + self.target.check.timeout
    }

    /// In whose line it waits for leave to connect: those of one policy are one cluster's.
    pub(super) fn group(&self) -> Group {
        Arc::as_ptr(&self.target.check).addr()
    }

    /// How far the answer is.
    pub(super) fn phase(&self) -> Phase {
        match self.talk() {
            Some(talk) => talk.phase(),
            None if self.exchange.is_none() => Phase::Waiting,
            None => Phase::Reading,
        }
    }

    /// Takes a part of the answer.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) -> Step {
        let since = now.saturating_duration_since(self.started);
        let mut fresh = Exchange::default();
        let exchange = self.exchange.as_deref_mut().unwrap_or(&mut fresh);
        let Some(talk) = self.connection.as_mut().and_then(|connection| connection.talk.as_mut()) else {
            self.phases.answering.get_or_insert(since);
            let step = exchange.take(bytes, &self.target.check);
            self.hold(step, fresh);
            return step;
        };
        let was_securing = talk.phase() == Phase::Securing;
        let step = talk.take(bytes, exchange, &self.target.check);
        let phase = talk.phase();
        if was_securing && phase != Phase::Securing {
            self.phases.secured = Some(since);
        }
        if phase == Phase::Reading {
            self.phases.answering.get_or_insert(since);
        }
        self.hold(step, fresh);
        step
    }

    /// Keeps what has come of an answer, if more of it must come.
    fn hold(&mut self, step: Step, fresh: Exchange) {
        if step == Step::Waiting && !fresh.is_empty() {
            self.exchange = Some(Box::new(fresh));
        }
    }

    /// No more of the answer comes.
    pub(super) fn end(&self, with: Outcome) -> Step {
        let nothing = Exchange::default();
        let exchange = self.exchange.as_deref().unwrap_or(&nothing);
        match self.talk() {
            Some(talk) => talk.end(with, exchange, &self.target.check),
            None => exchange.end(with, &self.target.check),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Between rounds.
    Resting,
    /// A round waits for leave to open a connection, since then.
    Queued {
        since: Instant,
    },
    Connecting,
    /// So much of the request was taken.
    Writing {
        sent: usize,
        reused: bool,
    },
    Reading {
        reused: bool,
    },
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// What is spoken on it, where that is more than HTTP/1.
    pub(super) talk: Option<Box<Talk>>,
    /// Tells events of this connection from those of an earlier one.
    pub(super) serial: u32,
}
