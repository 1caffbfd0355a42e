//! `check run`: a probe now, how its time was spent, and what it would take for the verdict to turn.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use jcm_model::NodeId;
use reqwest::Method;
use serde_json::{Value, json};

use super::Session;
use crate::cli::{CheckCommand, CheckRun};
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::shapes::{self, Check, View};

/// Nodes that are probed at once: a server has places for more, and other people's probes.
const AT_ONCE_MAX: usize = 16;

/// The longest timeout that a policy may have, which a probe may take.
const PROBE_MAX: Duration = Duration::from_mins(1);

pub(super) async fn run(session: &Session, command: CheckCommand) -> Result<Exit, Failure> {
    let CheckCommand::Run(check) = command;
    let nodes = if check.node.is_empty() { all_nodes(session, &check).await? } else { check.node.clone() };
    let probed = nodes.iter().map(|node| probe(session, &check, node));
    let answers: Vec<Value> = stream::iter(probed).buffered(AT_ONCE_MAX).try_collect().await?;
    let mut table = Table::new(&[
        "NODE",
        "FROM",
        "OUTCOME",
        "CONNECTED",
        "TLS",
        "FIRST BYTE",
        "WHOLE",
        "RESULT",
        "VERDICT",
        "NEEDS",
    ]);
    let mut failed = 0;
    for answer in &answers {
        let check: Check = shapes::read(answer)?;
        for probe in check.probes {
            failed += usize::from(probe.outcome != "success");
            let suspended = if probe.suspended { " (suspects itself)" } else { "" };
            table.row(vec![
                check.node.clone(),
                format!("{}{suspended}", probe.server),
                probe.outcome,
                milliseconds(probe.phases.connect_ms),
                milliseconds(probe.phases.tls_ms),
                milliseconds(probe.phases.first_byte_ms),
                milliseconds(probe.latency_ms),
                probe.said,
                check.verdict.clone(),
                check.needs.join("; "),
            ]);
        }
    }
    session.show(&Report {
        names: nodes.iter().map(|node| node.as_str().to_owned()).collect(),
        document: json!({ "cluster": check.cluster.as_str(), "nodes": answers }),
        items: answers,
        table,
        ..Report::default()
    })?;
    Ok(if failed == 0 { Exit::Ok } else { Exit::Condition })
}

async fn all_nodes(session: &Session, check: &CheckRun) -> Result<Vec<NodeId>, Failure> {
    let cluster = check.cluster.as_str();
    let body = session.client.send(Call::get(["clusters", cluster, "view"])).await;
    let body = body
        .map_err(|error| Failure::from(error).next_if(Exit::NotFound, || "jcmctl cluster list".to_owned()))?
        .body;
    let view: View = shapes::read(&body)?;
    let parsed = view.nodes.iter().map(|node| NodeId::parse(&node.id));
    parsed.collect::<Result<_, _>>().map_err(|invalid| Failure::new(Exit::Failure, invalid.to_string()))
}

async fn probe(session: &Session, check: &CheckRun, node: &NodeId) -> Result<Value, Failure> {
    let cluster = check.cluster.as_str();
    let mut call = Call::new(Method::POST, ["clusters", cluster, "nodes", node.as_str(), "check"])
        .harmless()
        .with_patience(PROBE_MAX);
    if let Some(from) = &check.from {
        call = call.with_query("from", from);
    }
    let answer = session.client.send(call).await;
    let answer = answer.map_err(|error| {
        Failure::from(error).next_if(Exit::NotFound, || format!("jcmctl node list {cluster}"))
    })?;
    Ok(answer.body)
}

fn milliseconds(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1} ms")).unwrap_or_default()
}
