//! Calls a cluster once a second from a program without a runtime, ten times.
//!
//! ```text
//! cargo run --example threads --features blocking -- http://127.0.0.1:8080 demo
//! ```

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;
use jcm_subscriber::blocking::Subscriber;
use jcm_subscriber::{Picked, Retry};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: threads SERVER CLUSTER, for example: threads http://127.0.0.1:8080 demo";
    let server = arguments.next().context(usage)?;
    let cluster = arguments.next().context(usage)?;

    let jcm = Subscriber::builder().servers([server]).client_name("threads example").build()?;
    let cluster = jcm.cluster(cluster).subscribe()?;
    println!("{}: {}", cluster.name(), cluster.status());
    let watching = std::thread::spawn({
        let changes = cluster.changes();
        move || {
            for turn in changes.flat_map(|change| change.turns()) {
                println!("turn  {}: {} -> {}", turn.node, turn.from, turn.to);
            }
        }
    });
    for _ in 0..10 {
        // Asking twice does no harm, so a call that breaks may be made again too.
        match cluster.call(Retry::default().repeatable(), ask) {
            Ok(line) => println!("{line}"),
            Err(error) => println!("{:#}", anyhow::Error::from(error)),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    jcm.shutdown();
    watching.join().expect("it only prints");
    Ok(())
}

fn ask(node: &Picked) -> std::io::Result<String> {
    let port = node.node().port(None).ok_or_else(|| std::io::Error::other("the node has no port"))?;
    let mut stream = TcpStream::connect((node.address(), port))?;
    // Nothing breaks an attempt off, so each has its own time.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(format!("{}: {}", node.id(), answer.lines().next().unwrap_or_default()))
}
