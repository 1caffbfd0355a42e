//! `watch`: changes of clusters as they happen, over as many connections as it takes.
//!
//! The stream is resumed after the last event that was printed, at the same server or another one, so that nothing is
//! printed twice and nothing is left out. It ends with the reader, with `--count`, or with a refusal that asking again
//! cannot cure.

use std::io::IsTerminal as _;
use std::time::Duration;

use futures_util::StreamExt as _;
use jcm_model::Timestamp;
use serde_json::{Value, json};

use super::{Session, counted};
use crate::cli::{Format, Watch};
use crate::client::{self, Call, Error};
use crate::events::{Event, Reader};
use crate::failure::{Exit, Failure};
use crate::output;
use crate::settings::Server;
use crate::shapes::{self, Node};
use crate::text;

/// Servers send a heartbeat far more often; a stream silent for so long is a connection that died unnoticed.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Why a connection is over.
enum Over {
    /// Enough events were printed.
    Counted,
    /// Worth another one.
    Broken(String),
}

struct Progress {
    last_id: Option<String>,
    printed: u64,
    count: Option<u64>,
    lines: bool,
}

pub(super) async fn run(session: &Session, watch: Watch) -> Result<Exit, Failure> {
    let format =
        session.format.unwrap_or(if std::io::stdout().is_terminal() { Format::Table } else { Format::Jsonl });
    let lines = match format {
        Format::Table | Format::Wide => true,
        Format::Jsonl | Format::Json => false,
        Format::Yaml | Format::Name => {
            return Err(Failure::usage("watch writes table or jsonl").next("jcmctl watch --help"));
        }
    };
    let names: Vec<&str> = watch.cluster.iter().map(jcm_model::ClusterName::as_str).collect();
    let call = Call::get(["watch"]).with_query("clusters", names.join(","));
    let mut progress = Progress { last_id: None, printed: 0, count: watch.count, lines };
    let servers: Vec<Server> = session.client.servers().cloned().collect();
    let mut pauses = client::pauses();
    loop {
        let mut unreachable = Vec::new();
        for server in &servers {
            let printed = progress.printed;
            match follow(session, server, &call, &mut progress).await {
                Ok(Over::Counted) => return Ok(Exit::Ok),
                Ok(Over::Broken(reason)) => session.note(&format!("{server}: {reason}; resuming")),
                Err(Trouble::Client(error)) if error.is_passing() => {
                    session.note(&error.to_string());
                    unreachable.push(error);
                }
                Err(Trouble::Client(error)) => return Err(error.into()),
                Err(Trouble::Failure(failure)) => return Err(failure),
            }
            if progress.printed > printed {
                pauses = client::pauses();
            }
        }
        // Nothing was ever seen and nobody is there: more likely a wrong address than a passing trouble.
        if progress.printed == 0
            && unreachable.len() == servers.len()
            && unreachable.iter().all(|error| matches!(error, Error::Unreachable { .. }))
            && let Some(error) = unreachable.pop()
        {
            return Err(error.into());
        }
        tokio::time::sleep(pauses.next().expect("the pauses never end")).await;
    }
}

enum Trouble {
    Client(Error),
    Failure(Failure),
}

async fn follow(
    session: &Session,
    server: &Server,
    call: &Call,
    progress: &mut Progress,
) -> Result<Over, Trouble> {
    let call = call.clone().with_last_event_id(progress.last_id.as_deref());
    let response = session.client.open(server, &call).await.map_err(Trouble::Client)?;
    let mut bytes = response.bytes_stream();
    let mut reader = Reader::default();
    loop {
        let chunk = match tokio::time::timeout(SILENCE_MAX, bytes.next()).await {
            Err(_) => return Ok(Over::Broken(format!("silent for {} s", SILENCE_MAX.as_secs()))),
            Ok(None) => return Ok(Over::Broken("the stream ended".to_owned())),
            Ok(Some(Err(error))) => return Ok(Over::Broken(client::chain(&error))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        let events = match reader.push(&chunk) {
            Ok(events) => events,
            Err(too_large) => return Ok(Over::Broken(too_large.to_string())),
        };
        for event in events {
            print(&event, progress.lines).map_err(Trouble::Failure)?;
            progress.last_id = event.id.or(progress.last_id.take());
            progress.printed += 1;
            if progress.count.is_some_and(|count| progress.printed >= count) {
                return Ok(Over::Counted);
            }
        }
    }
}

fn print(event: &Event, lines: bool) -> Result<(), Failure> {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_else(|_| event.data.clone().into());
    if lines {
        let now = Timestamp::now().strftime("%H:%M:%S").to_string();
        output::print(&rows(&now, &event.kind, &data)?)
    } else {
        output::print(&output::json_line(&json!({ "event": event.kind, "id": event.id, "data": data })))
    }
}

/// The event on lines for people: one for a view, one for each node of a delta.
fn rows(now: &str, kind: &str, data: &Value) -> Result<String, Failure> {
    let cluster = data["cluster"].as_str().or(data["name"].as_str()).unwrap_or_default();
    let revision = data["revision"].as_u64().or(data["to"].as_u64()).map(|revision| revision.to_string());
    let head = format!("{now}  {cluster:<24} {:>8}  {kind:<8}", revision.unwrap_or_default());
    let nodes: Vec<Node> = match data.get("nodes") {
        Some(nodes) => shapes::read(nodes)?,
        None => Vec::new(),
    };
    let mut lines = Vec::new();
    if kind == "delta" {
        for node in &nodes {
            let routable = if node.routable { "routable" } else { "not routable" };
            let reason = node.reason.as_ref().map(|reason| format!(" ({reason})"));
            lines.push(format!(
                "{head} {:<24} {} {routable}{}",
                node.id,
                node.verdict,
                reason.unwrap_or_default()
            ));
        }
        for id in data["removed"].as_array().into_iter().flatten() {
            lines.push(format!("{head} {:<24} removed", id.as_str().unwrap_or_default()));
        }
    }
    if lines.is_empty() {
        let mut said = head;
        if kind == "view" {
            let with = |verdict: &str| nodes.iter().filter(|node| node.verdict == verdict).count();
            said = format!("{said} {}", counted(nodes.len(), "node"));
            for verdict in ["healthy", "degraded", "down", "unknown"] {
                if with(verdict) > 0 {
                    said = format!("{said}, {} {verdict}", with(verdict));
                }
            }
        }
        lines.push(said);
    }
    Ok(lines.iter().map(|line| text::escaped(line.trim_end()) + "\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_lines() {
        let check = |kind: &str, data: Value, expected: &str| {
            assert_eq!(rows("12:00:00", kind, &data).unwrap(), expected);
        };
        check(
            "view",
            json!({"name": "orders", "revision": 4, "nodes": [{"id": "a", "verdict": "healthy"}, {"id": "b", "verdict": "down"}]}),
            "12:00:00  orders                          4  view     2 nodes, 1 healthy, 1 down\n",
        );
        check(
            "delta",
            json!({"cluster": "orders", "from": 4, "to": 5, "nodes": [{"id": "a", "verdict": "down", "routable": false, "reason": "down\u{1b}[2J"}], "removed": ["b"]}),
            "12:00:00  orders                          5  delta    a                        down not routable (down\\u{1b}[2J)\n\
             12:00:00  orders                          5  delta    b                        removed\n",
        );
        check(
            "removed",
            json!({"cluster": "orders", "revision": 6}),
            "12:00:00  orders                          6  removed\n",
        );
        check(
            "unknown",
            json!({"cluster": "orders"}),
            "12:00:00  orders                             unknown\n",
        );
    }
}
