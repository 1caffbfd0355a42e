//! The parts of answers that tables show. More fields may stand beside these, and a missing one is empty: an older or
//! newer server is still readable.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::failure::{Exit, Failure};

/// One page of `GET /v1/clusters`.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterPage {
    pub clusters: Vec<Value>,
    #[serde(default)]
    pub next: Option<String>,
}

/// One entry of that page.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterRow {
    pub name: String,
    #[serde(default)]
    pub revision: u64,
    #[serde(default)]
    pub nodes: u64,
    #[serde(default)]
    pub healthy: u64,
    #[serde(default)]
    pub state: String,
}

/// `GET /v1/convergence/{cluster}`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Convergence {
    pub revision: u64,
    pub subscribers: usize,
    pub reached: usize,
    pub unacknowledged: usize,
    pub lagging: Vec<Lagging>,
    pub servers_missing: Vec<String>,
}

/// A subscriber that holds less.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lagging {
    pub peer: String,
    pub server: String,
    pub revision: u64,
    pub age_ms: u64,
}

/// `GET …/view`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct View {
    pub revision: u64,
    pub token: String,
    pub stale: bool,
    pub panic: bool,
    pub nodes: Vec<Node>,
}

/// A node of a view, of a pick, or of a definition.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Node {
    pub id: String,
    pub address: String,
    pub ports: BTreeMap<String, u64>,
    pub weight: Option<u64>,
    pub priority: Option<u64>,
    pub zone: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub online: Option<bool>,
    pub draining: Option<bool>,
    pub admin: String,
    pub verdict: String,
    pub effective_weight: Option<u64>,
    pub routable: bool,
    pub reason: Option<String>,
    pub since: Option<String>,
    pub lease: Option<Lease>,
}

/// What keeps a node there that a program registered.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Lease {
    pub id: String,
    pub ttl: String,
    pub renewed: Option<Renewed>,
}

/// The last renewal that the server knows of.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Renewed {
    pub ms_ago: f64,
    pub through: String,
}

impl Lease {
    /// On one line, with the last renewal.
    pub(crate) fn text(&self) -> String {
        let Self { id, ttl, renewed } = self;
        let renewed = renewed.as_ref().map_or_else(
            || "no renewal is known".to_owned(),
            |Renewed { ms_ago, through }| format!("renewed {ms_ago} ms ago through {through}"),
        );
        format!("{id}, {ttl}, {renewed}")
    }
}

impl Node {
    /// The ports by name, on one line.
    pub(crate) fn ports_text(&self) -> String {
        joined(self.ports.iter())
    }

    /// The labels by key, on one line.
    pub(crate) fn labels_text(&self) -> String {
        joined(self.labels.iter())
    }
}

/// `POST …/check`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Check {
    pub node: String,
    pub verdict: String,
    pub probes: Vec<CheckProbe>,
    #[serde(deserialize_with = "listed")]
    pub needs: Vec<String>,
}

/// One server's probe.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CheckProbe {
    pub server: String,
    pub outcome: String,
    pub latency_ms: Option<f64>,
    pub phases: CheckPhases,
    pub said: String,
    pub suspended: bool,
}

/// When a probe had come how far, in milliseconds since its first action.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_field_names, reason = "the fields of the JSON end in their unit")]
pub(crate) struct CheckPhases {
    pub connect_ms: Option<f64>,
    pub tls_ms: Option<f64>,
    pub first_byte_ms: Option<f64>,
}

/// A list that may be `null`.
fn listed<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Option::<Vec<String>>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `GET /v1/resolve/{c}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Pick {
    #[serde(default)]
    pub nodes: Vec<Node>,
}

/// An answer to a write.
#[derive(Debug, Deserialize)]
pub(crate) struct Written {
    pub revision: u64,
}

/// One result of `apply`, real or dry.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Applied {
    pub name: String,
    pub action: String,
    pub revision: Option<u64>,
    pub header_changed: bool,
    pub nodes_added: Vec<String>,
    pub nodes_changed: Vec<String>,
    pub nodes_removed: Vec<String>,
}

impl Applied {
    /// Whether the cluster is, or would be, another one afterwards.
    pub(crate) fn is_change(&self) -> bool {
        self.action != "unchanged"
    }
}

/// `POST /v1/apply`.
#[derive(Debug, Deserialize)]
pub(crate) struct ApplyResults {
    #[serde(default)]
    pub results: Vec<Applied>,
}

/// `GET …/why`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Why {
    pub verdict: String,
    pub routable: bool,
    pub reason: Option<String>,
    pub owner: Option<String>,
    pub vantages: Vec<Vantage>,
    pub thresholds: Value,
    pub protection: Value,
    #[serde(deserialize_with = "listed")]
    pub needs: Vec<String>,
    pub last_turn: Option<LastTurn>,
    pub suspended: Value,
    pub lease: Option<Lease>,
    pub note: Option<String>,
}

/// The turn that led to the present verdict.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LastTurn {
    pub at: String,
    pub from: String,
    pub to: String,
    pub because: String,
}

/// A server as the place from which a node was probed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Vantage {
    pub server: String,
    pub results: Vec<Probe>,
}

/// One result of a check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Probe {
    pub at: String,
    pub outcome: Value,
    pub latency_ms: Option<f64>,
    pub error: Option<String>,
}

/// Reads the part of an answer that is shown.
pub(crate) fn read<T: DeserializeOwned>(body: &Value) -> Result<T, Failure> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("the server's answer is not as expected: {}: {}", error.path(), error.inner()),
        )
        .next("jcmctl version (are both of the same version?)")
    })
}

fn joined<K: std::fmt::Display, V: std::fmt::Display>(pairs: impl Iterator<Item = (K, V)>) -> String {
    let parts: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
    parts.join(",")
}

/// A JSON value on one line for a table: text without its quotes, objects as `key=value`.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let part = |(key, value): (&String, &Value)| format!("{key}={}", inline(value));
            fields.iter().map(part).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}
