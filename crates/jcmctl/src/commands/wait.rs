//! `wait`: until a cluster is as wanted, or the time is over.
//!
//! It waits for levels: every look judges the whole view, so that a change between two looks is never missed for good.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Session, counted};
use crate::cli::{Condition, Wait};
use crate::client::{Call, Error};
use crate::failure::{Exit, Failure};
use crate::output::Report;
use crate::shapes::{self, Node, View};

/// Longest time that the server is asked to hold an answer back: well within its own limit.
const LONG_POLL_MAX: Duration = Duration::from_secs(10);
/// Pause before looking again where the server cannot tell when to: the cluster is not there, or not loaded.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub(super) async fn run(session: &Session, wait: Wait) -> Result<Exit, Failure> {
    let cluster = wait.cluster.as_str();
    let deadline = Instant::now() + wait.timeout;
    let mut token: Option<String> = None;
    let mut missing = "it was never seen".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match tokio::time::timeout_at(deadline, look(session, cluster, token.as_deref(), left)).await {
            Ok(Ok(body)) => {
                let view: View = shapes::read(&body)?;
                match unmet(&view, wait.condition) {
                    None => return met(session, cluster, wait.condition, body),
                    Some(reason) => missing = reason,
                }
                // Without a token the server would answer at once, again and again.
                if view.token.is_empty() {
                    tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
                }
                token = Some(view.token).filter(|token| !token.is_empty());
            }
            Ok(Err(error)) if error.is_not_found() || error.is_passing() => {
                missing = error.to_string();
                token = None;
                tokio::time::sleep_until(deadline.min(Instant::now() + LOOK_AGAIN)).await;
            }
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            let (wanted, waited) = (wait.condition, jcm_model::duration::format(wait.timeout));
            return Err(Failure::new(
                Exit::Condition,
                format!("`{cluster}` did not come to `{wanted}` within {waited}: {missing}"),
            )
            .next(if token.is_some() {
                format!("jcmctl node list {cluster}")
            } else {
                "jcmctl cluster list".to_owned()
            }));
        }
    }
}

async fn look(session: &Session, cluster: &str, token: Option<&str>, left: Duration) -> Result<Value, Error> {
    let mut call = Call::get(["clusters", cluster, "view"]).once();
    if let Some(token) = token {
        // Whole milliseconds, and at least one: a wait of nothing is none.
        let wait = left.min(LONG_POLL_MAX).max(Duration::from_millis(1));
        call = call.with_query("token", token).with_wait(wait);
    }
    Ok(session.client.send(call).await?.body)
}

fn met(session: &Session, cluster: &str, condition: Condition, body: Value) -> Result<Exit, Failure> {
    let report = Report {
        items: vec![body.clone()],
        document: body,
        names: vec![cluster.to_owned()],
        heading: vec![("Cluster", cluster.to_owned()), ("Met", condition.to_string())],
        ..Report::default()
    };
    if !(session.quiet && session.format.is_none()) {
        session.show(&report)?;
    }
    Ok(Exit::Ok)
}

/// Why the condition does not hold; `None` when it does.
fn unmet(view: &View, condition: Condition) -> Option<String> {
    match condition {
        Condition::Revision(wanted) => {
            (view.revision < wanted).then(|| format!("it is at revision {}", view.revision))
        }
        Condition::Nodes(wanted) => {
            let routable = view.nodes.iter().filter(|node| node.routable).count();
            (routable < wanted).then(|| format!("{} routable", counted(routable, "node")))
        }
        Condition::Healthy => {
            let in_use: Vec<&Node> = view.nodes.iter().filter(|node| node.admin == "online").collect();
            if in_use.is_empty() {
                return Some("no node is online".to_owned());
            }
            let unfit = in_use.iter().find(|node| !is_healthy(node))?;
            let why = unfit.reason.as_deref().unwrap_or(&unfit.verdict);
            Some(format!("node `{}`: {why}", unfit.id))
        }
    }
}

/// A node that nobody checks is taken to work, as routing does.
fn is_healthy(node: &Node) -> bool {
    let unchecked = node.verdict == "unknown" && node.reason.as_deref() == Some("no check");
    node.routable && (node.verdict == "healthy" || unchecked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_judged_on_the_whole_view() {
        let node = |id: &str, admin: &str, verdict: &str, routable: bool, reason: Value| json!({"id": id, "admin": admin, "verdict": verdict, "routable": routable, "reason": reason});
        let up = node("a", "online", "healthy", true, Value::Null);
        let unchecked = node("b", "online", "unknown", true, json!("no check"));
        let early = node("c", "online", "unknown", true, json!("not yet checked"));
        let down = node("d", "online", "down", true, json!("panic: down"));
        let out = node("e", "offline", "down", false, json!("offline"));
        let check = |nodes: &[&Value], condition: Condition, expected: Option<&str>| {
            let view: View = serde_json::from_value(json!({"revision": 5, "nodes": nodes})).unwrap();
            assert_eq!(unmet(&view, condition).as_deref(), expected, "{condition} of {nodes:?}");
        };
        check(&[&up, &unchecked, &out], Condition::Healthy, None);
        check(&[&up, &early], Condition::Healthy, Some("node `c`: not yet checked"));
        check(&[&up, &down], Condition::Healthy, Some("node `d`: panic: down"));
        check(&[&out], Condition::Healthy, Some("no node is online"));
        check(&[], Condition::Healthy, Some("no node is online"));
        check(&[], Condition::Revision(5), None);
        check(&[], Condition::Revision(6), Some("it is at revision 5"));
        check(&[&up, &down, &out], Condition::Nodes(2), None);
        check(&[&up, &out], Condition::Nodes(2), Some("1 node routable"));
    }
}
