//! The seam between deciding what to probe and probing.
//!
//! An engine is told which targets there are and reports what it saw of each, until told otherwise. It keeps no
//! verdict, no cluster and no history. Reports come through a channel given at construction; one that was on its way
//! when its target was replaced or removed still arrives, so each carries the generation of the target it is about,
//! and the receiver drops what it no longer asks for.
//!
//! Results that say more about this machine than about the node (a round that began or ended late, a pause) are
//! thrown away inside the engine and only counted.

pub mod reactor;
pub mod reports;
mod schedule;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::Check;

use crate::{Outcome, Phases};

/// How many reports may wait for their receiver.
///
/// A tenth of a second's worth at the 20,000 probes a second that one server is built for: enough to ride over a
/// receiver's hiccup, few enough (some 400 KB) that what waits is still news. When it is full, probes wait too.
pub const REPORT_QUEUE_MAX: usize = 2_048;

/// Carries out checks.
pub trait Engine: std::fmt::Debug + Send + Sync {
    /// Probes this target from now on. A target with the same key is replaced.
    ///
    /// The first probe comes within the first interval, not at once: nodes that are added together are probed apart.
    /// Setting what is already set changes nothing; setting anything else abandons a probe under way.
    fn set(&self, target: Target);

    /// As [`Self::set`], for a target that somebody else probed until now: its last probe may be long ago, so the first one
    /// here comes within a quarter of the interval.
    fn take_over(&self, target: Target);

    /// Stops probing this target. A probe under way is abandoned; a report under way may still arrive.
    fn remove(&self, key: TargetKey);

    /// What it has done since its start. One that counts nothing has nothing to say.
    fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// What an engine has done since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Targets it has now.
    pub targets: usize,
    /// Probes whose outcome was reported.
    pub rounds: u64,
    /// Rounds thrown away because they began or ended late: a sign that this machine is starved or was paused.
    pub late_rounds: u64,
    /// Rounds that were never begun, because the round before them began too late to be over in time, or waited too long
    /// for leave to connect.
    pub skipped_rounds: u64,
    /// Rounds that came later than by their interval after all that was skipped and thrown away before them: whoever is that
    /// late knows nothing of its nodes. Waiting for leave to connect is not counted: that is for want of answers.
    pub overdue_rounds: u64,
    /// Reported probes that failed for want of something on this machine.
    pub local_troubles: u64,
    /// Probes under way now, those that wait for leave to connect among them.
    pub in_flight: usize,
    /// Connections that were not kept open for the next check, for want of descriptors.
    pub unkept: u64,
}

/// Names a target within one engine. Chosen by the caller, who maps it back to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetKey(pub u64);

/// What to probe and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Its name in this engine.
    pub key: TargetKey,
    /// Where to connect: the port is already the one that the policy means.
    pub address: SocketAddr,
    /// How it is probed. Shared by all nodes of a cluster.
    pub check: Arc<Check>,
    /// Handed back in each report, so that one about an earlier form of the target can be told and dropped.
    pub generation: u64,
}

/// What one probe of one target came to.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Which target.
    pub key: TargetKey,
    /// Which form of it.
    pub generation: u64,
    /// When the probe ended, by the monotonic clock.
    pub at: Instant,
    /// How long the probe took, from its first action to its result.
    pub latency: Duration,
    /// How that time was spent.
    pub phases: Phases,
    /// How long after its time the probe began.
    pub lateness: Duration,
    /// What it came to. May be [local trouble](Outcome::is_local_trouble): that is reported so that it can be seen,
    /// and the judge does not count it.
    pub outcome: Outcome,
}
