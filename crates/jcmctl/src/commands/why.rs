//! `why`: the evidence behind a node's verdict.

use super::Session;
use crate::cli;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::shapes::{self, Why};

pub(super) async fn run(session: &Session, why: cli::Why) -> Result<Exit, Failure> {
    let (cluster, node) = (why.cluster.as_str(), why.node.as_str());
    let call = Call::get(["clusters", cluster, "nodes", node, "why"]);
    let body = session
        .client
        .send(call)
        .await
        .map_err(|error| {
            Failure::from(error).next_if(Exit::NotFound, || format!("jcmctl node list {cluster}"))
        })?
        .body;
    let evidence: Why = shapes::read(&body)?;
    let mut heading = vec![
        ("Cluster", cluster.to_owned()),
        ("Node", node.to_owned()),
        ("Verdict", evidence.verdict),
        ("Routable", if evidence.routable { "yes" } else { "no" }.to_owned()),
    ];
    let last_turn = evidence.last_turn.map(|turn| {
        let because = if turn.because.is_empty() { String::new() } else { format!(": {}", turn.because) };
        format!("{} → {} at {}{because}", turn.from, turn.to, turn.at)
    });
    for (title, value) in [
        ("Reason", evidence.reason.unwrap_or_default()),
        ("Owner", evidence.owner.unwrap_or_default()),
        ("Last turn", last_turn.unwrap_or_default()),
        ("Needs", evidence.needs.join("; ")),
        ("Lease", evidence.lease.as_ref().map(shapes::Lease::text).unwrap_or_default()),
        ("Suspended", shapes::inline(&evidence.suspended)),
        ("Note", evidence.note.unwrap_or_default()),
        ("Thresholds", shapes::inline(&evidence.thresholds)),
        ("Protection", shapes::inline(&evidence.protection)),
    ] {
        if !value.is_empty() {
            heading.push((title, value));
        }
    }
    let mut table = Table::new(&["VANTAGE", "AT", "OUTCOME", "LATENCY", "ERROR"]);
    for vantage in &evidence.vantages {
        for probe in &vantage.results {
            table.row(vec![
                vantage.server.clone(),
                probe.at.clone(),
                shapes::inline(&probe.outcome),
                probe.latency_ms.map(|ms| format!("{ms} ms")).unwrap_or_default(),
                probe.error.clone().unwrap_or_default(),
            ]);
        }
    }
    session.show(&Report {
        items: body["vantages"].as_array().cloned().unwrap_or_default(),
        document: body,
        names: vec![node.to_owned()],
        heading,
        table,
    })?;
    Ok(Exit::Ok)
}
