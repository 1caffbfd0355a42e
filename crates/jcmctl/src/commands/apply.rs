//! `apply` and `diff`: files against the store, in one atomic commit or in none.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Session, counted, listed};
use crate::cli::{Apply, Diff, Format};
use crate::client::{Answer, Call};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::output::{self, Report, Table};
use crate::shapes::{self, Applied, ApplyResults};
use crate::text;

pub(super) async fn run(session: &Session, apply: Apply) -> Result<Exit, Failure> {
    let body = body(&apply.file, apply.prune)?;
    if apply.prune && !apply.dry_run {
        confirm_pruning(session, &body, apply.yes).await?;
    }
    let answer = send(session, body, apply.dry_run).await?;
    let results: ApplyResults = shapes::read(&answer.body)?;
    let mut table = Table::new(&["NAME", "ACTION", "REVISION", "CHANGES"]);
    for result in &results.results {
        let revision = result.revision.map(|revision| revision.to_string());
        table.row(vec![
            result.name.clone(),
            result.action.clone(),
            revision.unwrap_or_default(),
            summary(result),
        ]);
    }
    if apply.dry_run {
        session.note("dry run: nothing was changed");
    }
    show(session, answer.body, &results, table)
}

pub(super) async fn diff(session: &Session, diff: Diff) -> Result<Exit, Failure> {
    let answer = send(session, body(&diff.file, diff.prune)?, true).await?;
    let results: ApplyResults = shapes::read(&answer.body)?;
    match session.format.unwrap_or(Format::Table) {
        Format::Table | Format::Wide => output::print(&difference(&results))?,
        _ => {
            show(session, answer.body, &results, Table::default())?;
        }
    }
    let differs = results.results.iter().any(Applied::is_change);
    Ok(if differs { Exit::Failure } else { Exit::Ok })
}

fn body(files: &[std::path::PathBuf], prune: bool) -> Result<Value, Failure> {
    let clusters: Vec<Value> = documents::fetch_clusters(files)?.iter().map(documents::to_json).collect();
    Ok(json!({ "clusters": clusters, "prune": prune }))
}

async fn send(session: &Session, body: Value, dry_run: bool) -> Result<Answer, Failure> {
    let mut call = Call::new(Method::POST, ["apply"]).with_body(body);
    if dry_run {
        call = call.dry();
    }
    let answer = session.client.send(call).await.map_err(|error| {
        Failure::from(error).next_if(Exit::Failure, || "jcmctl diff -f FILE after correcting it".to_owned())
    })?;
    Ok(answer)
}

async fn confirm_pruning(session: &Session, body: &Value, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let results: ApplyResults = shapes::read(&send(session, body.clone(), true).await?.body)?;
    let gone: Vec<&str> = results
        .results
        .iter()
        .filter(|result| result.action == "deleted")
        .map(|result| result.name.as_str())
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    session.confirm(&format!("Delete {}: {}?", counted(gone.len(), "cluster"), listed(&gone)), false)
}

fn show(session: &Session, document: Value, results: &ApplyResults, table: Table) -> Result<Exit, Failure> {
    let items = document["results"].as_array().cloned().unwrap_or_default();
    let changed = results.results.iter().filter(|result| result.is_change());
    session.show(&Report {
        document,
        items,
        names: changed.map(|result| result.name.clone()).collect(),
        table,
        ..Report::default()
    })?;
    Ok(Exit::Ok)
}

/// What became of a cluster, in a few words.
fn summary(result: &Applied) -> String {
    let mut parts = Vec::new();
    if result.header_changed {
        parts.push("definition".to_owned());
    }
    for (count, sign) in [
        (result.nodes_added.len(), '+'),
        (result.nodes_changed.len(), '~'),
        (result.nodes_removed.len(), '-'),
    ] {
        if count > 0 {
            parts.push(format!("{sign}{}", counted(count, "node")));
        }
    }
    parts.join(", ")
}

/// What would change, a line for each thing, signed as `diff` does.
fn difference(results: &ApplyResults) -> String {
    let mut lines = Vec::new();
    for result in results.results.iter().filter(|result| result.is_change()) {
        let sign = match result.action.as_str() {
            "created" => '+',
            "deleted" => '-',
            _ => '~',
        };
        lines.push(format!("{sign} cluster {} ({})", result.name, result.action));
        if result.header_changed {
            lines.push("    ~ check, protection, properties or online".to_owned());
        }
        for (ids, sign) in
            [(&result.nodes_added, '+'), (&result.nodes_changed, '~'), (&result.nodes_removed, '-')]
        {
            lines.extend(ids.iter().map(|id| format!("    {sign} node {id}")));
        }
    }
    lines.iter().map(|line| text::escaped(line) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_signed_and_leaves_out_what_stays() {
        let results: ApplyResults = serde_json::from_value(json!({"results": [
            {"name": "a", "action": "unchanged", "nodes_added": [], "nodes_changed": [], "nodes_removed": []},
            {"name": "b", "action": "updated", "header_changed": true, "nodes_added": ["x:1"], "nodes_changed": ["x:2"], "nodes_removed": ["x:3"]},
            {"name": "c", "action": "deleted"},
        ]}))
        .unwrap();
        assert_eq!(
            difference(&results),
            "~ cluster b (updated)\n    ~ check, protection, properties or online\n    + node x:1\n    ~ node x:2\n    - node x:3\n- cluster c (deleted)\n"
        );
        assert_eq!(summary(&results.results[1]), "definition, +1 node, ~1 node, -1 node");
        assert_eq!(summary(&results.results[0]), "");
    }
}
