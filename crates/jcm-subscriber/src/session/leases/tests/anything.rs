//! Registrations whose servers say anything in any order.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Happening {
    Register(u8),
    Ready(u8),
    Leave(u8),
    Abandon(u8),
    Answer(usize, Outcome),
    Lost(u8, Reason),
    Close,
    GoAway,
    Welcome,
    Wait(u64),
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let found = prop_oneof![Just(None), (0..5_u8).prop_map(|number| Some(LeaseId::new([number; 16])))];
    prop_oneof![
        4 => (1..100_u64).prop_map(done),
        2 => Just(again()),
        1 => Just(Outcome::NoCluster),
        1 => Just(Outcome::NoNode),
        1 => found.prop_map(|found| Outcome::Leased { found }),
        1 => Just(Outcome::Clash { reason: "there is another".to_owned() }),
        1 => Just(Outcome::Refused { reason: "no".to_owned() }),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    let reason =
        prop_oneof![Just(Reason::Unknown), Just(Reason::Gone), Just(Reason::Taken), Just(Reason::Adopted)];
    prop_oneof![
        3 => (0..4_u8).prop_map(Happening::Register),
        2 => (0..4_u8).prop_map(Happening::Ready),
        1 => (0..4_u8).prop_map(Happening::Leave),
        1 => (0..4_u8).prop_map(Happening::Abandon),
        6 => (0..4_usize, outcome()).prop_map(|(at, outcome)| Happening::Answer(at, outcome)),
        2 => (0..4_u8, reason).prop_map(|(number, reason)| Happening::Lost(number, reason)),
        1 => Just(Happening::Close),
        1 => Just(Happening::GoAway),
        4 => Just(Happening::Welcome),
        4 => (0..4000_u64).prop_map(Happening::Wait),
    ]
}

proptest! {
    /// Whatever happens: there is one write at a time about a node, no key stands for two, nothing is written of what is over,
    /// and only what was acknowledged is kept.
    #[test]
    fn writes_take_turns_and_keys_are_of_one_write(happenings in prop::collection::vec(happening(), 1..100)) {
        let (mut bench, _) = Bench::welcomed(3);
        let mut keys: HashMap<String, Write> = HashMap::new();
        // By the number of a registration: which one it was last, and whether any of its writes was acknowledged.
        let mut next_lease = 0_u8;
        let mut leases: HashMap<u8, LeaseId> = HashMap::new();
        let mut acknowledged: Vec<LeaseId> = Vec::new();
        for happening in happenings {
            let lease = |number: u8| leases.get(&number).copied().unwrap_or(LeaseId::new([255; 16]));
            let link = bench.open.keys().last().copied();
            match happening {
                Happening::Register(number) => {
                    next_lease += 1;
                    let lease = Lease::new(LeaseId::new([100 + next_lease; 16]), TTL).unwrap();
                    leases.insert(number, lease.id());
                    bench.lease(LeaseEvent::Register(Wanted { lease, ..wanted(number) }));
                }
                Happening::Ready(number) => bench.lease(LeaseEvent::Ready { lease: lease(number) }),
                Happening::Leave(number) => bench.lease(LeaseEvent::Leave { lease: lease(number), drain: HEARTBEAT }),
                Happening::Abandon(number) => bench.lease(LeaseEvent::Abandon { lease: lease(number) }),
                Happening::Answer(at, outcome) if !bench.writes.is_empty() => {
                    let (_, lease, _) = bench.writes.remove(at % bench.writes.len());
                    if matches!(outcome, Outcome::Done(_)) {
                        acknowledged.push(lease);
                    }
                    bench.lease(LeaseEvent::Written { lease, outcome });
                }
                Happening::Answer(..) => {}
                Happening::Lost(number, reason) => {
                    let lease = lease(number);
                    if let Some(link) = link {
                        bench.lost(link, lease, reason);
                    }
                }
                Happening::Close => {
                    if let Some(link) = link {
                        bench.closes(link);
                    }
                }
                Happening::GoAway => {
                    if let Some(link) = link {
                        bench.says(link, Answer::GoAway(wire::GoAway::default()));
                    }
                }
                Happening::Welcome => {
                    if let Some(link) = link {
                        bench.says(link, welcome());
                    }
                }
                Happening::Wait(ms) => bench.wait(Duration::from_millis(ms)),
            }

            for (at, (_, lease, write)) in bench.writes.iter().enumerate() {
                prop_assert!(bench.writes[..at].iter().all(|(_, other, _)| other != lease), "two at a time");
                let first = keys.entry(write.key.clone()).or_insert_with(|| write.clone());
                prop_assert_eq!(&*first, write, "one key for two writes");
            }
            for (_, held) in bench.keeps() {
                for held in held {
                    let lease = LeaseId::try_from(&held.lease[..]).unwrap();
                    prop_assert!(acknowledged.contains(&lease));
                    prop_assert!(!matches!(bench.told[&lease], RegistrationStatus::Ended(_)));
                }
            }
        }
    }
}
