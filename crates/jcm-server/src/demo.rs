//! The demo cluster of `dev`: three small nodes in this process that die and live as told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use jcm_model::{ClusterName, ClusterSpec, Mutation, Precondition};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::listen;
use crate::registry::{Registry, Wish, Write};

const NODES: usize = 3;

/// The running demo nodes.
pub(crate) struct Demo {
    addresses: Vec<SocketAddr>,
    servers: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

/// Starts the nodes and registers them as cluster `demo`, in place of an earlier one.
pub(crate) async fn start(registry: &Registry) -> Result<Demo> {
    let stop = CancellationToken::new();
    let mut demo = Demo { addresses: Vec::new(), servers: Vec::new(), stop: stop.clone() };
    for _ in 0..NODES {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a demo node could not be started")?;
        demo.addresses.push(listener.local_addr().context("a demo node has no address")?);
        demo.servers.push(tokio::spawn(listen::serve(listener, node(), registry.pulse(), stop.clone())));
    }
    let nodes: Vec<_> = demo
        .addresses
        .iter()
        .map(|at| json!({ "address": at.ip().to_string(), "ports": { "http": at.port() } }))
        .collect();
    let spec = json!({ "check": { "kind": "http", "path": "/status", "interval": "500ms" }, "nodes": nodes });
    let spec: ClusterSpec = serde_json::from_value(spec).expect("the demo cluster is valid");
    let wish = Wish {
        cluster: ClusterName::parse("demo").expect("a valid name"),
        mutation: Mutation::PutCluster(spec),
        precondition: Precondition::default(),
    };
    let write = Write::new("demo", None, vec![wish], false);
    registry.write(write).await.context("the demo cluster could not be registered")?;
    Ok(demo)
}

impl Demo {
    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for server in self.servers {
            let _ = server.await;
        }
    }
}

fn node() -> Router {
    let alive = Arc::new(AtomicBool::new(true));
    let status = |State(alive): State<Arc<AtomicBool>>| async move {
        if alive.load(Ordering::Relaxed) {
            (StatusCode::OK, "ok\n")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "dead\n")
        }
    };
    let die = |State(alive): State<Arc<AtomicBool>>| async move {
        alive.store(false, Ordering::Relaxed);
        "dead from now on\n"
    };
    let live = |State(alive): State<Arc<AtomicBool>>| async move {
        alive.store(true, Ordering::Relaxed);
        "alive again\n"
    };
    Router::new()
        .route("/", get(status))
        .route("/status", get(status))
        .route("/die", post(die))
        .route("/live", post(live))
        .with_state(alive)
}
