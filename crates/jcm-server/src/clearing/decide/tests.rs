use std::collections::BTreeSet;

use jcm_model::Revision;

use super::*;
use crate::leases::tests::{cluster_name, lease_id, node_id};

const SECOND: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_mins(10);

/// Rounds of one cluster, half a second apart.
struct World {
    clearing: Clearing,
    epoch: u64,
    now: Instant,
    /// Node, and whether it is held.
    lapsed: BTreeMap<String, bool>,
    /// Those whose lease is renewed, or which checks find fit, all the same.
    stay: BTreeSet<String>,
    /// When all of them were renewed last.
    renewed: Option<Instant>,
    /// Those whose place may be had, as of the last round.
    vacant: Vec<String>,
    share: Share,
}

impl World {
    /// So many nodes with leases of ten seconds, all of them online and fit.
    fn of(leased: usize) -> Self {
        let share = Share { candidates: Vec::new(), leased, online: leased, fit: leased, panic_below: 0.5 };
        let clearing = Clearing::new(GRACE);
        let (lapsed, stay) = (BTreeMap::new(), BTreeSet::new());
        let now = Instant::now();
        Self { clearing, epoch: 7, now, lapsed, stay, renewed: None, vacant: Vec::new(), share }
    }

    fn lapse(&mut self, nodes: impl IntoIterator<Item = usize>) {
        for n in nodes {
            self.share.fit -= usize::from(self.lapsed.insert(format!("n{n:04}"), false).is_none());
        }
    }

    fn come_back(&mut self, n: usize) {
        self.share.fit += usize::from(self.lapsed.remove(&format!("n{n:04}")).is_some());
    }

    fn hold(&mut self, n: usize, is_held: bool) {
        self.lapsed.insert(format!("n{n:04}"), is_held);
    }

    /// The rounds of so many seconds. Answers what is cleared away, and when, at the first round that does.
    fn run(&mut self, seconds: u32) -> Option<(u32, Vec<String>)> {
        for half in 1..=seconds * 2 {
            self.now += SECOND / 2;
            let cleared = self.round();
            if !cleared.is_empty() {
                return Some((half / 2, cleared));
            }
        }
        None
    }

    fn round(&mut self) -> Vec<String> {
        let candidate = |(node, is_held): (&String, &bool)| Candidate {
            lapsed: Lapsed { node: node_id(node), birth: Revision(3), lease: lease_id(1) },
            lease: Lease::new(lease_id(1), 10 * SECOND).unwrap(),
            is_held: *is_held,
            renewed: self.renewed,
            is_gone: !self.stay.contains(node),
        };
        self.share.candidates = self.lapsed.iter().map(candidate).collect();
        let round = if self.lapsed.is_empty() {
            Round::new()
        } else {
            Round::from([(cluster_name(), self.share.clone())])
        };
        let Decision { ripe, vacant } = self.clearing.round(self.epoch, &round, self.now);
        self.vacant = vacant.values().flat_map(HashMap::keys).map(ToString::to_string).collect();
        ripe.into_values().flatten().map(|lapsed| lapsed.node.to_string()).collect()
    }
}

#[test]
fn a_lone_one_goes_after_a_whole_time_also_the_only_one_of_its_cluster() {
    for leased in [1, 100] {
        let mut world = World::of(leased);
        assert_eq!(world.run(5), None);
        world.lapse([0]);
        assert_eq!(world.run(30), Some((10, vec!["n0000".to_owned()])), "of {leased}");
    }
}

#[test]
fn whoever_may_hold_it_for_one_round_begins_its_time_anew() {
    let mut world = World::of(100);
    world.lapse([0]);
    assert_eq!(world.run(9), None);
    world.hold(0, true);
    world.round();
    world.hold(0, false);
    assert_eq!(world.run(9), None);
    assert_eq!(world.run(1).map(|(at, _)| at), Some(1));
}

#[test]
fn another_epoch_a_pause_and_a_loss_of_the_lead_begin_all_anew() {
    for case in ["another epoch", "a pause", "not leading"] {
        let mut world = World::of(100);
        world.lapse([0]);
        assert_eq!(world.run(9), None, "{case}");
        match case {
            "another epoch" => world.epoch += 1,
            "a pause" => world.now += 4 * SECOND,
            _ => world.clearing.interrupt(),
        }
        assert_eq!(world.run(9), None, "{case}");
        assert!(world.run(2).is_some(), "{case}");
    }
}

#[test]
fn one_that_stays_is_not_cleared_away_and_its_place_may_be_had_after_a_whole_time_however_many_there_are() {
    let mut world = World::of(10);
    let nodes = || (0..10).map(|n| format!("n{n:04}"));
    world.lapse(0..10);
    world.stay.extend(nodes());
    assert_eq!(world.run(9), None);
    assert_eq!((world.vacant.len(), world.clearing.counts()), (0, (0, 0)));
    world.hold(3, true);
    world.round();
    world.hold(3, false);
    assert_eq!(world.run(2), None);
    world.vacant.sort();
    assert_eq!(world.vacant, nodes().filter(|node| node != "n0003").collect::<Vec<_>>());
    assert_eq!(world.run(10), None);
    assert_eq!(world.vacant.len(), 10);
    world.clearing.interrupt();
    world.round();
    assert_eq!(world.vacant.len(), 0, "it did not lead");
    world.run(10);
    assert_eq!(world.vacant.len(), 10);
    world.lapsed.values_mut().for_each(|is_held| *is_held = true);
    world.round();
    assert_eq!(world.vacant.len(), 0, "they are held");
}

#[test]
fn the_place_of_one_that_is_renewed_over_streams_that_end_at_once_is_not_to_be_had() {
    let mut world = World::of(10);
    world.lapse([0]);
    world.stay.insert("n0000".to_owned());
    for _ in 0..10 {
        world.renewed = Some(world.now);
        assert_eq!(world.run(9), None);
        assert_eq!(world.vacant.len(), 0);
    }
    world.run(1);
    assert_eq!(world.vacant.len(), 1);
}

#[test]
fn one_that_checks_find_fit_no_longer_has_a_whole_time_from_then_on() {
    let mut world = World::of(100);
    world.lapse([0]);
    world.stay.insert("n0000".to_owned());
    assert_eq!(world.run(60), None);
    world.stay.clear();
    assert_eq!(world.run(9), None);
    assert!(world.run(2).is_some());
}

#[test]
fn one_that_is_renewed_or_becomes_another_is_let_alone() {
    let mut world = World::of(100);
    world.lapse([0]);
    assert_eq!(world.run(9), None);
    world.come_back(0);
    world.round();
    world.lapse([0]);
    assert_eq!(world.run(9), None);
    assert!(world.run(2).is_some());
}

#[test]
fn a_mass_is_left_for_the_grace_time_and_goes_then() {
    let mut world = World::of(1000);
    world.lapse(0..300);
    assert_eq!(world.run(599), None);
    assert_eq!(world.clearing.counts(), (300, 300));
    let (_, cleared) = world.run(10).expect("the grace time is over");
    assert_eq!(cleared.len(), 300);
}

#[test]
fn a_fifth_is_no_mass_and_one_more_is_also_when_it_comes_a_little_later() {
    let mut world = World::of(1000);
    world.lapse(0..200);
    let (after, cleared) = world.run(30).expect("a fifth goes as any");
    assert_eq!((after, cleared.len()), (10, 200));

    let mut world = World::of(1000);
    world.lapse(0..150);
    assert_eq!(world.run(9), None);
    world.lapse(150..300);
    assert_eq!(world.run(60), None, "both halves are one mass");
}

#[test]
fn the_rest_of_a_mass_that_comes_back_is_no_few() {
    let mut world = World::of(1000);
    world.lapse(0..300);
    assert_eq!(world.run(30), None);
    for n in 0..290 {
        world.come_back(n);
    }
    assert_eq!(world.run(60), None);
    assert_eq!(world.clearing.counts(), (10, 10));
}

#[test]
fn what_is_left_of_a_mass_stays_one_when_the_lead_is_lost_and_won_again() {
    let mut world = World::of(100);
    world.lapse(0..30);
    assert_eq!(world.run(20), None);
    // Nearly all come back; few they would be, were it forgotten how many they were.
    for n in 1..30 {
        world.come_back(n);
    }
    assert_eq!(world.run(1), None);
    world.clearing.interrupt();
    world.epoch += 2;
    assert_eq!(world.run(60), None);
    assert_eq!(world.clearing.counts(), (1, 1));
    assert!(world.run(1200).is_some(), "after the grace time");
}

#[test]
fn a_mass_does_not_go_while_too_few_would_be_fit_without_it() {
    let mut world = World::of(10);
    world.lapse(0..6);
    assert_eq!(world.run(1200), None);
    // The others come back, and the last one goes.
    for n in 0..5 {
        world.come_back(n);
    }
    assert_eq!(world.run(1), Some((0, vec!["n0005".to_owned()])));
}
