//! `resolve`: what a caller without `jcm-subscriber` would use.

use super::Session;
use crate::cli::Resolve;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::{Report, Table};
use crate::shapes::{self, Pick};

pub(super) async fn run(session: &Session, resolve: Resolve) -> Result<Exit, Failure> {
    let cluster = resolve.cluster.as_str();
    let mut call = Call::get(["resolve", cluster]);
    for (name, value) in
        [("n", resolve.n.map(|n| n.to_string())), ("zone", resolve.zone), ("policy", resolve.policy)]
    {
        if let Some(value) = value {
            call = call.with_query(name, value);
        }
    }
    let body = session
        .client
        .send(call)
        .await
        .map_err(|error| Failure::from(error).next_if(Exit::Failure, || "jcmctl resolve --help".to_owned()))?
        .body;
    let pick: Pick = shapes::read(&body)?;
    if pick.nodes.is_empty() {
        return Err(Failure::new(Exit::Condition, format!("no node of `{cluster}` is routable"))
            .next(format!("jcmctl node list {cluster}")));
    }
    let mut table = Table::new(&["ID", "ADDRESS", "PORTS"]);
    for node in &pick.nodes {
        table.row(vec![node.id.clone(), node.address.clone(), node.ports_text()]);
    }
    session.show(&Report {
        names: pick.nodes.iter().map(|node| node.id.clone()).collect(),
        items: body["nodes"].as_array().cloned().unwrap_or_default(),
        document: body,
        table,
        ..Report::default()
    })?;
    Ok(Exit::Ok)
}
