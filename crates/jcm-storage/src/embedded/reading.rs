//! Reading definitions and the change log.
//!
//! A row that cannot be read costs its cluster, not the store: the cluster is quarantined, with the reason, and the
//! others are served.

use std::collections::HashMap;
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Node, NodeId, Revision};
use jcm_proto::{Malformed, Transaction, record, v1};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use tracing::warn;

use super::tables::{self, CLUSTERS, LOG, NODES};
use crate::Snapshot;
use crate::store::{Operation, chain};
use crate::submission::operations_of;

/// Clusters that could not be read, with the reason.
pub(super) type Quarantine = HashMap<ClusterName, String>;

/// Transactions that a feed reads at a time: enough to make the way to the file worth it.
const CHUNK_TRANSACTIONS_MAX: usize = 256;
/// What their records may add up to, but for the last.
const CHUNK_BYTES_MAX: usize = 1024 * 1024;

/// All definitions at one revision.
pub(super) fn snapshot(database: &Database) -> Result<Snapshot, redb::Error> {
    let read = database.begin_read()?;
    let (identity, revision) = tables::identity_in(&read)?;
    let mut clusters = Vec::new();
    let mut quarantined = Vec::new();
    read_clusters(&read, |name, cluster| match cluster {
        Ok(cluster) => clusters.push(Arc::new(cluster)),
        Err(reason) => match std::str::from_utf8(name).map(ClusterName::parse) {
            Ok(Ok(name)) => quarantined.push((name, reason)),
            _ => {
                warn!(name = %name.escape_ascii(), reason, "rows under a name that is no cluster's are left alone");
            }
        },
    })?;
    Ok(Snapshot {
        store: identity.store,
        revision,
        clusters,
        quarantined,
        operations: read_operations(&read)?,
    })
}

/// Visits every cluster, or the reason why it cannot be read. Both tables are in the order of names.
fn read_clusters(
    read: &ReadTransaction,
    mut visit: impl FnMut(&[u8], Result<Cluster, String>),
) -> Result<(), redb::Error> {
    let headers = read.open_table(CLUSTERS)?;
    let nodes = read.open_table(NODES)?;
    let mut headers = headers.iter()?;
    let mut nodes = nodes.iter()?;
    let mut header = headers.next().transpose()?;
    let mut node = nodes.next().transpose()?;
    loop {
        // The next name that either table has.
        let name = match (&header, &node) {
            (None, None) => return Ok(()),
            (Some((name, _)), None) => name.value().to_vec(),
            (None, Some((key, _))) => key.value().0.to_vec(),
            (Some((name, _)), Some((key, _))) => name.value().min(key.value().0).to_vec(),
        };
        let mut cluster = match &header {
            Some((key, row)) if key.value() == name => {
                let cluster = header_of(&name, row.value());
                header = headers.next().transpose()?;
                cluster.map_err(|error| format!("its header cannot be read: {}", chain(&error)))
            }
            _ => Err("it has nodes and no header".to_owned()),
        };
        while let Some((key, row)) = &node
            && key.value().0 == name
        {
            let id = key.value().1;
            let found = node_of(id, row.value());
            cluster = cluster.and_then(|mut cluster| match found {
                Ok(found) => {
                    cluster.nodes.push(Arc::new(found));
                    Ok(cluster)
                }
                Err(error) => {
                    let id = id.escape_ascii();
                    Err(format!("its node `{id}` cannot be read: {}", chain(&error)))
                }
            });
            node = nodes.next().transpose()?;
        }
        visit(&name, cluster);
    }
}

/// A cluster without its nodes.
pub(super) fn header_of(name: &[u8], row: &[u8]) -> Result<Cluster, Malformed> {
    let mut message: v1::Cluster = record::decode(row)?;
    message.nodes.clear();
    if message.name.as_bytes() != name {
        return Err(Malformed::Shape("the record is of another cluster"));
    }
    Cluster::try_from(message)
}

fn node_of(id: &[u8], row: &[u8]) -> Result<Node, Malformed> {
    let message: v1::Node = record::decode(row)?;
    if message.id.as_bytes() != id {
        return Err(Malformed::Shape("the record is of another node"));
    }
    Node::try_from(message)
}

/// The operations still remembered, oldest first.
fn read_operations(read: &ReadTransaction) -> Result<Vec<Operation>, redb::Error> {
    let mut operations = Vec::new();
    for row in read.open_table(LOG)?.iter()? {
        let (last, row) = row?;
        match record::decode::<v1::Transaction>(row.value().1) {
            Ok(message) => operations.extend(operations_of(&message)),
            Err(error) => warn!(
                revision = last.value(),
                reason = chain(&error),
                "a record of the change log cannot be read: its operations are forgotten"
            ),
        }
    }
    Ok(operations)
}

/// Some of the transactions after a revision and up to a head, in order. They may start later than asked for, and end
/// early: at a record that cannot be read, or because they are many.
pub(super) fn log_between(
    database: &Database,
    revision: Revision,
    head: Revision,
) -> Result<Vec<Arc<Transaction>>, redb::Error> {
    let log = database.begin_read()?.open_table(LOG)?;
    let mut transactions = Vec::new();
    let mut size_bytes = 0;
    for row in log.range(revision.0.saturating_add(1)..=head.0)? {
        let (last, row) = row?;
        let (_, bytes) = row.value();
        let transaction = record::decode::<v1::Transaction>(bytes).and_then(Transaction::try_from);
        match transaction {
            Ok(transaction) => transactions.push(Arc::new(transaction)),
            Err(error) => {
                warn!(
                    revision = last.value(),
                    reason = chain(&error),
                    "a record of the change log cannot be read: its followers load again"
                );
                break;
            }
        }
        size_bytes += bytes.len();
        if transactions.len() >= CHUNK_TRANSACTIONS_MAX || size_bytes >= CHUNK_BYTES_MAX {
            break;
        }
    }
    Ok(transactions)
}

/// Where nodes are under a name that has no header.
pub(super) fn has_nodes(
    nodes: &impl ReadableTable<(&'static [u8], &'static [u8]), &'static [u8]>,
    cluster: &ClusterName,
) -> Result<bool, redb::Error> {
    let start = (cluster.as_str().as_bytes(), &b""[..]);
    let end = tables::end_of(cluster.as_str());
    Ok(nodes.range(start..(end.as_slice(), &b""[..]))?.next().is_some())
}

/// Names of nodes are kept as they are in keys.
pub(super) fn node_key<'a>(cluster: &'a ClusterName, node: &'a NodeId) -> (&'a [u8], &'a [u8]) {
    (cluster.as_str().as_bytes(), node.as_str().as_bytes())
}
