//! Registrations against scripted servers.

use jcm_model::{NodeId, Revision};
use jcm_proto::v1::watch_request::Held;
use jcm_proto::v1::watch_response as wire;
use jcm_proto::v1::watch_response::lost_lease::Reason;

use super::super::tests::bench::{Bench, HEARTBEAT, store, welcome};
use super::super::*;
use super::entry::UNKEPT_FOR;
use super::*;
use crate::me::Me;
use crate::registration::RegistrationEnd;
use crate::registry::{Outcome, Place, What, Write};

mod anything;

const TTL: Duration = Duration::from_secs(9);

pub(super) fn wanted(number: u8) -> Wanted {
    let id = LeaseId::new([number; 16]);
    Wanted {
        cluster: ClusterName::parse("orders").unwrap(),
        me: Me::new().port("http", 8000 + u16::from(number)).address([10, 0, 0, 1]),
        lease: Lease::new(id, TTL).unwrap(),
        online: false,
        patient: false,
    }
}

pub(super) fn done(revision: u64) -> Outcome {
    let store = store(0).0.as_bytes().to_vec();
    Outcome::Done(Place { store, revision: Revision(revision) })
}

pub(super) fn again() -> Outcome {
    Outcome::Again { after: Duration::ZERO, reason: "busy".to_owned() }
}

fn registered(number: u8, revision: u64, online: bool) -> RegistrationStatus {
    let node = NodeId::parse(&format!("10.0.0.1:{}", 8000 + u16::from(number))).unwrap();
    RegistrationStatus::Registered { node, revision: Revision(revision), online }
}

impl Bench {
    /// A session with one link that is welcomed.
    fn welcomed(server_count: u16) -> (Self, LinkId) {
        let mut bench = Self::new(server_count);
        let link = bench.last_link();
        bench.says(link, welcome());
        (bench, link)
    }

    /// Registers a node, and answers its lease and the first write about it.
    fn registers(&mut self, wanted: Wanted) -> (LeaseId, Write) {
        let lease = wanted.lease.id();
        self.lease(LeaseEvent::Register(wanted));
        (lease, self.write())
    }

    pub(super) fn lease(&mut self, event: LeaseEvent) {
        self.apply(Event::Lease(event));
    }

    /// The one write that is under way.
    fn write(&mut self) -> Write {
        let [(_, _, write)] = &self.writes[..] else { panic!("one write, not {:?}", self.writes) };
        write.clone()
    }

    /// Answers it.
    fn answers(&mut self, outcome: Outcome) {
        let (_, lease, _) = self.writes.pop().expect("a write is under way");
        self.lease(LeaseEvent::Written { lease, outcome });
    }

    fn lost(&mut self, link: LinkId, lease: LeaseId, reason: Reason) {
        self.lost_to(link, lease, reason, None);
    }

    /// What is there instead nobody keeps.
    fn lost_to(&mut self, link: LinkId, lease: LeaseId, reason: Reason, unkept: Option<LeaseId>) {
        let lost = wire::LostLease {
            lease: lease.as_bytes().to_vec(),
            reason: reason.into(),
            unkept: unkept.map(|lease| lease.as_bytes().to_vec()).unwrap_or_default(),
            ..wire::LostLease::default()
        };
        self.says(link, Answer::Lost(wire::Lost { leases: vec![lost] }));
    }

    /// What was said to keep leases since it was asked last.
    pub(super) fn keeps(&mut self) -> Vec<(LinkId, Vec<Held>)> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .filter_map(|(link, request)| match request {
                Request::Keep(keep) => Some((link, keep.held)),
                _ => None,
            })
            .collect()
    }

    fn ended(&self, lease: LeaseId) -> &RegistrationEnd {
        let RegistrationStatus::Ended(end) = &self.told[&lease] else { panic!("{:?}", self.told[&lease]) };
        end
    }
}

fn put(write: &Write) -> &jcm_model::NodeSpec {
    let What::Put(spec) = &write.what else { panic!("a put, not {write:?}") };
    spec
}

#[test]
fn a_program_is_put_offline_kept_and_made_ready() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, write) = bench.registers(wanted(1));
    assert_eq!((write.cluster.as_str(), write.node.as_str()), ("orders", "10.0.0.1:8001"));
    assert_eq!(write.lease, lease, "a node of somebody else is not overwritten");
    assert_eq!(put(&write).attributes.lease().map(Lease::id), Some(lease));
    assert!(!put(&write).attributes.online());
    assert!(bench.keeps().is_empty(), "what is not there cannot be kept");
    bench.answers(done(7));
    assert_eq!(bench.told[&lease], registered(1, 7, false));
    bench.wait(GATHER_FOR);
    let [(on, held)] = &bench.keeps()[..] else { panic!("one message") };
    assert_eq!(*on, link);
    let [held] = &held[..] else { panic!("one lease") };
    assert_eq!((held.cluster.as_str(), held.node.as_str(), held.revision), ("orders", "10.0.0.1:8001", 7));
    assert_eq!((&held.lease[..], &held.store[..]), (&lease.as_bytes()[..], &store(0).0.as_bytes()[..]));

    bench.lease(LeaseEvent::Ready { lease });
    let write = bench.write();
    assert_eq!((write.what, write.lease), (What::Online, lease));
    bench.answers(done(9));
    assert_eq!(bench.told[&lease], registered(1, 9, true));
    bench.lease(LeaseEvent::Ready { lease });
    assert!(bench.writes.is_empty(), "it is ready already");
}

#[test]
fn leases_are_kept_together_about_every_third_of_the_shortest_ttl_and_never_written() {
    let (mut bench, link) = Bench::welcomed(1);
    bench.registers(wanted(1));
    bench.answers(done(1));
    let long = Lease::new(LeaseId::new([2; 16]), 10 * TTL).unwrap();
    bench.registers(Wanted { lease: long, ..wanted(2) });
    bench.answers(done(2));
    bench.wait(GATHER_FOR);
    bench.keeps();
    bench.wait_with_heartbeats(link, 10 * TTL);
    let keeps = bench.keeps();
    assert!((30..=36).contains(&keeps.len()), "{} messages", keeps.len());
    assert!(keeps.iter().all(|(on, held)| *on == link && held.len() == 2));
    assert!(bench.writes.is_empty());
}

#[test]
fn many_are_written_a_few_at_a_time_and_kept_in_messages_that_a_server_takes() {
    let (mut bench, link) = Bench::welcomed(1);
    for number in 0..200 {
        bench.lease(LeaseEvent::Register(wanted(number)));
    }
    let mut answered = 0;
    while !bench.writes.is_empty() {
        assert!(bench.writes.len() <= WRITES_MAX);
        answered += 1;
        bench.answers(done(answered));
    }
    assert_eq!(answered, 200);
    bench.wait(GATHER_FOR);
    let lengths = |keeps: Vec<(LinkId, Vec<Held>)>| -> Vec<usize> {
        keeps.into_iter().map(|(_, held)| held.len()).collect()
    };
    assert_eq!(lengths(bench.keeps()), [128, 72], "those that are acknowledged together");
    bench.wait_with_heartbeats(link, TTL / 3);
    assert_eq!(lengths(bench.keeps()), [128, 72]);
}

#[test]
fn the_own_address_is_looked_for_until_it_is_found_and_stays() {
    let (mut bench, link) = Bench::welcomed(2);
    let lease = wanted(1).lease.id();
    let me = Me::new().port("http", 80);
    bench.lease(LeaseEvent::Register(Wanted { me: me.clone(), ..wanted(1) }));
    assert_eq!((std::mem::take(&mut bench.looking), bench.writes.len()), (vec![link], 0));
    bench.lease(LeaseEvent::Address { link, found: Err("no route".to_owned()) });
    bench.wait(ADDRESS_AGAIN);
    assert_eq!(std::mem::take(&mut bench.looking), [link]);
    bench.lease(LeaseEvent::Address { link: LinkId(99), found: Ok("10.0.0.66".parse().unwrap()) });
    assert!(bench.writes.is_empty(), "that was of a link that is gone");
    bench.lease(LeaseEvent::Address { link, found: Ok("10.0.0.5".parse().unwrap()) });
    assert_eq!(bench.write().node.as_str(), "10.0.0.5:80");
    bench.answers(done(1));
    // Through whichever server, it is the same node.
    bench.closes(link);
    bench.connect();
    let other = bench.last_link();
    bench.says(other, welcome());
    bench.lost(other, lease, Reason::Gone);
    bench.wait_with_heartbeats(other, HEARTBEAT);
    assert_eq!(bench.write().node.as_str(), "10.0.0.5:80");
    assert!(bench.looking.is_empty());
}

#[test]
fn a_write_without_an_answer_is_repeated_unchanged_under_its_key_on_whichever_link() {
    let (mut bench, link) = Bench::welcomed(2);
    let (lease, first) = bench.registers(wanted(1));
    bench.lease(LeaseEvent::Ready { lease });
    bench.answers(again());
    let RegistrationStatus::Trying { reason: Some(reason) } = &bench.told[&lease] else {
        panic!("it is tried")
    };
    assert_eq!(reason, "busy");
    bench.closes(link);
    bench.connect();
    assert!(bench.writes.is_empty(), "that server has said nothing yet");
    let other = bench.last_link();
    bench.says(other, welcome());
    bench.wait_with_heartbeats(other, HEARTBEAT);
    assert_eq!(bench.writes[0].0, other);
    assert_eq!(bench.write(), first);
    bench.answers(done(4));
    let next = bench.write();
    assert_eq!(next.what, What::Online);
    assert_ne!(next.key, first.key);
}

#[test]
fn a_server_that_is_busy_is_left_alone_for_as_long_as_it_says() {
    let (mut bench, link) = Bench::welcomed(1);
    bench.registers(wanted(1));
    bench.answers(Outcome::Again { after: 3 * HEARTBEAT, reason: "busy".to_owned() });
    bench.wait_with_heartbeats(link, 2 * HEARTBEAT);
    assert!(bench.writes.is_empty());
    bench.wait_with_heartbeats(link, 2 * HEARTBEAT);
    assert_eq!(bench.writes.len(), 1);
}

#[test]
fn a_cluster_that_is_not_there_ends_it_unless_it_is_waited_for() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, _) = bench.registers(wanted(1));
    bench.answers(Outcome::NoCluster);
    assert_eq!(*bench.ended(lease), RegistrationEnd::NoCluster);
    let (lease, _) = bench.registers(Wanted { patient: true, ..wanted(2) });
    let mut tries = 0;
    for _ in 0..1000 {
        if !bench.writes.is_empty() {
            tries += 1;
            bench.answers(Outcome::NoCluster);
        }
        bench.wait_with_heartbeats(link, HEARTBEAT);
    }
    assert!((20..80).contains(&tries), "{tries} tries in a quarter of an hour");
    while bench.writes.is_empty() {
        bench.wait_with_heartbeats(link, HEARTBEAT);
    }
    bench.answers(done(3));
    assert_eq!(bench.told[&lease], registered(2, 3, false));
}

#[test]
fn a_place_that_another_node_has_is_tried_for_until_that_is_gone() {
    let (mut bench, link) = Bench::welcomed(1);
    let clash = || Outcome::Clash { reason: "it would share 10.0.0.1 port 8001".to_owned() };
    let (lease, first) = bench.registers(wanted(1));
    let mut keys = vec![first.key];
    bench.answers(clash());
    let trying = RegistrationStatus::Trying { reason: Some("it would share 10.0.0.1 port 8001".to_owned()) };
    assert_eq!(bench.told[&lease], trying);
    let waits = |bench: &mut Bench| {
        let before = bench.now;
        while bench.writes.is_empty() {
            bench.wait_with_heartbeats(link, HEARTBEAT);
        }
        bench.now - before
    };
    let mut longest = Duration::ZERO;
    for _ in 0..30 {
        longest = longest.max(waits(&mut bench));
        assert_eq!(put(&bench.write()).attributes.lease().map(Lease::id), Some(lease));
        keys.push(bench.write().key);
        bench.answers(clash());
        assert_eq!(bench.told[&lease], trying);
    }
    // The other one may be replaced after its whole time, and soon after that this one asks.
    assert!((TTL / 8..=TTL / 8 + TTL / 4 + HEARTBEAT).contains(&longest), "{longest:?}");
    waits(&mut bench);
    // What was refused is worked out anew: the program may have become ready meanwhile.
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 31);
    bench.answers(done(5));
    assert_eq!(bench.told[&lease], registered(1, 5, false));

    // The same after it was there, and it can be left meanwhile.
    bench.lost(link, lease, Reason::Gone);
    waits(&mut bench);
    bench.answers(clash());
    assert_eq!(bench.told[&lease], trying);
    bench.lease(LeaseEvent::Leave { lease, drain: TTL });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);

    // Whatever else is refused ends what was never there.
    let (lease, _) = bench.registers(wanted(2));
    bench.answers(Outcome::Refused { reason: "no".to_owned() });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Refused { reason: "no".to_owned() });
}

#[test]
fn a_program_that_was_started_again_takes_its_own_place_and_never_one_that_people_keep() {
    let (mut bench, _) = Bench::welcomed(1);
    let before = LeaseId::new([77; 16]);
    let (lease, first) = bench.registers(wanted(1));
    bench.answers(Outcome::Leased { found: Some(before) });
    let over = bench.write();
    assert_eq!(over.lease, before, "the one that was found, and no other");
    assert_ne!(over.key, first.key);
    assert_eq!(put(&over).attributes.lease().map(Lease::id), Some(lease));
    // It was carried out although nobody answered.
    bench.answers(Outcome::Leased { found: Some(lease) });
    assert_eq!(bench.write().lease, lease);
    bench.answers(done(3));
    assert_eq!(bench.told[&lease], registered(1, 3, false));

    let (lease, _) = bench.registers(wanted(2));
    bench.answers(Outcome::Leased { found: None });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Adopted);
}

#[test]
fn what_was_cleared_away_is_put_again_as_it_was_wanted() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, first) = bench.registers(wanted(1));
    bench.answers(done(1));
    bench.lease(LeaseEvent::Ready { lease });
    bench.answers(done(2));
    bench.lost(link, lease, Reason::Unknown);
    assert_eq!(bench.told[&lease], registered(1, 2, true));
    bench.lost(link, lease, Reason::Gone);
    bench.lost(link, lease, Reason::Gone);
    assert!(matches!(bench.told[&lease], RegistrationStatus::Trying { .. }));
    bench.wait_with_heartbeats(link, HEARTBEAT);
    let write = bench.write();
    assert_eq!(write.lease, lease);
    assert_ne!(write.key, first.key);
    assert!(put(&write).attributes.online(), "the program was ready");
    // A cluster that was deleted may come back: what stood once is not given up.
    bench.answers(Outcome::NoCluster);
    bench.wait_with_heartbeats(link, 2 * HEARTBEAT);
    bench.answers(Outcome::Refused { reason: "no such port".to_owned() });
    let RegistrationStatus::Trying { reason: Some(reason) } = &bench.told[&lease] else {
        panic!("it is tried")
    };
    assert_eq!(reason, "no such port");
    while bench.writes.is_empty() {
        bench.wait_with_heartbeats(link, HEARTBEAT);
    }
    bench.answers(done(9));
    assert_eq!(bench.told[&lease], registered(1, 9, true));
}

#[test]
fn a_node_of_another_lease_ends_it_however_that_is_learnt() {
    for (reason, end) in
        [(Reason::Taken, RegistrationEnd::Taken), (Reason::Adopted, RegistrationEnd::Adopted)]
    {
        let (mut bench, link, lease) = stands();
        bench.lost(link, lease, reason);
        assert_eq!(*bench.ended(lease), end);
        bench.keeps();
        bench.wait_with_heartbeats(link, TTL);
        assert!(bench.keeps().is_empty() && bench.writes.is_empty());
    }
    let (mut bench, _, lease) = stands();
    bench.lease(LeaseEvent::Ready { lease });
    bench.answers(Outcome::Leased { found: None });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Adopted);
    // Another lease alone may be one of before a restore: a server is asked.
    for event in [|lease| LeaseEvent::Ready { lease }, |lease| LeaseEvent::Leave { lease, drain: TTL }] {
        let (mut bench, link, lease) = stands();
        bench.wait(GATHER_FOR);
        bench.keeps();
        bench.lease(event(lease));
        bench.answers(Outcome::Leased { found: Some(LeaseId::new([77; 16])) });
        bench.wait(GATHER_FOR);
        assert!(matches!(&bench.keeps()[..], [(_, held)] if held[0].lease == lease.as_bytes()));
        bench.lost(link, lease, Reason::Taken);
        assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);
    }
    // What people keep is not replaced, wherever a program comes from.
    let (mut bench, link, lease) = stands();
    bench.lost(link, lease, Reason::Gone);
    bench.wait_with_heartbeats(link, HEARTBEAT);
    bench.answers(Outcome::Leased { found: None });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Adopted);
}

/// Registered, by a server that goes on.
fn stands() -> (Bench, LinkId, LeaseId) {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, _) = bench.registers(wanted(1));
    bench.answers(done(1));
    (bench, link, lease)
}

/// A server says that nobody keeps the lease that is there, and goes on to say so.
fn unkept(bench: &mut Bench, link: LinkId, lease: LeaseId, there: LeaseId) {
    bench.lost_to(link, lease, Reason::Gone, Some(there));
    let write = until_write(bench, link);
    assert_eq!(write.lease, lease, "it was said for too short a time");
    bench.answers(Outcome::Leased { found: Some(there) });
    bench.wait_with_heartbeats(link, UNKEPT_FOR);
    if !bench.writes.is_empty() {
        bench.answers(Outcome::Leased { found: Some(there) });
    }
    bench.lost_to(link, lease, Reason::Gone, Some(there));
}

/// Goes on until something is to be written.
fn until_write(bench: &mut Bench, link: LinkId) -> Write {
    while bench.writes.is_empty() {
        bench.wait_with_heartbeats(link, HEARTBEAT);
    }
    bench.write()
}

#[test]
fn a_program_that_becomes_ready_right_after_a_restore_waits_until_its_place_is_known_to_be_its_own() {
    let older = LeaseId::new([77; 16]);
    let (mut bench, link, lease) = stands();
    bench.lease(LeaseEvent::Ready { lease });
    // The older lease may be kept, as far as servers know: they say nothing.
    for _ in 0..3 {
        let write = until_write(&mut bench, link);
        assert_eq!((&write.what, write.lease), (&What::Online, lease));
        bench.answers(Outcome::Leased { found: Some(older) });
        assert_eq!(bench.told[&lease], registered(1, 1, false));
    }
    unkept(&mut bench, link, lease, older);
    until_write(&mut bench, link);
    bench.answers(Outcome::Leased { found: Some(older) });
    let over = until_write(&mut bench, link);
    assert_eq!(over.lease, older);
    assert!(put(&over).attributes.online(), "the program is ready");
    bench.answers(done(2));
    assert_eq!(bench.told[&lease], registered(1, 2, true));
}

#[test]
fn a_program_that_leaves_right_after_a_restore_takes_its_node_along() {
    let older = LeaseId::new([77; 16]);
    for drain in [Duration::ZERO, TTL] {
        let (mut bench, link, lease) = stands();
        bench.lease(LeaseEvent::Leave { lease, drain });
        for _ in 0..3 {
            assert_eq!(until_write(&mut bench, link).lease, lease);
            bench.answers(Outcome::Leased { found: Some(older) });
        }
        unkept(&mut bench, link, lease, older);
        let mut write = until_write(&mut bench, link);
        if !drain.is_zero() {
            assert_eq!((write.what, write.lease), (What::Drain, older));
            bench.answers(done(2));
            assert_eq!(bench.told[&lease], RegistrationStatus::Draining);
            bench.keeps();
            // What a server thinks of the own lease does not matter any more.
            bench.lost(link, lease, Reason::Taken);
            write = until_write(&mut bench, link);
            assert!(bench.keeps().is_empty());
        }
        assert_eq!((write.what, write.lease), (What::Delete, older));
        bench.answers(done(3));
        assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
    }
}

/// The server that is asked is behind the one that refused: it knows nothing of who has the place now, or takes somebody else for
/// whoever has it.
#[test]
fn who_leaves_or_becomes_ready_takes_no_successor_along_that_a_server_does_not_know_of() {
    let (successor, other) = (LeaseId::new([77; 16]), LeaseId::new([78; 16]));
    for event in [
        |lease| LeaseEvent::Leave { lease, drain: TTL },
        |lease| LeaseEvent::Leave { lease, drain: Duration::ZERO },
        |lease| LeaseEvent::Ready { lease },
    ] {
        let (mut bench, link, lease) = stands();
        bench.lease(event(lease));
        while !matches!(bench.told[&lease], RegistrationStatus::Ended(_)) {
            let write = until_write(&mut bench, link);
            assert_eq!(write.lease, lease, "it writes under its own lease alone");
            bench.answers(Outcome::Leased { found: Some(successor) });
            bench.lost(link, lease, Reason::Gone);
            bench.lost_to(link, lease, Reason::Gone, Some(other));
        }
        assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);
    }
}

#[test]
fn a_place_that_somebody_keeps_is_theirs_also_where_no_server_says_so() {
    let (mut bench, link, lease) = stands();
    bench.lease(LeaseEvent::Ready { lease });
    let start = bench.now;
    while !matches!(bench.told[&lease], RegistrationStatus::Ended(_)) {
        assert!(bench.now - start < 3 * TTL, "it is over after some time");
        until_write(&mut bench, link);
        bench.answers(Outcome::Leased { found: Some(LeaseId::new([77; 16])) });
    }
    assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);
    assert!(bench.now - start >= 2 * TTL, "by then they would have said that nobody keeps it");
}

#[test]
fn after_a_restore_of_an_older_store_it_replaces_its_own_older_lease_and_no_more() {
    let (older, other) = (LeaseId::new([77; 16]), LeaseId::new([78; 16]));
    let restored = || {
        let (mut bench, link) = Bench::welcomed(1);
        let (lease, _) = bench.registers(Wanted { online: true, ..wanted(1) });
        bench.answers(done(900));
        bench.wait(GATHER_FOR);
        assert_eq!(bench.keeps().len(), 1);
        // It keeps what it wrote to the store of before; a server of the new one finds that nobody renews what is in place.
        bench.lost(link, lease, Reason::Gone);
        assert!(matches!(bench.told[&lease], RegistrationStatus::Trying { reason: Some(_) }));
        bench.wait_with_heartbeats(link, HEARTBEAT);
        assert!(bench.keeps().is_empty(), "what is lost is not kept");
        assert_eq!(bench.write().lease, lease);
        bench.answers(Outcome::Leased { found: Some(older) });
        let over = bench.write();
        assert_eq!(over.lease, older, "exactly the one that was found");
        assert_eq!(put(&over).attributes.lease().map(Lease::id), Some(lease));
        assert!(put(&over).attributes.online(), "the program was ready");
        (bench, link, lease)
    };
    let (mut bench, link, lease) = restored();
    let place = Place { store: store(1).0.as_bytes().to_vec(), revision: Revision(12) };
    bench.answers(Outcome::Done(place.clone()));
    assert_eq!(bench.told[&lease], registered(1, 12, true));
    bench.wait(GATHER_FOR);
    let keeps = bench.keeps();
    let [(_, held)] = &keeps[..] else { panic!("one message, not {keeps:?}") };
    assert_eq!((&held[0].store, held[0].revision), (&place.store, 12), "it is kept as it was written now");
    // From here on it is as it always is.
    bench.lost(link, lease, Reason::Taken);
    assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);

    // Somebody was faster: the place is theirs.
    let (mut bench, _, lease) = restored();
    bench.answers(Outcome::Leased { found: Some(other) });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);

    // It was carried out although nobody answered, and then somebody came.
    let (mut bench, _, lease) = restored();
    bench.answers(Outcome::Leased { found: Some(lease) });
    assert_eq!(bench.write().lease, lease);
    bench.answers(Outcome::Leased { found: Some(other) });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Taken);

    // Each time that it is found gone is one of its own.
    let (mut bench, link, lease) = restored();
    bench.answers(done(13));
    bench.lost(link, lease, Reason::Gone);
    bench.wait_with_heartbeats(link, HEARTBEAT);
    bench.answers(Outcome::Leased { found: Some(other) });
    assert_eq!(bench.write().lease, other);
    bench.answers(done(14));
    assert_eq!(bench.told[&lease], registered(1, 14, true));
}

/// Both are told that their node is gone, and write in every order against one store.
#[test]
fn of_two_living_programs_one_has_the_place_and_the_other_one_ends() {
    const TURNS: u32 = 6;
    for order in 0..1_u32 << TURNS {
        let mut place = LeaseId::new([77; 16]);
        let mut programs = [1, 2].map(|number| {
            let (mut bench, link) = Bench::welcomed(1);
            let (lease, _) = bench.registers(Wanted { lease: wanted(number).lease, ..wanted(1) });
            bench.answers(done(900));
            bench.lost(link, lease, Reason::Gone);
            bench.wait_with_heartbeats(link, HEARTBEAT);
            (bench, link, lease)
        });
        let mut written = 0;
        for turn in 0..4 * TURNS {
            let (bench, link, lease) = &mut programs[(order >> (turn % TURNS) & 1) as usize];
            if bench.writes.is_empty() {
                // What a server says to its keep.
                if place != *lease {
                    bench.lost(*link, *lease, Reason::Taken);
                }
                continue;
            }
            written += 1;
            if bench.write().lease == place {
                place = *lease;
                bench.answers(done(u64::from(turn)));
            } else {
                bench.answers(Outcome::Leased { found: Some(place) });
            }
        }
        let turns = order.count_ones();
        assert!(written <= 4, "{written} writes in order {order:b}");
        if turns == 0 || turns == TURNS {
            continue; // One of them never had a turn.
        }
        for (bench, _, lease) in &programs {
            if place == *lease {
                assert!(matches!(bench.told[lease], RegistrationStatus::Registered { .. }), "{order:b}");
            } else {
                assert_eq!(*bench.ended(*lease), RegistrationEnd::Taken, "{order:b}");
            }
        }
    }
}

#[test]
fn every_stream_hears_of_all_leases_as_soon_as_it_is_open() {
    let (mut bench, link) = Bench::welcomed(2);
    bench.registers(wanted(1));
    bench.answers(done(1));
    bench.wait(GATHER_FOR);
    bench.keeps();
    bench.says(link, Answer::GoAway(wire::GoAway::default()));
    bench.wait(crate::servers::BACKOFF_BASE);
    let other = bench.last_link();
    assert!(bench.keeps().is_empty());
    bench.says(other, welcome());
    let keeps = bench.keeps();
    assert!(matches!(&keeps[..], [(on, held)] if *on == other && held.len() == 1), "{keeps:?}");
}

#[test]
fn a_server_that_knows_no_leases_is_told_of_none() {
    let mut bench = Bench::new(1);
    let link = bench.last_link();
    let Answer::Welcome(welcome) = welcome() else { unreachable!() };
    bench.says(link, Answer::Welcome(wire::Welcome { protocol: jcm_proto::LEASES_SINCE - 1, ..welcome }));
    bench.lease(LeaseEvent::Register(wanted(1)));
    bench.wait_with_heartbeats(link, TTL);
    assert!(bench.writes.is_empty() && bench.keeps().is_empty());
}

#[test]
fn a_program_that_leaves_drains_is_kept_meanwhile_and_is_deleted_then() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, _) = bench.registers(wanted(1));
    bench.answers(done(1));
    bench.lease(LeaseEvent::Leave { lease, drain: TTL });
    assert_eq!(bench.write().what, What::Drain);
    bench.answers(done(2));
    assert_eq!(bench.told[&lease], RegistrationStatus::Draining);
    bench.keeps();
    bench.wait_with_heartbeats(link, TTL.saturating_sub(HEARTBEAT));
    assert!(bench.writes.is_empty() && !bench.keeps().is_empty());
    bench.wait_with_heartbeats(link, HEARTBEAT);
    let write = bench.write();
    assert_eq!((write.what, write.lease), (What::Delete, lease));
    bench.answers(again());
    bench.wait_with_heartbeats(link, HEARTBEAT);
    bench.answers(done(3));
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
}

#[test]
fn a_program_that_leaves_before_it_is_there_leaves_nothing_behind() {
    let (mut bench, link) = Bench::welcomed(1);
    // Nothing was sent.
    let lease = wanted(1).lease.id();
    bench.lease(LeaseEvent::Register(Wanted { me: Me::new().port("http", 80), ..wanted(1) }));
    bench.lease(LeaseEvent::Leave { lease, drain: TTL });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
    // It is under way, and nobody knows what came of it.
    let (lease, _) = bench.registers(wanted(2));
    bench.lease(LeaseEvent::Leave { lease, drain: TTL });
    bench.answers(again());
    bench.wait_with_heartbeats(link, HEARTBEAT);
    assert_eq!(bench.write().what, What::Delete);
    bench.answers(Outcome::NoNode);
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
    // It is under way, and comes through.
    let (lease, _) = bench.registers(wanted(3));
    bench.lease(LeaseEvent::Leave { lease, drain: Duration::ZERO });
    bench.answers(done(4));
    assert_eq!(bench.write().what, What::Delete, "there is nothing to drain");
    bench.answers(Outcome::Leased { found: None });
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
}

#[test]
fn a_program_that_was_cleared_away_while_it_leaves_has_left() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, _) = bench.registers(wanted(1));
    bench.answers(done(1));
    bench.lease(LeaseEvent::Leave { lease, drain: TTL });
    bench.answers(again());
    bench.lost(link, lease, Reason::Gone);
    assert_eq!(*bench.ended(lease), RegistrationEnd::Left);
}

#[test]
fn what_nobody_holds_any_more_is_kept_no_more() {
    let (mut bench, link) = Bench::welcomed(1);
    let (lease, _) = bench.registers(wanted(1));
    bench.lease(LeaseEvent::Abandon { lease });
    bench.answers(done(1));
    bench.wait_with_heartbeats(link, TTL);
    assert!(bench.keeps().is_empty() && bench.session.leases.is_empty());
    bench.registers(wanted(2));
}
