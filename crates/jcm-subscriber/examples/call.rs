//! Calls a cluster once a second by a policy, goes to another node when one refuses, and shows what the program has
//! learnt of each node.
//!
//! ```text
//! cargo run --example call -- http://127.0.0.1:8080 demo peak_ewma
//! ```

use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::{Cluster, Policy, Retry, Subscriber};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: call SERVER CLUSTER [POLICY], for example: call http://127.0.0.1:8080 demo peak_ewma";
    let server = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;
    let policy = policy(&arguments.next().unwrap_or_else(|| "peak_ewma".to_owned()))?;

    let jcm = Subscriber::builder().servers([server]).client_name("call example").build().await?;
    let cluster = jcm.cluster(cluster).policy(policy.slow_start(Duration::from_secs(30))).subscribe().await?;
    let mut every_second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = every_second.tick() => call(&cluster).await,
        }
    }
    jcm.shutdown().await;
    Ok(())
}

async fn call(cluster: &Cluster) {
    // Asking twice does no harm, so a call that breaks may be made again too.
    let retry = Retry::default().deadline(Duration::from_secs(2)).repeatable();
    let answer = cluster
        .call(retry, |node| async move {
            let port = node.node().port(None).ok_or_else(|| std::io::Error::other("the node has no port"))?;
            let mut stream = TcpStream::connect((node.address(), port)).await?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>((node.id().clone(), answer.lines().next().unwrap_or_default().to_owned()))
        })
        .await;
    match answer {
        Ok((node, line)) => println!("{node}: {line}"),
        Err(error) => println!("{:#}", anyhow::Error::from(error)),
    }
    for node in cluster.nodes() {
        let latency = node.latency.map_or("-".to_owned(), |latency| format!("{latency:.1?}"));
        let ejected = node.ejected.map_or(String::new(), |ejected| {
            format!(", left alone for {:.0?} more: {}", ejected.left, ejected.cause)
        });
        let (succeeded, failed) = (node.successes, node.failures);
        println!("    {}: {succeeded} succeeded, {failed} failed, {latency}{ejected}", node.id());
    }
}

fn policy(name: &str) -> anyhow::Result<Policy> {
    Ok(match name {
        "round_robin" => Policy::round_robin(),
        "weighted" => Policy::weighted(),
        "random" => Policy::random(),
        "p2c" => Policy::p2c(),
        "peak_ewma" => Policy::peak_ewma(),
        "least_inflight" => Policy::least_inflight(),
        "ring_hash" => Policy::ring_hash(),
        "maglev" => Policy::maglev(),
        "primary" => Policy::primary(),
        other => anyhow::bail!("there is no policy `{other}`: see `Policy`"),
    })
}
