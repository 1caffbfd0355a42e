//! One round's figures, and how they are shown.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::time::Duration;

use serde_json::{Value, json};

/// What came of one round, and of those beside it.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) nodes: usize,
    pub(crate) seconds: f64,
    /// How often each status was answered; 0: no answer.
    pub(crate) statuses: BTreeMap<u16, usize>,
    pub(crate) times_ms: Percentiles,
    pub(crate) transactions: u64,
    pub(crate) cpu: Cpu,
    /// The same nodes as znodes, in as many bare requests.
    pub(crate) multis_seconds: f64,
    pub(crate) multis_cpu: Duration,
    /// The bytes of our own transactions, in as many bare requests.
    pub(crate) floor_seconds: f64,
    /// The same requests over HTTP, only answered.
    pub(crate) http_seconds: f64,
    pub(crate) http_cpu: Duration,
}

/// CPU time of processes so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) servers: Duration,
    pub(crate) zookeeper: Duration,
    pub(crate) clients: Duration,
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            servers: self.servers.saturating_sub(before.servers),
            zookeeper: self.zookeeper.saturating_sub(before.zookeeper),
            clients: self.clients.saturating_sub(before.clients),
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// In milliseconds.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> Percentiles {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1_000.0;
    Percentiles { p50: at(50), p99: at(99), max: at(100) }
}

#[expect(clippy::cast_precision_loss, reason = "ten thousand nodes")]
impl Round {
    fn per_second(&self, seconds: f64) -> f64 {
        self.nodes as f64 / seconds
    }

    fn micros_each(&self, time: Duration) -> f64 {
        time.as_secs_f64() * 1e6 / self.nodes as f64
    }

    fn ratio(&self) -> f64 {
        self.multis_seconds / self.seconds
    }

    fn others(&self) -> String {
        let others = self.statuses.iter().filter(|(status, _)| !matches!(status, 200 | 201));
        let shown: Vec<_> = others.map(|(status, count)| format!("{count}×{status}")).collect();
        if shown.is_empty() { "-".to_owned() } else { shown.join(" ") }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "nodes_per_s": self.per_second(self.seconds),
            "bare_nodes_per_s": self.per_second(self.multis_seconds),
            "floor_nodes_per_s": self.per_second(self.floor_seconds),
            "http_nodes_per_s": self.per_second(self.http_seconds),
            "ratio": self.ratio(),
            "statuses": self.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect::<BTreeMap<_, _>>(),
            "transactions": self.transactions,
            "ms": [self.times_ms.p50, self.times_ms.p99, self.times_ms.max],
            "us_servers": self.micros_each(self.cpu.servers),
            "us_zookeeper": self.micros_each(self.cpu.zookeeper),
            "us_clients": self.micros_each(self.cpu.clients),
            "us_zookeeper_bare": self.micros_each(self.multis_cpu),
            "us_http": self.micros_each(self.http_cpu),
        })
    }
}

/// Every round in a line, and the median of each figure with its least and greatest.
pub(crate) fn report(what: &str, rounds: &[Round]) {
    type Figure = (&'static str, fn(&Round) -> f64, usize);
    const FIGURES: [Figure; 13] = [
        ("nodes/s", |round| round.per_second(round.seconds), 0),
        ("bare multi nodes/s", |round| round.per_second(round.multis_seconds), 0),
        ("  ratio to it", Round::ratio, 2),
        ("own bytes bare nodes/s", |round| round.per_second(round.floor_seconds), 0),
        ("HTTP alone nodes/s", |round| round.per_second(round.http_seconds), 0),
        ("  ratio to it", |round| round.http_seconds / round.seconds, 2),
        ("transactions", |round| u32::try_from(round.transactions).map_or(f64::NAN, f64::from), 0),
        ("slowest, ms", |round| round.times_ms.max, 0),
        ("µs CPU a node: servers", |round| round.micros_each(round.cpu.servers), 0),
        ("µs CPU a node: ZooKeeper", |round| round.micros_each(round.cpu.zookeeper), 0),
        ("µs CPU a node: clients", |round| round.micros_each(round.cpu.clients), 0),
        ("µs CPU a node: ZooKeeper, bare multi", |round| round.micros_each(round.multis_cpu), 0),
        ("µs CPU a node: HTTP alone", |round| round.micros_each(round.http_cpu), 0),
    ];
    println!("\n{what}");
    for (name, figure, digits) in FIGURES {
        let mut values: Vec<f64> = rounds.iter().map(figure).collect();
        values.sort_by(f64::total_cmp);
        let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
        println!("  {name:<38} {median:>9.digits$}   {least:.digits$} – {most:.digits$}");
    }
    let others: Vec<String> = rounds.iter().map(Round::others).collect();
    println!("  {:<38} {}", "answers other than 201, by round", others.join(" | "));
}
