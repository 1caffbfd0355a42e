//! How evenly the checks are shared, how many nodes move when a server joins, and what it costs to work that out.
//!
//! Prints a table over 3 to 10 servers at 10,000 nodes, each the worst and the mean of some lists of servers; with a
//! file name as argument, the same as JSON there.

#![expect(clippy::cast_precision_loss, reason = "counts of a benchmark are small")]

use std::fmt::Write as _;
use std::time::Instant;

use jcm_health::ring::Ring;
use jcm_model::{ClusterName, NodeId, ServerId};

const NODES: usize = 10_000;
const LISTS: usize = 10;

fn main() -> std::io::Result<()> {
    let nodes: Vec<(ClusterName, NodeId)> = (0..NODES).map(node).collect();
    let mut rows = Vec::new();
    println!("servers  max/mean worst  max/mean mean  moved/ideal worst  look-up ns  rebuild us");
    for count in 3..=10 {
        let (mut worst, mut total, mut moved_worst) = (0.0_f64, 0.0, 0.0_f64);
        let (mut lookups, mut rebuilds) = (0.0, 0.0);
        for list in 0..LISTS {
            let started = Instant::now();
            let ring = Ring::new(1, (0..count).map(|at| server(list, at)));
            rebuilds += started.elapsed().as_secs_f64() * 1e6;
            let larger = Ring::new(2, (0..=count).map(|at| server(list, at)));
            let mut shares = vec![0_usize; count];
            let mut moved = 0_usize;
            let started = Instant::now();
            let owners: Vec<_> = nodes.iter().map(|(cluster, node)| ring.owner(cluster, node)).collect();
            lookups += started.elapsed().as_secs_f64() * 1e9 / NODES as f64;
            for ((cluster, node), owner) in nodes.iter().zip(owners) {
                let at = owner.and_then(|owner| ring.position(owner)).unwrap_or_default();
                shares[at] += 1;
                moved += usize::from(larger.owner(cluster, node) != owner);
            }
            let mean = NODES as f64 / count as f64;
            let imbalance = shares.into_iter().max().unwrap_or_default() as f64 / mean;
            worst = worst.max(imbalance);
            total += imbalance;
            moved_worst = moved_worst.max(moved as f64 / (NODES as f64 / (count + 1) as f64));
        }
        let lists = LISTS as f64;
        let (mean, lookup, rebuild) = (total / lists, lookups / lists, rebuilds / lists);
        println!(
            "{count:>7}  {worst:>14.3}  {mean:>13.3}  {moved_worst:>17.3}  {lookup:>10.0}  {rebuild:>10.1}"
        );
        let mut row = String::new();
        write!(
            row,
            "{{\"servers\":{count},\"nodes\":{NODES},\"lists\":{LISTS},\"imbalance_worst\":{worst:.4},\
             \"imbalance_mean\":{mean:.4},\"moved_worst\":{moved_worst:.4},\"lookup_ns\":{lookup:.1},\
             \"rebuild_us\":{rebuild:.2}}}"
        )
        .map_err(std::io::Error::other)?;
        rows.push(row);
    }
    if let Some(file) = std::env::args_os().nth(1) {
        std::fs::write(file, format!("[{}]\n", rows.join(",\n ")))?;
    }
    Ok(())
}

fn node(at: usize) -> (ClusterName, NodeId) {
    let cluster = format!("cluster-{}", at / 20);
    let node = format!("10.{}.{}.7:8080", at / 250, at % 250);
    (ClusterName::parse(&cluster).expect("a name"), NodeId::parse(&node).expect("an id"))
}

/// Server ids as servers make them: `jcm-` and twelve hexadecimal digits.
fn server(list: usize, at: usize) -> ServerId {
    let mixed = ((list * 64 + at + 1) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
    ServerId::parse(&format!("jcm-{mixed:012x}")).expect("an id")
}
