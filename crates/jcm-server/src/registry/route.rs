//! Where a write is carried out: here, or by another server, once.
//!
//! The leader is only faster: it batches everybody's writes, which would collide otherwise. So a server that leads, or
//! does not know a leader it can ask, commits by itself. A leader that did not answer is passed by until it answers
//! again; now and then one write tries it, so that a slow leader costs one write its time and not all of them. Pure:
//! time is an argument.

use std::time::{Duration, Instant};

use jcm_model::ServerId;

/// How long a leader is passed by before a write tries it again; doubled each time that it fails again.
const BYPASS: Duration = Duration::from_secs(1);

/// Longest time until it is tried again.
const BYPASS_MAX: Duration = Duration::from_secs(16);

/// Where to carry a write out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Here,
    Forward(ServerId),
}

/// What the decision rests on.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Whether this server leads.
    pub(super) leads: bool,
    pub(super) leader: Option<ServerId>,
    /// Rises with every new leader.
    pub(super) epoch: u64,
    /// The servers that can be asked.
    pub(super) connected: Vec<ServerId>,
    /// Whether the store is out of this server's reach.
    pub(super) cut_off: bool,
}

/// Decides, and remembers a leader that is passed by.
#[derive(Debug, Default)]
pub(super) struct Router {
    bypass: Option<Bypass>,
}

#[derive(Debug)]
struct Bypass {
    leader: ServerId,
    epoch: u64,
    pause: Duration,
    retry_at: Instant,
    /// A write is trying it.
    trying: bool,
}

impl Router {
    /// Where to carry the next write out.
    pub(super) fn decide(&mut self, seen: &Seen, now: Instant) -> Route {
        if seen.leads && !seen.cut_off {
            return Route::Here;
        }
        let leader = seen.leader.as_ref().filter(|leader| seen.connected.contains(leader));
        match leader {
            Some(leader) if !self.is_passed_by(leader, seen.epoch, now) => Route::Forward(leader.clone()),
            _ if seen.cut_off => self.anybody(seen).map_or(Route::Here, Route::Forward),
            _ => Route::Here,
        }
    }

    /// Some server that can be asked, for one that cannot carry a write out by itself; the leader that did not answer
    /// last.
    pub(super) fn anybody(&self, seen: &Seen) -> Option<ServerId> {
        let passed_by = self.bypass.as_ref().map(|bypass| &bypass.leader);
        let others = seen.connected.iter();
        let mut order: Vec<&ServerId> = others.collect();
        order.sort_by_key(|server| (Some(*server) == passed_by, seen.leader.as_ref() != Some(*server)));
        order.first().map(|server| (*server).clone())
    }

    /// The server carried a write out, or said why not.
    pub(super) fn answered(&mut self, server: &ServerId) {
        self.bypass.take_if(|bypass| bypass.leader == *server);
    }

    /// The server did not answer, or cannot write. Passing by concerns the leader alone: others are asked by need. Answers
    /// whether the leader is passed by from now on.
    pub(super) fn failed(&mut self, server: &ServerId, seen: &Seen, now: Instant) -> bool {
        if seen.leader.as_ref() != Some(server) {
            return false;
        }
        match &mut self.bypass {
            Some(bypass) if bypass.leader == *server && bypass.epoch == seen.epoch => {
                // Many writes may have been under way to it: only the one that tried it counts.
                if std::mem::take(&mut bypass.trying) {
                    bypass.pause = (bypass.pause * 2).min(BYPASS_MAX);
                    bypass.retry_at = now + bypass.pause;
                }
                false
            }
            bypass => {
                *bypass = Some(Bypass {
                    leader: server.clone(),
                    epoch: seen.epoch,
                    pause: BYPASS,
                    retry_at: now + BYPASS,
                    trying: false,
                });
                true
            }
        }
    }

    /// Whether the leader is passed by now. When its time has come, the write that asks is the one that tries it.
    fn is_passed_by(&mut self, leader: &ServerId, epoch: u64, now: Instant) -> bool {
        let Some(bypass) = &mut self.bypass else { return false };
        if bypass.leader != *leader || bypass.epoch != epoch {
            self.bypass = None;
            return false;
        }
        if now < bypass.retry_at {
            return true;
        }
        bypass.trying = true;
        bypass.retry_at = now + bypass.pause;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ServerId {
        ServerId::parse(name).unwrap()
    }

    fn follower() -> Seen {
        Seen { leader: Some(id("b")), epoch: 7, connected: vec![id("b"), id("c")], ..Seen::default() }
    }

    fn to(name: &str) -> Route {
        Route::Forward(id(name))
    }

    #[test]
    fn a_follower_forwards_to_the_leader_it_can_ask_and_else_commits_by_itself() {
        let (mut router, now) = (Router::default(), Instant::now());
        assert_eq!(router.decide(&follower(), now), to("b"));
        assert_eq!(router.decide(&Seen { leads: true, ..follower() }, now), Route::Here);
        assert_eq!(router.decide(&Seen { leader: None, ..follower() }, now), Route::Here);
        assert_eq!(router.decide(&Seen { connected: vec![id("c")], ..follower() }, now), Route::Here);
    }

    #[test]
    fn a_server_cut_from_the_store_asks_whoever_it_can() {
        let (mut router, now) = (Router::default(), Instant::now());
        let cut = Seen { cut_off: true, ..follower() };
        assert_eq!(router.decide(&cut, now), to("b"));
        assert_eq!(router.decide(&Seen { connected: vec![id("c")], ..cut.clone() }, now), to("c"));
        assert_eq!(router.decide(&Seen { connected: Vec::new(), ..cut.clone() }, now), Route::Here);
        let leads = Seen { leads: true, leader: Some(id("a")), ..cut.clone() };
        assert_eq!(router.decide(&leads, now), to("b"), "also when it leads");
        router.failed(&id("b"), &cut, now);
        assert_eq!(router.decide(&cut, now), to("c"));
        let only_leader = Seen { connected: vec![id("b")], ..cut };
        assert_eq!(router.decide(&only_leader, now), to("b"), "it may answer, the store does not");
    }

    #[test]
    fn a_leader_that_did_not_answer_is_tried_by_one_write_at_a_time_until_it_answers() {
        let (mut router, start, seen) = (Router::default(), Instant::now(), follower());
        let mut now = start;
        for _ in 0..3 {
            router.failed(&id("b"), &seen, now);
        }
        let mut pause = BYPASS;
        for _ in 0..8 {
            now += pause / 2;
            assert_eq!(router.decide(&seen, now), Route::Here, "after {:?}", now - start);
            now += pause / 2;
            assert_eq!(router.decide(&seen, now), to("b"), "after {:?}", now - start);
            assert_eq!(router.decide(&seen, now), Route::Here, "one write tries it, the others do not wait");
            router.failed(&id("b"), &seen, now);
            pause = (pause * 2).min(BYPASS_MAX);
        }
        now += pause;
        assert_eq!(router.decide(&seen, now), to("b"));
        router.answered(&id("b"));
        assert_eq!(router.decide(&seen, now), to("b"), "it answers again");
    }

    #[test]
    fn a_new_leader_is_not_passed_by_for_the_old_ones_silence() {
        let (mut router, now, seen) = (Router::default(), Instant::now(), follower());
        router.failed(&id("b"), &seen, now);
        assert_eq!(router.decide(&seen, now), Route::Here);
        let next = Seen { leader: Some(id("c")), epoch: 8, ..follower() };
        assert_eq!(router.decide(&next, now), to("c"));
        let again = Seen { epoch: 9, ..follower() };
        assert_eq!(router.decide(&again, now), to("b"), "the same server in a new epoch is a new leader");
    }

    #[test]
    fn a_follower_that_fails_is_no_reason_to_pass_the_leader_by() {
        let (mut router, now, seen) = (Router::default(), Instant::now(), follower());
        router.failed(&id("c"), &seen, now);
        assert_eq!(router.decide(&seen, now), to("b"));
    }
}
