//! What decisions take from outside of the program: time and chance. A fake has its own, so that a test goes the same
//! way each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::driver;
use crate::random::Random;

/// The real one, unless it is made for a fake. Clones are the same world.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    fake: Option<Arc<Fake>>,
}

#[derive(Debug, Default)]
struct Fake {
    /// By how many nanoseconds its clock is ahead of the real one.
    ahead: AtomicU64,
}

/// Where chance begins in a world in which nothing is left to it.
const SEED: u64 = 1;

impl World {
    /// A world in which time passes when it is told to as well, and chance is the same each time.
    #[cfg(feature = "testing")]
    pub(crate) fn fake() -> Self {
        Self { fake: Some(Arc::default()) }
    }

    /// Whether everything happens in the call that leads to it.
    pub(crate) fn is_fake(&self) -> bool {
        self.fake.is_some()
    }

    pub(crate) fn now(&self) -> Instant {
        let now = driver::now();
        match &self.fake {
            None => now,
            Some(fake) => now + Duration::from_nanos(fake.ahead.load(Ordering::Relaxed)),
        }
    }

    /// Moves the clock of a fake world on.
    #[cfg(feature = "testing")]
    pub(crate) fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).expect("584 years are no test");
        let fake = self.fake.as_ref().expect("nobody moves the real clock");
        fake.ahead.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What a thread begins to pick with; `None` leaves it to real chance.
    pub(crate) fn chance(&self) -> Option<Random> {
        self.fake.as_ref().map(|_| Random::seeded(SEED))
    }
}
