//! A write that waits to be committed, and how far it has come.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jcm_model::Head;
use tokio::sync::oneshot;

use super::write::{Answer, Write, WriteError};
use crate::pause::Stretch;

/// A write that waits to be committed.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) write: Arc<Write>,
    pub(super) deadline: Instant,
    /// When it came: after a pause it is not carried out.
    pub(super) stretch: Stretch,
    pub(super) stage: Arc<Stage>,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// How far a write has come, so that whoever stops waiting for it tells the truth: a write is given up or submitted,
/// never both.
#[derive(Debug, Default)]
pub(super) struct Stage(Mutex<At>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum At {
    /// Nothing of it can come to be now.
    #[default]
    Waiting,
    /// It was handed to the store, to be committed if the head is still this one.
    Submitted(Head),
    /// Its client was told that nothing was submitted.
    GivenUp,
}

impl Stage {
    /// It is about to go to the store. Answers whether it may.
    pub(super) fn submit(&self, on: Head) -> bool {
        let mut at = self.at();
        if *at != At::GivenUp {
            *at = At::Submitted(on);
        }
        *at != At::GivenUp
    }

    /// As before the last submission: that one did nothing, or was not made.
    pub(super) fn back_to(&self, before: Option<Head>) {
        let mut at = self.at();
        if *at != At::GivenUp {
            *at = before.map_or(At::Waiting, At::Submitted);
        }
    }

    /// Its client is told that nothing was submitted; unless it was, on the head that is answered.
    pub(super) fn give_up(&self) -> Result<(), Head> {
        let mut at = self.at();
        if let At::Submitted(on) = *at {
            return Err(on);
        }
        *at = At::GivenUp;
        Ok(())
    }

    /// The head on which it was submitted, while nobody knows what came of that.
    pub(super) fn submitted_on(&self) -> Option<Head> {
        match *self.at() {
            At::Submitted(on) => Some(on),
            At::Waiting | At::GivenUp => None,
        }
    }

    fn at(&self) -> MutexGuard<'_, At> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queued {
    /// Gives it up, with the truth: this, where nothing of it can come to be.
    pub(super) fn give_up(self, reason: &str, undone: WriteError) {
        let answer = match self.stage.give_up() {
            Ok(()) => Err(undone),
            Err(on) => Err(WriteError::unknown(self.write.operation, reason, Some(on))),
        };
        self.answer(answer);
    }

    pub(super) fn answer(self, answer: Answer) {
        // Whoever stopped waiting has answered already.
        let _ = self.answer.send(answer);
    }
}
