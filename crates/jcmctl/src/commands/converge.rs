//! `converge`: whether every subscriber holds a revision of a cluster, at once or within a time.

use std::time::Duration;

use tokio::time::Instant;

use super::{Session, counted, listed};
use crate::cli;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::shapes::{self, Convergence};

/// Subscribers say what they hold once a second at most.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) async fn run(session: &Session, converge: cli::Converge) -> Result<Exit, Failure> {
    let cluster = converge.cluster.as_str();
    let deadline = Instant::now() + converge.wait.unwrap_or_default();
    loop {
        let mut call = Call::get(["convergence", cluster]);
        if let Some(revision) = converge.revision {
            call = call.with_query("revision", revision.to_string());
        }
        let body = session
            .client
            .send(call)
            .await
            .map_err(|error| {
                Failure::from(error).next_if(Exit::NotFound, || "jcmctl cluster list".to_owned())
            })?
            .body;
        let answer: Convergence = shapes::read(&body)?;
        let unmet = unmet(&answer);
        if unmet.is_some() && Instant::now() < deadline {
            tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
            continue;
        }
        session.show(&report(cluster, &answer, body))?;
        if answer.unacknowledged > 0 {
            let who = counted(answer.unacknowledged, "subscriber");
            session.note(&format!("{who} never say what they hold, and are not waited for"));
        }
        return match unmet {
            None => Ok(Exit::Ok),
            Some(reason) => Err(Failure::new(
                Exit::Condition,
                format!("revision {} of `{cluster}` is not held by all: {reason}", answer.revision),
            )
            .next(format!("jcmctl converge {cluster} --revision {} --wait 30s", answer.revision))),
        };
    }
}

/// What is missing; `None` when everybody who can say so holds the revision.
fn unmet(answer: &Convergence) -> Option<String> {
    if !answer.servers_missing.is_empty() {
        return Some(format!("no answer from {}", listed(&answer.servers_missing)));
    }
    let lagging = answer.subscribers.saturating_sub(answer.reached + answer.unacknowledged);
    (lagging > 0).then(|| format!("{} of {}", counted(lagging, "subscriber"), answer.subscribers))
}

fn report(cluster: &str, answer: &Convergence, body: serde_json::Value) -> Report {
    let mut table = Table::new(&["LAGGING", "SERVER", "REVISION", "FOR"]);
    for lagging in &answer.lagging {
        let age = jcm_model::duration::format(Duration::from_millis(lagging.age_ms));
        table.row(vec![lagging.peer.clone(), lagging.server.clone(), lagging.revision.to_string(), age]);
    }
    Report {
        items: body["lagging"].as_array().cloned().unwrap_or_default(),
        document: body,
        names: vec![cluster.to_owned()],
        heading: vec![
            ("Cluster", cluster.to_owned()),
            ("Revision", answer.revision.to_string()),
            ("Subscribers", answer.subscribers.to_string()),
            ("Reached", answer.reached.to_string()),
        ],
        table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_and_a_subscriber_that_lags_are_both_missing() {
        let check = |reached: usize, unacknowledged: usize, missing: &[&str], expected: Option<&str>| {
            let servers_missing = missing.iter().map(|id| (*id).to_owned()).collect();
            let answer = Convergence {
                subscribers: 5,
                reached,
                unacknowledged,
                servers_missing,
                ..Default::default()
            };
            assert_eq!(unmet(&answer).as_deref(), expected, "{answer:?}");
        };
        check(5, 0, &[], None);
        check(3, 2, &[], None);
        check(3, 1, &[], Some("1 subscriber of 5"));
        check(5, 0, &["b"], Some("no answer from `b`"));
    }
}
