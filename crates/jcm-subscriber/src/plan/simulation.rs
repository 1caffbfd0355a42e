//! One slow node among ten, in virtual time and by a fixed seed: what callers feel of it under each policy.
//!
//! Nodes have a few workers and a queue; calls come at random moments. `scripts/bench pick` prints the table.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use super::tests::{hand, plan_of, view};
use super::*;
use crate::random::Random;
use crate::sketch::healthy;

const NODES: u16 = 10;
/// The first one is slow.
const SLOW: usize = 0;
const SLOWER: f64 = 10.0;
/// Calls that a node works on at a time; others wait.
const WORKERS: usize = 8;
/// Mean time of work of a fast node.
const WORK_MICROS: f64 = 10_000.0;
const CALLS: usize = 200_000;

/// What one run came to.
#[derive(Debug)]
struct Felt {
    /// In milliseconds.
    p50: f64,
    p99: f64,
    /// Which share of the calls went to the slow node.
    slow_share: f64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Over { node: usize, began: u64 },
    Call,
}

#[derive(Debug, Default)]
struct Worker {
    busy: usize,
    waiting: VecDeque<u64>,
}

/// Runs calls through a policy at a load, a share of what the nine fast nodes can carry.
fn run(policy: &Policy, ports: std::ops::RangeInclusive<u16>, load: f64) -> Felt {
    let now = Instant::now();
    let slow_is_there = ports.contains(&1);
    let view = view(&ports.map(healthy).collect::<Vec<_>>(), now);
    let plan = plan_of(policy, &view, now);
    let hand = hand(&plan, 11);
    let mut random = Random::seeded(5);
    #[expect(clippy::cast_precision_loss, reason = "a few workers")]
    let mean_gap = WORK_MICROS / (WORKERS as f64 * f64::from(NODES - 1) * load);
    let mut events = BinaryHeap::from([Reverse((0_u64, Event::Call))]);
    let mut nodes: Vec<Worker> = (0..plan.candidates()).map(|_| Worker::default()).collect();
    let (mut calls, mut slow_calls) = (0, 0);
    let mut latencies = Vec::with_capacity(CALLS);
    while let Some(Reverse((at, event))) = events.pop() {
        #[expect(clippy::cast_possible_truncation, reason = "the clock wraps")]
        let clock = || Micros(at as u32);
        let started = match event {
            Event::Call => {
                calls += 1;
                if calls < CALLS {
                    events.push(Reverse((at + exponential(&mut random, mean_gap), Event::Call)));
                }
                let entry = hand.choose(&plan, clock).unwrap();
                plan.begin(entry);
                let node = entry as usize;
                slow_calls += usize::from(slow_is_there && node == SLOW);
                if nodes[node].busy < WORKERS {
                    nodes[node].busy += 1;
                    Some((node, at))
                } else {
                    nodes[node].waiting.push_back(at);
                    None
                }
            }
            Event::Over { node, began } => {
                latencies.push(at - began);
                let entry = u32::try_from(node).unwrap();
                #[expect(clippy::cast_possible_truncation, reason = "the clock wraps")]
                plan.learn(entry, Micros(began as u32), Some(true), clock);
                plan.end(entry);
                let next = nodes[node].waiting.pop_front();
                nodes[node].busy -= usize::from(next.is_none());
                next.map(|began| (node, began))
            }
        };
        if let Some((node, began)) = started {
            let slower = if slow_is_there && node == SLOW { SLOWER } else { 1.0 };
            // Half of the work is always the same, half is chance.
            let work = exponential(&mut random, WORK_MICROS * slower / 2.0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds")]
            let work = work + (WORK_MICROS * slower / 2.0) as u64;
            events.push(Reverse((at + work, Event::Over { node, began })));
        }
    }
    latencies.sort_unstable();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
    let percentile = |share: usize| latencies[latencies.len() * share / 100] as f64 / 1000.0;
    #[expect(clippy::cast_precision_loss, reason = "a few calls")]
    let slow_share = slow_calls as f64 / CALLS as f64;
    Felt { p50: percentile(50), p99: percentile(99), slow_share }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "microseconds")]
#[expect(clippy::cast_precision_loss, reason = "chance")]
fn exponential(random: &mut Random, mean: f64) -> u64 {
    let unit = ((random.next() >> 11) as f64 + 1.0) / (1_u64 << 53) as f64;
    (-unit.ln() * mean) as u64
}

/// The same policy without the slow node: what one would do who knows.
fn oracle(policy: &Policy, load: f64) -> Felt {
    run(policy, 2..=NODES, load)
}

#[test]
fn one_slow_node_among_ten_is_hardly_felt_through_peak_ewma() {
    println!(
        "\none node of {NODES} is {SLOWER} times slower; calls that only go to the others for comparison\n"
    );
    println!(
        "{:<20}{:>6}{:>10}{:>10}{:>14}{:>10}{:>12}",
        "", "load", "p50 ms", "p99 ms", "p99 without", "ratio", "slow share"
    );
    for load in [0.1, 0.3, 0.5, 0.7] {
        let table: [(&str, Policy); 5] = [
            ("round robin", Policy::round_robin()),
            ("random", Policy::random()),
            ("p2c", Policy::p2c()),
            ("least in flight", Policy::least_inflight()),
            ("peak ewma", Policy::peak_ewma()),
        ];
        for (name, policy) in table {
            let (felt, known) = (run(&policy, 1..=NODES, load), oracle(&policy, load));
            let ratio = felt.p99 / known.p99;
            println!(
                "{name:<20}{load:>6}{:>10.1}{:>10.1}{:>14.1}{ratio:>10.2}{:>12.4}",
                felt.p50, felt.p99, known.p99, felt.slow_share
            );
            if policy == Policy::peak_ewma() {
                assert!(ratio < 1.1, "{felt:?}, without it {known:?}");
                assert!(felt.slow_share < 0.01, "{felt:?}");
            }
        }
    }
}
