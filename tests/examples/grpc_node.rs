//! A node with a real gRPC server: the standard health service, which says `SERVING` of everything.
//!
//! It ends when its standard input closes: nothing outlives a test.
//!
//! ```text
//! grpc_node 127.0.0.5:0
//! ```
//! prints one line with the address that it listens on.

use std::io::{self, Read as _};
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let usage = || io::Error::other("usage: grpc_node ADDRESS:PORT");
    let listen: SocketAddr = std::env::args().nth(1).and_then(|text| text.parse().ok()).ok_or_else(usage)?;
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status("orders.v1.Orders", ServingStatus::Serving).await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(health).serve_with_incoming(incoming).await.map_err(io::Error::other)
}
