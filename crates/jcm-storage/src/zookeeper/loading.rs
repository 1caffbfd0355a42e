//! All definitions at one revision, read while others write.
//!
//! The head is read first, then every cluster, each whole at a revision of its own; then the head again. What the log
//! has in between is applied, and skipped where a cluster has it already: at the second head all agree.

use std::sync::Arc;
use std::time::Instant;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use jcm_model::{Cluster, ClusterName, Revision};
use jcm_proto::{Transaction, record, v1};
use tracing::warn;
use zookeeper_client as zk;

use super::fetch::{self, REQUEST_PATIENCE, ReadError, Znode};
use super::layout::{Layout, chunk, decode};
use super::mirror::{Mirror, Quarantined};
use super::session::Session;
use super::stored::{Head, decode_change, decode_chunk, decode_cluster};
use crate::LoadError;
use crate::store::{OPERATIONS_KEPT_MAX, Operation, chain};
use crate::submission::operations_of;

/// How often it is begun again, when the log was trimmed meanwhile or the session lost: each of it is rare.
const ATTEMPTS_MAX: usize = 5;
/// How often a cluster is read again that changes while it is read.
const TORN_MAX: usize = 20;
/// Clusters that are read at one time.
const READERS: usize = 8;
/// Clusters whose own znodes are read with one request.
const BATCH: usize = 32;

/// All that was read.
pub(super) struct Loaded {
    pub(super) head: Head,
    pub(super) mirror: Mirror,
    /// Oldest first.
    pub(super) operations: Vec<Operation>,
}

/// Why an attempt came to nothing.
enum Failure {
    Failed(LoadError),
    /// What was read does not fit together.
    Again(String),
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::Failed(error.into())
    }
}

/// Reads everything.
pub(super) async fn load(session: &Session, layout: &Layout) -> Result<Loaded, LoadError> {
    let mut reason = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let lost = || Failure::Again("the session was lost while definitions were read".to_owned());
        match session.as_one(attempt(session, layout)).await.unwrap_or_else(|| Err(lost())) {
            Ok(loaded) => return Ok(loaded),
            Err(Failure::Failed(error)) => return Err(error),
            Err(Failure::Again(why)) => reason = why,
        }
    }
    Err(LoadError::Unavailable { reason })
}

async fn attempt(session: &Session, layout: &Layout) -> Result<Loaded, Failure> {
    fetch::sync(session, Instant::now() + REQUEST_PATIENCE).await?;
    let before = head(session, layout).await?;
    let mut mirror = read_clusters(session, layout).await?;
    let head = head(session, layout).await?;
    let (operations, transactions) = read_log(session, layout, before.revision, head.revision).await?;
    for transaction in &transactions {
        mirror.take(transaction);
    }
    Ok(Loaded { head, mirror, operations })
}

async fn head(session: &Session, layout: &Layout) -> Result<Head, Failure> {
    let unusable = |reason| Failure::Failed(LoadError::Unusable { reason });
    match fetch::head(session, layout, Instant::now() + REQUEST_PATIENCE).await? {
        Some(Ok(head)) => Ok(head),
        Some(Err(reason)) => Err(unusable(format!("its head cannot be read: {reason}"))),
        None => Err(unusable(format!("`{}` is not there", layout.head()))),
    }
}

/// The operations that the log remembers, and the transactions after a revision.
async fn read_log(
    session: &Session,
    layout: &Layout,
    after: Revision,
    until: Revision,
) -> Result<(Vec<Operation>, Vec<Transaction>), Failure> {
    let mut ends = fetch::all_ends(session, layout).await?;
    ends.retain(|last| *last <= until);
    let paths: Vec<String> = ends.iter().map(|last| layout.change(*last)).collect();
    let mut operations = Vec::new();
    let mut transactions: Vec<Transaction> = Vec::new();
    let mut due = after;
    let mut unreadable: Vec<(u64, String)> = Vec::new();
    for (last, znode) in ends.iter().zip(fetch::get_many(session, &paths).await?) {
        // It was trimmed meanwhile.
        let Some((bytes, _)) = znode else { continue };
        match record::decode::<v1::Transaction>(&bytes) {
            Ok(message) => operations.extend(operations_of(&message)),
            Err(error) => unreadable.push((last.0, chain(&error))),
        }
        if *last > after
            && let Ok(transaction) = decode_change(*last, &bytes)
            && transaction.first() == due.next()
        {
            due = transaction.last();
            transactions.push(transaction);
        }
    }
    if let Some((revision, reason)) = unreadable.first() {
        let records = unreadable.len();
        warn!(
            records,
            revision,
            reason,
            "records of the change log cannot be read: their operations are forgotten; this is the first"
        );
    }
    if due != until {
        return Err(Failure::Again(format!("the change log has a gap after {due}")));
    }
    let forgotten = operations.len().saturating_sub(OPERATIONS_KEPT_MAX);
    operations.drain(..forgotten);
    Ok((operations, transactions))
}

async fn read_clusters(session: &Session, layout: &Layout) -> Result<Mirror, Failure> {
    let buckets: Vec<String> = layout.buckets().collect();
    let listed = fetch::children_of_many(session, &buckets).await?;
    let mut names = Vec::new();
    let mut alien: Vec<String> = Vec::new();
    for (bucket, children) in buckets.iter().zip(listed) {
        for child in children {
            let name = decode(&child).and_then(|name| ClusterName::parse(&name).ok());
            match name {
                Some(name) if layout.cluster(&name) == format!("{bucket}/{child}") => names.push(name),
                _ => alien.push(format!("{bucket}/{child}")),
            }
        }
    }
    if let Some(znode) = alien.first() {
        warn!(znodes = alien.len(), znode, "znodes that are no clusters' are left alone; this is the first");
    }
    let batches: Vec<Vec<ClusterName>> = names.chunks(BATCH).map(<[ClusterName]>::to_vec).collect();
    let found: Vec<Vec<(ClusterName, Found)>> = stream::iter(batches)
        .map(|names| async move { read_batch(session, layout, &names).await })
        .buffer_unordered(READERS)
        .try_collect()
        .await?;
    let mut mirror = Mirror::default();
    for (name, found) in found.into_iter().flatten() {
        match found {
            Found::Whole(cluster) => {
                mirror.clusters.insert(name, Arc::new(cluster));
            }
            Found::Unreadable(quarantined) => {
                mirror.quarantine.insert(name, quarantined);
            }
            Found::Gone => {}
        }
    }
    Ok(mirror)
}

/// What became of a cluster that was listed.
enum Found {
    Whole(Cluster),
    Unreadable(Quarantined),
    Gone,
}

async fn read_batch(
    session: &Session,
    layout: &Layout,
    names: &[ClusterName],
) -> Result<Vec<(ClusterName, Found)>, Failure> {
    let paths: Vec<String> = names.iter().map(|name| layout.cluster(name)).collect();
    let znodes = fetch::get_batch(session, &paths).await?;
    let mut all = Vec::with_capacity(names.len());
    for ((name, path), znode) in names.iter().zip(&paths).zip(znodes) {
        let found = read_cluster(session, path, name, znode).await?;
        all.push((name.clone(), found));
    }
    Ok(all)
}

async fn read_cluster(
    session: &Session,
    path: &str,
    name: &ClusterName,
    mut znode: Option<Znode>,
) -> Result<Found, Failure> {
    for _ in 0..TORN_MAX {
        let Some((bytes, stat)) = znode else { return Ok(Found::Gone) };
        let (mut cluster, chunks) = match decode_cluster(name, &bytes) {
            Ok((cluster, 0)) => return Ok(Found::Whole(cluster)),
            Ok(decoded) => decoded,
            Err(error) => return unreadable(session, path, &chain(&error)).await,
        };
        // The cluster's own znode once more, after its chunks: when it is the same, they belong together.
        let mut paths: Vec<String> = (0..chunks).map(|number| chunk(path, number)).collect();
        paths.push(path.to_owned());
        let mut znodes = fetch::get_batch(session, &paths).await?;
        let again = znodes.pop().flatten();
        if again.as_ref().is_none_or(|(_, now)| !is_same(now, &stat)) {
            znode = again;
            continue;
        }
        for (number, znode) in (0..chunks).zip(znodes) {
            let nodes = match znode.map(|(bytes, _)| decode_chunk(name, number, &bytes)) {
                Some(Ok(nodes)) => nodes,
                Some(Err(error)) => {
                    let reason = format!("its chunk {number:02x} cannot be read: {}", chain(&error));
                    return unreadable(session, path, &reason).await;
                }
                None => {
                    return unreadable(session, path, &format!("its chunk {number:02x} is not there")).await;
                }
            };
            cluster.nodes.extend(nodes);
        }
        cluster.nodes.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        return Ok(Found::Whole(cluster));
    }
    Err(Failure::Again(format!("cluster `{name}` changes faster than it can be read")))
}

/// Whether a znode was not written in between, nor deleted and made again.
fn is_same(now: &zk::Stat, before: &zk::Stat) -> bool {
    now.mzxid == before.mzxid && now.czxid == before.czxid
}

async fn unreadable(session: &Session, path: &str, reason: &str) -> Result<Found, Failure> {
    let children = fetch::children(session, path).await?.unwrap_or_default();
    Ok(Found::Unreadable(Quarantined { reason: reason.to_owned(), children }))
}
