//! Whether a node's lease has lapsed, as the server that checks the node sees it. Pure.
//!
//! A lease lapses when nothing renewed it for its whole time, during all of which this server checked the node, ran without a
//! pause, and would have heard of a renewal through any server that may hold it. Whatever breaks that begins a whole time anew.

use std::time::{Duration, Instant};

use jcm_model::Lease;

use super::contact::Around;
use super::table::Renewal;

/// Renewals that are on their way when a time is over: through a loop that is busy, a batch that is being filled, a stream.
const ON_THE_WAY_MAX: Duration = Duration::from_millis(750);

/// A node whose lease is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watch {
    /// From here on silence counts.
    counted_from: Instant,
}

/// What is seen of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It was renewed within its time.
    Renewed,
    /// It was not, as far as is known, and may have been; or its time is not over.
    CannotTell,
    /// Nobody renewed it for its whole time.
    Lapsed,
}

impl Watch {
    /// Begins now.
    pub(crate) fn new(now: Instant) -> Self {
        Self { counted_from: now }
    }

    /// This server stood still, or another lease counts from now on.
    pub(crate) fn begin_anew(&mut self, now: Instant) {
        self.counted_from = now;
    }

    pub(crate) fn look(&mut self, lease: &Lease, renewal: Option<&Renewal>, around: &Around) -> Look {
        let Around { now, heard_until, .. } = *around;
        let renewed = renewal.filter(|renewal| renewal.lease == lease.id()).map(|renewal| renewal.at);
        if renewed.is_some_and(|at| now.saturating_duration_since(at) < lease.ttl()) {
            return Look::Renewed;
        }
        if around.may_be_held_unheard(renewed) {
            self.counted_from = now;
            return Look::CannotTell;
        }
        let base = renewed.map_or(self.counted_from, |at| at.max(self.counted_from));
        if heard_until.saturating_duration_since(base) >= lease.ttl() + ON_THE_WAY_MAX {
            Look::Lapsed
        } else {
            Look::CannotTell
        }
    }
}

#[cfg(test)]
mod tests {
    use jcm_model::ServerId;

    use super::*;
    use crate::leases::tests::lease_id;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease() -> Lease {
        Lease::new(lease_id(1), 10 * SECOND).unwrap()
    }

    fn renewed(lease: u8, at: Instant) -> Renewal {
        Renewal { lease: lease_id(lease), at, through: ServerId::parse("s2").unwrap() }
    }

    fn all_heard(now: Instant) -> Around {
        Around { now, heard_until: now, unheard_since: None, is_cut: false }
    }

    #[test]
    fn a_lease_lapses_after_its_whole_time_and_not_before() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let renewal = renewed(1, start + SECOND);
        for (seconds, expected) in [
            (1, Look::Renewed),
            (10, Look::Renewed),
            (11, Look::CannotTell),
            (12, Look::Lapsed),
            (99, Look::Lapsed),
        ] {
            let look = watch.look(&lease(), Some(&renewal), &all_heard(start + seconds * SECOND));
            assert_eq!(look, expected, "after {seconds} s");
        }
        let later = renewed(1, start + 100 * SECOND);
        assert_eq!(watch.look(&lease(), Some(&later), &all_heard(start + 101 * SECOND)), Look::Renewed);
    }

    #[test]
    fn one_that_was_never_renewed_or_is_another_lapses_from_when_it_is_watched() {
        let start = Instant::now();
        let other = renewed(2, start + 9 * SECOND);
        for renewal in [None, Some(&other)] {
            let mut watch = Watch::new(start);
            assert_eq!(watch.look(&lease(), renewal, &all_heard(start + 10 * SECOND)), Look::CannotTell);
            assert_eq!(watch.look(&lease(), renewal, &all_heard(start + 11 * SECOND)), Look::Lapsed);
        }
    }

    #[test]
    fn what_was_not_heard_yet_is_no_silence() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let mut around = all_heard(start + 12 * SECOND);
        around.heard_until = start + 10 * SECOND;
        assert_eq!(watch.look(&lease(), None, &around), Look::CannotTell);
    }

    #[test]
    fn a_server_that_is_silent_may_hold_what_nobody_renewed_since() {
        let start = Instant::now();
        let silent_at = start + 20 * SECOND;
        let around =
            |seconds| Around { unheard_since: Some(silent_at), ..all_heard(start + seconds * SECOND) };
        let (mut held, mut moved) = (Watch::new(start), Watch::new(start));
        let (before, after) = (renewed(1, start + 19 * SECOND), renewed(1, start + 21 * SECOND));
        assert_eq!(held.look(&lease(), Some(&before), &around(60)), Look::CannotTell);
        assert_eq!(held.look(&lease(), None, &around(61)), Look::CannotTell);
        // Its program was seen elsewhere after that, and then no more.
        assert_eq!(moved.look(&lease(), Some(&after), &around(32)), Look::Lapsed);
        // Once nobody can hold it any more, a whole time begins.
        let look = |watch: &mut Watch, seconds| {
            watch.look(&lease(), Some(&before), &all_heard(start + seconds * SECOND))
        };
        assert_eq!(look(&mut held, 71), Look::CannotTell);
        assert_eq!(look(&mut held, 72), Look::Lapsed);
    }

    #[test]
    fn while_a_server_is_cut_off_from_this_one_alone_nothing_lapses() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        let around = Around { is_cut: true, ..all_heard(start + 60 * SECOND) };
        assert_eq!(watch.look(&lease(), Some(&renewed(1, start + 30 * SECOND)), &around), Look::CannotTell);
        assert_eq!(watch.look(&lease(), None, &all_heard(start + 70 * SECOND)), Look::CannotTell);
        assert_eq!(watch.look(&lease(), None, &all_heard(start + 71 * SECOND)), Look::Lapsed);
    }

    #[test]
    fn a_pause_begins_a_whole_time_anew() {
        let start = Instant::now();
        let mut watch = Watch::new(start);
        watch.begin_anew(start + 60 * SECOND);
        assert_eq!(watch.look(&lease(), None, &all_heard(start + 70 * SECOND)), Look::CannotTell);
        assert_eq!(watch.look(&lease(), None, &all_heard(start + 71 * SECOND)), Look::Lapsed);
    }
}
