//! What this server has to do next, so that what is in the store is what it wants to be.
//!
//! A level against a level: the wish on one side, a reading on the other, and one step at a time between them. Whether
//! a step's answer was lost makes no difference, because the next reading shows what became of it; so nothing is done
//! twice, whatever is lost and returns. Pure.

use jcm_model::ServerId;

use super::election::Leader;
use super::reading::Reading;
use crate::Member;

/// What a server wants to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wish {
    /// Known, as this; `None`: not known.
    pub(super) member: Option<Member>,
    /// Sharing in the checks.
    pub(super) shares: bool,
    /// Leading no longer, and not standing for election either.
    pub(super) is_resigned: bool,
    /// Known no longer, and nothing else either: it is about to stop.
    pub(super) is_leaving: bool,
}

impl Wish {
    /// Whether it may lead.
    pub(super) fn stands(&self) -> bool {
        !self.is_resigned && !self.is_leaving
    }
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make this server known.
    Register,
    /// The same, in the place of what is left there of an earlier run or of what it said before.
    Replace {
        /// The version of what is there.
        version: i32,
    },
    /// Take a candidate of that name out of the queue.
    Withdraw(String),
    /// Make this server unknown.
    Unregister,
    /// Stand for election, at the end of the queue.
    Stand,
    /// Begin a new epoch: it is this server's turn.
    Lead {
        /// The epoch that ends.
        after: u64,
        leader: Leader,
    },
    /// Leave the ring.
    LeaveRing,
    /// Enter the ring.
    EnterRing,
    /// Enter the ring in the place of what an earlier run left there.
    ReenterRing,
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Everything is as it is wanted.
    Settled,
    Next(Step),
    /// Another server has the id: nothing can be done but wait.
    Taken {
        /// Where that one is reached; may be empty.
        advertise: String,
    },
}

/// Works out what to do, for the server that is called that and has this session.
pub(super) fn plan(wish: &Wish, reading: &Reading, session: i64) -> Plan {
    let Some(member) = &wish.member else { return Plan::Settled };
    if wish.is_leaving {
        return departure(&member.id, reading, session).map_or(Plan::Settled, Plan::Next);
    }
    match reading.servers.get(&member.id) {
        None => return Plan::Next(Step::Register),
        Some(there) => match &there.member {
            Some(known) if known.instance == member.instance => {
                if there.session != session || known != member {
                    return Plan::Next(Step::Replace { version: there.version });
                }
            }
            other => {
                let advertise = other.as_ref().map(|other| other.advertise.clone()).unwrap_or_default();
                return Plan::Taken { advertise };
            }
        },
    }
    // From here on the id is this server's: whatever else stands under it is its own.
    own_places(&member.id, wish, reading, session).map_or(Plan::Settled, Plan::Next)
}

/// The ring first, so that others take its checks over before they miss it; the name last.
fn departure(server: &ServerId, reading: &Reading, session: i64) -> Option<Step> {
    if reading.ring_session == Some(session) {
        return Some(Step::LeaveRing);
    }
    if let Some(candidate) = reading.queue.of(session) {
        return Some(Step::Withdraw(candidate.name()));
    }
    let there = reading.servers.get(server)?;
    (there.session == session).then_some(Step::Unregister)
}

fn own_places(server: &ServerId, wish: &Wish, reading: &Reading, session: i64) -> Option<Step> {
    if let Some(candidate) = reading.queue.left_over(server, session) {
        return Some(Step::Withdraw(candidate.name()));
    }
    match reading.queue.of(session) {
        None if wish.stands() => return Some(Step::Stand),
        Some(own) if !wish.stands() => return Some(Step::Withdraw(own.name())),
        Some(own) if reading.queue.first() == Some(own) => {
            let leader = Leader { server: server.clone(), candidate: own.name() };
            if reading.epoch.leader.as_ref() != Some(&leader) {
                return Some(Step::Lead { after: reading.epoch.number, leader });
            }
        }
        _ => {}
    }
    match (wish.shares, reading.ring_session) {
        (true, None) => Some(Step::EnterRing),
        (true, Some(there)) if there != session => Some(Step::ReenterRing),
        (false, Some(_)) => Some(Step::LeaveRing),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::election::{Candidate, Queue};
    use super::super::reading::Registration;
    use super::*;

    const SESSION: i64 = 20;

    fn member(instance: u128) -> Member {
        Member {
            id: ServerId::parse("a").unwrap(),
            instance: Uuid::from_u128(instance),
            advertise: format!("host-{instance}:80"),
            zone: String::new(),
            version: "1".to_owned(),
        }
    }

    fn wish() -> Wish {
        Wish { member: Some(member(1)), shares: true, ..Wish::default() }
    }

    fn candidate(session: i64, server: &str, sequence: u32) -> String {
        format!("{}{sequence:010}", Candidate::prefix(session, &ServerId::parse(server).unwrap()))
    }

    /// A store in which steps are carried out, to see where they lead.
    #[derive(Default)]
    struct Store {
        reading: Reading,
        queue: Vec<String>,
        sequence: u32,
    }

    impl Store {
        fn register(&mut self, session: i64, member: Member) {
            let id = member.id.clone();
            let registration = Registration { session, version: 0, member: Some(member) };
            self.reading.servers.insert(id, registration);
        }

        fn stand(&mut self, session: i64, server: &str) {
            self.queue.push(candidate(session, server, self.sequence));
            self.sequence += 1;
        }

        fn plan(&mut self, wish: &Wish) -> Plan {
            self.reading.queue = Queue::new(self.queue.iter().map(String::as_str));
            plan(wish, &self.reading, SESSION)
        }

        fn carry_out(&mut self, step: Step) {
            match step {
                Step::Register | Step::Replace { .. } => self.register(SESSION, member(1)),
                Step::Withdraw(name) => self.queue.retain(|candidate| *candidate != name),
                Step::Stand => self.stand(SESSION, "a"),
                Step::Lead { after, leader } => {
                    assert_eq!(after, self.reading.epoch.number);
                    self.reading.epoch.number += 1;
                    self.reading.epoch.leader = Some(leader);
                }
                Step::Unregister => {
                    self.reading.servers.remove(&member(1).id);
                }
                Step::LeaveRing => self.reading.ring_session = None,
                Step::EnterRing | Step::ReenterRing => self.reading.ring_session = Some(SESSION),
            }
        }

        fn settle(&mut self, wish: &Wish) -> Vec<Step> {
            let mut steps = Vec::new();
            while let Plan::Next(step) = self.plan(wish) {
                assert!(steps.len() < 20, "no end of steps: {steps:?}");
                self.carry_out(step.clone());
                steps.push(step);
            }
            steps
        }
    }

    #[test]
    fn the_first_server_is_known_then_leads_then_shares_and_then_rests() {
        let mut store = Store::default();
        let steps = store.settle(&wish());
        let leader = Leader { server: member(1).id, candidate: candidate(SESSION, "a", 0) };
        assert_eq!(steps, [Step::Register, Step::Stand, Step::Lead { after: 0, leader }, Step::EnterRing]);
        assert_eq!(store.plan(&wish()), Plan::Settled);
    }

    #[test]
    fn a_server_behind_another_stands_and_does_not_lead_until_that_one_is_gone() {
        let mut store = Store::default();
        store.stand(7, "b");
        assert_eq!(store.settle(&wish()), [Step::Register, Step::Stand, Step::EnterRing]);
        store.queue.remove(0);
        assert!(matches!(store.plan(&wish()), Plan::Next(Step::Lead { .. })));
    }

    #[test]
    fn after_a_new_session_what_the_old_one_left_is_replaced_and_leadership_is_not_stolen_back() {
        let mut store = Store::default();
        store.register(7, member(1));
        store.stand(7, "a");
        store.stand(8, "b");
        store.reading.ring_session = Some(7);
        let withdrawn = candidate(7, "a", 0);
        assert_eq!(
            store.settle(&wish()),
            [Step::Replace { version: 0 }, Step::Withdraw(withdrawn), Step::Stand, Step::ReenterRing]
        );
    }

    #[test]
    fn an_id_of_another_server_is_left_alone_with_all_that_stands_under_it() {
        let mut store = Store::default();
        store.register(7, member(2));
        store.stand(7, "a");
        store.reading.ring_session = Some(7);
        assert_eq!(store.plan(&wish()), Plan::Taken { advertise: "host-2:80".to_owned() });
        store.reading.servers.get_mut(&member(1).id).unwrap().member = None;
        assert_eq!(store.plan(&wish()), Plan::Taken { advertise: String::new() }, "alien bytes");
    }

    #[test]
    fn a_server_that_says_something_new_of_itself_is_registered_again_once() {
        let mut store = Store::default();
        store.settle(&wish());
        store.register(SESSION, Member { zone: "z".to_owned(), ..member(1) });
        assert_eq!(store.settle(&wish()), [Step::Replace { version: 0 }]);
    }

    #[test]
    fn whoever_no_longer_shares_leaves_the_ring_and_stays_a_member() {
        let mut store = Store::default();
        store.settle(&wish());
        let unwilling = Wish { shares: false, ..wish() };
        assert_eq!(store.settle(&unwilling), [Step::LeaveRing]);
        assert_eq!(store.plan(&Wish::default()), Plan::Settled, "without a wish nothing is done");
    }

    #[test]
    fn whoever_resigns_gives_up_its_place_in_the_queue_and_stays_a_member_that_shares() {
        let mut store = Store::default();
        store.settle(&wish());
        let resigned = Wish { is_resigned: true, ..wish() };
        assert_eq!(store.settle(&resigned), [Step::Withdraw(candidate(SESSION, "a", 0))]);
        assert_eq!(store.reading.ring_session, Some(SESSION));
        assert!(matches!(store.settle(&wish())[..], [Step::Stand, Step::Lead { .. }]), "announced anew");
    }

    #[test]
    fn whoever_leaves_leaves_the_ring_first_and_touches_nothing_of_others() {
        let mut store = Store::default();
        store.settle(&wish());
        let leaving = Wish { is_leaving: true, ..wish() };
        let withdrawn = candidate(SESSION, "a", 0);
        assert_eq!(store.settle(&leaving), [Step::LeaveRing, Step::Withdraw(withdrawn), Step::Unregister]);
        store.register(7, member(2));
        store.stand(7, "a");
        store.reading.ring_session = Some(7);
        assert_eq!(store.settle(&leaving), []);
    }

    #[test]
    fn a_candidate_made_twice_because_an_answer_was_lost_is_withdrawn() {
        let mut store = Store::default();
        store.settle(&wish());
        store.stand(SESSION, "a");
        assert_eq!(store.settle(&wish()), [Step::Withdraw(candidate(SESSION, "a", 1))]);
    }
}
