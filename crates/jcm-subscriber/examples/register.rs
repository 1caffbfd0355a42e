//! A program that registers itself: it answers HTTP on a port of its own, and is a node of a cluster while it runs.
//!
//! ```text
//! cargo run --example register -- http://127.0.0.1:8080 orders
//! ```
//! Ctrl-C leaves the cluster; `kill -9` does not, and the node is cleared away a while later. The cluster must be there:
//! `curl -X PUT http://127.0.0.1:8080/v1/clusters/orders -H 'content-type: application/json' -d '{"check":{"kind":"lease"},"nodes":[]}'`
//!
//! It prints a line for each status. After the time of its lease in seconds, it takes the id of its node and its port.

use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::{Me, Registration, RegistrationStatus, Subscriber};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// For calls that are under way when the program leaves.
const DRAIN: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: register SERVER CLUSTER [TTL_SECONDS [ID [PORT]]], \
                 for example: register http://127.0.0.1:8080 orders 10";
    let servers = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;
    let ttl = arguments.next().map_or(Ok(10), |seconds| seconds.parse()).context(usage)?;
    let id = arguments.next();
    let port: u16 = arguments.next().map_or(Ok(0), |port| port.parse()).context(usage)?;

    let jcm =
        Subscriber::builder().servers(servers.split(',')).client_name("register example").build().await?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut me = Me::new().port("http", listener.local_addr()?.port()).label("example", "register");
    if let Some(id) = id {
        me = me.id(id);
    }
    tokio::spawn(serve(listener));
    let mut me =
        jcm.register(cluster, me).address([127, 0, 0, 1]).ttl(Duration::from_secs(ttl)).start().await?;
    show(&me.status());
    me.ready().await?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            status = me.changed() => {
                show(&status);
                if let RegistrationStatus::Ended(end) = status {
                    anyhow::bail!("not registered any more: {end}");
                }
            }
        }
    }
    leave(me).await?;
    jcm.shutdown().await;
    Ok(())
}

fn show(status: &RegistrationStatus) {
    match status {
        RegistrationStatus::Registered { node, revision, online } => {
            println!(
                "registered {node} at revision {revision}, {}",
                if *online { "ready" } else { "not ready yet" }
            );
        }
        other => println!("{other:?}"),
    }
}

async fn leave(me: Registration) -> anyhow::Result<()> {
    println!("leaving");
    me.leave(DRAIN).await?;
    println!("left");
    Ok(())
}

async fn serve(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nhi\n")
                .await;
        });
    }
}
