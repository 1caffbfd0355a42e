//! Rounds of questions, with servers that answer, answer late, or do not.

use jcm_health::{Judge, Outcome};
use jcm_model::{CheckSpec, Verdict};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn servers(count: usize) -> Vec<ServerId> {
    (1..=count).map(|n| ServerId::parse(&format!("s{n}")).unwrap()).collect()
}

fn answer(said: Said) -> Answer {
    Answer { latency: Duration::from_millis(3), said, ..Answer::nothing("as told") }
}

/// A node, as the checker knows it.
struct Node {
    key: TargetKey,
    cluster: ClusterName,
    id: NodeId,
    check: Check,
}

impl Node {
    fn new(key: u64, cluster: &str) -> Self {
        Self {
            key: TargetKey(key),
            cluster: ClusterName::parse(cluster).unwrap(),
            id: NodeId::parse(&format!("n{key}")).unwrap(),
            check: CheckSpec::default().effective(),
        }
    }

    fn subject(&self) -> Subject<'_> {
        self.subject_born(1)
    }

    fn subject_born(&self, birth: u64) -> Subject<'_> {
        let Self { key, cluster, id, check } = self;
        Subject { key: *key, cluster, node: id, birth: Revision(birth), check }
    }
}

/// Asks `count` servers about one node, and gives each what it says; `None` for no answer.
fn known_after<'a>(
    opinions: &'a mut Opinions,
    node: &Node,
    said: &[Option<Answer>],
    now: Instant,
) -> Known<'a> {
    opinions.ask(node.subject(), &servers(said.len()), now);
    let calls = opinions.calls(now);
    assert_eq!(calls.len(), said.len());
    for (call, said) in calls.into_iter().zip(said) {
        opinions.answered(call.number, said.clone().map(|said| vec![said]), now, AT);
    }
    opinions.known(node.subject(), now)
}

#[test]
fn one_that_reaches_the_node_outweighs_all_that_do_not() {
    let node = Node::new(1, "orders");
    let now = Instant::now();
    let [first, ..] = &servers(1)[..] else { panic!() };
    let (reached, failed) = (Some(answer(Said::Reached)), Some(answer(Said::Failed)));
    let doubting = |said| Some(Answer { suspended: true, ..answer(said) });
    let check = |said: &[Option<Answer>], expected: Known<'_>| {
        assert_eq!(known_after(&mut Opinions::default(), &node, said, now), expected, "{said:?}");
    };
    check(&[reached.clone(), failed.clone(), failed.clone()], Known::Reached(first));
    check(&[failed.clone(), None, None], Known::Failed(first));
    check(&[doubting(Said::Reached)], Known::Reached(first));
    check(&[doubting(Said::Failed)], Known::Silent);
    check(&[doubting(Said::Failed), None], Known::Silent);
    check(&[Some(answer(Said::Nothing)), None], Known::Silent);
    let second = &servers(2)[1];
    check(&[failed, reached, None], Known::Reached(second));
}

#[test]
fn an_answer_that_reaches_is_not_waited_with_and_a_failure_is() {
    let node = Node::new(1, "orders");
    let now = Instant::now();
    let mut opinions = Opinions::default();
    opinions.ask(node.subject(), &servers(2), now);
    let calls = opinions.calls(now);
    let known = opinions.answered(calls[0].number, Some(vec![answer(Said::Failed)]), now, AT);
    assert!(known.is_empty());
    assert_eq!(opinions.known(node.subject(), now), Known::Pending);
    let known = opinions.answered(calls[1].number, Some(vec![answer(Said::Reached)]), now, AT);
    assert_eq!(known, [node.key]);
    assert_eq!(opinions.kept(node.key).count(), 2);
}

#[test]
fn no_answer_in_time_is_no_opinion_and_is_asked_for_once_more() {
    let node = Node::new(1, "orders");
    let start = Instant::now();
    let mut opinions = Opinions::default();
    let mut now = start;
    for expected in [Known::Silent, Known::SilentAgain, Known::SilentAgain] {
        opinions.ask(node.subject(), &servers(2), now);
        let calls = opinions.calls(now);
        assert_eq!(calls[0].within, node.check.timeout + GRACE);
        now += calls[0].within;
        assert!(opinions.expire(now).is_empty());
        assert_eq!(opinions.known(node.subject(), now), Known::Pending, "its time is not over");
        now += Duration::from_millis(1);
        assert_eq!(opinions.expire(now), [node.key]);
        assert_eq!(opinions.known(node.subject(), now), expected);
        // Whoever answers after that is not heard.
        opinions.answered(calls[0].number, Some(vec![answer(Said::Failed)]), now, AT);
        assert_eq!(opinions.known(node.subject(), now), expected);
        assert!(servers(2).iter().all(|server| opinions.is_mute(server)));
    }
    assert!(opinions.is_idle());
}

#[test]
fn a_node_is_failed_only_when_every_server_of_a_large_group_was_asked() {
    let node = Node::new(1, "orders");
    let now = Instant::now();
    let all = servers(2 * SERVERS_MAX + 3);
    let ask = |reaching: Option<&ServerId>| {
        let mut opinions = Opinions::default();
        opinions.ask(node.subject(), &all, now);
        let mut asked: Vec<ServerId> = Vec::new();
        loop {
            let calls = opinions.calls(now);
            assert!(calls.len() <= SERVERS_MAX, "{} at once", calls.len());
            if calls.is_empty() {
                let reached = matches!(opinions.known(node.subject(), now), Known::Reached(_));
                return (asked, reached);
            }
            for call in calls {
                assert_eq!(opinions.known(node.subject(), now), Known::Pending, "asked {asked:?}");
                let said = if Some(&call.to) == reaching { Said::Reached } else { Said::Failed };
                // Every third one says nothing at all.
                let answers =
                    (!asked.len().is_multiple_of(3) || said == Said::Reached).then(|| vec![answer(said)]);
                asked.push(call.to);
                opinions.answered(call.number, answers, now, AT);
                if said == Said::Reached {
                    break;
                }
            }
        }
    };
    let (mut asked, reached) = ask(None);
    assert!(!reached);
    asked.sort();
    let mut expected = all.clone();
    expected.sort();
    assert_eq!(asked, expected, "each is asked, and once");
    for reaching in &all {
        assert!(ask(Some(reaching)).1, "{reaching} reaches it");
    }
}

#[test]
fn what_is_old_or_of_another_form_or_from_before_a_pause_is_not_known() {
    let node = Node::new(1, "orders");
    let start = Instant::now();
    let mut opinions = Opinions::default();
    let failed = [Some(answer(Said::Failed))];
    assert!(matches!(known_after(&mut opinions, &node, &failed, start), Known::Failed(_)));
    assert!(matches!(opinions.known(node.subject(), start + 2 * SECOND), Known::Failed(_)));
    assert_eq!(opinions.known(node.subject(), start + 4 * SECOND), Known::Unasked);
    assert_eq!(opinions.known(node.subject_born(2), start), Known::Unasked);
    opinions.ask(node.subject(), &servers(1), start);
    let calls = opinions.calls(start);
    opinions.interrupt();
    assert!(opinions.answered(calls[0].number, Some(vec![answer(Said::Failed)]), start, AT).is_empty());
    assert_eq!(opinions.known(node.subject(), start), Known::Unasked);
}

#[test]
fn ten_thousand_failures_become_few_calls_and_a_lone_one_does_not_wait_for_them() {
    let now = Instant::now();
    let mut opinions = Opinions::default();
    let nodes: Vec<Node> = (1..=10_000).map(|key| Node::new(key, "huge")).collect();
    let lone = Node::new(10_001, "small");
    for node in nodes.iter().chain([&lone]) {
        opinions.ask(node.subject(), &servers(2), now);
    }
    let calls = opinions.calls(now);
    assert!(opinions.calls(now).is_empty(), "what is under way is bounded");
    for server in servers(2) {
        let sizes: Vec<_> =
            calls.iter().filter(|call| call.to == server).map(|call| call.questions.len()).collect();
        assert_eq!(sizes, [CALL_QUESTIONS_MAX; UNDER_WAY_MAX / CALL_QUESTIONS_MAX]);
    }
    assert!(calls[0].questions.iter().any(|question| question.node == lone.id), "clusters take turns");
    // All of them, as places become free.
    let (mut open, mut count, mut known) = (calls, 0, 0);
    while let Some(call) = open.pop() {
        count += 1;
        let answers = vec![answer(Said::Failed); call.questions.len()];
        known += opinions.answered(call.number, Some(answers), now, AT).len();
        open.extend(opinions.calls(now));
    }
    assert_eq!(known, 10_001);
    assert!(count <= 2 * 44, "{count} calls");
    assert!(opinions.is_idle());
}

#[test]
fn a_question_in_a_hurry_is_asked_apart_from_slow_ones() {
    let now = Instant::now();
    let mut opinions = Opinions::default();
    let slow: Vec<Node> = (1..=50)
        .map(|key| {
            let node = Node::new(key, "slow");
            Node { check: Check { timeout: 60 * SECOND, ..node.check.clone() }, ..node }
        })
        .collect();
    let fast = Node::new(51, "fast");
    for node in slow.iter().chain([&fast]) {
        opinions.ask(node.subject(), &servers(1), now);
    }
    let calls = opinions.calls(now);
    let told: Vec<_> = calls.iter().map(|call| (call.questions.len(), call.within)).collect();
    assert_eq!(told, [(50, 60 * SECOND + GRACE), (1, fast.check.timeout + GRACE)]);
}

#[test]
fn what_waits_too_long_for_its_turn_is_given_up() {
    let now = Instant::now();
    let mut opinions = Opinions::default();
    let nodes: Vec<Node> = (1..=2_000).map(|key| Node::new(key, "huge")).collect();
    for node in &nodes {
        opinions.ask(node.subject(), &servers(1), now);
    }
    assert_eq!(opinions.calls(now).len(), 4);
    let later = now + WAIT_MAX + SECOND;
    assert_eq!(opinions.expire(later).len(), 2_000);
    assert!(opinions.calls(later).is_empty());
    assert!(opinions.is_idle());
}

#[test]
fn a_node_that_recovered_is_asked_about_no_more() {
    let now = Instant::now();
    let mut opinions = Opinions::default();
    let (gone, stays) = (Node::new(1, "orders"), Node::new(2, "orders"));
    opinions.ask(gone.subject(), &servers(1), now);
    opinions.ask(stays.subject(), &servers(1), now);
    opinions.settle(gone.key);
    let calls = opinions.calls(now);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].questions.len(), 1);
    assert_eq!(calls[0].questions[0].node, stays.id);
}

/// A server in the simulation.
#[derive(Debug, Clone)]
struct Peer {
    reaches: bool,
    /// For each call in turn: how long its answer takes; `None`: it is lost.
    delays: Vec<Option<u64>>,
}

fn any_peer(reaches: impl Strategy<Value = bool>) -> impl Strategy<Value = Peer> {
    (reaches, vec(prop::option::weighted(0.7, 0..1_500_u64), 1..12))
        .prop_map(|(reaches, delays)| Peer { reaches, delays })
}

/// A checker whose every probe of the node fails, and peers whose answers come late, in any order, or never.
/// Answers when the node was called down, and whether that was agreed to.
fn simulate(check: Check, peers: &[Peer], rounds: u32) -> (Option<(Duration, bool)>, Vec<Option<bool>>) {
    let node = Node { check, ..Node::new(1, "orders") };
    let start = Instant::now();
    let ids = servers(peers.len());
    let mut opinions = Opinions::default();
    let mut judge = Judge::resume(Verdict::Healthy, false);
    let mut answers: Vec<(Instant, u64, Option<Answer>)> = Vec::new();
    let mut asked = vec![0; peers.len()];
    // Whether the last call to each server was answered in time.
    let mut last_in_time = vec![None; peers.len()];
    let step = Duration::from_millis(10);
    let ticks = u32::try_from((node.check.interval * rounds).as_millis() / step.as_millis()).unwrap();
    for tick in 0..ticks {
        let now = start + step * tick;
        let mut turn = None;
        answers.sort_by_key(|(at, ..)| *at);
        let due = answers.iter().take_while(|(at, ..)| *at <= now).count();
        let mut known = opinions.expire(now);
        for (_, number, answer) in answers.drain(..due) {
            known.extend(opinions.answered(number, answer.map(|answer| vec![answer]), now, AT));
        }
        if !known.is_empty() {
            if opinions.known(node.subject(), now) == Known::Silent {
                opinions.ask(node.subject(), &ids, now);
            }
            let opinion = opinions.known(node.subject(), now).opinion(!ids.is_empty());
            turn = judge.decide(opinion, &node.check, now).turn;
        }
        let interval_ticks = u32::try_from(node.check.interval.as_millis() / step.as_millis()).unwrap();
        if turn.is_none() && tick % interval_ticks == 0 {
            let opinion = opinions.known(node.subject(), now).opinion(!ids.is_empty());
            let judged = judge.judge(Outcome::Refused, opinion, &node.check, now);
            if judged.ask_peer {
                opinions.ask(node.subject(), &ids, now);
            }
            turn = judged.turn;
        }
        if let Some(turn) = turn.filter(|turn| turn.to == Verdict::Down) {
            return (Some((now - start, !turn.single_vantage)), last_in_time);
        }
        for call in opinions.calls(now) {
            let at = ids.iter().position(|id| *id == call.to).unwrap();
            let peer = &peers[at];
            let delay = peer.delays[asked[at] % peer.delays.len()].map(Duration::from_millis);
            asked[at] += 1;
            last_in_time[at] = Some(delay.is_some_and(|delay| delay + step <= call.within));
            if let Some(delay) = delay {
                let said = if peer.reaches { Said::Reached } else { Said::Failed };
                answers.push((now + delay, call.number, Some(answer(said))));
            }
        }
    }
    (None, last_in_time)
}

fn any_policy() -> impl Strategy<Value = Check> {
    (1..=5_u32, 1..=4_u32, 100..3_000_u64, 50..1_200_u64).prop_map(|(fall, rise, interval, timeout)| Check {
        fall,
        rise,
        interval: Duration::from_millis(interval / 10 * 10),
        timeout: Duration::from_millis(timeout),
        ..CheckSpec::default().effective()
    })
}

proptest! {
    /// Whatever the others say, whatever is late or lost: while a server that reaches the node can make itself heard, the
    /// node is not called down.
    #[test]
    fn a_node_that_any_server_reaches_is_never_called_down(
        check in any_policy(),
        reaching in any_peer(Just(true)),
        others in vec(any_peer(any::<bool>()), 0..2 * SERVERS_MAX + 2),
        at in 0..2 * SERVERS_MAX + 2,
    ) {
        let mut peers = others;
        let at = at.min(peers.len());
        peers.insert(at, reaching);
        let (down, last_in_time) = simulate(check, &peers, 60);
        if let Some((when, _)) = down {
            let unheard = peers.iter().zip(&last_in_time).filter(|(peer, _)| peer.reaches);
            for (_, in_time) in unheard {
                prop_assert_ne!(*in_time, Some(true), "down after {:?}", when);
            }
        }
    }

    /// A node that is really dead is down in time, whatever else is lost, when one server answers.
    #[test]
    fn a_dead_node_is_down_in_time(
        check in any_policy(),
        delay in 0..150_u64,
        others in vec(any_peer(Just(false)), 0..SERVERS_MAX - 1),
    ) {
        let mut peers = others;
        peers.push(Peer { reaches: false, delays: vec![Some(delay)] });
        let limit = check.interval * (check.fall - 1) + check.timeout + GRACE + Duration::from_millis(20);
        let (down, _) = simulate(check, &peers, 60);
        let (when, agreed) = down.expect("a dead node is down at last");
        prop_assert!(agreed);
        prop_assert!(when <= limit, "{:?} of {:?}", when, limit);
    }

    /// When nobody answers the failure stands, flagged, after both rounds had their time.
    #[test]
    fn with_nobody_who_answers_a_failure_stands_flagged(check in any_policy(), count in 0..4_usize) {
        let peers = vec![Peer { reaches: true, delays: vec![None] }; count];
        let limit = check.interval * (check.fall - 1) + 2 * (check.timeout + GRACE) + Duration::from_millis(40);
        let (down, _) = simulate(check, &peers, 60);
        let (when, agreed) = down.expect("a failure stands at last");
        prop_assert!(!agreed);
        prop_assert!(when <= limit, "{:?} of {:?}", when, limit);
    }
}
