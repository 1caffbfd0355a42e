//! Definitions, as every door reads and changes them: one way of waiting for a revision, one of writing, one of telling
//! what became of a write. A door turns its requests into these values and its answers out of them, and adds nothing.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use jcm_model::invalid::quoted;
use jcm_model::{Admin, Cluster, ClusterName, ClusterSpec, Mutation, Node, NodeSpec, Precondition, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::app::App;
use crate::http::Problem;
use crate::registry::{Outcome, Wish, Write, WriteError, Written};
use crate::views::Answer;

/// Who asks. Without tokens there is one principal.
pub(crate) const PRINCIPAL: &str = "anonymous";

/// Longest wait for `min_revision` and `consistent`.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(5);

/// Longest wait for the store to say where its head is: what a write would wait.
const HEAD_DEADLINE: Duration = Duration::from_millis(1_900);

/// Longest idempotency key.
const KEY_BYTES_MAX: usize = 256;

/// Most clusters of one write.
const CLUSTERS_MAX: usize = 10_000;

const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: usize = 1000;

/// How new the memory must be that a read is answered from.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Freshness {
    /// At least this revision.
    pub(crate) min_revision: Option<u64>,
    /// At least what the store has when it is asked now.
    pub(crate) consistent: bool,
}

/// What a write comes with, beside its wishes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    pub(crate) precondition: Precondition,
    /// Makes a repetition find its first result.
    pub(crate) key: Option<String>,
    /// Only look what it would lead to.
    pub(crate) dry_run: bool,
}

/// What came of a write.
#[derive(Debug)]
pub(crate) enum Done {
    Written(Written),
    /// Nothing was changed: this is what it would lead to.
    Tried(Vec<Outcome>),
}

/// Which clusters to list.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// `key` or `key=value`, of any node.
    pub(crate) label: Option<String>,
    pub(crate) state: Option<Condition>,
    /// The last name of the page before.
    pub(crate) after: Option<String>,
    pub(crate) limit: Option<usize>,
}

/// A page of clusters, in the order of their names.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) clusters: Vec<Row>,
    /// Where the next page begins; `None`: this is the last.
    pub(crate) next: Option<ClusterName>,
    pub(crate) revision: Revision,
}

/// A cluster in a list.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: ClusterName,
    pub(crate) revision: Revision,
    pub(crate) nodes: usize,
    pub(crate) healthy: usize,
    pub(crate) state: Condition,
}

/// How a cluster is, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Condition {
    /// Taken out by somebody.
    Offline,
    /// It has no node in use.
    Empty,
    /// Its nodes were not judged yet.
    Unknown,
    /// Protection routes to nodes that are not fit.
    Panic,
    /// Some node in use is not healthy.
    Degraded,
    /// Every node in use is healthy, or nobody checks them.
    Healthy,
}

impl Condition {
    const ALL: [Self; 6] =
        [Self::Offline, Self::Empty, Self::Unknown, Self::Panic, Self::Degraded, Self::Healthy];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
            Self::Panic => "panic",
            Self::Degraded => "degraded",
            Self::Healthy => "healthy",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Problem> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::as_str).join(", ");
            Problem::invalid(format!("state: {} is none of {all}", quoted(text))).with("field", "state")
        })
    }
}

/// Waits until this server's memory is as new as the reader asks for.
pub(crate) async fn caught_up(app: &App, freshness: Freshness) -> Result<(), Problem> {
    let wanted = Revision(freshness.min_revision.unwrap_or(0));
    let mut consistent = None;
    if freshness.consistent {
        let unavailable = |reason: String| {
            let detail = format!("{reason}; without `consistent` this server answers from its memory");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "STORE_UNAVAILABLE", detail)
        };
        let head = timeout(HEAD_DEADLINE, app.store.head()).await.map_err(|_| {
            unavailable(format!("the store did not answer within {} ms", HEAD_DEADLINE.as_millis()))
        })?;
        consistent = Some(head.map_err(|error| unavailable(error.to_string()))?);
    }
    let caught_up = async {
        if let Some(head) = consistent {
            app.catalog.comes_to(head).await;
        }
        app.catalog.reached(wanted).await;
    };
    if timeout(CATCH_UP_DEADLINE, caught_up).await.is_err() {
        let have = app.catalog.get().revision;
        let wanted = consistent.map_or(wanted, |head| head.revision.max(wanted));
        let detail = format!(
            "this server is at revision {have} and did not reach {wanted} within {} s",
            CATCH_UP_DEADLINE.as_secs()
        );
        return Err(Problem::not_loaded(detail).with("revision", have.0));
    }
    Ok(())
}

/// One cluster, as this server has it.
pub(crate) fn get(app: &App, name: &ClusterName) -> Result<Arc<Cluster>, Problem> {
    let snapshot = app.catalog.get();
    if let Some(reason) = snapshot.quarantined.get(name) {
        return Err(WriteError::Quarantined { cluster: name.clone(), reason: reason.to_string() }.into());
    }
    snapshot.clusters.get(name).cloned().ok_or_else(|| Problem::no_cluster(name))
}

/// A page of clusters, as this server has them.
pub(crate) fn list(app: &App, selection: &Selection) -> Result<Page, Problem> {
    let limit = selection.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Problem::invalid(format!("limit: {limit} is out of range: from 1 to {PAGE_MAX}"))
            .with("field", "limit"));
    }
    let after = selection.after.as_deref().map(ClusterName::parse).transpose();
    let after = after.map_err(|error| error.within("after"))?;
    let snapshot = app.catalog.get();
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut page = Page { clusters: Vec::new(), next: None, revision: snapshot.revision };
    for (name, cluster) in snapshot.clusters.range((start, Bound::Unbounded)) {
        let label = selection.label.as_deref();
        if label.is_some_and(|label| !cluster.nodes.iter().any(|node| has_label(node, label))) {
            continue;
        }
        let (healthy, state) = summary(app, cluster);
        if selection.state.is_some_and(|wanted| wanted != state) {
            continue;
        }
        if page.clusters.len() == limit {
            page.next = page.clusters.last().map(|row| row.name.clone());
            break;
        }
        let (name, nodes) = (name.clone(), cluster.nodes.len());
        page.clusters.push(Row { name, revision: cluster.revision, nodes, healthy, state });
    }
    Ok(page)
}

/// `key` or `key=value`.
fn has_label(node: &Node, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => node.attributes.labels().get(key).is_some_and(|held| **held == *value),
        None => node.attributes.labels().get(label).is_some(),
    }
}

fn summary(app: &App, cluster: &Cluster) -> (usize, Condition) {
    let online = cluster.nodes.iter().filter(|node| node.admin() == Admin::Online).count();
    let published = match app.views.get(&cluster.name) {
        Answer::Published(published) => Some(published),
        Answer::Absent | Answer::NotReady => None,
    };
    let (healthy, healthy_online) = published.as_ref().map_or((0, 0), |published| published.healthy_counts());
    let state = match &published {
        _ if !cluster.header.online() => Condition::Offline,
        _ if online == 0 => Condition::Empty,
        _ if !cluster.is_checked() => Condition::Healthy,
        Some(published) if published.routing.panic => Condition::Panic,
        Some(published) if published.state.nodes().all(|(_, judged)| judged.is_none()) => Condition::Unknown,
        Some(_) if healthy_online == online => Condition::Healthy,
        Some(_) => Condition::Degraded,
        None => Condition::Unknown,
    };
    (healthy, state)
}

/// The cluster shall be exactly this.
pub(crate) async fn put(
    app: &App,
    name: &ClusterName,
    mut spec: ClusterSpec,
    terms: Terms,
) -> Result<Done, Problem> {
    // Said once is enough, and makes a repetition the same whether or not it is said again.
    if let Some(other) = spec.name.take().filter(|other| other != name) {
        let (body, path) = (quoted(other.as_str()), quoted(name.as_str()));
        return Err(Problem::invalid(format!("name: the body says {body}, the path says {path}"))
            .with("field", "name"));
    }
    change(app, name, Mutation::PutCluster(spec), terms).await
}

/// These nodes shall be there.
pub(crate) async fn put_nodes(
    app: &App,
    cluster: &ClusterName,
    nodes: Vec<NodeSpec>,
    terms: Terms,
) -> Result<Done, Problem> {
    if nodes.is_empty() {
        return Err(Problem::invalid("the list of nodes is empty: send at least one"));
    }
    change(app, cluster, Mutation::PutNodes(nodes), terms).await
}

/// One mutation of one cluster.
pub(crate) async fn change(
    app: &App,
    cluster: &ClusterName,
    mutation: Mutation,
    terms: Terms,
) -> Result<Done, Problem> {
    let wish = Wish { cluster: cluster.clone(), mutation, precondition: terms.precondition };
    write(app, Asked { wishes: vec![wish], prune: false, is_list: false }, &terms).await
}

/// Many clusters shall be exactly this, in one commit; with `prune` there shall be no others.
pub(crate) async fn apply(
    app: &App,
    clusters: Vec<ClusterSpec>,
    prune: bool,
    terms: Terms,
) -> Result<Done, Problem> {
    let names = names(&clusters)?;
    let wish = |(cluster, mut spec): (ClusterName, ClusterSpec)| {
        spec.name = None;
        Wish { cluster, mutation: Mutation::PutCluster(spec), precondition: Precondition::default() }
    };
    let wishes = names.into_iter().zip(clusters).map(wish).collect();
    write(app, Asked { wishes, prune, is_list: true }, &terms).await
}

fn names(clusters: &[ClusterSpec]) -> Result<Vec<ClusterName>, Problem> {
    if clusters.is_empty() {
        return Err(
            Problem::invalid("clusters: the list is empty: send at least one").with("field", "clusters")
        );
    }
    if clusters.len() > CLUSTERS_MAX {
        let detail = format!("clusters: {} entries, the limit is {CLUSTERS_MAX}", clusters.len());
        return Err(Problem::invalid(detail).with("field", "clusters"));
    }
    let mut seen = HashMap::new();
    let mut names = Vec::with_capacity(clusters.len());
    for (index, spec) in clusters.iter().enumerate() {
        let Some(name) = &spec.name else {
            return Err(Problem::invalid(format!(
                "clusters[{index}].name: every cluster of this request needs its name"
            )));
        };
        if let Some(first) = seen.insert(name, index) {
            let detail =
                format!("clusters[{index}].name: {} stands at {first} already", quoted(name.as_str()));
            return Err(Problem::invalid(detail));
        }
        names.push(name.clone());
    }
    Ok(names)
}

struct Asked {
    wishes: Vec<Wish>,
    prune: bool,
    /// Whether a refusal must say which cluster it is about.
    is_list: bool,
}

async fn write(app: &App, asked: Asked, terms: &Terms) -> Result<Done, Problem> {
    let key = terms.key.as_deref();
    if key.is_some_and(|key| {
        key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(|b| matches!(b, b' '..=b'~'))
    }) {
        return Err(Problem::invalid(format!(
            "the idempotency key is refused: 1 to {KEY_BYTES_MAX} visible ASCII characters"
        )));
    }
    let write = Write::new(PRINCIPAL, key, asked.wishes, asked.prune);
    let refused = |error: WriteError| match error {
        WriteError::Refused { index, refusal: jcm_model::Refusal::Invalid(invalid) } if asked.is_list => {
            Problem::from(invalid.within(&format!("clusters[{index}]")))
        }
        error => error.into(),
    };
    if terms.dry_run {
        return app.registry.try_out(&write).map(Done::Tried).map_err(refused);
    }
    app.registry.write(write).await.map(Done::Written).map_err(refused)
}
