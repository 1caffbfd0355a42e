//! What programs put `jcm-subscriber` into: threads, tower, tonic, reqwest, and their own tests.

mod blocking;
mod grpc_node;
mod reqwest;
mod testing;
mod tonic;
mod tower;

use std::collections::BTreeSet;

use jcm_subscriber::{Cluster, Policy, Subscriber, Verdict};
use jcm_tests::{Server, eventually};

pub(super) use crate::checked::TURN_DEADLINE;

/// A program of its own, and its handle of `orders`.
async fn orders(server: &Server, policy: Policy) -> (Subscriber, Cluster) {
    let jcm = Subscriber::builder().servers([server.url()]).build().await.expect("the addresses are good");
    let orders = jcm.cluster("orders").policy(policy).subscribe().await.expect("a good name");
    (jcm, orders)
}

/// Waits until the program knows that checks find exactly so many nodes healthy. (Before there is any verdict all are
/// routable.)
async fn until_healthy(orders: &Cluster, wanted: usize) {
    eventually(TURN_DEADLINE, &format!("{wanted} nodes are healthy"), async || {
        let nodes = orders.nodes();
        let healthy = nodes.iter().filter(|node| node.verdict == Verdict::Healthy).count();
        if healthy == wanted { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
}

/// Waits until the program may call exactly so many nodes, of which nobody checks any.
async fn until_routable(orders: &Cluster, wanted: usize) {
    eventually(TURN_DEADLINE, &format!("{wanted} nodes are routable"), async || {
        let nodes = orders.nodes();
        let routable = nodes.iter().filter(|node| node.routable).count();
        if routable == wanted { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .await;
}

/// Calls that were reported as succeeded and as failed, of one node.
fn tally(orders: &Cluster, node: &impl ToString) -> (u64, u64) {
    let node = node.to_string();
    let nodes = orders.nodes();
    let found = nodes.iter().find(|status| status.id().as_str() == node).expect("it is there");
    (found.successes, found.failures)
}

/// The ids that some picks come to.
fn picked(orders: &Cluster) -> BTreeSet<String> {
    (0..100).map(|_| orders.alloc().expect("a node").id().to_string()).collect()
}
