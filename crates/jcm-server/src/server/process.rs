//! What the process says, and how it ends when something is broken.

use std::io::Write;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::demo;

/// Says where it listens, and what to try next.
pub(super) fn announce(bound: SocketAddr, hints: bool, demo: Option<&demo::Demo>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut write = || {
        writeln!(out, "listening on http://{bound}")?;
        if hints {
            writeln!(out, "\nTry next:\n  curl -s http://{bound}/v1/clusters")?;
            if let Some(demo) = demo {
                writeln!(out, "  curl -s http://{bound}/v1/clusters/demo/view")?;
                writeln!(out, "  curl -s http://{bound}/v1/resolve/demo")?;
                writeln!(out, "\nThe demo cluster's nodes die and live as told:")?;
                for address in demo.addresses() {
                    writeln!(
                        out,
                        "  curl -X POST http://{address}/die     curl -X POST http://{address}/live"
                    )?;
                }
            }
        }
        out.flush()
    };
    write().context("standard output cannot be written")
}

/// Logs to standard error, as `JCM_LOG` and `JCM_LOG_FORMAT` say.
pub(super) fn start_logging() {
    use tracing_subscriber::EnvFilter;
    // What the client of ZooKeeper warns of, several lines a second while that is away, this server says itself, once.
    let filter =
        EnvFilter::try_from_env("JCM_LOG").unwrap_or_else(|_| EnvFilter::new("info,zookeeper_client=error"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_json = std::env::var("JCM_LOG_FORMAT").is_ok_and(|format| format == "json");
    if is_json {
        builder.json().init();
    } else {
        builder
            .with_ansi(
                std::io::IsTerminal::is_terminal(&std::io::stderr())
                    && std::env::var_os("NO_COLOR").is_none(),
            )
            .init();
    }
}

/// Half a server that looks alive is worse than none.
pub(super) fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(101);
    }));
}
