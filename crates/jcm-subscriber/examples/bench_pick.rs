//! What a pick costs, beside bare ways of picking that do as little as can be done. Run by `scripts/bench pick`.
//!
//! CPU time of each thread over many picks, every contender in every round, in an order that shifts with the round:
//! figures of one run compare with one another, and with nothing else.

#![expect(
    clippy::unwrap_used,
    reason = "a benchmark whose preparation fails has nothing to say"
)]

#[path = "../tests/suite/fake.rs"]
#[expect(dead_code, reason = "a benchmark says little to the server")]
mod fake;
#[path = "../tests/suite/model.rs"]
#[expect(dead_code, reason = "a benchmark needs a view and no changes")]
mod model;

use std::alloc::System;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use jcm_subscriber::{Cluster, Node, Policy, Subscriber};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [u16; 4] = [10, 100, 1000, 10_000];
const THREADS: [usize; 2] = [1, 2];
/// Picks of one thread in one measurement: tens of milliseconds, so that the clock's own cost is nothing.
const PICKS: u32 = 2_000_000;
const ROUNDS: usize = 7;

/// The contenders. What JCM is compared with does just what its name says, on the same nodes.
const NAMES: [&str; 5] = [
    "jcm round robin",
    "jcm p2c",
    "(a) snapshot cached per thread + per-thread counter",
    "(b) ArcSwap load + one shared counter",
    "(c) ArcSwap load + two choices with in-flight counts",
];

fn main() -> anyhow::Result<()> {
    let json = std::env::args()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: bench_pick OUTPUT.json")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let fields: Vec<Field> = SIZES
        .iter()
        .map(|size| runtime.block_on(Field::new(*size)))
        .collect();

    let allocations: Vec<f64> = (0..2).map(|contender| fields[0].allocations(contender)).collect();
    let mut samples: BTreeMap<(usize, usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for (size, field) in fields.iter().enumerate() {
            for threads in THREADS {
                for turn in 0..NAMES.len() {
                    let contender = (turn + round) % NAMES.len();
                    let nanoseconds = field.measure(contender, threads);
                    samples
                        .entry((size, threads, contender))
                        .or_default()
                        .push(nanoseconds);
                }
            }
        }
    }
    let rows = rows(&mut samples);
    print_table(&rows, &allocations);
    write_json(&json, &rows, &allocations).with_context(|| format!("cannot write {}", json.display()))?;
    println!("\nwritten to {}", json.display());
    Ok(())
}

/// Everything that picks are made from, for one number of nodes.
struct Field {
    _server: fake::Fake,
    _stream: fake::Stream,
    round_robin: Cluster,
    p2c: Cluster,
    snapshot: CachedSnapshot,
    swapped: ArcSwap<Vec<Arc<Node>>>,
    shared_counter: AtomicUsize,
    loads: ArcSwap<Vec<Loaded>>,
}

/// Anchor (a): the version tells threads when to look again.
struct CachedSnapshot {
    version: AtomicU64,
    nodes: ArcSwap<Vec<Arc<Node>>>,
}

/// Anchor (c): a node with its calls in flight, on a cache line of its own.
#[repr(align(64))]
struct Loaded {
    in_flight: AtomicU32,
    node: Arc<Node>,
}

/// What a thread caches for anchor (a).
struct Cached {
    version: u64,
    nodes: Arc<Vec<Arc<Node>>>,
    next: usize,
}

thread_local! {
    static CACHED: RefCell<Option<Cached>> = const { RefCell::new(None) };
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

impl Field {
    async fn new(size: u16) -> Self {
        let mut server = fake::Fake::start().await;
        let builder = Subscriber::builder()
            .servers([server.url()])
            .ready_timeout(Duration::ZERO);
        let jcm = builder.build().await.unwrap();
        let round_robin = jcm
            .cluster("orders")
            .policy(Policy::round_robin())
            .subscribe()
            .await
            .unwrap();
        let p2c = jcm
            .cluster("orders")
            .policy(Policy::p2c())
            .subscribe()
            .await
            .unwrap();
        let mut stream = server.welcome().await;
        stream.subscription().await;
        stream.send(model::view(&model::state(1, &model::healthy(1..size + 1))));
        stream.acknowledged(1).await;
        let nodes: Vec<Arc<Node>> = round_robin
            .nodes()
            .into_iter()
            .map(|status| status.node)
            .collect();
        assert_eq!(nodes.len(), usize::from(size));
        let loads = nodes.iter().map(|node| Loaded {
            in_flight: AtomicU32::new(0),
            node: Arc::clone(node),
        });
        // Numbers of versions are never shared, so that a thread's cache of one field is not taken for another's.
        Self {
            loads: ArcSwap::from_pointee(loads.collect()),
            snapshot: CachedSnapshot {
                version: AtomicU64::new(u64::from(size)),
                nodes: ArcSwap::from_pointee(nodes.clone()),
            },
            swapped: ArcSwap::from_pointee(nodes),
            shared_counter: AtomicUsize::new(0),
            round_robin,
            p2c,
            _server: server,
            _stream: stream,
        }
    }

    /// CPU nanoseconds of one pick, the mean of all threads.
    fn measure(&self, contender: usize, threads: usize) -> f64 {
        match contender {
            0 => measure(threads, || drop(black_box(self.round_robin.alloc().unwrap()))),
            1 => measure(threads, || drop(black_box(self.p2c.alloc().unwrap()))),
            2 => measure(threads, || self.pick_cached()),
            3 => measure(threads, || self.pick_shared()),
            _ => measure(threads, || self.pick_two()),
        }
    }

    fn allocations(&self, contender: usize) -> f64 {
        const COUNTED_PICKS: u32 = 100_000;
        let cluster = if contender == 0 {
            &self.round_robin
        } else {
            &self.p2c
        };
        drop(cluster.alloc().unwrap());
        let region = Region::new(COUNTED);
        for _ in 0..COUNTED_PICKS {
            drop(black_box(cluster.alloc().unwrap()));
        }
        let change = region.change();
        f64::from(u32::try_from(change.allocations + change.reallocations).unwrap())
            / f64::from(COUNTED_PICKS)
    }

    #[inline]
    fn pick_cached(&self) {
        CACHED.with_borrow_mut(|cached| {
            let version = self.snapshot.version.load(Ordering::Acquire);
            let cached = match cached {
                Some(cached) if cached.version == version => cached,
                stale => stale.insert(Cached {
                    version,
                    nodes: self.snapshot.nodes.load_full(),
                    next: 0,
                }),
            };
            if cached.next >= cached.nodes.len() {
                cached.next = 0;
            }
            black_box(&cached.nodes[cached.next]);
            cached.next += 1;
        });
    }

    #[inline]
    fn pick_shared(&self) {
        let nodes = self.swapped.load();
        let next = self.shared_counter.fetch_add(1, Ordering::Relaxed);
        black_box(&nodes[next % nodes.len()]);
    }

    #[inline]
    fn pick_two(&self) {
        let loads = self.loads.load();
        let (one, other) = (
            &loads[random_below(loads.len())],
            &loads[random_below(loads.len())],
        );
        let one_is_less = one.in_flight.load(Ordering::Relaxed) <= other.in_flight.load(Ordering::Relaxed);
        let chosen = if one_is_less { one } else { other };
        chosen.in_flight.fetch_add(1, Ordering::Relaxed);
        black_box(&chosen.node);
        chosen.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Xorshift: as cheap as random numbers get.
#[inline]
fn random_below(bound: usize) -> usize {
    RANDOM.with(|state| {
        let mut bits = state.get();
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        state.set(bits);
        usize::try_from(((bits >> 32) * bound as u64) >> 32).unwrap()
    })
}

fn measure(threads: usize, pick: impl Fn() + Sync) -> f64 {
    const WARM_UP: u32 = 20_000;
    let start = Barrier::new(threads);
    let each = || {
        for _ in 0..WARM_UP {
            pick();
        }
        start.wait();
        let before = clock_gettime(ClockId::ThreadCPUTime);
        for _ in 0..PICKS {
            pick();
        }
        let after = clock_gettime(ClockId::ThreadCPUTime);
        let nanoseconds = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
        f64::from(u32::try_from(nanoseconds).expect("a measurement takes less than four seconds"))
            / f64::from(PICKS)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        let sum: f64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        sum / f64::from(u32::try_from(threads).unwrap())
    })
}

#[derive(Debug, Clone, Copy)]
struct Row {
    size: usize,
    threads: usize,
    contender: usize,
    median: f64,
    min: f64,
    max: f64,
}

fn rows(samples: &mut BTreeMap<(usize, usize, usize), Vec<f64>>) -> Vec<Row> {
    samples
        .iter_mut()
        .map(|((size, threads, contender), values)| {
            values.sort_by(f64::total_cmp);
            let (median, min, max) = (values[values.len() / 2], values[0], values[values.len() - 1]);
            Row {
                size: *size,
                threads: *threads,
                contender: *contender,
                median,
                min,
                max,
            }
        })
        .collect()
}

fn find(rows: &[Row], size: usize, threads: usize, contender: usize) -> Row {
    *rows
        .iter()
        .find(|row| (row.size, row.threads, row.contender) == (size, threads, contender))
        .unwrap()
}

/// What a contender is compared with: round robin with (a), p2c with (c).
fn anchor_of(contender: usize) -> Option<usize> {
    [Some(2), Some(4), None, None, None][contender]
}

fn print_table(rows: &[Row], allocations: &[f64]) {
    println!("\nCPU ns a pick, median (min-max) of {ROUNDS} rounds of {PICKS} picks a thread\n");
    println!(
        "{:<54}{:>6}{:>24}{:>24}{:>9}",
        "", "nodes", "one thread", "two threads", "scaling"
    );
    for (contender, name) in NAMES.iter().enumerate() {
        for (size, nodes) in SIZES.iter().enumerate() {
            let [one, two] = THREADS.map(|threads| find(rows, size, threads, contender));
            let cell = |row: Row| format!("{:.1} ({:.1}-{:.1})", row.median, row.min, row.max);
            println!(
                "{:<54}{nodes:>6}{:>24}{:>24}{:>8.2}x",
                name,
                cell(one),
                cell(two),
                2.0 * one.median / two.median
            );
        }
    }
    println!(
        "\nratio to the anchor of the same run{:>25}{:>12}{:>14}",
        "nodes", "one thread", "two threads"
    );
    for (contender, name) in NAMES.iter().enumerate() {
        let Some(anchor) = anchor_of(contender) else {
            continue;
        };
        for (size, nodes) in SIZES.iter().enumerate() {
            let ratios = THREADS.map(|threads| {
                find(rows, size, threads, contender).median / find(rows, size, threads, anchor).median
            });
            let name = format!("{name} / {}", &NAMES[anchor][..3]);
            println!("{name:<54}{nodes:>6}{:>12.2}{:>14.2}", ratios[0], ratios[1]);
        }
    }
    println!(
        "\nallocations a pick: round robin {}, p2c {}",
        allocations[0], allocations[1]
    );
}

fn write_json(path: &PathBuf, rows: &[Row], allocations: &[f64]) -> anyhow::Result<()> {
    let figures: Vec<serde_json::Value> = rows
        .iter()
        .map(|row| {
            let ratio = anchor_of(row.contender)
                .map(|anchor| row.median / find(rows, row.size, row.threads, anchor).median);
            serde_json::json!({
                "pick": NAMES[row.contender], "nodes": SIZES[row.size], "threads": row.threads,
                "median_ns": row.median, "min_ns": row.min, "max_ns": row.max,
                "anchor": anchor_of(row.contender).map(|anchor| NAMES[anchor]), "ratio": ratio,
            })
        })
        .collect();
    let report = serde_json::json!({
        "what": "pick", "unit": "CPU ns a pick", "rounds": ROUNDS, "picks": PICKS,
        "allocations_a_pick": { "round_robin": allocations[0], "p2c": allocations[1] },
        "figures": figures,
    });
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::write(path, format!("{report:#}\n"))?;
    Ok(())
}
