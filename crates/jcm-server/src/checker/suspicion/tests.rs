//! Masses of failures, cuts, pauses and starvation, tick by tick.

use std::collections::BTreeSet;

use jcm_model::CheckSpec;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TICK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const NOBODY: Others = Others { exist: false, can_be_asked: false, cut_off: false, share: false };
const WELL: Others = Others { exist: true, can_be_asked: true, cut_off: false, share: true };
const CUT_OFF: Others = Others { exist: true, can_be_asked: false, cut_off: true, share: false };

/// A checker of 100 nodes in four clusters, under the default policy.
struct World {
    suspicion: Suspicion,
    now: Instant,
    check: Check,
    others: Others,
    overdue: u64,
}

impl World {
    fn new(others: Others) -> Self {
        let now = Instant::now();
        let check = CheckSpec::default().effective();
        Self { suspicion: Suspicion::new(now), now, check, others, overdue: 0 }
    }

    fn see(&mut self, keys: impl Iterator<Item = u64>, reached: bool) {
        for key in keys {
            let cluster = ClusterName::parse(&format!("c{}", key % 4)).unwrap();
            self.suspicion.saw(TargetKey(key), &cluster, &self.check, reached, self.now);
        }
    }

    /// Lets a tick pass, in which peers found this of the sample.
    fn tick(&mut self, found: impl Fn(TargetKey) -> Found) -> Settled {
        self.now += TICK;
        assert!(!self.suspicion.look(self.now));
        self.judge(found)
    }

    fn judge(&mut self, found: impl Fn(TargetKey) -> Found) -> Settled {
        let any = || (0..50).map(TargetKey).collect();
        self.suspicion.judge(self.now, 100, self.overdue, self.others, found, any)
    }

    /// Ticks until something is settled; after so long it is not.
    fn settle(
        &mut self,
        within: Duration,
        found: impl Fn(TargetKey) -> Found,
    ) -> Option<(Duration, Settled)> {
        let start = self.now;
        while self.now - start < within {
            let settled = self.tick(&found);
            if settled != Settled::Nothing {
                return Some((self.now - start, settled));
            }
        }
        None
    }

    fn reason(&self) -> Option<&'static str> {
        self.suspicion.suspended().map(|(reason, _)| reason.as_str())
    }

    fn weigh(&self, opinion: Opinion) -> Opinion {
        self.suspicion.weigh(TargetKey(1), opinion)
    }
}

#[test]
fn what_makes_a_mass() {
    let check = |lost: &[u64], of: usize, expected: bool| {
        let mut world = World::new(WELL);
        world.see(lost.iter().copied(), false);
        let settled = world.suspicion.judge(world.now, of, 0, WELL, |_| Found::Pending, Vec::new);
        assert_eq!(settled, Settled::Nothing);
        assert_eq!(world.suspicion.holds(), expected, "{lost:?} of {of}");
    };
    check(&[0, 1, 2, 3, 4, 5], 20, true);
    check(&[0, 1, 2, 3, 4, 5], 21, false);
    check(&[0, 1, 2, 4, 5], 5, true);
    // Two clusters, or very few nodes.
    check(&[0, 1, 4, 5, 8, 9], 6, false);
    check(&[0, 1, 2, 3], 4, false);
}

#[test]
fn nodes_that_answer_with_an_error_are_no_mass() {
    let mut world = World::new(WELL);
    world.see(0..100, true);
    world.tick(|_| Found::Pending);
    assert_eq!(world.reason(), None);
}

#[test]
fn what_is_lost_one_after_another_is_no_mass() {
    let mut world = World::new(WELL);
    for key in 0..100 {
        world.see(key..=key, false);
        for _ in 0..2 {
            world.tick(|_| Found::Pending);
        }
        assert_eq!(world.reason(), None, "{key}");
    }
}

#[test]
fn peers_that_reach_the_nodes_make_it_hand_its_share_over_and_it_comes_back() {
    let mut world = World::new(WELL);
    world.see(0..60, false);
    assert_eq!(world.tick(|_| Found::Pending), Settled::Nothing);
    assert_eq!(world.weigh(Opinion::Agrees), Opinion::Held);
    assert_eq!(world.weigh(Opinion::Reaches), Opinion::Reaches);
    let sample = world.suspicion.sample().to_vec();
    assert_eq!(sample.len(), SAMPLE_MAX);
    let clusters: BTreeSet<u64> = sample.iter().map(|key| key.0 % 4).collect();
    assert_eq!(clusters.len(), 4, "a sample is of all clusters");
    // Most of them, that is.
    let mostly = |key: TargetKey| if key == sample[0] { Found::Failed } else { Found::Reached };
    assert_eq!(world.settle(5 * SECOND, mostly).unwrap().1, Settled::HandedOver);
    assert!(!world.suspicion.wants_share());
    assert_eq!((world.reason(), world.weigh(Opinion::NobodyToAsk)), (Some("mass"), Opinion::Held));
    // Its own probes fail for a while, then work.
    for _ in 0..20 {
        world.suspicion.probed_itself(10, 20);
        assert_eq!(world.settle(SECOND, |_| Found::Nothing), None);
    }
    for round in 1..=RETURN_ROUNDS {
        assert!(!world.suspicion.wants_share(), "after {} good rounds", round - 1);
        world.suspicion.probed_itself(19, 20);
        world.settle(SECOND, |_| Found::Nothing);
    }
    assert!(world.suspicion.wants_share());
    assert_eq!(world.reason(), None);
}

#[test]
fn the_share_is_handed_over_at_most_once_a_minute_and_for_longer_each_time() {
    let mut world = World::new(WELL);
    let mut handed_over: Vec<Instant> = Vec::new();
    let mut apart = Vec::new();
    for _ in 0..3_600 * 10 {
        world.see(0..60, false);
        if world.tick(|_| Found::Reached) == Settled::HandedOver {
            handed_over.push(world.now);
        }
        if !world.suspicion.wants_share() {
            world.suspicion.probed_itself(20, 20);
            world.see(0..60, true);
            if world.suspicion.wants_share() {
                apart.push(world.now);
            }
        }
    }
    assert!(handed_over.len() > 2, "{} times", handed_over.len());
    assert!(handed_over.windows(2).all(|pair| pair[1] - pair[0] >= HANDOVER_PAUSE));
    assert!(handed_over.len() < 25, "{} times in an hour", handed_over.len());
}

#[test]
fn a_server_nobody_could_replace_keeps_its_share() {
    let mut world = World::new(Others { share: false, ..WELL });
    world.see(0..60, false);
    assert_eq!(world.settle(60 * SECOND, |_| Found::Reached), None);
    assert!(world.suspicion.holds() && world.suspicion.wants_share());
    // One that is apart comes back when the last of the others is gone.
    let mut world = World::new(WELL);
    world.see(0..60, false);
    assert_eq!(world.settle(5 * SECOND, |_| Found::Reached).unwrap().1, Settled::HandedOver);
    world.others = CUT_OFF;
    assert!(world.settle(SECOND, |_| Found::Nothing).is_some());
    assert!(world.suspicion.wants_share());
}

#[test]
fn what_peers_do_not_reach_either_stands_within_five_seconds() {
    for answer_after in [0, 100, 500, 1_000].map(Duration::from_millis) {
        let mut world = World::new(WELL);
        world.see(0..100, false);
        let start = world.now;
        let until = start + answer_after;
        let settled = loop {
            let found = if world.now >= until { Found::Failed } else { Found::Pending };
            match world.tick(|_| found) {
                Settled::Nothing => assert!(world.now - start < 5 * SECOND),
                settled => break settled,
            }
        };
        assert_eq!((settled, world.reason()), (Settled::Released, None));
        assert_eq!(world.weigh(Opinion::Agrees), Opinion::Agrees);
        // And it is not held again for the same nodes.
        world.see(0..100, false);
        assert_eq!(world.settle(10 * SECOND, |_| Found::Pending), None);
        assert_eq!(world.reason(), None);
    }
}

#[test]
fn peers_that_say_nothing_are_as_good_as_none() {
    let mut world = World::new(WELL);
    world.see(0..100, false);
    let (after, settled) = world.settle(60 * SECOND, |_| Found::Nothing).unwrap();
    assert_eq!(settled, Settled::Released);
    assert!(after < 8 * SECOND, "{after:?}");
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::NobodyInMass);
}

#[test]
fn alone_a_mass_waits_for_one_more_fall_period() {
    let mut world = World::new(NOBODY);
    world.see(0..40, false);
    assert_eq!(world.tick(|_| Found::Nothing), Settled::Nothing);
    assert_eq!(world.reason(), Some("mass"));
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::NobodyInMass);
    let (after, settled) = world.settle(60 * SECOND, |_| Found::Nothing).unwrap();
    let fall_period = world.check.interval * world.check.fall;
    assert_eq!(settled, Settled::Released);
    assert!(after >= 2 * fall_period && after <= 2 * fall_period + SECOND, "{after:?}");
    assert_eq!(world.reason(), None);
    // A lone failure afterwards stands after `fall`.
    assert_eq!(world.suspicion.weigh(TargetKey(50), Opinion::NobodyToAsk), Opinion::NobodyToAsk);
}

#[test]
fn a_server_that_lost_its_peers_and_its_nodes_at_once_suspects_itself_however_few_they_are() {
    let mut world = World::new(WELL);
    world.see(0..2, false);
    let judge = |world: &mut World| {
        let (now, others) = (world.now, world.others);
        world.suspicion.judge(now, 4, 0, others, |_| Found::Nothing, Vec::new)
    };
    judge(&mut world);
    assert_eq!(world.reason(), None);
    world.others = CUT_OFF;
    judge(&mut world);
    assert_eq!(world.reason(), Some("cut_off"));
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::NobodyInMass);
    assert_eq!(world.weigh(Opinion::Reaches), Opinion::Reaches);
    // Without peers, and with its nodes there, nothing is held.
    let mut world = World::new(CUT_OFF);
    world.see(0..1, false);
    judge(&mut world);
    assert_eq!(world.reason(), None, "one of four is a lone failure");
}

#[test]
fn a_peer_that_comes_back_is_asked_about_what_was_held_alone() {
    let mut world = World::new(CUT_OFF);
    world.see(0..60, false);
    world.tick(|_| Found::Nothing);
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::NobodyInMass);
    world.others = WELL;
    world.tick(|_| Found::Nothing);
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::Held);
    assert_eq!(world.suspicion.sample().len(), SAMPLE_MAX);
    assert_eq!(world.settle(5 * SECOND, |_| Found::Failed).unwrap().1, Settled::Released);
}

#[test]
fn nodes_that_come_back_end_the_suspicion() {
    for others in [WELL, CUT_OFF, NOBODY] {
        let mut world = World::new(others);
        world.see(0..60, false);
        world.tick(|_| Found::Pending);
        assert!(world.reason().is_some());
        world.see(0..40, true);
        assert_eq!(world.tick(|_| Found::Pending), Settled::Released);
        assert_eq!(world.reason(), None);
    }
}

#[test]
fn a_process_that_was_away_holds_for_some_seconds_and_forgets_what_it_was_about_to_believe() {
    let mut world = World::new(WELL);
    world.see(0..20, false);
    world.tick(|_| Found::Pending);
    world.now += 30 * SECOND;
    assert!(world.suspicion.look(world.now));
    world.judge(|_| Found::Pending);
    assert_eq!(world.reason(), Some("paused"));
    assert_eq!(world.suspicion.suspended().unwrap().0.to_string(), "this process did not run for 30.0 s");
    let (after, settled) = world.settle(60 * SECOND, |_| Found::Reached).unwrap();
    assert_eq!((settled, world.reason()), (Settled::Released, None));
    assert!(after >= LATE_FOR && after <= LATE_FOR + SECOND, "{after:?}");
    assert!(world.suspicion.wants_share(), "one pause is no reason to hand over");
}

#[test]
fn a_mass_that_shows_while_time_was_short_is_still_held() {
    let mut world = World::new(NOBODY);
    world.overdue += 1;
    world.tick(|_| Found::Nothing);
    assert_eq!(world.reason(), Some("late"));
    world.see(0..60, false);
    assert_eq!(world.settle(LATE_FOR.saturating_sub(TICK), |_| Found::Nothing), None);
    for _ in 0..3 {
        world.tick(|_| Found::Nothing);
    }
    assert_eq!((world.reason(), world.weigh(Opinion::NobodyToAsk)), (Some("mass"), Opinion::NobodyInMass));
}

#[test]
fn a_server_that_stays_late_hands_over_to_those_that_are_on_time() {
    let starve = |others: Others, found: Found| {
        let mut world = World::new(others);
        let start = world.now;
        while world.now - start < 20 * SECOND {
            world.overdue += 1;
            if world.tick(|_| found) == Settled::HandedOver {
                return Some(world.now - start);
            }
            assert_eq!(world.reason(), Some("late"));
            let is_held = world.now - start < HOLD_MAX + TICK;
            assert_eq!(world.weigh(Opinion::Agrees) == Opinion::Held, is_held, "{:?}", world.now - start);
            let stands = !is_held && !others.exist;
            assert_eq!(world.weigh(Opinion::NobodyToAsk) == Opinion::NobodyInMass, stands);
        }
        None
    };
    let after = starve(WELL, Found::Reached).expect("others are on time");
    assert!(after >= HOLD_MAX && after <= HOLD_MAX + 3 * SECOND, "{after:?}");
    // Nobody else, or nobody who is on time either, or the nodes are dead.
    assert_eq!(starve(NOBODY, Found::Nothing), None);
    assert_eq!(starve(WELL, Found::Nothing), None);
    assert_eq!(starve(WELL, Found::Failed), None);
}

#[test]
fn a_server_that_stays_late_calls_down_what_a_peer_does_not_reach_either() {
    let mut world = World::new(WELL);
    world.see(1..2, false);
    let mut held_for = Duration::ZERO;
    while world.weigh(Opinion::Agrees) == Opinion::Held || held_for.is_zero() {
        world.overdue += 1;
        world.tick(|_| Found::Failed);
        held_for += TICK;
        assert!(held_for <= HOLD_MAX + TICK, "a dead node is held for good");
    }
    // What it alone believes is held for as long as it is late.
    for opinion in [Opinion::Pending, Opinion::Held, Opinion::NobodyToAsk] {
        assert_eq!(world.weigh(opinion), Opinion::Held);
    }
    assert_eq!(world.weigh(Opinion::Reaches), Opinion::Reaches);
}

#[test]
fn what_is_held_because_nobody_takes_the_share_is_down_once_a_peer_agrees() {
    let mut world = World::new(Others { share: false, ..WELL });
    world.see(0..60, false);
    world.settle(HOLD_MAX.saturating_sub(TICK), |_| Found::Reached);
    assert_eq!(world.weigh(Opinion::Agrees), Opinion::Held);
    world.settle(2 * TICK, |_| Found::Reached);
    assert_eq!(world.weigh(Opinion::Agrees), Opinion::Agrees);
    assert_eq!(world.weigh(Opinion::NobodyToAsk), Opinion::Held, "somebody can be asked");
}

#[derive(Debug, Clone)]
enum Event {
    See { keys: std::ops::Range<u64>, reached: bool },
    Others(u8),
    Found(u8),
    Late,
    Pause(u64),
    Ticks(u32),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..100_u64, 0..100_u64, any::<bool>())
            .prop_map(|(from, count, reached)| Event::See { keys: from..(from + count).min(100), reached }),
        (0..16_u8).prop_map(Event::Others),
        (0..4_u8).prop_map(Event::Found),
        Just(Event::Late),
        (1_000..40_000_u64).prop_map(Event::Pause),
        (1..100_u32).prop_map(Event::Ticks),
    ]
}

proptest! {
    /// Whatever happened: once all is well, the server trusts itself again and checks its share; and what was held comes
    /// to an end at last even if nothing ever gets well.
    #[test]
    fn no_history_leaves_it_suspended_for_good(history in vec(any_event(), 0..60), heals in any::<bool>()) {
        let mut world = World::new(WELL);
        let mut found = Found::Pending;
        for event in history {
            match event {
                Event::See { keys, reached } => world.see(keys, reached),
                Event::Others(bits) => world.others = Others {
                    exist: bits & 1 > 0,
                    can_be_asked: bits & 3 == 3,
                    cut_off: bits & 3 != 3,
                    share: bits & 7 == 7,
                },
                Event::Found(of) => {
                    found = [Found::Pending, Found::Reached, Found::Failed, Found::Nothing][usize::from(of)];
                }
                Event::Late => world.overdue += 1,
                Event::Pause(ms) => {
                    world.now += Duration::from_millis(ms);
                    prop_assert!(world.suspicion.look(world.now));
                }
                Event::Ticks(count) => for _ in 0..count {
                    world.tick(|_| found);
                    // Bad opinions are held when and only when it says so, and one that reaches a node always counts.
                    prop_assert_eq!(world.weigh(Opinion::Pending) == Opinion::Held, world.suspicion.holds());
                    prop_assert!(world.weigh(Opinion::Agrees) != Opinion::Held || world.suspicion.holds());
                    prop_assert_eq!(world.weigh(Opinion::Reaches), Opinion::Reaches);
                    prop_assert!(!world.suspicion.holds() || world.suspicion.suspended().is_some());
                    prop_assert!(world.suspicion.sample().len() <= SAMPLE_MAX);
                },
            }
        }
        world.others = WELL;
        if heals {
            world.see(0..100, true);
        }
        let found = if heals { Found::Reached } else { Found::Failed };
        // The longest time apart is five minutes.
        for _ in 0..3_100 {
            world.tick(|_| found);
        }
        prop_assert_eq!(world.reason(), None);
        prop_assert!(world.suspicion.wants_share());
    }
}
