//! Figures of all rounds, as a table and as JSON.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::measure::PICKS;
use crate::{CONTENDERS, POLICIES, RATIOS, ROUNDS, SIZES, THREADS, name};

/// A contender, a place in [`SIZES`] and a number of threads.
pub(crate) type Case = (usize, usize, usize);

/// Nanoseconds over all rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: values[values.len() / 2], min, max })
    }
}

fn ratio(figures: &BTreeMap<Case, Option<Figure>>, one: Case, other: Case) -> Option<f64> {
    Some(figures[&one]?.median / figures[&other]?.median)
}

pub(crate) fn print_table(figures: &BTreeMap<Case, Option<Figure>>, allocations: &[f64]) {
    let shown = |figure: Option<Figure>| match figure {
        Some(Figure { median, min, max }) => format!("{median:.1} ({min:.1}-{max:.1})"),
        None => "-".to_owned(),
    };
    let times = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
    println!("\nCPU ns a pick, median (min-max) of {ROUNDS} rounds of {PICKS} picks a thread\n");
    println!("{:<50}{:>6}{:>22}{:>22}{:>9}", "", "nodes", "one thread", "two threads", "scaling");
    for (contender, name) in (0..CONTENDERS).map(|contender| (contender, name(contender))) {
        for (size, nodes) in SIZES.iter().enumerate() {
            let [one, two] = THREADS.map(|threads| (contender, size, threads));
            let scaling = times(ratio(figures, one, two).map(|ratio| 2.0 * ratio));
            println!(
                "{name:<50}{nodes:>6}{:>22}{:>22}{scaling:>9}",
                shown(figures[&one]),
                shown(figures[&two])
            );
        }
    }
    println!("\n{:<50}{:>6}{:>22}{:>22}", "ratio in this run", "nodes", "one thread", "two threads");
    for (contender, anchor) in RATIOS {
        let name = format!("{} / {}", name(contender), &name(anchor)[..3]);
        for (size, nodes) in SIZES.iter().enumerate() {
            let [one, two] = THREADS
                .map(|threads| times(ratio(figures, (contender, size, threads), (anchor, size, threads))));
            println!("{name:<50}{nodes:>6}{one:>22}{two:>22}");
        }
    }
    println!("\n{:<50}{:>28}{:>10}", "", "10,000 / 10 nodes, one thread", "allocs");
    for (policy, (name, _)) in POLICIES.iter().enumerate() {
        let growth = times(ratio(figures, (policy, SIZES.len() - 1, 1), (policy, 0, 1)));
        println!("{name:<50}{growth:>28}{:>10}", allocations[policy]);
    }
}

pub(crate) fn write_json(
    path: &PathBuf,
    figures: &BTreeMap<Case, Option<Figure>>,
    allocations: &[f64],
) -> anyhow::Result<()> {
    let rows = figures.iter().map(|((contender, size, threads), figure)| {
        serde_json::json!({
            "pick": name(*contender), "nodes": SIZES[*size], "threads": threads,
            "median_ns": figure.map(|figure| figure.median),
            "min_ns": figure.map(|figure| figure.min),
            "max_ns": figure.map(|figure| figure.max),
        })
    });
    let ratios = RATIOS.iter().flat_map(|(contender, anchor)| {
        figures.keys().filter(move |(other, ..)| contender == other).map(move |(_, size, threads)| {
            serde_json::json!({
                "pick": name(*contender), "anchor": name(*anchor), "nodes": SIZES[*size], "threads": threads,
                "ratio": ratio(figures, (*contender, *size, *threads), (*anchor, *size, *threads)),
            })
        })
    });
    let report = serde_json::json!({
        "what": "pick", "unit": "CPU ns a pick", "rounds": ROUNDS, "picks": PICKS,
        "allocations_a_pick": POLICIES.iter().map(|(name, _)| *name).zip(allocations).collect::<BTreeMap<_, _>>(),
        "figures": rows.collect::<Vec<_>>(), "ratios": ratios.collect::<Vec<_>>(),
    });
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, format!("{report:#}\n"))?;
    Ok(())
}
