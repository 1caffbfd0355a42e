//! What a pick costs, beside bare ways of picking that do as little as can be done. Run by `scripts/bench pick`.
//!
//! CPU time of each thread over many picks, every contender in every round, in an order that shifts with the round:
//! figures of one run compare with one another, and with nothing else.

#![expect(clippy::unwrap_used, reason = "a benchmark whose preparation fails has nothing to say")]

#[path = "bench_pick/beside.rs"]
mod beside;
#[path = "../tests/suite/fake.rs"]
#[expect(dead_code, reason = "a benchmark says little to the server")]
mod fake;
#[path = "bench_pick/measure.rs"]
mod measure;
#[path = "../tests/suite/model.rs"]
#[expect(dead_code, reason = "a benchmark needs views and no changes")]
mod model;
#[path = "bench_pick/report.rs"]
mod report;

use std::alloc::System;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Ready;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use jcm_subscriber::{Cluster, Node, Policy, Subscriber, Verdict};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tower::Service;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};

use crate::beside::Beside;
use crate::measure::measure;
use crate::report::{Case, Figure, print_table, write_json};

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SIZES: [u16; 3] = [10, 100, 10_000];
const THREADS: [usize; 2] = [1, 2];
const ROUNDS: usize = 5;

type MakePolicy = fn() -> Policy;
/// The policies, by name.
const POLICIES: [(&str, MakePolicy); 9] = [
    ("jcm round robin, even weights", Policy::round_robin),
    ("jcm random", Policy::random),
    ("jcm p2c", Policy::p2c),
    ("jcm peak ewma", Policy::peak_ewma),
    ("jcm least in flight", Policy::least_inflight),
    ("jcm ring hash", Policy::ring_hash),
    ("jcm maglev", Policy::maglev),
    ("jcm primary", Policy::primary),
    ("jcm weighted, one of four a quarter", Policy::weighted),
];
/// The one that picks from the same nodes with uneven weights.
const UNEVEN: usize = 8;
/// What they are compared with comes behind them.
const ANCHORS: usize = POLICIES.len();

/// The anchors. What JCM is compared with does just what its name says, on the same nodes, and hands nothing out that
/// could outlive the pick.
const NAMES: [&str; 7] = [
    "(a) snapshot cached per thread, counter % nodes",
    "(b) ArcSwap load, shared counter % nodes",
    "(c) ArcSwap load, two choices, calls in flight",
    "(d) as (a), comparing instead of dividing",
    "(e) tower p2c by calls in flight, ready and call",
    "(f) pingora-load-balancing round robin",
    "(g) pingora-load-balancing random",
];
/// The last of them are measured by a program of their own, under these names.
const BESIDE: [&str; 2] = ["round-robin", "random"];
/// Which figures belong side by side.
const RATIOS: [(usize, usize); 11] = [
    (0, ANCHORS),
    (0, ANCHORS + 3),
    (UNEVEN, ANCHORS),
    (1, ANCHORS + 2),
    (2, ANCHORS + 2),
    (3, ANCHORS + 2),
    (7, ANCHORS + 2),
    (2, ANCHORS + 4),
    (0, ANCHORS + 5),
    (UNEVEN, ANCHORS + 5),
    (1, ANCHORS + 6),
];
const CONTENDERS: usize = POLICIES.len() + NAMES.len();

fn name(contender: usize) -> &'static str {
    POLICIES.get(contender).map_or_else(|| NAMES[contender - ANCHORS], |(name, _)| name)
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let json = arguments.next().context("usage: bench_pick OUTPUT.json [PINGORA]")?;
    let mut beside = arguments.next().map(|program| Beside::start(&program)).transpose()?;
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
                    let sample = match contender.checked_sub(CONTENDERS - BESIDE.len()) {
                        None => field.measure(contender, threads),
                        Some(at) => match &mut beside {
                            Some(beside) => beside.measure(BESIDE[at], SIZES[size], threads)?,
                            None => None,
                        },
                    };
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

/// Everything that picks are made from, for one number of nodes.
struct Field {
    _even: Served,
    _uneven: Served,
    /// One for each policy.
    clusters: Vec<Cluster>,
    snapshot: CachedSnapshot,
    swapped: ArcSwap<Vec<Arc<Node>>>,
    shared_counter: AtomicUsize,
    loads: ArcSwap<Vec<Loaded>>,
}

/// A server, and what it said to one subscriber.
struct Served {
    _server: fake::Fake,
    _stream: fake::Stream,
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
        let verdicts = model::healthy(1..size + 1);
        let (even, mut clusters) = subscribe(&POLICIES[..UNEVEN], &verdicts).await;
        let degraded = |(port, verdict)| (port, if port % 4 == 0 { Verdict::Degraded } else { verdict });
        let verdicts: Vec<_> = verdicts.into_iter().map(degraded).collect();
        let (uneven, weighted) = subscribe(&POLICIES[UNEVEN..], &verdicts).await;
        clusters.extend(weighted);
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
            _even: even,
            _uneven: uneven,
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

/// One handle for each policy, from a server that says this of the nodes.
async fn subscribe(policies: &[(&str, MakePolicy)], verdicts: &[(u16, Verdict)]) -> (Served, Vec<Cluster>) {
    let mut server = fake::Fake::start().await;
    let builder = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::ZERO);
    let jcm = builder.build().await.unwrap();
    let mut clusters = Vec::new();
    for (_, policy) in policies {
        clusters.push(jcm.cluster("orders").policy(policy()).subscribe().await.unwrap());
    }
    let mut stream = server.welcome().await;
    stream.subscription().await;
    stream.send(model::view(&model::state(1, verdicts)));
    stream.acknowledged(1).await;
    (Served { _server: server, _stream: stream }, clusters)
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
