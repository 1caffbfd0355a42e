//! The rules of the judge, as tables and as properties.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use jcm_model::{Check, CheckSpec};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{LocalTrouble, Phase};

const GOOD: Outcome = Outcome::Answered(200);
const BAD: Outcome = Outcome::UnexpectedStatus(500);

/// Long after every moment before: so seldom, no node flaps.
fn later() -> Instant {
    static HOURS: AtomicU32 = AtomicU32::new(0);
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_hours(1) * HOURS.fetch_add(1, Ordering::Relaxed)
}

fn policy(fall: u32, rise: u32, window: u32, degraded_at: f64) -> Check {
    Check { fall, rise, window, degraded_at, ..CheckSpec::default().effective() }
}

fn default_policy() -> Check {
    let check = CheckSpec::default().effective();
    assert_eq!((check.fall, check.rise, check.window, check.degraded_at), (3, 2, 10, 0.4));
    assert_eq!(check.interval, Duration::from_secs(1));
    check
}

/// Feeds `+` and `-`, and gives the verdict after each as one letter.
fn feed(judge: &mut Judge, results: &str, opinion: Opinion, check: &Check) -> String {
    results
        .chars()
        .map(|result| {
            let before = judge.verdict();
            let step = judge.judge(if result == '+' { GOOD } else { BAD }, opinion, check, later());
            assert_eq!(
                step.turn.is_some(),
                before != judge.verdict(),
                "a turn is told when and only when it is one"
            );
            match judge.verdict() {
                Verdict::Unknown => 'u',
                Verdict::Healthy => 'h',
                Verdict::Degraded => 'g',
                Verdict::Down => 'd',
            }
        })
        .collect()
}

#[test]
fn verdicts_follow_the_table() {
    let check = |check: &Check, results: &str, verdicts: &str| {
        assert_eq!(feed(&mut Judge::new(), results, Opinion::NobodyToAsk, check), verdicts, "{results}");
    };
    let default = default_policy();
    check(&default, "+", "h");
    check(&default, "--+", "uuh");
    check(&default, "---", "uud");
    check(&default, "+--+--+", "hhhhhhh");
    check(&default, "+---++", "hhhddh");
    check(&default, "+---+-+-++", "hhhddddddh");
    // The fourth failure of ten results, and the window is full.
    check(&default, "++++--+--+", "hhhhhhhhhg");
    check(&default, "+++++--+-+", "hhhhhhhhhh");
    // Degraded goes back once the failures have left the window, and down from degraded takes the same streak.
    check(&default, "++++--+--+++++++", "hhhhhhhhhggggghh");
    check(&default, "++++--+--+---", "hhhhhhhhhgggd");
    check(&policy(1, 1, 10, 0.4), "+-+-", "hdhd");
    check(&policy(100, 1, 2, 1.0), "--+--+", "uuhhgh");
    check(&policy(100, 1, 64, 0.5), &"-+".repeat(32), &format!("u{}g", "h".repeat(62)));
}

#[test]
fn a_node_back_from_down_starts_an_empty_window() {
    let check = default_policy();
    let mut judge = Judge::new();
    feed(&mut judge, "+++++++---++", Opinion::Agrees, &check);
    assert_eq!(judge.verdict(), Verdict::Healthy);
    assert_eq!(judge.window(), (0, 0));
    // Nine results later the window is not full, and three old failures must not count: 3 + 3 of 10 would be too many.
    assert_eq!(feed(&mut judge, "+-+-+-+++", Opinion::Agrees, &check), "hhhhhhhhh");
    assert_eq!(judge.window(), (3, 9));
    assert_eq!(feed(&mut judge, "-", Opinion::Agrees, &check), "g");
}

#[test]
fn every_turn_says_which_threshold_moved() {
    let check = default_policy();
    let mut judge = Judge::new();
    let mut told = Vec::new();
    for result in "+++++--+--+++++++---++".chars() {
        let outcome = if result == '+' { GOOD } else { BAD };
        if let Some(turn) = judge.judge(outcome, Opinion::Agrees, &check, later()).turn {
            told.push(format!("{} → {}: {turn}", turn.from, turn.to));
        }
    }
    assert_eq!(
        told,
        [
            "unknown → healthy: first success",
            "healthy → degraded: 4 of 10 failed (degraded at 40%)",
            "degraded → healthy: 3 of 10 failed (degraded at 40%)",
            "healthy → down: 3 failures in a row (fall 3)",
            "down → healthy: 2 successes in a row (rise 2)",
        ]
    );
    assert_eq!(
        Cause::Rate { failed: 1, of: 8, degraded_at: 0.125 }.to_string(),
        "1 of 8 failed (degraded at 12.5%)"
    );
    assert_eq!(Cause::Failures { count: 1, fall: 1 }.to_string(), "1 failure in a row (fall 1)");
}

#[test]
fn a_rate_that_is_met_exactly_counts() {
    for window in 1..=64_u32 {
        for failed in 1..window {
            let check = policy(100, 1, window, f64::from(failed) / f64::from(window));
            let mut judge = Judge::resume(Verdict::Healthy, false);
            let results = "-".repeat(failed as usize) + &"+".repeat((window - failed) as usize);
            let verdicts = feed(&mut judge, &results, Opinion::Agrees, &check);
            assert!(
                verdicts.ends_with('g') && !verdicts[..verdicts.len() - 1].contains('g'),
                "{failed} of {window}"
            );
        }
    }
    for (failed, written) in [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4), (6, 0.6), (7, 0.7), (9, 0.9)] {
        let mut judge = Judge::resume(Verdict::Healthy, false);
        let results = "-".repeat(failed) + &"+".repeat(10 - failed);
        assert!(
            feed(&mut judge, &results, Opinion::Agrees, &policy(100, 1, 10, written)).ends_with('g'),
            "{written}"
        );
    }
}

#[test]
fn a_peer_is_asked_in_time_for_the_last_failure() {
    for (fall, first_asked) in [(1, 1), (2, 1), (3, 2), (10, 9)] {
        let check = policy(fall, 2, 10, 1.0);
        let mut judge = Judge::resume(Verdict::Healthy, false);
        for failure in 1..=fall + 3 {
            let step = judge.judge(BAD, Opinion::Pending, &check, later());
            assert_eq!(step.ask_peer, failure >= first_asked, "fall {fall}, failure {failure}");
        }
        assert!(!judge.judge(GOOD, Opinion::Pending, &check, later()).ask_peer);
    }
}

#[test]
fn one_vantage_that_reaches_the_node_is_enough() {
    let check = default_policy();
    let mut judge = Judge::resume(Verdict::Healthy, false);
    feed(&mut judge, "--", Opinion::Pending, &check);
    for _ in 0..100 {
        let step = judge.judge(BAD, Opinion::Reaches, &check, later());
        assert_eq!(
            (step.turn, step.ask_peer),
            (None, true),
            "it is asked again as long as it is contradicted"
        );
    }
    // It is asked on until both agree for `rise` rounds.
    assert!(judge.judge(GOOD, Opinion::Reaches, &check, later()).ask_peer);
    assert!(!judge.judge(GOOD, Opinion::Reaches, &check, later()).ask_peer);
    // When the peer fails too, both must fail `fall` times in a row.
    assert_eq!(feed(&mut judge, "---", Opinion::Agrees, &check), "hhd");
    assert!(!judge.is_single_vantage());
    assert_eq!(feed(&mut judge, "--", Opinion::Reaches, &check), "dh");
}

#[test]
fn down_without_an_opinion_is_flagged() {
    for (opinion, failures, flagged) in
        [(Opinion::NobodyToAsk, 3, true), (Opinion::NobodyInMass, 6, true), (Opinion::Agrees, 3, false)]
    {
        let mut judge = Judge::resume(Verdict::Healthy, false);
        for failure in 1..failures {
            assert_eq!(
                judge.judge(BAD, opinion, &default_policy(), later()).turn,
                None,
                "failure {failure}, {opinion:?}"
            );
        }
        let turns: Vec<_> =
            (0..1).filter_map(|_| judge.judge(BAD, opinion, &default_policy(), later()).turn).collect();
        let [turn] = turns[..] else { panic!("{turns:?}") };
        assert_eq!((turn.to, turn.single_vantage), (Verdict::Down, flagged), "{opinion:?}");
        assert_eq!(turn.to_string().contains("single vantage"), flagged);
        feed(&mut judge, "++", opinion, &default_policy());
        assert!(!judge.is_single_vantage(), "the flag ends with the verdict");
    }
}

#[test]
fn a_verdict_waits_for_the_opinion_and_comes_once() {
    let check = default_policy();
    for (opinion, verdict) in [
        (Opinion::Agrees, Verdict::Down),
        (Opinion::NobodyToAsk, Verdict::Down),
        (Opinion::NobodyInMass, Verdict::Healthy),
        (Opinion::Reaches, Verdict::Healthy),
        (Opinion::Pending, Verdict::Healthy),
        (Opinion::Held, Verdict::Healthy),
    ] {
        let mut judge = Judge::resume(Verdict::Healthy, false);
        assert_eq!(
            judge.decide(Opinion::Agrees, &check, later()),
            Step::default(),
            "there is nothing to decide"
        );
        feed(&mut judge, "--", Opinion::Pending, &check);
        assert_eq!(
            judge.decide(Opinion::Agrees, &check, later()),
            Step::default(),
            "two failures are not three"
        );
        let step = judge.judge(BAD, Opinion::Pending, &check, later());
        assert_eq!((step.turn, step.undecided), (None, true));
        let step = judge.decide(opinion, &check, later());
        assert_eq!(
            (step.turn.is_some(), judge.verdict()),
            (verdict == Verdict::Down, verdict),
            "{opinion:?}"
        );
        assert_eq!(judge.decide(opinion, &check, later()).turn, None, "{opinion:?} twice");
    }
}

#[test]
fn a_success_takes_back_what_is_undecided() {
    let check = default_policy();
    let mut judge = Judge::resume(Verdict::Healthy, false);
    assert_eq!(feed(&mut judge, "----+", Opinion::Held, &check), "hhhhh");
    assert_eq!(judge.decide(Opinion::Agrees, &check, later()), Step::default());
}

#[test]
fn what_is_held_is_neither_down_nor_degraded_and_not_lost() {
    let check = default_policy();
    let mut judge = Judge::resume(Verdict::Healthy, false);
    assert_eq!(feed(&mut judge, "++++++--+--", Opinion::Held, &check), "hhhhhhhhhhh");
    assert_eq!(feed(&mut judge, "+", Opinion::NobodyToAsk, &check), "g", "the level comes out once it may");
    assert_eq!(feed(&mut judge, "---", Opinion::Held, &check), "ggg");
    assert_eq!(judge.decide(Opinion::Agrees, &check, later()).turn.map(|turn| turn.to), Some(Verdict::Down));
    assert_eq!(
        feed(&mut judge, "++", Opinion::Held, &check),
        "dh",
        "a node that answers is up, whoever doubts"
    );
}

#[test]
fn failures_on_both_sides_of_a_pause_are_not_in_a_row() {
    let check = default_policy();
    let mut judge = Judge::resume(Verdict::Healthy, false);
    feed(&mut judge, "--", Opinion::NobodyToAsk, &check);
    judge.interrupt();
    assert_eq!(feed(&mut judge, "--", Opinion::NobodyToAsk, &check), "hh");
    feed(&mut judge, "++", Opinion::NobodyToAsk, &check);
    judge.absolve();
    assert_eq!((judge.window(), judge.verdict()), ((0, 0), Verdict::Healthy));
}

#[test]
fn a_node_that_is_down_is_asked_about_now_and_then() {
    let check = default_policy();
    let mut judge = Judge::resume(Verdict::Down, false);
    let asked = (0..100).filter(|_| judge.judge(BAD, Opinion::Agrees, &check, later()).ask_peer).count();
    assert!((9..=11).contains(&asked), "{asked} of 100");
    // On this server's word alone it is asked about until somebody agrees.
    let mut judge = Judge::resume(Verdict::Down, true);
    assert!(!judge.judge(BAD, Opinion::NobodyToAsk, &check, later()).confirmed);
    assert!((0..20).all(|_| judge.judge(BAD, Opinion::NobodyToAsk, &check, later()).ask_peer));
    let step = judge.judge(BAD, Opinion::Agrees, &check, later());
    assert!(step.confirmed && step.turn.is_none() && !judge.is_single_vantage());
    assert!(!judge.judge(BAD, Opinion::Agrees, &check, later()).confirmed, "once");
}

#[test]
fn trouble_of_this_machine_moves_nothing() {
    let check = default_policy();
    let mut judge = Judge::new();
    feed(&mut judge, "+--", Opinion::NobodyToAsk, &check);
    let before = judge.clone();
    for trouble in [LocalTrouble::Descriptors, LocalTrouble::Ports, LocalTrouble::Crowded] {
        let step = judge.judge(Outcome::Local(trouble), Opinion::NobodyToAsk, &check, later());
        assert_eq!((step, &judge), (Step::default(), &before));
    }
    let step = judge.judge(Outcome::TimedOut(Phase::Connecting), Opinion::NobodyToAsk, &check, later());
    assert_eq!(step.turn.map(|turn| turn.to), Some(Verdict::Down));
}

#[test]
fn a_judge_fits_a_few_cache_lines() {
    assert!(size_of::<Judge>() <= 192, "{} bytes", size_of::<Judge>());
}

fn any_policy() -> impl Strategy<Value = Check> {
    (1..=8_u32, 1..=8_u32, prop_oneof![1..=12_u32, Just(64)], 0.01..=1.0_f64)
        .prop_map(|(fall, rise, window, degraded_at)| policy(fall, rise, window, degraded_at))
}

fn any_opinion() -> impl Strategy<Value = Opinion> {
    prop_oneof![
        Just(Opinion::NobodyToAsk),
        Just(Opinion::NobodyInMass),
        Just(Opinion::Pending),
        Just(Opinion::Held),
        Just(Opinion::Agrees),
        Just(Opinion::Reaches)
    ]
}

/// One result; before it perhaps a change of policy, after it perhaps a decision on what it left open.
fn any_history() -> impl Strategy<Value = Vec<(bool, Opinion, Option<Check>, Option<Opinion>)>> {
    let decision = prop::option::weighted(0.3, any_opinion());
    vec((any::<bool>(), any_opinion(), prop::option::weighted(0.1, any_policy()), decision), 0..300)
}

proptest! {
    /// Replays a history beside a plain model that keeps every result since the node came back.
    #[test]
    fn no_history_breaks_a_rule(first in any_policy(), history in any_history()) {
        let mut check = first;
        let mut judge = Judge::new();
        let mut since_back: Vec<bool> = Vec::new();
        for (own, opinion, changed, decision) in history {
            if let Some(changed) = changed {
                // A window that shrank has forgotten what it no longer held.
                let kept = since_back.len().min(check.window as usize).min(changed.window as usize);
                since_back.drain(..since_back.len() - kept);
                check = changed;
                let before = judge.clone();
                judge.repolicy(&check);
                prop_assert_eq!(judge.verdict(), before.verdict());
                let failed = since_back.iter().filter(|success| !**success).count();
                prop_assert!(judge.window().1 <= check.window);
                prop_assert!(since_back.is_empty() || judge.window().0 == u32::try_from(failed).unwrap());
            }
            let success = own || opinion == Opinion::Reaches;
            since_back.push(success);
            let step = judge.judge(if own { GOOD } else { BAD }, opinion, &check, later());

            let held = since_back.len().min(check.window as usize);
            let newest = &since_back[since_back.len() - held..];
            let failed = u32::try_from(newest.iter().filter(|success| !**success).count()).unwrap();
            let held = u32::try_from(held).unwrap();
            if let Some(turn) = step.turn {
                prop_assert_eq!(turn.to, judge.verdict());
                prop_assert_ne!(turn.from, turn.to);
                match (turn.from, turn.to) {
                    (_, Verdict::Down) => {
                        prop_assert!(!success);
                        let fall = check.fall as usize;
                        prop_assert!(judge.failures_in_a_row() >= check.fall);
                        let recent = &since_back[since_back.len().saturating_sub(fall)..];
                        prop_assert!(recent.iter().all(|success| !success), "down within a success of the last {}", fall);
                        prop_assert_eq!(turn.single_vantage, opinion != Opinion::Agrees);
                        prop_assert!(!matches!(opinion, Opinion::Pending | Opinion::Held));
                        prop_assert!(opinion != Opinion::NobodyInMass || judge.failures_in_a_row() >= 2 * check.fall);
                    }
                    (Verdict::Down, to) => {
                        prop_assert_eq!(to, Verdict::Healthy);
                        prop_assert!(success && judge.successes_in_a_row() >= check.rise);
                        prop_assert_eq!(judge.window(), (0, 0));
                        since_back.clear();
                    }
                    (_, Verdict::Degraded) => {
                        prop_assert_eq!(held, check.window, "degraded from an unfull window");
                        prop_assert_ne!(opinion, Opinion::Held);
                    }
                    (_, to) => prop_assert_eq!(to, Verdict::Healthy),
                }
            }
            prop_assert_eq!(step.undecided, judge.is_undecided(&check));
            let waits = matches!(opinion, Opinion::NobodyInMass | Opinion::Pending | Opinion::Held);
            prop_assert!(waits || !step.undecided, "not down after `fall` failures");
            match judge.verdict() {
                Verdict::Unknown => prop_assert!(!success),
                Verdict::Down => {}
                Verdict::Healthy | Verdict::Degraded => {
                    let by_success =
                        step.turn.is_some_and(|turn| matches!(turn.cause, Cause::FirstSuccess | Cause::Successes { .. }));
                    if held == check.window && !by_success && !step.undecided && opinion != Opinion::Held {
                        let degraded = f64::from(failed) / f64::from(held) >= check.degraded_at;
                        prop_assert_eq!(judge.verdict() == Verdict::Degraded, degraded);
                    }
                }
            }
            if !since_back.is_empty() {
                prop_assert_eq!(judge.window(), (failed, held));
            }
            if let Some(opinion) = decision {
                let before = judge.clone();
                let decided = judge.decide(opinion, &check, later());
                if !step.undecided {
                    prop_assert_eq!((&judge, decided), (&before, Step::default()));
                } else if opinion == Opinion::Reaches {
                    *since_back.last_mut().unwrap() = true;
                    prop_assert_ne!(judge.verdict(), Verdict::Down);
                    prop_assert_eq!(judge.failures_in_a_row(), 0);
                } else if matches!(opinion, Opinion::Pending | Opinion::Held) {
                    prop_assert_eq!((&judge, decided.turn), (&before, None));
                } else if opinion != Opinion::NobodyInMass {
                    prop_assert_eq!(judge.verdict(), Verdict::Down);
                    prop_assert_eq!(judge.is_single_vantage(), opinion == Opinion::NobodyToAsk);
                }
            }
        }
    }
}

#[test]
fn a_judge_says_what_it_would_take_to_turn() {
    let check = default_policy();
    let needs = |results: &str| {
        let mut judge = Judge::new();
        feed(&mut judge, results, Opinion::Agrees, &check);
        judge.needs(&check).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let unless = "unless another server reaches it";
    assert_eq!(
        needs("-"),
        ["healthy at its first success".to_owned(), format!("down after 2 more failures in a row, {unless}")]
    );
    assert_eq!(
        needs("+--"),
        [
            format!("down after 1 more failure, {unless}"),
            "degraded from 4 failures of 10 results on (2 of 3 now)".to_owned()
        ]
    );
    assert_eq!(
        needs("+--+--++++"),
        [
            "healthy below 4 failures of 10 results (4 of 10 now)".to_owned(),
            format!("down after 3 more failures in a row, {unless}")
        ]
    );
    assert_eq!(needs("---"), ["healthy after 2 more successes in a row"]);
    assert_eq!(needs("---+"), ["healthy after 1 more success"]);
}
