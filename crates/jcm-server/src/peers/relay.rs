//! Who is asked to pass on what a server stamped that cannot be reached from here.

use std::collections::BTreeMap;
use std::time::Duration;

use jcm_model::ServerId;

use super::{Liveness, SILENT_AFTER};

/// After this time without a word of its own a server is followed by way of another one: two heartbeats, so that what
/// it stamps is missed for less than five seconds.
const RELAY_AFTER: Duration = Duration::from_secs(2);

/// For each server that is not heard here but by another one: that other one. What was arranged before stays for as
/// long as it works.
pub(super) fn arrange(
    liveness: &Liveness,
    before: &BTreeMap<ServerId, ServerId>,
) -> BTreeMap<ServerId, ServerId> {
    let is_cut = |server: &ServerId| liveness.own_silence(server) >= RELAY_AFTER;
    let arranged = liveness.others().filter(|server| is_cut(server)).filter_map(|server| {
        // Among those who hear it, the one who is sure of it; of those the first, so that the choice is stable.
        let is_fit = |via: &ServerId, silence: Duration| !is_cut(via) && silence < SILENT_AFTER;
        let mut fit = liveness.hearers(server).filter(|(via, heard)| is_fit(via, liveness.age(*heard)));
        let first = fit.next()?.0;
        let kept = before.get(server).filter(|kept| *kept == first || fit.any(|(via, _)| via == *kept));
        Some((server.clone(), kept.unwrap_or(first).clone()))
    });
    arranged.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Instant;

    use super::super::Standing;
    use super::*;

    fn id(name: &str) -> ServerId {
        ServerId::parse(name).unwrap()
    }

    fn tell(liveness: &mut Liveness, server: &str, hears: &[&str], now: Instant) {
        let hears: Vec<_> = hears.iter().map(|name| (id(name), Duration::ZERO)).collect();
        liveness.told(&id(server), Standing::default(), &hears, now);
    }

    #[test]
    fn a_server_that_is_cut_off_is_followed_by_way_of_one_that_hears_it_until_it_is_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut liveness = Liveness::new(id("own"), start);
        let members: BTreeSet<_> = ["own", "a", "b", "c"].map(id).into();
        liveness.follow(&members, start);
        let mut arranged = BTreeMap::new();
        for ms in (0..2_000).step_by(500) {
            tell(&mut liveness, "b", &["a"], at(ms));
            tell(&mut liveness, "c", &["a"], at(ms));
            arranged = arrange(&liveness, &arranged);
            assert!(arranged.is_empty(), "{ms} ms: {arranged:?}");
        }
        tell(&mut liveness, "b", &[], at(2_000));
        tell(&mut liveness, "c", &["a"], at(2_000));
        arranged = arrange(&liveness, &arranged);
        assert_eq!(arranged, BTreeMap::from([(id("a"), id("c"))]), "b does not hear it");
        tell(&mut liveness, "b", &["a"], at(2_100));
        arranged = arrange(&liveness, &arranged);
        assert_eq!(arranged, BTreeMap::from([(id("a"), id("c"))]), "what works stays");
        tell(&mut liveness, "c", &[], at(2_200));
        arranged = arrange(&liveness, &arranged);
        assert_eq!(arranged, BTreeMap::from([(id("a"), id("b"))]));
        tell(&mut liveness, "a", &[], at(2_300));
        assert!(arrange(&liveness, &arranged).is_empty());
    }
}
