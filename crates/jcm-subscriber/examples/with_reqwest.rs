//! Asks a cluster by its name once a second, ten times.
//!
//! ```text
//! cargo run --example with_reqwest --features reqwest -- http://127.0.0.1:8080 demo
//! ```

use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::reqwest::Clusters;
use jcm_subscriber::{Policy, Retry, Subscriber};
use reqwest_middleware::ClientBuilder;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: with_reqwest SERVER CLUSTER, for example: with_reqwest http://127.0.0.1:8080 demo";
    let server = arguments.next().context(usage)?;
    let name = arguments.next().context(usage)?;

    let jcm = Subscriber::builder().servers([server]).client_name("reqwest example").build().await?;
    let cluster = jcm.cluster(&name).policy(Policy::p2c()).subscribe().await?;
    // Only what is idempotent is made again after it was sent.
    let clusters = Clusters::new([&cluster]).retry(Retry::default().repeatable());
    let http = ClientBuilder::new(reqwest::Client::new()).with(clusters).build();
    for _ in 0..10 {
        match http.get(format!("http://{name}.jcm/")).send().await {
            Ok(response) => println!("{} {}", response.url(), response.status()),
            Err(error) => println!("{:#}", anyhow::Error::from(error)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    jcm.shutdown().await;
    Ok(())
}
