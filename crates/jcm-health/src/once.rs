//! One probe of one node, now, for whoever asks: a peer that wants a second opinion, or a person.
//!
//! As honest as the engine: one deadline for all of a probe, the same policy on targets, and whatever this machine is to
//! blame for (a round that ended late, no descriptors, too much to do) is no result at all. Each probe opens a
//! connection of its own, so that it says how the node is now and not how it was when a connection was kept.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{Check, CheckKind};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::engine::reactor::{Once, ReactorEngine};
use crate::outcome::{LocalTrouble, Outcome, Phases};

/// Probes nodes once, a bounded number of them at a time.
#[derive(Debug)]
pub struct OnceProber {
    engine: Arc<ReactorEngine>,
    places: Semaphore,
}

/// What one probe came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// What the node did. Never trouble of this machine.
    pub outcome: Outcome,
    /// How long the probe took.
    pub latency: Duration,
    /// How that time was spent.
    pub phases: Phases,
}

/// Why there is no result that says anything about the node. `Display` is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotProbed {
    /// Nothing probes this kind of check.
    Kind(CheckKind),
    /// Too many probes are under way for this one to end in time.
    Busy,
    /// The time that was given is shorter than the policy's, and it was over.
    CutShort,
    /// This process was away during the probe.
    Late,
    /// The engine was stopped.
    Stopped,
    /// This machine could not probe.
    Local(LocalTrouble),
}

impl OnceProber {
    /// Probes what the engine may, at most `at_once_max` nodes at a time.
    pub fn new(engine: Arc<ReactorEngine>, at_once_max: usize) -> Self {
        Self { engine, places: Semaphore::new(at_once_max) }
    }

    /// Probes the node under this policy, and answers within `within` in any case. The probe itself has the policy's
    /// timeout, from its first action on; what is left of `within` may be spent waiting for a place.
    pub async fn probe(
        &self,
        address: SocketAddr,
        check: &Arc<Check>,
        within: Duration,
    ) -> Result<Probed, NotProbed> {
        let asked = Instant::now();
        if !ReactorEngine::probes(check.kind) {
            return Err(NotProbed::Kind(check.kind));
        }
        let place_by = asked + within.saturating_sub(check.timeout);
        let place = match self.places.try_acquire() {
            Ok(place) => Ok(place),
            Err(_) => timeout_at(place_by, self.places.acquire()).await.map_err(|_| NotProbed::Busy)?,
        };
        // Places are never taken away.
        let _place = place.map_err(|_| NotProbed::Busy)?;
        self.carry_out(address, check, asked + within).await
    }

    /// As `probe`, for an opinion that a node's traffic depends on. A lost packet costs a probe all its time, because the kernel
    /// asks again for a connection after a second only. So a node that has said nothing for half of the policy's timeout
    /// is asked once more beside that, on another connection, if there is a place: it has failed when neither brought a
    /// sign of it.
    pub async fn probe_twice(
        &self,
        address: SocketAddr,
        check: &Arc<Check>,
        within: Duration,
    ) -> Result<Probed, NotProbed> {
        let begun = Instant::now();
        let mut first = pin!(self.probe(address, check, within));
        if let Ok(result) = timeout_at(begun + check.timeout / 2, &mut first).await {
            return result;
        }
        let Ok(_place) = self.places.try_acquire() else { return first.await };
        // Both end together: the way back has the time that is left, and others wait for this answer.
        let mut second = pin!(self.carry_out(address, check, begun + check.timeout.min(within)));
        tokio::select! {
            biased;
            result = &mut first => if says_something(&result) { result } else {
                Some(second.await).filter(says_something).unwrap_or(result)
            },
            result = &mut second => if says_something(&result) { result } else { first.await },
        }
    }

    async fn carry_out(
        &self,
        address: SocketAddr,
        check: &Arc<Check>,
        until: Instant,
    ) -> Result<Probed, NotProbed> {
        match timeout_at(until, self.engine.once(address, once(check))).await {
            Err(_) => Err(NotProbed::CutShort),
            Ok(None) => Err(NotProbed::Stopped),
            Ok(Some(Once { is_late: true, .. })) => Err(NotProbed::Late),
            Ok(Some(Once { outcome: Outcome::Local(trouble), .. })) => Err(NotProbed::Local(trouble)),
            Ok(Some(Once { outcome, latency, phases, .. })) => Ok(Probed { outcome, latency, phases }),
        }
    }
}

/// Whether the node gave a sign of itself, good or bad.
fn says_something(result: &Result<Probed, NotProbed>) -> bool {
    result.is_ok_and(|probed| probed.outcome.reached())
}

/// The same policy, for a connection that ends with its only probe.
fn once(check: &Arc<Check>) -> Arc<Check> {
    if check.fresh { Arc::clone(check) } else { Arc::new(Check { fresh: true, ..Check::clone(check) }) }
}

impl fmt::Display for NotProbed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => write!(f, "nothing probes checks of the kind `{}`", kind.as_str()),
            Self::Busy => f.write_str("this server has too many probes under way"),
            Self::CutShort => f.write_str("the time for the answer was over before that of the probe"),
            Self::Stopped => f.write_str("this server is stopping"),
            Self::Late => f.write_str("this server was late itself"),
            Self::Local(trouble) => trouble.fmt(f),
        }
    }
}

impl std::error::Error for NotProbed {}
