//! Nodes of a cluster: add, remove, online.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use jcm_model::invalid::quoted;
use jcm_model::{Mutation, NodeId, Precondition, Refusal};
use serde_json::json;

use super::answer::{self, Failure};
use super::ports::Places;
use super::request::{Named, held, take, write};
use super::shape::{Object, PostedNode, PostedOnline};
use super::spec::Spec;
use super::take;
use crate::app::App;
use crate::http::{BODY_BYTES_MAX, BULK_BODY_BYTES_MAX, Problem};
use crate::registry::WriteError;

/// How often a removal is worked out anew because somebody else removed one of its nodes meanwhile.
const DELETE_ATTEMPTS_MAX: u32 = 16;

/// Specs that a remark names; the others are counted.
const REMARKED_MAX: usize = 10;

/// Adds nodes. One that is there already takes over what the post says of it.
pub(super) async fn post(
    State(app): State<App>,
    Named(name): Named,
    body: Body,
) -> Result<Response, Failure> {
    let posted: Vec<Object<PostedNode>> = take(body, BULK_BODY_BYTES_MAX).await?;
    if posted.is_empty() {
        return Err(Problem::invalid("the list of nodes is empty: send at least one").into());
    }
    let cluster = held(&app, &name)?;
    // Without a condition: many programs may add nodes to one cluster at once, and none of them shall fail.
    let nodes = take::nodes(&posted, Some(&cluster))?;
    write(&app, &name, Mutation::PutNodes(nodes), Precondition::default()).await?;
    Ok(answer::done())
}

/// Removes nodes. One that is not there is gone already, as it was in 2015.
pub(super) async fn delete(
    State(app): State<App>,
    Named(name): Named,
    body: Body,
) -> Result<Response, Failure> {
    let texts: Vec<String> = take(body, BULK_BODY_BYTES_MAX).await?;
    if texts.is_empty() {
        return Err(Problem::invalid("the list of nodes is empty: send at least one").into());
    }
    let mut specs = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        specs.push(Spec::parse(text).map_err(|invalid| invalid.within(&format!("[{index}]")))?);
    }
    let mut attempt = 1;
    loop {
        let cluster = held(&app, &name)?;
        let places = Places::new(&cluster);
        let (mut ids, mut missing) = (Vec::<NodeId>::new(), Vec::new());
        for spec in &specs {
            match places.exactly(spec) {
                Some(node) => ids.push(node.id.clone()),
                None => missing.push(spec),
            }
        }
        ids.sort();
        ids.dedup();
        let result = if ids.is_empty() {
            Ok(())
        } else {
            let mutation = Mutation::DeleteNodes(ids);
            write(&app, &name, mutation, Precondition::default()).await.map(|_| ())
        };
        match result {
            Ok(()) if missing.is_empty() => return Ok(answer::done()),
            Ok(()) => return Ok(answer::remarked(remark(&missing))),
            Err(WriteError::Refused { refusal: Refusal::NoNode { .. }, .. })
                if attempt < DELETE_ATTEMPTS_MAX =>
            {
                attempt += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) async fn online(
    State(app): State<App>,
    Named(name): Named,
    body: Body,
) -> Result<Response, Failure> {
    let Object(posted): Object<PostedOnline> = take(body, BODY_BYTES_MAX).await?;
    let spec = Spec::parse(&posted.spec).map_err(|invalid| invalid.within("spec"))?;
    let cluster = held(&app, &name)?;
    let node = Places::new(&cluster).exactly(&spec).ok_or_else(|| {
        let spec = quoted(&posted.spec);
        Failure::not_found(format_args!("cluster `{name}` has no node {spec}"))
    })?;
    let online = posted.online.is_online();
    let mut patch = json!({ "online": online });
    if online {
        // Whoever puts a node into use means that it is used, however it was taken out.
        patch["draining"] = serde_json::Value::Null;
    }
    let mutation = Mutation::PatchNode(node.id.clone(), patch);
    write(&app, &name, mutation, Precondition::default()).await?;
    Ok(answer::done())
}

fn remark(missing: &[&Spec]) -> String {
    let named: Vec<String> = missing.iter().take(REMARKED_MAX).map(ToString::to_string).collect();
    let more = match missing.len().saturating_sub(REMARKED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("not there, so nothing to remove: {}{more}", named.join(", "))
}
