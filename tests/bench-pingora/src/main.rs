//! pingora's load balancer, measured on demand: `scripts/bench pick` starts this beside its own contenders and asks it for
//! a measurement where it is its turn, so that both stand in the same rounds.
//!
//! A line in, `CONTENDER NODES THREADS`, is a line out: nanoseconds a pick, or `-` where the machine was too busy.

#[path = "../../../crates/jcm-subscriber/examples/bench_pick/measure.rs"]
mod measure;

use std::collections::HashMap;
use std::hint::black_box;
use std::io::{BufRead, Write};

use anyhow::{Context as _, bail};
use pingora_load_balancing::LoadBalancer;
use pingora_load_balancing::selection::{Random, RoundRobin};

use crate::measure::measure;

/// Backends that are looked at until one is ready; here the first always is.
const TRIES_MAX: usize = 16;

/// Its balancers over so many backends.
struct Field {
    round_robin: LoadBalancer<RoundRobin>,
    random: LoadBalancer<Random>,
}

impl Field {
    fn new(nodes: u16) -> anyhow::Result<Self> {
        let addresses: Vec<String> = (1..=nodes).map(|port| format!("127.0.0.1:{port}")).collect();
        Ok(Self {
            round_robin: LoadBalancer::try_from_iter(&addresses)?,
            random: LoadBalancer::try_from_iter(&addresses)?,
        })
    }

    fn measure(&self, contender: &str, threads: usize) -> anyhow::Result<Option<f64>> {
        let key = b"";
        Ok(match contender {
            "round-robin" => measure(threads, || drop(black_box(self.round_robin.select(key, TRIES_MAX)))),
            "random" => measure(threads, || drop(black_box(self.random.select(key, TRIES_MAX)))),
            other => bail!("there is no contender `{other}`"),
        })
    }
}

fn main() -> anyhow::Result<()> {
    let mut fields: HashMap<u16, Field> = HashMap::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let mut word = || words.next().with_context(|| format!("`{line}` is cut short"));
        let (contender, nodes, threads) = (word()?, word()?.parse()?, word()?.parse()?);
        let field = match fields.entry(nodes) {
            std::collections::hash_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::hash_map::Entry::Vacant(free) => free.insert(Field::new(nodes)?),
        };
        let mut out = std::io::stdout().lock();
        match field.measure(contender, threads)? {
            Some(nanoseconds) => writeln!(out, "{nanoseconds}")?,
            None => writeln!(out, "-")?,
        }
        out.flush()?;
    }
    Ok(())
}
