//! `cluster list|get|create|delete`.

use jcm_model::{ClusterName, ClusterSpec};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Session, listed};
use crate::cli::{ClusterCommand, Create, Delete};
use crate::client::{Call, Condition};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::node_text;
use crate::output::{Report, Table};
use crate::shapes::{self, ClusterPage, ClusterRow, Node, Written};

pub(super) async fn run(session: &Session, command: ClusterCommand) -> Result<Exit, Failure> {
    match command {
        ClusterCommand::List { label, state } => list(session, label, state).await,
        ClusterCommand::Get { cluster } => get(session, &cluster).await,
        ClusterCommand::Create(create) => self::create(session, *create).await,
        ClusterCommand::Delete(delete) => self::delete(session, delete).await,
    }
}

/// Every entry of every page of `GET /v1/clusters`.
pub(super) async fn fetch_all(
    session: &Session,
    label: Option<&str>,
    state: Option<&str>,
) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut call = Call::get(["clusters"]);
        for (name, value) in [("label", label), ("state", state), ("after", after.as_deref())] {
            if let Some(value) = value {
                call = call.with_query(name, value);
            }
        }
        let answer = session.client.send(call).await?;
        let page: ClusterPage = shapes::read(&answer.body)?;
        let is_empty = page.clusters.is_empty();
        all.extend(page.clusters);
        match page.next {
            // A page that leads nowhere would be asked for for ever.
            Some(next) if !is_empty && after.as_ref() != Some(&next) => after = Some(next),
            _ => return Ok(all),
        }
    }
}

async fn list(session: &Session, label: Option<String>, state: Option<String>) -> Result<Exit, Failure> {
    let items = fetch_all(session, label.as_deref(), state.as_deref()).await?;
    let mut table = Table::new(&["NAME", "STATE", "NODES", "HEALTHY", "REVISION"]);
    let mut names = Vec::new();
    for item in &items {
        let row: ClusterRow = shapes::read(item)?;
        names.push(row.name.clone());
        table.row(vec![
            row.name,
            row.state,
            row.nodes.to_string(),
            row.healthy.to_string(),
            row.revision.to_string(),
        ]);
    }
    if items.is_empty() && label.is_none() && state.is_none() {
        session.note("no clusters; create one: jcmctl cluster create NAME --node 127.0.0.1:8080");
    }
    session.show(&Report {
        document: json!({ "clusters": items, "next": null }),
        items,
        names,
        table,
        ..Report::default()
    })?;
    Ok(Exit::Ok)
}

async fn get(session: &Session, cluster: &ClusterName) -> Result<Exit, Failure> {
    let answer = session.client.send(Call::get(["clusters", cluster.as_str()])).await?;
    let body = answer.body;
    let nodes: Vec<Node> = match body.get("nodes") {
        Some(nodes) => shapes::read(nodes)?,
        None => Vec::new(),
    };
    let mut table = Table::new(&[
        "ID",
        "ADDRESS",
        "PORTS",
        "WEIGHT",
        "ONLINE",
        "DRAINING",
        "+PRIORITY",
        "+ZONE",
        "+LABELS",
    ]);
    let yes_no = |value: Option<bool>| value.map(|value| if value { "yes" } else { "no" }.to_owned());
    for node in &nodes {
        table.row(vec![
            node.id.clone(),
            node.address.clone(),
            node.ports_text(),
            node.weight.map(|n| n.to_string()).unwrap_or_default(),
            yes_no(node.online).unwrap_or_default(),
            yes_no(node.draining).unwrap_or_default(),
            node.priority.map(|n| n.to_string()).unwrap_or_default(),
            node.zone.clone().unwrap_or_default(),
            node.labels_text(),
        ]);
    }
    let mut heading = vec![("Name", cluster.to_string())];
    if let Some(revision) = answer.revision {
        heading.push(("Revision", revision.to_string()));
    }
    heading.push(("Online", yes_no(body["online"].as_bool()).unwrap_or_default()));
    heading.push(("Check", shapes::inline(&body["check"])));
    heading.push(("Protection", shapes::inline(&body["protection"])));
    if body["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
        heading.push(("Properties", shapes::inline(&body["properties"])));
    }
    heading.push(("Nodes", nodes.len().to_string()));
    session.show(&Report {
        items: vec![body.clone()],
        document: body,
        names: vec![cluster.to_string()],
        heading,
        table,
    })?;
    Ok(Exit::Ok)
}

async fn create(session: &Session, create: Create) -> Result<Exit, Failure> {
    let spec = match &create.file {
        Some(path) => documents::fetch_cluster(path)?,
        None => from_flags(&create)?,
    };
    let name = create.cluster.as_str();
    if let Some(named) = &spec.name
        && *named != create.cluster
    {
        return Err(Failure::usage(format!("the file defines `{named}`, the command line says `{name}`"))
            .next(format!("jcmctl cluster create {named} -f FILE")));
    }
    let call = Call::new(Method::PUT, ["clusters", name])
        .with_body(documents::to_json(&spec))
        .with_condition(Some(Condition::Absent));
    let answer = session.client.send(call).await.map_err(|error| {
        let failure = Failure::from(error);
        match failure.exit {
            // The only condition that was set is that the cluster is not there.
            Exit::Conflict if failure.what.contains("(412,") => Failure {
                exit: Exit::Condition,
                what: format!("cluster `{name}` exists already: {}", failure.what),
                next: format!("jcmctl apply -f FILE to change it, jcmctl cluster get {name} to see it"),
            },
            _ => failure.next_if(Exit::Failure, || "jcmctl cluster create --help".to_owned()),
        }
    })?;
    let written: Written = shapes::read(&answer.body)?;
    let nodes = super::counted(spec.nodes.len(), "node");
    let sentence = format!("cluster `{name}` created with {nodes}, revision {}", written.revision);
    session.done(name, &sentence, answer.body)?;
    Ok(Exit::Ok)
}

fn from_flags(create: &Create) -> Result<ClusterSpec, Failure> {
    let mut nodes = Vec::new();
    for text in &create.node {
        nodes.push(node_text::parse(text, &create.port_name).map_err(|wrong| {
            Failure::usage(format!("--node: {wrong}")).next("jcmctl cluster create --help")
        })?);
    }
    let mut cluster = Map::new();
    cluster.insert("name".into(), create.cluster.as_str().into());
    if create.offline {
        cluster.insert("online".into(), false.into());
    }
    if let Some(kind) = &create.check {
        let mut check = Map::new();
        check.insert("kind".into(), kind.as_str().into());
        for (field, value) in [
            ("port", &create.check_port),
            ("path", &create.path),
            ("host", &create.host),
            ("body_contains", &create.body_contains),
            ("service", &create.service),
            ("expect", &create.expect),
            ("interval", &create.interval),
            ("timeout", &create.timeout),
        ] {
            if let Some(value) = value {
                check.insert(field.into(), value.as_str().into());
            }
        }
        for (field, value) in [("fall", create.fall), ("rise", create.rise)] {
            if let Some(value) = value {
                check.insert(field.into(), value.into());
            }
        }
        cluster.insert("check".into(), check.into());
    }
    if !create.property.is_empty() {
        cluster.insert("properties".into(), documents::object(&create.property));
    }
    cluster.insert("nodes".into(), nodes.into());
    documents::validated(cluster.into())
}

async fn delete(session: &Session, delete: Delete) -> Result<Exit, Failure> {
    if delete.if_revision.is_some() && delete.cluster.len() > 1 {
        return Err(
            Failure::usage("--if-revision: it fits one cluster only").next("jcmctl cluster delete --help")
        );
    }
    let names: Vec<&str> = delete.cluster.iter().map(ClusterName::as_str).collect();
    session.confirm(&format!("Delete {}?", listed(&names)), delete.yes)?;
    for name in names {
        let call = Call::new(Method::DELETE, ["clusters", name])
            .with_condition(delete.if_revision.map(Condition::Revision));
        let answer = session.client.send(call).await.map_err(|error| {
            Failure::from(error).next_if(Exit::Conflict, || format!("jcmctl cluster get {name}"))
        })?;
        let written: Written = shapes::read(&answer.body)?;
        let sentence = format!("cluster `{name}` deleted, revision {}", written.revision);
        session.done(name, &sentence, answer.body)?;
    }
    Ok(Exit::Ok)
}
