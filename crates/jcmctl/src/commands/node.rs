//! `node list|add|set|remove`.

use jcm_model::{ClusterName, NodeSpec, Timestamp};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{Session, counted, listed};
use crate::cli::{NodeAdd, NodeAttributes, NodeCommand, NodeRemove, NodeSet};
use crate::client::{Call, Condition, Error};
use crate::documents;
use crate::failure::{Exit, Failure};
use crate::node_text;
use crate::output::{Report, Table};
use crate::shapes::{self, View, Written};

pub(super) async fn run(session: &Session, command: NodeCommand) -> Result<Exit, Failure> {
    match command {
        NodeCommand::List { cluster } => list(session, &cluster).await,
        NodeCommand::Add(add) => self::add(session, *add).await,
        NodeCommand::Set(set) => self::set(session, set).await,
        NodeCommand::Remove(remove) => self::remove(session, remove).await,
    }
}

async fn list(session: &Session, cluster: &ClusterName) -> Result<Exit, Failure> {
    let call = Call::get(["clusters", cluster.as_str(), "view"]);
    let body = session.client.send(call).await?.body;
    let view: View = shapes::read(&body)?;
    let items = body["nodes"].as_array().cloned().unwrap_or_default();
    if view.panic {
        session
            .note(&format!("panic: too few nodes of `{cluster}` are fit, so every online one is routed to"));
    }
    if view.stale {
        session.note("stale: the server may be behind");
    }
    session.show(&Report {
        names: view.nodes.iter().map(|node| node.id.clone()).collect(),
        table: table(&view),
        document: body,
        items,
        ..Report::default()
    })?;
    Ok(Exit::Ok)
}

fn table(view: &View) -> Table {
    // A column that most clusters have nothing for.
    let any_leased = view.nodes.iter().any(|node| node.lease.is_some());
    let mut table = Table::new(&[
        "ID",
        "ADDRESS",
        "PORTS",
        "ADMIN",
        "VERDICT",
        "ROUTABLE",
        "WEIGHT",
        "+EFFECTIVE",
        "+PRIORITY",
        "+ZONE",
        "+LABELS",
        if any_leased { "LEASE" } else { "+LEASE" },
        "+SINCE",
        "REASON",
    ]);
    let number = |value: Option<u64>| value.map(|n| n.to_string()).unwrap_or_default();
    for node in &view.nodes {
        table.row(vec![
            node.id.clone(),
            node.address.clone(),
            node.ports_text(),
            node.admin.clone(),
            node.verdict.clone(),
            if node.routable { "yes" } else { "no" }.to_owned(),
            number(node.weight),
            number(node.effective_weight),
            number(node.priority),
            node.zone.clone().unwrap_or_default(),
            node.labels_text(),
            node.lease.as_ref().map(|lease| lease.ttl.clone()).unwrap_or_default(),
            node.since.as_deref().map(seconds).unwrap_or_default(),
            node.reason.clone().unwrap_or_default(),
        ]);
    }
    table
}

/// A point in time without the digits that nobody reads.
fn seconds(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => time.to_owned(),
    }
}

async fn add(session: &Session, add: NodeAdd) -> Result<Exit, Failure> {
    let cluster = add.cluster.as_str();
    let nodes = match &add.file {
        Some(_) if !attributes(&add.attributes, false).is_empty() => {
            return Err(Failure::usage("--file: attributes stand in the file, not beside it")
                .next("jcmctl node add --help"));
        }
        Some(path) => documents::fetch_nodes(path)?,
        None => from_flags(&add)?,
    };
    let body = serde_json::to_value(&nodes).expect("valid nodes have a JSON form");
    let call = Call::new(Method::POST, ["clusters", cluster, "nodes"])
        .with_body(body)
        .with_condition(add.if_revision.map(Condition::Revision));
    let answer = session.client.send(call).await.map_err(|error| refused(cluster, true, error))?;
    let written: Written = shapes::read(&answer.body)?;
    let ids: Vec<String> =
        nodes.iter().map(|node| node.id.clone().unwrap_or_else(|| node.default_id()).into()).collect();
    let sentence = format!(
        "{} of `{cluster}` written, revision {}: {}",
        counted(nodes.len(), "node"),
        written.revision,
        listed(&ids)
    );
    session.done(&ids.join("\n"), &sentence, answer.body)?;
    Ok(Exit::Ok)
}

fn from_flags(add: &NodeAdd) -> Result<Vec<NodeSpec>, Failure> {
    if add.id.is_some() && add.node.len() > 1 {
        return Err(Failure::usage("--id: it fits one node only").next("jcmctl node add --help"));
    }
    let mut nodes = Vec::new();
    for text in &add.node {
        let mut node = node_text::parse(text, &add.port_name)
            .map_err(|wrong| Failure::usage(wrong).next("jcmctl node add --help"))?;
        let fields = node.as_object_mut().expect("a node is written as an object");
        if let Some(id) = &add.id {
            fields.insert("id".into(), id.as_str().into());
        }
        fields.extend(attributes(&add.attributes, false));
        nodes.push(documents::validated(node).map_err(|failure| Failure {
            what: format!("`{text}`: {}", failure.what),
            ..failure.next("jcmctl node add --help")
        })?);
    }
    Ok(nodes)
}

/// The attributes that were given. In a patch, an empty value takes a label away.
fn attributes(given: &NodeAttributes, patch: bool) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    put("weight", given.weight.map(Value::from));
    put("priority", given.priority.map(Value::from));
    put("zone", given.zone.clone().map(Value::from));
    put("online", given.online.map(Value::from));
    put("draining", given.draining.map(Value::from));
    let mut labels = documents::object(&given.label);
    if patch && let Some(labels) = labels.as_object_mut() {
        for value in labels.values_mut().filter(|value| *value == "") {
            *value = Value::Null;
        }
    }
    put("labels", (!given.label.is_empty()).then_some(labels));
    fields
}

async fn set(session: &Session, set: NodeSet) -> Result<Exit, Failure> {
    let patch = attributes(&set.attributes, true);
    if patch.is_empty() {
        return Err(Failure::usage(
            "nothing to set: give --weight, --priority, --zone, --online, --draining or --label",
        )
        .next("jcmctl node set --help"));
    }
    for node in &set.node {
        let call = Call::new(Method::PATCH, ["clusters", set.cluster.as_str(), "nodes", node.as_str()])
            .with_body(patch.clone().into());
        let sentence = format!("node `{node}` of `{}` set", set.cluster);
        write_one(session, &set.cluster, node.as_str(), call, set.if_revision, set.node.len(), &sentence)
            .await?;
    }
    Ok(Exit::Ok)
}

async fn remove(session: &Session, remove: NodeRemove) -> Result<Exit, Failure> {
    for node in &remove.node {
        let call = Call::new(Method::DELETE, ["clusters", remove.cluster.as_str(), "nodes", node.as_str()]);
        let sentence = format!("node `{node}` of `{}` removed", remove.cluster);
        write_one(
            session,
            &remove.cluster,
            node.as_str(),
            call,
            remove.if_revision,
            remove.node.len(),
            &sentence,
        )
        .await?;
    }
    Ok(Exit::Ok)
}

/// One write on one node. They are separate writes: a condition on the revision would refuse the second by the first.
async fn write_one(
    session: &Session,
    cluster: &ClusterName,
    node: &str,
    call: Call,
    if_revision: Option<u64>,
    nodes: usize,
    sentence: &str,
) -> Result<(), Failure> {
    if if_revision.is_some() && nodes > 1 {
        return Err(Failure::usage("--if-revision: it fits one node only").next("jcmctl node --help"));
    }
    let call = call.with_condition(if_revision.map(Condition::Revision));
    let answer = session.client.send(call).await.map_err(|error| refused(cluster.as_str(), false, error))?;
    let written: Written = shapes::read(&answer.body)?;
    session.done(node, &format!("{sentence}, revision {}", written.revision), answer.body)
}

/// What to try after a refusal depends on what is missing: the cluster, or one of its nodes.
fn refused(cluster: &str, no_cluster: bool, error: Error) -> Failure {
    let failure = Failure::from(error);
    match failure.exit {
        Exit::NotFound if no_cluster => {
            failure.next(format!("jcmctl cluster create {cluster}, or jcmctl cluster list"))
        }
        Exit::NotFound | Exit::Conflict => failure.next(format!("jcmctl node list {cluster}")),
        _ => failure,
    }
}
