//! Whether what this server publishes may be behind the store, and since when: one level for views, status and figures.
//!
//! Two things put it behind: its store is out of reach, or its memory does not follow the store. A short loss of contact
//! is none of anybody's business, so the level turns only after a while, and turns back only when contact has held.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::views::Views;

/// Contact that is lost for less than this is not told: a session that moves to another member takes about as long.
const TOLD_AFTER: Duration = Duration::from_millis(1500);

/// Contact that has held for this long is told.
const CLEARED_AFTER: Duration = Duration::from_millis(500);

/// How often the age is shown to operators while there is one.
const MEASURE_PAUSE: Duration = Duration::from_secs(1);

/// Since when this server may be behind, as it is told.
#[derive(Debug, Clone)]
pub(crate) struct Staleness(watch::Sender<Option<Instant>>);

impl Staleness {
    /// `since`: it is known to be behind from the start.
    pub(crate) fn new(since: Option<Instant>) -> Self {
        Self(watch::Sender::new(since))
    }

    /// For how long it has been behind; `None`: it is in contact.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.0.borrow().map(|since| since.elapsed())
    }
}

/// Works the level out and tells it on.
pub(crate) async fn keep(
    staleness: Staleness,
    mut store: watch::Receiver<Option<Instant>>,
    mut memory: watch::Receiver<Option<Instant>>,
    views: Arc<Views>,
    stop: CancellationToken,
) {
    let mut level = Level { told: *staleness.0.borrow(), ..Level::default() };
    loop {
        let behind = earliest(*store.borrow_and_update(), *memory.borrow_and_update());
        let before = level.told;
        let wake_at = level.take(behind, Instant::now());
        if before.is_some() != level.told.is_some() {
            staleness.0.send_replace(level.told);
            views.set_stale(level.told.is_some());
            match (before, level.told) {
                (None, Some(_)) => {
                    warn!("the store is out of reach: what is served may be behind it, writes are refused");
                }
                (Some(since), _) => info!(stale_for = ?since.elapsed(), "in contact with the store again"),
                (None, None) => {}
            }
        }
        let age = level.told.map_or(0.0, |since| since.elapsed().as_secs_f64());
        metrics::gauge!("jcm_store_stale_seconds").set(age);
        let measure_at = level.told.map(|_| Instant::now() + MEASURE_PAUSE);
        tokio::select! {
            () = stop.cancelled() => return,
            () = until(earliest(wake_at, measure_at)) => {}
            Ok(()) = store.changed() => {}
            Ok(()) = memory.changed() => {}
        }
    }
}

/// The pure part: levels and time in, the level that is told out.
#[derive(Debug, Default)]
struct Level {
    told: Option<Instant>,
    lost: Option<Instant>,
    /// Since when contact is back, while the loss is still told.
    back: Option<Instant>,
}

impl Level {
    /// Answers when to come again although nothing has changed.
    fn take(&mut self, behind: Option<Instant>, now: Instant) -> Option<Instant> {
        match behind {
            Some(since) => {
                self.back = None;
                let lost = *self.lost.get_or_insert(since);
                if self.told.is_some() {
                    return None;
                }
                let due = lost + TOLD_AFTER;
                if due > now {
                    return Some(due);
                }
                self.told = Some(lost);
                None
            }
            None if self.told.is_some() => {
                let due = *self.back.get_or_insert(now) + CLEARED_AFTER;
                if due > now {
                    return Some(due);
                }
                *self = Self::default();
                None
            }
            None => {
                *self = Self::default();
                None
            }
        }
    }
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_loss_is_not_told_and_a_long_one_is_told_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut level = Level::default();
        for lost in [0, 2000, 4000] {
            assert_eq!(level.take(Some(at(lost)), at(lost)), Some(at(lost) + TOLD_AFTER));
            level.take(Some(at(lost)), at(lost + 1400));
            assert_eq!(level.told, None, "lost for 1.4 s");
            assert_eq!(level.take(None, at(lost + 1450)), None);
            assert_eq!(level.told, None);
        }
        level.take(Some(at(6000)), at(6000));
        assert_eq!(level.take(Some(at(6000)), at(7500)), None);
        assert_eq!(level.told, Some(at(6000)), "told with its age");
        // Contact that does not hold is not told either, and the age goes on.
        assert_eq!(level.take(None, at(8000)), Some(at(8500)));
        assert_eq!(level.take(Some(at(8100)), at(8100)), None);
        assert_eq!(level.told, Some(at(6000)));
        level.take(None, at(9000));
        level.take(None, at(9400));
        assert_eq!(level.told, Some(at(6000)));
        level.take(None, at(9500));
        assert_eq!(level.told, None);
    }

    #[test]
    fn who_starts_behind_is_told_until_contact_holds() {
        let start = Instant::now();
        let mut level = Level { told: Some(start), ..Level::default() };
        level.take(Some(start), start);
        assert_eq!(level.told, Some(start));
        level.take(None, start);
        level.take(None, start + CLEARED_AFTER);
        assert_eq!(level.told, None);
    }
}
