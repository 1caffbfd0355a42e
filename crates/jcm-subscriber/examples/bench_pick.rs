//! What a pick costs, beside bare ways of picking that do as little as can be done. Run by `scripts/bench pick`.
//!
//! CPU time of each thread over many picks, every contender in every round, in an order that shifts with the round:
//! figures of one run compare with one another, and with nothing else.

#![expect(clippy::unwrap_used, reason = "a benchmark whose preparation fails has nothing to say")]

#[path = "../tests/suite/fake.rs"]
#[expect(dead_code, reason = "a benchmark says little to the server")]
mod fake;
#[path = "../tests/suite/model.rs"]
#[expect(dead_code, reason = "a benchmark needs a view and no changes")]
mod model;

use std::alloc::System;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Ready;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use jcm_subscriber::{Cluster, Node, Policy, Subscriber};
use rustix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [u16; 3] = [10, 100, 10_000];
const THREADS: [usize; 2] = [1, 2];
/// Picks of one thread in one measurement: a few milliseconds, so that the clock's own cost is nothing and a busy machine
/// still has stretches in which all threads run.
const PICKS: u32 = 200_000;
const ROUNDS: usize = 5;

type MakePolicy = fn() -> Policy;
/// The policies, by name.
const POLICIES: [(&str, MakePolicy); 8] = [
    ("jcm round robin, even weights", Policy::round_robin),
    ("jcm random", Policy::random),
    ("jcm p2c", Policy::p2c),
    ("jcm peak ewma", Policy::peak_ewma),
    ("jcm least in flight", Policy::least_inflight),
    ("jcm ring hash", Policy::ring_hash),
    ("jcm maglev", Policy::maglev),
    ("jcm primary", Policy::primary),
];
/// What they are compared with comes behind them.
const ANCHORS: usize = POLICIES.len();

/// The anchors. What JCM is compared with does just what its name says, on the same nodes, and hands nothing out that
/// could outlive the pick.
const NAMES: [&str; 5] = [
    "(a) snapshot cached per thread, counter % nodes",
    "(b) ArcSwap load, shared counter % nodes",
    "(c) ArcSwap load, two choices, calls in flight",
    "(d) as (a), comparing instead of dividing",
    "(e) tower p2c by calls in flight, ready and call",
];
/// Which figures belong side by side.
const RATIOS: [(usize, usize); 7] = [
    (0, ANCHORS),
    (0, ANCHORS + 3),
    (1, ANCHORS + 2),
    (2, ANCHORS + 2),
    (3, ANCHORS + 2),
    (7, ANCHORS + 2),
    (2, ANCHORS + 4),
];
const CONTENDERS: usize = POLICIES.len() + NAMES.len();

fn name(contender: usize) -> &'static str {
    POLICIES.get(contender).map_or_else(|| NAMES[contender - ANCHORS], |(name, _)| name)
}

fn main() -> anyhow::Result<()> {
    let json = std::env::args().nth(1).map(PathBuf::from).context("usage: bench_pick OUTPUT.json")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let fields: Vec<Field> = SIZES.iter().map(|size| runtime.block_on(Field::new(*size))).collect();

    let allocations: Vec<f64> = (0..ANCHORS).map(|policy| fields[0].allocations(policy)).collect();
    let mut samples: BTreeMap<Case, Vec<f64>> = BTreeMap::new();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for (size, field) in fields.iter().enumerate() {
            for threads in THREADS {
                for turn in 0..CONTENDERS {
                    let contender = (turn + round) % CONTENDERS;
                    let sample = field.measure(contender, threads);
                    samples.entry((contender, size, threads)).or_default().extend(sample);
                }
            }
        }
    }
    let figures: BTreeMap<Case, Option<Figure>> =
        samples.into_iter().map(|(case, values)| (case, Figure::of(values))).collect();
    print_table(&figures, &allocations);
    write_json(&json, &figures, &allocations).with_context(|| format!("cannot write {}", json.display()))?;
    println!("\nwritten to {}", json.display());
    Ok(())
}

/// A contender, a place in [`SIZES`] and a number of threads.
type Case = (usize, usize, usize);

/// Nanoseconds over all rounds.
#[derive(Debug, Clone, Copy)]
struct Figure {
    median: f64,
    min: f64,
    max: f64,
}

impl Figure {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        Some(Self { median: values[values.len() / 2], min, max })
    }
}

/// Everything that picks are made from, for one number of nodes.
struct Field {
    _server: fake::Fake,
    _stream: fake::Stream,
    /// One for each policy.
    clusters: Vec<Cluster>,
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

/// A number of nodes, and tower's balancer over so many.
type Tower = (usize, Balance<ServiceList<Vec<PendingRequests<Here>>>, ()>);

thread_local! {
    static BALANCE: RefCell<Option<Tower>> = const { RefCell::new(None) };
    static CACHED: RefCell<Option<Cached>> = const { RefCell::new(None) };
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().hash_one(0) | 1);
}

impl Field {
    async fn new(size: u16) -> Self {
        let mut server = fake::Fake::start().await;
        let builder = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::ZERO);
        let jcm = builder.build().await.unwrap();
        let mut clusters = Vec::new();
        for (_, policy) in POLICIES {
            clusters.push(jcm.cluster("orders").policy(policy()).subscribe().await.unwrap());
        }
        let mut stream = server.welcome().await;
        stream.subscription().await;
        stream.send(model::view(&model::state(1, &model::healthy(1..size + 1))));
        stream.acknowledged(1).await;
        let nodes: Vec<Arc<Node>> = clusters[0].nodes().into_iter().map(|status| status.node).collect();
        assert_eq!(nodes.len(), usize::from(size));
        let loads = nodes.iter().map(|node| Loaded { in_flight: AtomicU32::new(0), node: Arc::clone(node) });
        // Numbers of versions are never shared, so that a thread's cache of one field is not taken for another's.
        Self {
            loads: ArcSwap::from_pointee(loads.collect()),
            snapshot: CachedSnapshot {
                version: AtomicU64::new(u64::from(size)),
                nodes: ArcSwap::from_pointee(nodes.clone()),
            },
            swapped: ArcSwap::from_pointee(nodes),
            shared_counter: AtomicUsize::new(0),
            clusters,
            _server: server,
            _stream: stream,
        }
    }

    /// CPU nanoseconds of one pick, the mean of all threads; `None` when the machine was too busy to tell.
    fn measure(&self, contender: usize, threads: usize) -> Option<f64> {
        if let Some(cluster) = self.clusters.get(contender) {
            return measure(threads, || drop(black_box(cluster.alloc().unwrap())));
        }
        match contender - ANCHORS {
            0 => measure(threads, || self.pick_cached(|next, count| next % count)),
            1 => measure(threads, || self.pick_shared()),
            2 => measure(threads, || self.pick_two()),
            4 => measure(threads, || self.pick_tower()),
            _ => measure(threads, || self.pick_cached(|next, count| if next < count { next } else { 0 })),
        }
    }

    fn allocations(&self, policy: usize) -> f64 {
        const COUNTED_PICKS: u32 = 100_000;
        let cluster = &self.clusters[policy];
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
    fn pick_cached(&self, wrap: impl Fn(usize, usize) -> usize) {
        CACHED.with_borrow_mut(|cached| {
            let version = self.snapshot.version.load(Ordering::Acquire);
            let cached = match cached {
                Some(cached) if cached.version == version => cached,
                stale => stale.insert(Cached { version, nodes: self.snapshot.nodes.load_full(), next: 0 }),
            };
            let this = wrap(cached.next, cached.nodes.len());
            black_box(&cached.nodes[this]);
            cached.next = this + 1;
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
        let (one, other) = (&loads[random_below(loads.len())], &loads[random_below(loads.len())]);
        let one_is_less = one.in_flight.load(Ordering::Relaxed) <= other.in_flight.load(Ordering::Relaxed);
        let chosen = if one_is_less { one } else { other };
        chosen.in_flight.fetch_add(1, Ordering::Relaxed);
        black_box(&chosen.node);
        chosen.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Field {
    /// A balancer belongs to whoever calls by it, so each thread has its own.
    fn pick_tower(&self) {
        let nodes = self.loads.load().len();
        BALANCE.with_borrow_mut(|held| {
            let balance = match held {
                Some((size, balance)) if *size == nodes => balance,
                stale => {
                    let here = || PendingRequests::new(Here, CompleteOnResponse::default());
                    let services: Vec<_> = (0..nodes).map(|_| here()).collect();
                    &mut stale.insert((nodes, Balance::new(ServiceList::new(services)))).1
                }
            };
            let mut context = Context::from_waker(Waker::noop());
            while balance.poll_ready(&mut context).map(Result::unwrap).is_pending() {}
            let mut call = pin!(balance.call(()));
            assert!(call.as_mut().poll(&mut context).is_ready());
        });
    }
}

/// Answers at once.
#[derive(Debug)]
struct Here;

impl Service<()> for Here {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(()))
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

/// Threads that did not run at the same time say nothing about what they cost one another, so such a measurement is made
/// again, and given up when the machine is too busy.
fn measure(threads: usize, pick: impl Fn() + Sync) -> Option<f64> {
    const TRIES_MAX: usize = 15;
    const AT_ONCE_MIN: f64 = 0.85;
    (0..TRIES_MAX)
        .map(|_| measure_once(threads, &pick))
        .find(|(_, at_once)| threads == 1 || *at_once > AT_ONCE_MIN)
        .map(|(nanoseconds, _)| nanoseconds)
}

/// The cost of a pick, and how much of the time all threads were running.
fn measure_once(threads: usize, pick: &(impl Fn() + Sync)) -> (f64, f64) {
    const WARM_UP: u32 = 20_000;
    let start = Barrier::new(threads);
    let each = || {
        for _ in 0..WARM_UP {
            pick();
        }
        start.wait();
        let (began, before) = (Instant::now(), clock_gettime(ClockId::ThreadCPUTime));
        for _ in 0..PICKS {
            pick();
        }
        let after = clock_gettime(ClockId::ThreadCPUTime);
        let spent = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
        let spent = Duration::from_nanos(u64::try_from(spent).unwrap());
        (spent.as_secs_f64(), began, Instant::now())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(each)).collect();
        let done: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        let spent: f64 = done.iter().map(|(spent, ..)| spent).sum();
        let began = done.iter().map(|(_, began, _)| *began).min().unwrap();
        let ended = done.iter().map(|(.., ended)| *ended).max().unwrap();
        let threads = f64::from(u32::try_from(threads).unwrap());
        let at_once = spent / threads / (ended - began).as_secs_f64();
        (spent / threads / f64::from(PICKS) * 1e9, at_once)
    })
}

fn ratio(figures: &BTreeMap<Case, Option<Figure>>, one: Case, other: Case) -> Option<f64> {
    Some(figures[&one]?.median / figures[&other]?.median)
}

fn print_table(figures: &BTreeMap<Case, Option<Figure>>, allocations: &[f64]) {
    let shown = |figure: Option<Figure>| match figure {
        Some(Figure { median, min, max }) => format!("{median:.1} ({min:.1}-{max:.1})"),
        None => "machine too busy".to_owned(),
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

fn write_json(
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
