//! Follows a cluster's properties as a program's live configuration.
//!
//! ```text
//! cargo run --example watch_config -- http://127.0.0.1:8080 orders
//! ```

use anyhow::Context as _;
use jcm_subscriber::{Properties, Subscriber};

/// What the program understands of its configuration.
#[derive(Debug, Clone, PartialEq)]
struct Config {
    timeout_ms: u64,
    greeting: String,
}

impl Config {
    /// A value that makes no sense is said once and replaced by its default: configuration must not stop a program.
    fn from_properties(properties: &Properties) -> Self {
        let timeout_ms = match properties.get("timeout_ms").map(str::parse) {
            None => 300,
            Some(Ok(timeout_ms)) => timeout_ms,
            Some(Err(error)) => {
                eprintln!("timeout_ms: {error}; 300 is used");
                300
            }
        };
        Self { timeout_ms, greeting: properties.get("greeting").unwrap_or("hello").to_owned() }
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: watch_config SERVER CLUSTER, for example: watch_config http://127.0.0.1:8080 orders";
    let server = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;

    let jcm = Subscriber::builder().servers([server]).client_name("watch_config example").build().await?;
    let cluster = jcm.cluster(cluster).subscribe().await?;

    let mut config = Config::from_properties(&cluster.properties());
    println!("{}: {config:?}", cluster.status());
    let mut changes = cluster.stream();
    loop {
        let change = tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            change = changes.next() => change,
        };
        let Some(change) = change else { break };
        // A cluster that is not there says nothing: the last configuration stays.
        if change.revision().is_none() {
            println!("{}: {config:?} stays", change.status());
            continue;
        }
        let latest = Config::from_properties(&change.properties());
        if latest != config {
            config = latest;
            println!("{}: {config:?}", change.status());
        }
    }
    jcm.shutdown().await;
    Ok(())
}
