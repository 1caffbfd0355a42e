//! When to say that rounds were lost: at once, and then now and then. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Between two lines of one thread about the same trouble.
const PAUSE: Duration = Duration::from_secs(10);

/// What one thread has said of rounds that were lost.
#[derive(Debug, Default)]
pub(super) struct Lost {
    told: (u64, u64),
    last: Option<Instant>,
}

impl Lost {
    /// Takes how many rounds were thrown away as late and skipped since the start. Answers how many of each there are to be
    /// told of now.
    pub(super) fn tell(&mut self, late: u64, skipped: u64, now: Instant) -> Option<(u64, u64)> {
        let is_early = self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE);
        if is_early || (late, skipped) == self.told {
            return None;
        }
        let news = (late - self.told.0, skipped - self.told.1);
        (self.told, self.last) = ((late, skipped), Some(now));
        Some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_is_told_once_and_in_time() {
        let (mut lost, start) = (Lost::default(), Instant::now());
        assert_eq!(lost.tell(0, 0, start), None);
        assert_eq!(lost.tell(2, 1, start), Some((2, 1)), "at once");
        assert_eq!(lost.tell(9, 4, start + PAUSE / 2), None, "not at every tick");
        assert_eq!(lost.tell(9, 5, start + PAUSE), Some((7, 4)), "nothing is left out");
        assert_eq!(lost.tell(9, 5, start + 9 * PAUSE), None);
    }
}
