//! Clusters whose nodes are checked: the policy that suites use, and waiting for verdicts.
//!
//! Deadlines here are long and no figure is asserted: a busy machine must not fail what works.

use std::net::SocketAddr;
use std::time::Duration;

use jcm_tests::{Answer, Client, Target, eventually};
use serde_json::{Value, json};

/// Turns under [`quick_check`] take one to two seconds.
pub(crate) const TURN_DEADLINE: Duration = Duration::from_secs(30);

/// Quick enough for a test, slow enough that a busy machine does not look like a failure.
pub(crate) fn quick_check() -> Value {
    json!({ "kind": "http", "path": "/status", "interval": "400ms", "timeout": "350ms", "fall": 2, "rise": 2 })
}

pub(crate) async fn put(client: &Client, name: &str, check: Value, target: &Target) {
    let cluster = json!({ "check": check, "nodes": target.definitions() });
    client.put_cluster(name, &cluster).await.ok();
}

/// The view once it is served: right after a start verdicts may be waited for.
pub(crate) async fn view(client: &Client, name: &str) -> Result<Answer, Answer> {
    let view = client.view(name).await;
    if view.status == 200 { Ok(view) } else { Err(view) }
}

/// Waits until the node has this verdict, and answers the view that said so.
pub(crate) async fn verdict(client: &Client, name: &str, node: SocketAddr, wanted: &str) -> Answer {
    eventually(TURN_DEADLINE, &format!("{node} is {wanted}"), async || {
        let view = view(client, name).await?;
        if view.node(&node.to_string())["verdict"] == wanted { Ok(view) } else { Err(view) }
    })
    .await
}

/// Waits until all nodes of the cluster have this verdict.
pub(crate) async fn all(client: &Client, name: &str, wanted: &str) -> Answer {
    eventually(TURN_DEADLINE, &format!("all of {name} are {wanted}"), async || {
        let view = view(client, name).await?;
        let nodes = view.ok()["nodes"].as_array().expect("nodes").clone();
        if nodes.iter().all(|node| node["verdict"] == wanted) { Ok(view) } else { Err(view) }
    })
    .await
}

pub(crate) async fn why(client: &Client, name: &str, node: SocketAddr) -> Answer {
    let why = client.why(name, &node.to_string()).await;
    why.ok();
    why
}

pub(crate) fn results(why: &Answer) -> Vec<Value> {
    let vantages = why.ok()["vantages"].as_array().unwrap_or_else(|| panic!("no vantages: {why}"));
    vantages.iter().flat_map(|vantage| vantage["results"].as_array().expect("results").clone()).collect()
}
