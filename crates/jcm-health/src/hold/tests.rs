//! Flapping nodes before a judge: what turns, what is held, and for how long.

use jcm_model::{Check, CheckSpec};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{Judge, Opinion, Outcome};

fn policy(fall: u32, rise: u32) -> Check {
    Check { fall, rise, ..CheckSpec::default().effective() }
}

/// A node before its judge, and what was seen of it.
struct Seen {
    judge: Judge,
    check: Check,
    start: Instant,
    now: Instant,
    turns: Vec<(Duration, Verdict)>,
    /// Moments at which a better verdict came out of a hold.
    releases: Vec<Duration>,
}

impl Seen {
    fn of(check: Check) -> Self {
        let start = Instant::now();
        let judge = Judge::resume(Verdict::Healthy, false);
        Self { judge, check, start, now: start, turns: Vec::new(), releases: Vec::new() }
    }

    /// Feeds `+` and `-`, one an interval.
    fn feed(&mut self, results: &str, interval: Duration) {
        for result in results.chars() {
            self.now += interval;
            let outcome = if result == '+' { Outcome::Answered(200) } else { Outcome::Refused };
            let was_held = self.is_held();
            let turn = self.judge.judge(outcome, Opinion::NobodyToAsk, &self.check, self.now).turn;
            if let Some(turn) = turn {
                let at = self.now - self.start;
                self.turns.push((at, turn.to));
                if was_held && turn.to == Verdict::Healthy {
                    self.releases.push(at);
                }
            }
        }
    }

    fn is_held(&self) -> bool {
        self.judge.held_until(self.now).is_some()
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_node_that_comes_and_goes_is_held_down_and_comes_back_once_it_stays() {
    let mut seen = Seen::of(policy(2, 2));
    seen.feed(&"--++".repeat(30), SECOND);
    let verdicts: Vec<_> = seen.turns.iter().map(|(_, to)| *to).collect();
    assert_eq!(verdicts, [Verdict::Down, Verdict::Healthy, Verdict::Down], "in two minutes");
    assert!(seen.is_held());
    assert_eq!(seen.judge.verdict(), Verdict::Down);
    let left = seen.judge.held_until(seen.now).unwrap() - seen.now;
    seen.feed(&"+".repeat(usize::try_from(left.as_secs()).unwrap() - 1), SECOND);
    assert_eq!(seen.judge.verdict(), Verdict::Down, "a second before its time");
    seen.feed("+", SECOND);
    assert_eq!((seen.judge.verdict(), seen.is_held()), (Verdict::Healthy, false));
}

#[test]
fn a_node_that_never_falls_is_held_degraded() {
    let mut seen = Seen::of(policy(3, 2));
    // Four of ten, three of ten, and so on.
    seen.feed(&"----------".replace('-', "+"), SECOND);
    for _ in 0..6 {
        seen.feed("-+-+-+-+++++++", SECOND);
    }
    let verdicts: Vec<_> = seen.turns.iter().map(|(_, to)| *to).collect();
    assert!(verdicts.iter().all(|to| *to != Verdict::Down));
    assert_eq!((seen.judge.verdict(), seen.is_held()), (Verdict::Degraded, true), "{:?}", seen.turns);
}

#[test]
fn the_hold_doubles_while_the_node_flaps_and_has_an_end() {
    let mut seen = Seen::of(policy(1, 1));
    let mut lengths = Vec::new();
    for _ in 0..2_000 {
        seen.feed("-", SECOND);
        if let Some(until) = seen.judge.held_until(seen.now) {
            lengths.push((until - seen.now).as_secs());
        }
        seen.feed("+", SECOND);
    }
    lengths.dedup();
    assert_eq!(lengths, [10, 20, 40, 80, 160, 300]);
}

#[test]
fn the_next_hold_doubles_at_once_and_halves_with_each_minute_of_peace() {
    let flap = "-+-+";
    for (peace_minutes, expected) in [(0, 20), (1, 10), (2, 10), (60, 10)] {
        let mut seen = Seen::of(policy(1, 1));
        seen.feed(flap, SECOND);
        assert!(seen.is_held());
        seen.feed(&"+".repeat(11 + 60 * peace_minutes), SECOND);
        assert_eq!((seen.judge.verdict(), seen.is_held()), (Verdict::Healthy, false));
        seen.feed(flap, SECOND);
        let until = seen.judge.held_until(seen.now).expect("it flaps again");
        assert_eq!((until - seen.now).as_secs(), expected, "after {peace_minutes} minutes");
    }
}

#[test]
fn a_flapping_node_that_dies_is_no_longer_held() {
    let mut seen = Seen::of(policy(1, 1));
    seen.feed("-+-+", SECOND);
    assert!(seen.is_held());
    seen.feed(&"-".repeat(12), SECOND);
    assert_eq!((seen.judge.verdict(), seen.is_held()), (Verdict::Down, false));
    seen.feed(&"-".repeat(60), SECOND);
    seen.feed("+", SECOND);
    assert_eq!(seen.judge.verdict(), Verdict::Healthy, "what is over is not held against it");
}

#[test]
fn four_turns_in_more_than_a_minute_are_nobodys_business() {
    let mut seen = Seen::of(policy(1, 1));
    for _ in 0..10 {
        seen.feed("-", 20 * SECOND);
        seen.feed("+", 20 * SECOND);
    }
    assert_eq!(seen.turns.len(), 20);
    assert!(seen.releases.is_empty());
}

#[test]
fn a_gap_of_this_servers_own_neither_doubles_the_hold_nor_ends_it() {
    let mut seen = Seen::of(policy(2, 2));
    seen.feed("--++--++", SECOND);
    let until = seen.judge.held_until(seen.now).expect("it flaps");
    seen.feed("+++++", SECOND);
    seen.judge.interrupt();
    seen.now += 20 * SECOND;
    assert_eq!(seen.judge.held_until(seen.now), Some(until));
    seen.feed("+", SECOND);
    assert_eq!(seen.judge.verdict(), Verdict::Down, "one success is not two in a row");
    seen.feed("+", SECOND);
    assert_eq!(seen.judge.verdict(), Verdict::Healthy);
}

/// Stretches of one result, at an interval of their own.
fn any_life() -> impl Strategy<Value = Vec<(bool, usize, u64)>> {
    vec((any::<bool>(), 1..20_usize, 1..20_000_u64), 1..60)
}

fn live(seen: &mut Seen, life: &[(bool, usize, u64)]) {
    for (is_well, count, millis) in life {
        let result = if *is_well { "+" } else { "-" };
        seen.feed(&result.repeat(*count), Duration::from_millis(*millis));
    }
}

proptest! {
    /// Four turns in any minute, and two more for each hold that the node sat out in it.
    #[test]
    fn no_node_turns_more_often(life in any_life(), fall in 1..4_u32, rise in 1..4_u32) {
        let mut seen = Seen::of(policy(fall, rise));
        live(&mut seen, &life);
        for (at, _) in &seen.turns {
            let within = |other: &&Duration| **other <= *at && **other + TURNS_WINDOW > *at;
            let turns = seen.turns.iter().map(|(at, _)| at).filter(within).count();
            let releases = seen.releases.iter().filter(within).count();
            prop_assert!(turns <= TURNS_MAX + 2 * releases, "{turns} turns up to {at:?}: {:?}", seen.turns);
        }
        // And a hold is long: ten seconds without a break.
        for pair in seen.releases.windows(2) {
            prop_assert!(pair[1].saturating_sub(pair[0]) >= HOLD_MIN);
        }
    }

    #[test]
    fn a_node_that_is_down_is_down_at_its_last_failure_held_or_not(life in any_life(), fall in 1..4_u32) {
        let mut seen = Seen::of(policy(fall, 1));
        live(&mut seen, &life);
        seen.feed(&"-".repeat(fall as usize), SECOND);
        prop_assert_eq!(seen.judge.verdict(), Verdict::Down);
    }

    #[test]
    fn a_steady_node_is_never_held(is_well: bool, count in 1..500_usize, millis in 1..20_000_u64) {
        let mut seen = Seen::of(policy(3, 2));
        for _ in 0..count {
            seen.feed(if is_well { "+" } else { "-" }, Duration::from_millis(millis));
            prop_assert!(!seen.is_held());
        }
    }

    #[test]
    fn after_the_last_flap_it_is_back_within_the_hold_and_its_rise(life in any_life(), rise in 1..4_u32) {
        let mut seen = Seen::of(policy(2, rise));
        live(&mut seen, &life);
        seen.feed("--", SECOND);
        seen.feed(&"+".repeat(rise as usize), SECOND);
        if let Some(until) = seen.judge.held_until(seen.now) {
            let hold = until - seen.now;
            prop_assert!((HOLD_MIN..=HOLD_MAX).contains(&hold));
            prop_assert_eq!(seen.judge.verdict(), Verdict::Down);
            let due = seen.elapsed();
            while seen.is_held() {
                seen.feed("+", SECOND);
            }
            prop_assert!(seen.elapsed() <= due + hold, "{:?} after {hold:?}", seen.elapsed().saturating_sub(due));
        }
        prop_assert_eq!(seen.judge.verdict(), Verdict::Healthy);
    }
}
