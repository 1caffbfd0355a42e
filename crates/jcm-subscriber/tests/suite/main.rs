//! The library against a server that says what the test tells it to.
#![expect(clippy::unwrap_used, reason = "a test whose preparation fails has failed")]

mod disk;
mod fake;
mod follow;
mod input;
mod learn;
mod model;
mod tables;

use std::time::Duration;

use jcm_subscriber::{Cluster, Status, Subscriber};

/// A subscriber of the given servers that does not wait long for them.
async fn subscriber(servers: &[String]) -> Subscriber {
    let builder =
        Subscriber::builder().servers(servers).client_name("suite").ready_timeout(Duration::from_millis(50));
    builder.build().await.unwrap()
}

/// Waits for a level, with a deadline.
async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + fake::DEADLINE;
    while !reached() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn until_live(cluster: &Cluster) {
    until("the cluster is live", || matches!(cluster.status(), Status::Live { .. })).await;
}
