//! What a check costs: the engine alone and a whole server, beside a bare loop that does as little as can be done, and
//! beside HAProxy's own checks.
//!
//! The nodes are a process of their own, on loopback; they count what comes and tell at which intervals. Whoever checks
//! them is another process: each contender in turn checks all of them once a second, for some rounds, and what counts is
//! the CPU time of its process (user and system) for each check that the nodes saw, from the moment when all of them are
//! under way. Figures of one run compare with one another, and with nothing else.
//!
//! Run by `scripts/bench checks`. Arguments: the file for the figures, the file for the picture, and the cases to try.

#![expect(clippy::unwrap_used, reason = "a benchmark whose preparation fails has nothing to say")]

mod bare;
mod contender;
mod engine;
mod figures;
mod nodes;
mod picture;

use std::path::Path;
use std::time::Duration;

use contender::{Contender, Role};
use figures::Sample;
use nodes::Nodes;
use serde_json::{Value, json};

const ROUNDS: usize = 5;
const MEASURED: Duration = Duration::from_secs(6);
/// Whoever does not check all nodes once a second by then never will.
const STEADY_PATIENCE: u32 = 90;

/// What is asked of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// HTTP, on a connection that is kept.
    Kept,
    /// HTTP, on a connection of its own.
    Fresh,
    /// To be connected.
    Tcp,
}

/// One thing that is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    pub(crate) targets: usize,
    pub(crate) roles: &'static [Role],
}

// HAProxy resets a TCP check before the connection is complete: no node sees it, so there is nothing to count.
const OURS: &[Role] = &[Role::Bare, Role::Engine, Role::Server];
const ALL: &[Role] = &[Role::Bare, Role::Engine, Role::Server, Role::HaProxy];

const CASES: [Case; 6] = [
    Case { name: "kept-5000", way: Way::Kept, targets: 5_000, roles: OURS },
    Case { name: "kept-18000", way: Way::Kept, targets: 18_000, roles: OURS },
    Case { name: "fresh-5000", way: Way::Fresh, targets: 5_000, roles: ALL },
    Case { name: "fresh-9000", way: Way::Fresh, targets: 9_000, roles: ALL },
    Case { name: "tcp-5000", way: Way::Tcp, targets: 5_000, roles: OURS },
    Case { name: "tcp-9000", way: Way::Tcp, targets: 9_000, roles: OURS },
];

impl Way {
    pub(crate) const ALL: [(&str, Self); 3] =
        [("kept", Self::Kept), ("fresh", Self::Fresh), ("tcp", Self::Tcp)];

    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, way)| *way == self).unwrap().0
    }

    pub(crate) fn parse(text: &str) -> Self {
        Self::ALL.iter().find(|(name, _)| *name == text).unwrap().1
    }
}

fn main() {
    jcm_tests::process::end_children_with_a_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["nodes", way, targets] => nodes::serve(Way::parse(way), targets.parse().unwrap()),
        ["bare", way, ref addresses @ ..] => bare::check(Way::parse(way), &parse(addresses)),
        ["engine", way, ref addresses @ ..] => engine::check(Way::parse(way), &parse(addresses)),
        [output, picture, ref wanted @ ..] => compare(Path::new(output), Path::new(picture), wanted),
        _ => eprintln!("usage: bench_checks FIGURES.json PICTURE.svg [CASE…]"),
    }
}

fn parse<T: std::str::FromStr>(words: &[&str]) -> Vec<T> {
    words.iter().filter_map(|word| word.parse().ok()).collect()
}

fn compare(output: &Path, picture: &Path, wanted: &[&str]) {
    let unknown = wanted.iter().find(|name| CASES.iter().all(|case| case.name != **name));
    if let Some(name) = unknown {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        eprintln!("bench_checks: there is no case `{name}`; there are {}", names.join(", "));
        std::process::exit(2);
    }
    let before: Value =
        std::fs::read(output).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let mut all = Vec::new();
    for case in &CASES {
        let of_before = before.as_array().into_iter().flatten().find(|old| old["case"] == case.name);
        if !wanted.is_empty() && !wanted.contains(&case.name) {
            all.extend(of_before.cloned());
            continue;
        }
        let figures = try_one(case);
        figures::print(case.name, &figures);
        all.push(figures);
        // After each: a run that is broken off has still measured something.
        std::fs::write(output, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    }
    std::fs::write(output, serde_json::to_vec_pretty(&all).unwrap()).unwrap();
    std::fs::write(picture, picture::draw(&all)).unwrap();
    println!("\nfigures in {}, picture in {}", output.display(), picture.display());
}

fn try_one(case: &Case) -> Value {
    let mut nodes = Nodes::start(case);
    let mut samples: Vec<(Role, Vec<Sample>)> = case.roles.iter().map(|role| (*role, Vec::new())).collect();
    for round in 1..=ROUNDS {
        for (role, samples) in &mut samples {
            let sample = measure(&mut nodes, case, *role);
            eprintln!(
                "{} round {round}: {} {:.2} µs a check",
                case.name,
                role.as_str(),
                sample.micros_a_check
            );
            samples.push(sample);
        }
    }
    let bare = figures::median(&samples[0].1, |sample| sample.micros_a_check);
    let contenders: Vec<Value> =
        samples.iter().map(|(role, samples)| figures::summary(role.as_str(), samples, bare)).collect();
    json!({ "case": case.name, "targets": case.targets, "contenders": contenders })
}

fn measure(nodes: &mut Nodes, case: &Case, role: Role) -> Sample {
    let mut contender = Contender::start(role, case, nodes.addresses());
    // From the second second on in which all were asked, as far as one keeps to the second: HAProxy takes a little longer.
    let (mut steady, mut waited) = (0, 0);
    nodes.ask();
    while steady < 2 {
        assert!(waited < STEADY_PATIENCE, "{} does not come to check {} nodes", role.as_str(), case.targets);
        std::thread::sleep(Duration::from_secs(1));
        waited += 1;
        let is_all = nodes.ask().asked * 100 >= case.targets * 90;
        steady = if is_all { steady + 1 } else { 0 };
    }
    contender.mark();
    nodes.ask();
    let before = contender.cpu();
    std::thread::sleep(MEASURED);
    let (told, cpu) = (nodes.ask(), contender.cpu().saturating_sub(before));
    Sample::new(&told, cpu, &contender.end())
}
