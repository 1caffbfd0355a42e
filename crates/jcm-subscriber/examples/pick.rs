//! Picks a node of a cluster once a second and prints it, with every verdict that turns.
//!
//! ```text
//! cargo run --example pick -- http://127.0.0.1:8080 demo
//! ```

use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::{Change, Policy, Status, Subscriber};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: pick SERVER CLUSTER [PORT_NAME], for example: pick http://127.0.0.1:8080 demo";
    let server = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;
    let port = arguments.next();

    let jcm = Subscriber::builder().servers([server]).client_name("pick example").build().await?;
    let cluster = jcm.cluster(cluster).policy(Policy::round_robin()).subscribe().await?;
    println!("{}: {}", cluster.name(), cluster.status());
    let mut live = matches!(cluster.status(), Status::Live { .. });
    cluster.on_change(move |change| print_change(change, &mut live));

    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = every_second.tick() => {}
        }
        match cluster.alloc() {
            Ok(node) => {
                let place = match &port {
                    Some(port) => node.addr(port)?.to_string(),
                    None => node.id().to_string(),
                };
                let panic = if cluster.is_panicking() { "  (panic: too few nodes are fit)" } else { "" };
                println!("pick  {place}{panic}");
                // A program would call the node here.
                node.report(&Ok::<(), ()>(()));
            }
            Err(error) => println!("pick  {error}"),
        }
    }
    jcm.shutdown().await;
    Ok(())
}

/// `live` is whether a server kept the view up to date when this was called last.
fn print_change(change: &Change, live: &mut bool) {
    for turn in change.turns() {
        println!("turn  {}: {} -> {}", turn.node, turn.from, turn.to);
    }
    for node in change.added() {
        println!("new   {}", node.id);
    }
    for node in change.removed() {
        println!("gone  {}", node.id);
    }
    if matches!(change.status(), Status::Live { .. }) != *live {
        *live = !*live;
        println!("      {}", change.status());
    }
}
