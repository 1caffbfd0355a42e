//! What the memory store is told to do wrong, so that every way a store can fail has a test.

use std::sync::{Arc, Weak};
use std::time::Instant;

use super::Inner;
use crate::{CommitError, LoadError};

/// Makes a memory store fail. Clones order the same store about.
#[derive(Debug, Clone)]
pub struct Faults {
    /// A handle does not keep the store open.
    inner: Weak<Inner>,
}

/// How the next commit fails to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is carried out, and its sender is told that nobody knows.
    UnknownApplied,
    /// It is lost, and its sender is told that nobody knows.
    UnknownLost,
}

impl Faults {
    pub(super) fn new(inner: &Arc<Inner>) -> Self {
        Self { inner: Arc::downgrade(inner) }
    }

    /// Whether the store answers at all. Feeds that are open stay open and silent.
    pub fn set_available(&self, available: bool) {
        self.order(|orders| orders.unavailable = !available);
        if let Some(inner) = self.inner.upgrade() {
            inner.stale_since.send_replace((!available).then(Instant::now));
        }
    }

    /// The next commit whose head is right ends like this.
    pub fn fail_next_commit(&self, outcome: Outcome) {
        self.order(|orders| orders.outcome = Some(outcome));
    }

    /// Whether feeds keep back what they have: notifications come late until this is taken back.
    pub fn hold_feeds(&self, hold: bool) {
        self.order(|orders| orders.hold_feeds = hold);
    }

    /// Every feed that is open has lost something: its next step is a reset.
    pub fn lose_feeds(&self) {
        self.order(|orders| orders.resets += 1);
    }

    fn order(&self, change: impl FnOnce(&mut Orders)) {
        if let Some(inner) = self.inner.upgrade() {
            change(&mut inner.state().faults);
            inner.tick();
        }
    }
}

/// The orders in force.
#[derive(Debug, Default)]
pub(super) struct Orders {
    unavailable: bool,
    outcome: Option<Outcome>,
    hold_feeds: bool,
    resets: u64,
}

const UNAVAILABLE: &str = "told not to answer";

impl Orders {
    pub(super) fn refuse_read(&self) -> Result<(), LoadError> {
        if self.unavailable {
            return Err(LoadError::Unavailable { reason: UNAVAILABLE.to_owned() });
        }
        Ok(())
    }

    pub(super) fn refuse_commit(&self) -> Result<(), CommitError> {
        if self.unavailable {
            return Err(CommitError::Unavailable { reason: UNAVAILABLE.to_owned() });
        }
        Ok(())
    }

    /// How the commit at hand shall end. An order holds for one commit.
    pub(super) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    pub(super) fn holds_feeds(&self) -> bool {
        self.hold_feeds || self.unavailable
    }

    pub(super) fn resets(&self) -> u64 {
        self.resets
    }
}
