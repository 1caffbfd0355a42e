//! Until when a leader may believe that it leads.
//!
//! A session lives on for its whole timeout after ZooKeeper heard of it last, and nobody else can lead before it is
//! over. ZooKeeper has heard of it, at the latest, when it got a request that it answered, so the time counts from when
//! that was *sent*. A third is left out: the member that got the request tells its own leader only at the next ping
//! between them, half a tick later, and two ticks are the shortest session that there is. Clocks run at nearly the same
//! speed; nothing else is asked of them.
//!
//! The time is compared whenever somebody asks. A timer that ends a leadership would be paused with its process.

use std::time::{Duration, Instant};

/// A leadership that ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lease {
    /// The epoch that the leader began.
    pub(super) epoch: u64,
    sure_until: Instant,
}

impl Lease {
    /// What an answer is worth to a request that was sent then.
    pub(super) fn new(epoch: u64, sent: Instant, session_timeout: Duration) -> Self {
        Self { epoch, sure_until: sent + session_timeout * 2 / 3 }
    }

    /// Whether it can be relied on.
    pub(super) fn is_sure(&self, now: Instant) -> bool {
        now < self.sure_until
    }

    /// How long after one request the next one is due: a few may be lost.
    pub(super) fn renewal(session_timeout: Duration) -> Duration {
        session_timeout / 6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_sure_for_less_than_its_session_counted_from_what_it_sent() {
        let timeout = Duration::from_secs(6);
        let sent = Instant::now();
        let lease = Lease::new(3, sent, timeout);
        assert!(lease.is_sure(sent + Duration::from_millis(3_999)));
        assert!(!lease.is_sure(sent + Duration::from_secs(4)));
        assert!(Lease::renewal(timeout) * 3 <= Duration::from_secs(4), "a lost request ends a leadership");
    }
}
