//! Ejections by counts and times that are made up.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Nodes with their counts, judged again and again.
struct Bench {
    outliers: Outliers,
    start: Instant,
    records: Vec<Record>,
    tallies: Vec<Tally>,
    fit: Vec<bool>,
}

impl Bench {
    fn new(nodes: usize) -> Self {
        Self {
            outliers: Outliers::default(),
            start: Instant::now(),
            records: vec![Record::default(); nodes],
            tallies: vec![Tally::default(); nodes],
            fit: vec![true; nodes],
        }
    }

    fn calls(&mut self, node: usize, successes: u64, failures: u32) {
        let tally = &mut self.tallies[node];
        tally.failures += u64::from(failures);
        tally.in_a_row += failures;
        if successes > 0 {
            tally.successes += successes;
            tally.in_a_row = 0;
        }
    }

    fn judge(&mut self, seconds: u32, interval_over: bool) -> bool {
        let mut suspects: Vec<Suspect<'_>> = self
            .records
            .iter_mut()
            .zip(&self.tallies)
            .zip(&self.fit)
            .map(|((record, tally), fit)| Suspect { record, tally: *tally, fit: *fit, forgiven: false })
            .collect();
        let changed = judge(&self.outliers, &mut suspects, interval_over, self.start + SECOND * seconds);
        let forgiven: Vec<bool> = suspects.iter().map(|suspect| suspect.forgiven).collect();
        for (tally, _) in self.tallies.iter_mut().zip(forgiven).filter(|(_, forgiven)| *forgiven) {
            tally.in_a_row = 0;
        }
        changed
    }

    fn ejected(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|node| self.records[*node].ejected.is_some()).collect()
    }
}

#[test]
fn a_row_of_failures_ejects_and_a_success_in_between_does_not() {
    let mut bench = Bench::new(10);
    bench.calls(3, 0, 4);
    assert!(!bench.judge(0, false) && bench.ejected().is_empty());
    bench.calls(3, 1, 0);
    bench.calls(3, 0, 4);
    assert!(!bench.judge(1, false));
    bench.calls(3, 0, 1);
    assert!(bench.judge(2, false));
    assert_eq!(bench.ejected(), [3]);
    let (_, cause) = bench.records[3].ejected.unwrap();
    assert_eq!(cause.to_string(), "5 calls in a row failed");
}

#[test]
fn ejections_double_up_to_the_longest_and_begin_anew_after_good_behaviour() {
    let mut bench = Bench::new(10);
    let mut now = 0;
    for wanted in [30, 60, 120, 240, 300, 300] {
        bench.calls(0, 0, 5);
        assert!(bench.judge(now, false));
        assert!(!bench.judge(now + wanted - 1, false), "before {wanted} s are over");
        assert!(bench.judge(now + wanted, false));
        assert!(bench.ejected().is_empty());
        now += wanted + 10;
    }
    now += 300;
    bench.calls(0, 0, 5);
    assert!(bench.judge(now, false));
    assert!(bench.judge(now + 30, false), "the first time again");
}

#[test]
fn what_failed_before_a_node_came_back_is_not_held_against_it() {
    let mut bench = Bench::new(10);
    bench.calls(0, 0, 5);
    bench.judge(0, false);
    // Calls that were under way fail late.
    bench.calls(0, 0, 20);
    assert!(bench.judge(30, true));
    assert!(bench.ejected().is_empty());
    assert!(!bench.judge(31, true));
}

#[test]
fn at_most_a_share_is_ejected_but_always_one_and_never_the_last() {
    for (nodes, most) in [(1, 0), (2, 1), (3, 1), (10, 1), (19, 1), (20, 2), (100, 10)] {
        let mut bench = Bench::new(nodes);
        (0..nodes).for_each(|node| bench.calls(node, 0, 5 + u32::try_from(node % 3).unwrap()));
        bench.judge(0, true);
        assert_eq!(bench.ejected().len(), most, "of {nodes}");
    }
    let mut bench = Bench::new(10);
    bench.outliers = Outliers::default().ejected_max(1.0);
    (0..10).for_each(|node| bench.calls(node, 0, 5));
    bench.judge(0, false);
    assert_eq!(bench.ejected().len(), 9);
    // Nodes that get no calls anyway are neither ejected nor counted.
    let mut bench = Bench::new(10);
    bench.fit = (0..10).map(|node| node < 2).collect();
    (0..10).for_each(|node| bench.calls(node, 0, 5));
    bench.judge(0, false);
    assert_eq!(bench.ejected(), [0]);
}

#[test]
fn the_worst_is_ejected_first() {
    let mut bench = Bench::new(10);
    bench.calls(1, 0, 5);
    bench.calls(7, 0, 9);
    bench.judge(0, false);
    assert_eq!(bench.ejected(), [7]);
}

#[test]
fn a_success_rate_far_below_the_others_ejects() {
    for nodes in [4, 5, 20] {
        let mut bench = Bench::new(nodes);
        (0..nodes).for_each(|node| bench.calls(node, 1000, 0));
        bench.judge(0, true);
        // Never many in a row, but half of all; one in a hundred elsewhere.
        (1..nodes).for_each(|node| {
            bench.calls(node, 0, 2);
            bench.calls(node, 198, 0);
        });
        (0..50).for_each(|_| {
            bench.calls(0, 0, 2);
            bench.calls(0, 2, 0);
        });
        assert!(!bench.judge(9, false), "not before the interval is over");
        assert!(bench.judge(10, true));
        assert_eq!(bench.ejected(), [0]);
        let (_, cause) = bench.records[0].ejected.unwrap();
        assert_eq!(cause.to_string(), "50 % of its calls succeeded, of those to others 99 %");
    }
}

#[test]
fn a_success_rate_says_nothing_of_few_calls_or_few_nodes_or_when_all_are_alike() {
    let rate = |nodes: usize, calls: u64, bad_share: u64, others: u64| {
        let mut bench = Bench::new(nodes);
        for node in 0..nodes {
            let failures = calls * if node == 0 { bad_share } else { others } / 100;
            (0..failures).for_each(|_| {
                bench.calls(node, 0, 1);
                bench.calls(node, 1, 0);
            });
            bench.calls(node, calls - 2 * failures.min(calls / 2), 0);
        }
        bench.judge(10, true);
        bench.ejected()
    };
    assert_eq!(rate(5, 200, 50, 0), [0]);
    assert!(rate(5, 90, 50, 0).is_empty(), "too few calls");
    assert!(rate(3, 200, 50, 0).is_empty(), "too few others");
    assert!(rate(5, 200, 9, 0).is_empty(), "too near");
    assert!(rate(5, 200, 45, 40).is_empty(), "the others are no better");
}

#[test]
fn switched_off_nothing_is_ejected_and_those_that_are_come_back() {
    let mut bench = Bench::new(10);
    bench.calls(0, 0, 5);
    bench.judge(0, false);
    bench.outliers = Outliers::off();
    bench.calls(1, 0, 50);
    assert!(bench.judge(1, true));
    assert!(bench.ejected().is_empty() && bench.outliers.urgent_at().is_none());
}

#[test]
fn rules_that_make_no_sense_are_refused_by_name() {
    let refusal = |outliers: Outliers| outliers.check().unwrap_err().to_string();
    assert_eq!(
        refusal(Outliers::default().failures_in_a_row(0)),
        "failures_in_a_row: 0 is refused: at least 1"
    );
    assert!(refusal(Outliers::default().ejected_max(1.1)).starts_with("ejected_max: 1.1 is out of range"));
    assert!(refusal(Outliers::default().times(SECOND * 2, SECOND)).starts_with("times: 2s to 1s"));
    assert_eq!(Outliers::off().check(), Ok(()));
}

proptest! {
    #[test]
    fn whatever_happens_the_share_holds_and_one_is_left(
        nodes in 1..30_usize,
        share in 0.0..=1.0_f64,
        events in prop::collection::vec((0..30_usize, 0..3_u64, 0..9_u32, any::<bool>()), 1..80),
    ) {
        let mut bench = Bench::new(nodes);
        bench.outliers = Outliers::default().ejected_max(share);
        for ((node, successes, failures, interval_over), second) in events.into_iter().zip((0..).step_by(7)) {
            bench.calls(node % nodes, successes, failures);
            bench.judge(second, interval_over);
            #[expect(clippy::cast_precision_loss, reason = "a few nodes")]
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of those")]
            let most = ((nodes as f64 * share) as usize).max(1);
            prop_assert!(bench.ejected().len() <= most && bench.ejected().len() < nodes.max(2));
            prop_assert!(nodes > 1 || bench.ejected().is_empty());
        }
    }
}
