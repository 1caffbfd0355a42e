//! Connects to nodes of a cluster through a stack of tower's services once a second, ten times.
//!
//! ```text
//! cargo run --example with_tower --features tower -- http://127.0.0.1:8080 demo
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::tower::{PerNode, PickLayer};
use jcm_subscriber::{Node, Retry, Subscriber};
use tokio::net::TcpStream;
use tower::{Service as _, ServiceBuilder, ServiceExt as _, service_fn};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: with_tower SERVER CLUSTER, for example: with_tower http://127.0.0.1:8080 demo";
    let server = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;

    let jcm = Subscriber::builder().servers([server]).client_name("tower example").build().await?;
    let cluster = jcm.cluster(cluster).subscribe().await?;
    // What is made once a node: here only its address, in earnest a client with a connection.
    let nodes = PerNode::new(|node: &Node| {
        println!("new   {}", node.id);
        let address = SocketAddr::new(node.address, node.port(None).expect("a node has a port"));
        service_fn(
            move |_greeting: &'static str| async move { TcpStream::connect(address).await?.peer_addr() },
        )
    });
    let mut service =
        ServiceBuilder::new().layer(PickLayer::new(&cluster).retry(Retry::default())).service(nodes);
    for _ in 0..10 {
        match service.ready().await?.call("hello").await {
            Ok(address) => println!("call  {address}"),
            Err(error) => println!("{:#}", anyhow::Error::from(error)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    jcm.shutdown().await;
    Ok(())
}
