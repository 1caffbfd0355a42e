//! How a program's own unit tests pick from a cluster: no server, no network, the same each time.
//!
//! ```text
//! cargo run --example unit_test --features testing
//! ```

use std::time::Duration;

use anyhow::ensure;
use jcm_subscriber::testing::FakeCluster;
use jcm_subscriber::{AllocError, Cluster, Policy};

/// Something of a program: the URLs that it would ask, one a call.
fn urls(orders: &Cluster, calls: usize) -> Result<Vec<String>, AllocError> {
    let url = |_| orders.alloc().map(|node| format!("http://{}/orders", node.id()));
    (0..calls).map(url).collect()
}

fn main() -> anyhow::Result<()> {
    let fake = FakeCluster::new("orders", ["127.0.0.1:8081", "127.0.0.1:8082", "127.0.0.1:8083"]);
    let orders = fake.subscribe(Policy::round_robin());
    println!("in turn:            {:?}", urls(&orders, 4)?);

    fake.down("127.0.0.1:8081");
    let two = urls(&orders, 4)?;
    println!("one is down:        {two:?}");
    ensure!(!two.contains(&"http://127.0.0.1:8081/orders".to_owned()));

    fake.up("127.0.0.1:8081");
    for _ in 0..15 {
        let node = orders.alloc()?;
        // As if calls to one of them failed, whatever checks find.
        let outcome = if node.id().as_str() == "127.0.0.1:8082" { Err(()) } else { Ok(()) };
        node.report(&outcome);
    }
    fake.pass(Duration::ZERO);
    println!("one is left alone:  {:?}", urls(&orders, 4)?);
    fake.pass(Duration::from_secs(31));
    println!("31 seconds later:   {:?}", urls(&orders, 4)?);

    fake.delete();
    println!("deleted:            {}", urls(&orders, 1).expect_err("there is none"));
    Ok(())
}
