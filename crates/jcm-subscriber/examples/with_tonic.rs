//! Calls two gRPC servers of its own through one channel, stops one of them, and goes on calling.
//!
//! ```text
//! cargo run --example with_tonic --features testing,tonic
//! ```
//! A fake cluster stands for JCM, so that it runs by itself; in a program it is one of a `Subscriber`.

use std::net::SocketAddr;

use jcm_subscriber::testing::{FakeCluster, FakeNode};
use jcm_subscriber::tonic::Channel;
use jcm_subscriber::{Policy, Retry};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let first = serve(stop.clone()).await?;
    let second = serve(CancellationToken::new()).await?;
    let node = |address: SocketAddr| FakeNode::at(address.to_string()).port("grpc", address.port());
    let orders = FakeCluster::new("orders", [node(first), node(second)]).subscribe(Policy::round_robin());

    // To ask for health twice does no harm.
    let channel = Channel::builder(&orders).retry(Retry::default().repeatable()).build();
    let mut client = HealthClient::new(channel);
    for call in 0..10 {
        if call == 4 {
            println!("{first} is stopped");
            stop.cancel();
        }
        let answer = client.check(HealthCheckRequest::default()).await?.into_inner();
        println!("call {call}: {:?}", answer.status());
    }
    for node in orders.nodes() {
        println!("{}: {} succeeded, {} failed", node.id(), node.successes, node.failures);
    }
    Ok(())
}

/// A server that runs until it is told to stop.
async fn serve(stop: CancellationToken) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_, health) = tonic_health::server::health_reporter();
    tokio::spawn(async move {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let server = Server::builder().add_service(health);
        server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await
    });
    Ok(address)
}
