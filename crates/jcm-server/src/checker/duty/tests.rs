//! Some servers and a network in memory: each works out its part alone, and together nothing is left out.

use std::collections::HashMap;

use jcm_model::{ClusterName, NodeId};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(500);
const SESSION_TIMEOUT: Duration = Duration::from_secs(4);
const INTERVAL: Duration = Duration::from_secs(1);
const SILENT_AFTER: Duration = Duration::from_secs(3);
const NODES: usize = 24;

fn id(at: usize) -> ServerId {
    ServerId::parse(&format!("s{at}")).unwrap()
}

fn place(node: usize) -> Place {
    Place::of(&ClusterName::parse("c").unwrap(), &NodeId::parse(&format!("n{node}")).unwrap())
}

fn stamp(ring_epoch: u64, term: u64, server: usize) -> Stamp {
    Stamp { ring_epoch, term, server: id(server), incarnation: 1, sequence: 1 }
}

fn ring(epoch: u64, servers: &[usize]) -> RingMembers {
    RingMembers { store: None, epoch, servers: servers.iter().map(|at| id(*at)).collect() }
}

fn seen(silences: &[(usize, u64)]) -> Seen {
    let silence = |(at, secs): &(usize, u64)| (id(*at), Duration::from_secs(*secs));
    Seen { silences: silences.iter().map(silence).collect(), silent_after: SILENT_AFTER, ..Seen::default() }
}

/// How many of the nodes the first server would check.
fn share(duty: &Duty, held: Option<&Stamp>) -> usize {
    (0..NODES).filter(|node| duty.is_mine(place(*node), INTERVAL, held, false)).count()
}

fn duty(members: &RingMembers, seen: Seen) -> Duty {
    let now = Instant::now();
    let mut duty = Duty::new(id(0), SESSION_TIMEOUT, Ring::default(), now);
    duty.observe(members, seen, now);
    duty
}

#[test]
fn a_server_alone_checks_everything_that_nobody_else_checks() {
    let outside = duty(&ring(1, &[]), seen(&[(1, 0)]));
    assert_eq!(share(&outside, None), NODES);
    assert_eq!(share(&outside, Some(&stamp(0, 0, 1))), 0, "the other one checks it, and is heard");
    let silent = duty(&ring(1, &[]), seen(&[(1, 5)]));
    assert_eq!(share(&silent, Some(&stamp(0, 0, 1))), NODES);
    assert_eq!(share(&duty(&ring(1, &[0]), seen(&[])), None), NODES);
    assert_eq!(share(&duty(&ring(1, &[1]), seen(&[(1, 0)])), None), 0, "not in the ring yet");
}

#[test]
fn a_silent_owner_is_substituted_after_the_session_timeout_and_one_interval() {
    let members = ring(1, &[0, 1, 2]);
    let own = share(&duty(&members, seen(&[(1, 0), (2, 0)])), None);
    assert_eq!(share(&duty(&members, seen(&[(1, 4), (2, 0)])), None), own);
    let more = share(&duty(&members, seen(&[(1, 5), (2, 0)])), None);
    assert!(own < more && more < NODES, "{own} then {more} of {NODES}");
}

#[test]
fn a_server_that_hears_nobody_takes_nothing_over_while_the_store_names_the_others() {
    let members = ring(1, &[0, 1]);
    let cut = duty(&members, seen(&[(1, 60)]));
    let own = share(&cut, None);
    assert!(own < NODES, "{own}");
    let store_is_gone = duty(&members, Seen { store_is_out: true, ..seen(&[(1, 60)]) });
    assert_eq!(share(&store_is_gone, None), NODES);
}

#[test]
fn an_older_ring_is_ignored_and_a_later_one_shows_in_verdicts() {
    let mut duty = duty(&ring(7, &[0]), seen(&[(1, 0)]));
    duty.observe(&ring(6, &[1]), seen(&[(1, 0)]), Instant::now());
    assert_eq!(share(&duty, None), NODES);
    assert_eq!(share(&duty, Some(&stamp(8, 0, 1))), 0);
    assert_eq!(share(&duty, Some(&stamp(7, 3, 1))), NODES, "taken back");
    assert_eq!(duty.stamp(Some(&stamp(7, 3, 1)), 1, 2), Stamp { sequence: 2, ..stamp(7, 4, 0) });
    assert_eq!(duty.stamp(Some(&stamp(7, 3, 0)), 1, 2), Stamp { sequence: 2, ..stamp(7, 3, 0) });
    assert_eq!(duty.stamp(Some(&stamp(2, 3, 1)), 1, 2), Stamp { sequence: 2, ..stamp(7, 0, 0) });
}

#[test]
fn the_ring_of_a_restored_store_counts_whatever_its_epoch_and_that_of_the_old_one_no_longer() {
    let [old, new] = [1, 2].map(|number| StoreId(uuid::Uuid::from_u128(number)));
    let of = |store, members: RingMembers| RingMembers { store: Some(store), ..members };
    let mut duty = Duty::new(id(0), SESSION_TIMEOUT, Ring::default(), Instant::now());
    let observe =
        |duty: &mut Duty, ring: RingMembers| duty.observe(&ring, seen(&[(1, 0), (2, 0)]), Instant::now());
    let epoch_and_servers = |duty: &Duty| (duty.ring().epoch(), duty.ring().servers().len());
    assert!(!duty.belong_to(old));
    observe(&mut duty, of(old, ring(40, &[0, 1, 2])));
    // The servers of the restored store are read before its definitions are, or after.
    observe(&mut duty, of(new, ring(20, &[0])));
    assert_eq!(epoch_and_servers(&duty), (40, 3));
    assert!(duty.belong_to(new));
    observe(&mut duty, of(old, ring(40, &[0, 1, 2])));
    assert_eq!(epoch_and_servers(&duty), (0, 3), "the same servers, until those of the store are known");
    observe(&mut duty, of(new, ring(20, &[0, 1])));
    assert_eq!(epoch_and_servers(&duty), (20, 2));
    assert!(!duty.belong_to(new));
    assert_eq!(epoch_and_servers(&duty), (20, 2));
}

#[test]
fn a_server_that_leaves_goes_on_until_others_began_or_had_the_time_to() {
    let start = Instant::now();
    let mut duty = Duty::new(id(0), SESSION_TIMEOUT, Ring::default(), start);
    duty.observe(&ring(1, &[0, 1]), seen(&[(1, 0)]), start);
    let node = (0..NODES).find(|node| duty.is_mine(place(*node), INTERVAL, None, false)).unwrap();
    let is_mine = |duty: &Duty, held: &Stamp| duty.is_mine(place(node), INTERVAL, Some(held), true);
    let mut leave = |members: &RingMembers, after: Duration| {
        duty.observe(members, Seen { draining: true, ..seen(&[(1, 0)]) }, start + after);
        duty.clone()
    };
    // While the store is slow to let it go, nobody else begins.
    assert!(is_mine(&leave(&ring(1, &[0, 1]), 10 * INTERVAL), &stamp(1, 0, 0)));
    let left = 11 * INTERVAL;
    let leaving = leave(&ring(2, &[1]), left);
    assert!(is_mine(&leaving, &stamp(1, 0, 0)));
    assert!(!is_mine(&leaving, &stamp(2, 0, 1)), "the other one has begun");
    assert!(!leaving.is_mine(place(node), INTERVAL, None, false), "nothing is begun any more");
    assert!(is_mine(&leave(&ring(2, &[1]), left + INTERVAL), &stamp(1, 0, 0)));
    assert!(!is_mine(&leave(&ring(2, &[1]), left + 2 * INTERVAL), &stamp(1, 0, 0)));
}

#[test]
fn a_ring_of_a_store_that_was_put_back_counts_once_it_is_no_late_reading() {
    let start = Instant::now();
    let mut duty = Duty::new(id(0), SESSION_TIMEOUT, Ring::default(), start);
    duty.observe(&ring(7, &[0]), seen(&[(1, 0)]), start);
    let mut at = |members: &RingMembers, after: Duration, store_is_out: bool| {
        duty.observe(members, Seen { store_is_out, ..seen(&[(1, 0)]) }, start + after);
        (duty.ring().epoch(), duty.ring().servers().len())
    };
    let back = ring(3, &[0, 1]);
    assert_eq!(at(&back, SECOND, false), (7, 1));
    assert_eq!(at(&back, SECOND + SESSION_TIMEOUT.saturating_sub(STEP), false), (7, 1));
    assert_eq!(at(&ring(7, &[0]), SECOND + SESSION_TIMEOUT, false), (7, 1), "it was late");
    // Nothing is learned while the store is out.
    for secs in 6..60 {
        assert_eq!(at(&back, Duration::from_secs(secs), true), (7, 1));
    }
    assert_eq!(at(&back, Duration::from_mins(1), false), (7, 1));
    assert_eq!(at(&back, Duration::from_mins(1) + SESSION_TIMEOUT, false), (7, 2));
    assert_eq!(
        at(&ring(4, &[0]), Duration::from_secs(61) + SESSION_TIMEOUT, false),
        (7, 1),
        "what follows counts at once"
    );
    assert_eq!(at(&ring(9, &[0, 1]), Duration::from_secs(62) + SESSION_TIMEOUT, false), (9, 2));
}

#[test]
fn whoever_joins_a_ring_that_was_put_back_takes_its_share() {
    let start = Instant::now();
    let mut joined = Duty::new(id(0), SESSION_TIMEOUT, Ring::default(), start);
    let held = stamp(7, 2, 1);
    let mut share_after = |time: Duration| {
        joined.observe(&ring(3, &[0, 1]), Seen { latest_epoch: 7, ..seen(&[(1, 0)]) }, start + time);
        share(&joined, Some(&held))
    };
    assert_eq!(share_after(Duration::ZERO), 0, "it may be behind itself");
    let own = share_after(SESSION_TIMEOUT);
    assert!(own > 0 && own < NODES, "{own}");
}

#[test]
fn a_stamp_follows_the_one_that_stands_whatever_that_says() {
    let duty = duty(&ring(7, &[0]), seen(&[]));
    // Of a data directory that is lost: it counted further.
    let lost = Stamp { incarnation: 9, sequence: 99, ..stamp(7, 3, 0) };
    let next = duty.stamp(Some(&lost), 1, 1);
    assert!(next > lost, "{next:?}");
    let far = stamp(u64::MAX, u64::MAX, 1);
    assert_eq!(duty.stamp(Some(&far), 1, 1).term, u64::MAX);
}

/// One server: what it knows, what it checks, what stands on its board.
struct Server {
    duty: Duty,
    is_up: bool,
    store_is_out: bool,
    session_seen: Instant,
    known_ring: RingMembers,
    heard: HashMap<usize, Instant>,
    checks: [bool; NODES],
    board: HashMap<usize, Stamp>,
    sequence: u64,
}

struct World {
    now: Instant,
    ring: RingMembers,
    servers: Vec<Server>,
    /// Pairs of servers that do not hear each other: who does not hear, and whom.
    cut: Vec<(usize, usize)>,
    checked_at: [Instant; NODES],
}

impl World {
    fn new(count: usize) -> Self {
        let now = Instant::now();
        let server = |at: usize| Server {
            duty: Duty::new(id(at), SESSION_TIMEOUT, Ring::default(), now),
            is_up: true,
            store_is_out: false,
            session_seen: now,
            known_ring: RingMembers::default(),
            heard: (0..count).map(|other| (other, now)).collect(),
            checks: [false; NODES],
            board: HashMap::new(),
            sequence: 0,
        };
        let servers = (0..count).map(server).collect();
        Self { now, ring: RingMembers::default(), servers, cut: Vec::new(), checked_at: [now; NODES] }
    }

    fn run(&mut self, time: Duration, random: &mut fastrand::Rng) {
        let end = self.now + time;
        while self.now < end {
            self.step(random);
        }
    }

    fn step(&mut self, random: &mut fastrand::Rng) {
        self.now += STEP;
        self.keep_sessions();
        let count = self.servers.len();
        for at in 0..count {
            for other in (0..count).filter(|other| *other != at) {
                if self.hears(at, other) {
                    let now = self.now;
                    self.servers[at].heard.insert(other, now);
                    self.learn(at, other);
                }
            }
        }
        for at in 0..count {
            self.observe(at);
            self.check(at, random);
        }
    }

    fn keep_sessions(&mut self) {
        for at in 0..self.servers.len() {
            let server = &mut self.servers[at];
            let is_there = server.is_up && !server.store_is_out;
            if is_there {
                server.session_seen = self.now;
            }
            let is_in = self.ring.servers.contains(&id(at));
            if is_there && !is_in {
                self.ring.servers.push(id(at));
                self.ring.servers.sort();
                self.ring.epoch += 1;
            } else if is_in && self.now - server.session_seen > SESSION_TIMEOUT {
                self.ring.servers.retain(|server| *server != id(at));
                self.ring.epoch += 1;
            }
        }
        for server in self.servers.iter_mut().filter(|server| server.is_up && !server.store_is_out) {
            server.known_ring = self.ring.clone();
        }
    }

    fn hears(&self, at: usize, other: usize) -> bool {
        self.servers[at].is_up && self.servers[other].is_up && !self.cut.contains(&(at, other))
    }

    /// All that the other one stamped itself.
    fn learn(&mut self, at: usize, other: usize) {
        let told: Vec<(usize, Stamp)> = self.servers[other]
            .board
            .iter()
            .filter(|(_, stamp)| stamp.server == id(other))
            .map(|(node, stamp)| (*node, stamp.clone()))
            .collect();
        for (node, stamp) in told {
            if self.servers[at].board.get(&node).is_none_or(|held| stamp > *held) {
                self.servers[at].board.insert(node, stamp);
            }
        }
    }

    fn observe(&mut self, at: usize) {
        let now = self.now;
        let server = &mut self.servers[at];
        let silences = server.heard.iter().filter(|(other, _)| **other != at);
        let silences = silences.map(|(other, heard)| (id(*other), now - *heard)).collect();
        let seen = Seen {
            silences,
            silent_after: SILENT_AFTER,
            store_is_out: server.store_is_out,
            draining: false,
            latest_epoch: server.board.values().map(|stamp| stamp.ring_epoch).max().unwrap_or_default(),
        };
        server.duty.observe(&server.known_ring, seen, now);
    }

    fn check(&mut self, at: usize, random: &mut fastrand::Rng) {
        let now = self.now;
        let server = &mut self.servers[at];
        for node in (0..NODES).filter(|_| server.is_up) {
            let held = server.board.get(&node);
            server.checks[node] = server.duty.is_mine(place(node), INTERVAL, held, server.checks[node]);
            if !server.checks[node] {
                continue;
            }
            self.checked_at[node] = now;
            if held.is_none_or(|held| held.server != id(at)) || random.u8(..) < 20 {
                server.sequence += 1;
                let stamp = server.duty.stamp(held, 1, server.sequence);
                assert!(held.is_none_or(|held| stamp > *held), "{stamp:?} after {held:?}");
                server.board.insert(node, stamp);
            }
        }
    }

    /// A paused server that wakes up counts nobody's silence from before.
    fn wake(&mut self, at: usize) {
        let now = self.now;
        let server = &mut self.servers[at];
        if !server.is_up {
            server.is_up = true;
            server.heard.values_mut().for_each(|heard| *heard = now);
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        for at in 0..self.servers.len() {
            self.wake(at);
            self.servers[at].store_is_out = false;
        }
    }

    fn assert_each_node_has_one_checker(&self, when: &str) {
        for node in 0..NODES {
            let checkers: Vec<usize> =
                (0..self.servers.len()).filter(|at| self.servers[*at].checks[node]).collect();
            assert_eq!(checkers.len(), 1, "{when}: node {node} is checked by {checkers:?}");
            for server in &self.servers {
                let held = server.board.get(&node).map(|stamp| stamp.server.clone());
                assert_eq!(held, Some(id(checkers[0])), "{when}: node {node} on a board");
            }
        }
    }

    fn longest_gap(&self) -> Duration {
        self.checked_at.iter().map(|at| self.now - *at).max().unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_happened_when_all_is_healed_every_node_has_one_checker(
        seed in any::<u64>(),
        count in 2..6_usize,
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(count);
        for _ in 0..random.usize(1..40) {
            let (at, other) = (random.usize(..count), random.usize(..count));
            match random.u8(..9) {
                0 => world.servers[at].is_up = false,
                1 => world.wake(at),
                2 => world.servers[at].store_is_out = true,
                3 => world.servers[at].store_is_out = false,
                4 => world.cut.push((at, other)),
                5 => world.cut.extend([(at, other), (other, at)]),
                6 => world.cut.clear(),
                // The store is put back to an earlier state.
                7 => world.ring.epoch = random.u64(..=world.ring.epoch).max(1),
                _ => world.heal(),
            }
            let time = Duration::from_millis(random.u64(0..12_000));
            world.run(time, &mut random);
        }
        world.heal();
        world.run(Duration::from_secs(20), &mut random);
        world.assert_each_node_has_one_checker("healed");
    }

    #[test]
    fn after_one_fault_no_node_goes_unchecked_for_longer_than_a_session_timeout_and_two_intervals(
        seed in any::<u64>(),
        count in 2..6_usize,
        store_is_out in any::<bool>(),
    ) {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(count);
        world.run(Duration::from_secs(5), &mut random);
        world.assert_each_node_has_one_checker("begun");
        world.servers.iter_mut().for_each(|server| server.store_is_out = store_is_out);
        world.servers[random.usize(..count)].is_up = false;
        for _ in 0..40 {
            world.step(&mut random);
            let gap = world.longest_gap();
            prop_assert!(gap <= SESSION_TIMEOUT + 2 * INTERVAL, "unchecked for {gap:?}");
        }
    }
}
