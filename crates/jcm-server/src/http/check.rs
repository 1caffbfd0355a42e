//! One probe of a node now, for a person: from the server that checks it, from another one, or from all of them.
//!
//! Only a node that is registered is probed, under its cluster's policy, by servers that look both up themselves: nobody
//! can point a server at an address by this. No verdict follows from it.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use futures_util::future::join_all;
use jcm_model::{CheckKind, ServerId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::Problem;
use super::request::{InNode, Params};
use super::ring;
use super::view::fetch;
use super::why::findings;
use crate::app::App;
use crate::checker::milliseconds;
use crate::peers::{Answer, Question, Said};

/// Requests that probe at once: a person's, and a script's over some nodes. What peers ask for a second opinion, a
/// thousand at a time, is not to wait behind them.
pub(crate) const REQUESTS_MAX: usize = 64;

/// What an answer has beyond the policy's timeout: there and back, and a place among the other probes.
const GRACE: Duration = Duration::from_millis(500);

/// Stands for every server there is.
const ALL: &str = "all";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckParams {
    /// A server's id, or `all`; left out: the server that checks the node.
    from: Option<String>,
}

/// What one server's probe came to.
#[derive(Debug, Serialize)]
struct Row {
    server: ServerId,
    at: Timestamp,
    /// `success`, `failure`, or `ignored` where there was no probe that says anything about the node.
    outcome: &'static str,
    latency_ms: Option<f64>,
    phases: Phases,
    /// What it came to, in words.
    said: String,
    error: Option<String>,
    /// The server suspects itself: its successes count, its failures do not.
    suspended: bool,
}

/// When the probe had come how far, each since its first action.
#[derive(Debug, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the fields of the JSON end in their unit")]
struct Phases {
    connect_ms: Option<f64>,
    tls_ms: Option<f64>,
    first_byte_ms: Option<f64>,
}

impl From<jcm_health::Phases> for Phases {
    fn from(phases: jcm_health::Phases) -> Self {
        Self {
            connect_ms: phases.connected.map(milliseconds),
            tls_ms: phases.secured.map(milliseconds),
            first_byte_ms: phases.answering.map(milliseconds),
        }
    }
}

pub(super) async fn post(
    State(app): State<App>,
    InNode(name, id): InNode,
    Params(params): Params<CheckParams>,
) -> Result<Response, Problem> {
    let published = fetch(&app, &name)?;
    let cluster = published.state.cluster();
    let Some(node) = cluster.node(&id) else {
        return Err(jcm_model::Refusal::NoNode { cluster: name, node: id }.into());
    };
    if cluster.check.kind == CheckKind::Lease {
        let detail =
            format!("the nodes of cluster `{name}` renew leases, so there is nothing to probe: ask `why`");
        return Err(Problem::invalid(detail));
    }
    if !cluster.is_checked() {
        let detail =
            format!("cluster `{name}` has no check, so there is nothing to probe its nodes for; give it one");
        return Err(Problem::invalid(detail));
    }
    let owner = ring::checked_by(&app, &name, &id);
    let servers = servers(&app, owner.as_ref(), params.from.as_deref())?;
    let _place = app.probing.try_acquire().map_err(|_| {
        let detail =
            format!("this server carries out {REQUESTS_MAX} requests to probe at once, the limit; try again");
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "BUSY", detail).with("limit", REQUESTS_MAX)
    })?;
    let question = Question { cluster: name.clone(), node: id.clone(), birth: cluster.birth(node) };
    let within = cluster.check.timeout + GRACE;
    let probes = join_all(servers.iter().map(|server| probe(&app, server, &question, within))).await;
    let (findings, note) = findings(&app, owner.as_ref(), &name, &id).await;
    let findings = findings.map_or(json!({}), |found| json!(found));
    let judged = published.state.judged(&id);
    Ok(Json(json!({
        "cluster": name,
        "node": id,
        "verdict": judged.map_or(jcm_model::Verdict::Unknown, |judged| judged.verdict),
        "owner": owner,
        "check": cluster.check.as_ref(),
        "probes": probes,
        "thresholds": findings["thresholds"],
        "needs": findings["needs"],
        "held": findings["held"],
        "note": note,
    }))
    .into_response())
}

/// From where it is to be probed.
fn servers(app: &App, owner: Option<&ServerId>, from: Option<&str>) -> Result<Vec<ServerId>, Problem> {
    let roster = app.roster();
    let mut known: Vec<ServerId> = roster.members.iter().map(|member| member.id.clone()).collect();
    if !known.contains(&app.server) {
        known.push(app.server.clone());
    }
    match from {
        None => Ok(vec![owner.unwrap_or(&app.server).clone()]),
        Some(ALL) => Ok(known),
        Some(id) => {
            let id = ServerId::parse(id)?;
            if known.contains(&id) {
                return Ok(vec![id]);
            }
            let detail = format!(
                "there is no server `{id}`; `GET /v1/servers` lists them, and `{ALL}` means each of them"
            );
            Err(Problem::new(StatusCode::NOT_FOUND, "NO_SERVER", detail))
        }
    }
}

async fn probe(app: &App, server: &ServerId, question: &Question, within: Duration) -> Row {
    let asked = vec![question.clone()];
    let answered = if *server == app.server {
        let answers = timeout(within + GRACE, app.asker.probe(asked, within)).await;
        answers.map(|answers| (answers, app.asker.suspended().is_some())).map_err(|error| error.to_string())
    } else {
        let answers = timeout(within + GRACE, app.peers.probe(server, asked, within)).await;
        let answers = answers.map_err(|error| error.to_string());
        answers.and_then(|answers| answers.map_err(|error| error.to_string())).map(|answers| (answers, false))
    };
    let (answer, suspended) = match answered {
        Ok((mut answers, suspended)) => {
            (answers.pop().unwrap_or_else(|| Answer::nothing("no answer came")), suspended)
        }
        Err(error) => (Answer::nothing(&error), false),
    };
    let outcome = match answer.said {
        Said::Reached => "success",
        Said::Failed => "failure",
        Said::Nothing => "ignored",
    };
    Row {
        server: server.clone(),
        at: Timestamp::now(),
        outcome,
        latency_ms: (answer.said != Said::Nothing).then(|| milliseconds(answer.latency)),
        phases: answer.phases.into(),
        error: (answer.said != Said::Reached).then(|| answer.outcome.clone()),
        said: answer.outcome,
        suspended: suspended || answer.suspended,
    }
}
