//! `export`: clusters in the form that `apply` reads, so that a store can be copied, kept or compared.
//!
//! Each cluster is read at its own moment: an export beside writers is a set of true clusters, not one revision.

use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::{Session, cluster};
use crate::cli::{Export, Format};
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::shapes::{self, ClusterRow};

/// Requests under way at a time: enough to hide the way there and back, few enough to leave the server to others.
const REQUESTS_MAX: usize = 8;

pub(super) async fn run(session: &Session, export: Export) -> Result<Exit, Failure> {
    let format = session.format.unwrap_or(Format::Yaml);
    if matches!(format, Format::Table | Format::Wide) {
        return Err(Failure::usage("export writes yaml, json, jsonl or name").next("jcmctl cluster list"));
    }
    let all = export.cluster.is_empty();
    let mut names: Vec<String> = export.cluster.iter().map(ToString::to_string).collect();
    if all {
        for item in cluster::fetch_all(session, None, None).await? {
            names.push(shapes::read::<ClusterRow>(&item)?.name);
        }
    }
    if format == Format::Name {
        output::print(&names.iter().map(|name| crate::text::escaped(name) + "\n").collect::<String>())?;
        return Ok(Exit::Ok);
    }
    let mut clusters = stream::iter(names)
        .map(|name| async move {
            let answer = session.client.send(Call::get(["clusters", name.as_str()])).await;
            match answer {
                // Deleted since it was listed: it is not there to be exported.
                Err(error) if all && error.is_not_found() => Ok(None),
                answer => answer.map(|answer| Some(answer.body)).map_err(Failure::from),
            }
        })
        .buffered(REQUESTS_MAX);
    let mut array = Vec::new();
    let mut count = 0_usize;
    while let Some(body) = clusters.next().await {
        let Some(body) = body? else { continue };
        match format {
            Format::Json => array.push(body),
            Format::Jsonl => output::print(&output::json_line(&body))?,
            _ => {
                let separator = if count == 0 { "" } else { "---\n" };
                output::print(&format!("{separator}{}", output::yaml(&body)))?;
            }
        }
        count += 1;
    }
    if format == Format::Json {
        let report = output::Report { document: Value::Array(array), ..output::Report::default() };
        output::print(&output::render(&report, Format::Json))?;
    }
    if count == 0 {
        session.note("no clusters");
    }
    Ok(Exit::Ok)
}
