//! Committing: one transaction of the file for the head, the definitions and the change log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{Change, Cluster, ClusterName, Effect, Head, Revision, StoreId};
use jcm_proto::{record, v1};
use redb::{Database, Durability, ReadableTable, Table, WriteTransaction};
use tracing::{error, info, warn};

use super::Inner;
use super::reading::{Quarantine, has_nodes, header_of, node_key};
use super::retention::{Retention, Trim};
use super::tables::{
    self, CLUSTERS, Identity, LOG, META, META_HEAD, META_LOG_BYTES, META_LOG_OPERATIONS, NODES,
};
use crate::restoration::Restoration;
use crate::store::chain;
use crate::submission::{Submission, refuse_unless_on};
use crate::{CommitError, LoadError, RestoreError};

/// After a failed write the file is opened again, which reads all of it after some failures: not for each of the
/// writes that a full disk will refuse.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// What one commit at a time needs.
#[derive(Debug)]
pub(super) struct Writer {
    retention: Retention,
    /// Since the last write failed: until when writes are refused unsubmitted, and why.
    resting: Option<(Instant, String)>,
}

/// Why a commit came to nothing, or may have.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file is in order and unchanged.
    Refused(CommitError),
    /// The file failed before the commit began: nothing of it is there.
    Before(redb::Error),
    /// The file failed while it was committing.
    During(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Before(error.into())
    }
}

impl Writer {
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, resting: None }
    }

    /// Commits durably, tells the feeds, and answers.
    pub(super) fn commit(
        &mut self,
        inner: &Inner,
        submission: Submission,
        expected: Head,
        now: Instant,
    ) -> Result<(), CommitError> {
        self.refuse_unless_ready(inner, now)?;
        refuse_unless_on(inner.current().head(), expected)?;
        let expected = expected.revision;
        let last = submission.transaction.last();
        let trim = self.retention.next_trim(expected, now);
        let quarantine = inner.quarantine().clone();
        let attempt = inner
            .file
            .with(|database| write(database, &submission, expected, trim, &quarantine))
            .map_err(|error| unavailable(&error))?;
        let (failed, began) = match attempt {
            Ok(()) => {
                if self.resting.take().is_some() {
                    info!("the store takes writes again");
                }
                release(inner, &submission);
                inner.publish(submission);
                return Ok(());
            }
            Err(Failure::Refused(error)) => return Err(error),
            Err(Failure::Before(failed)) => (failed, false),
            Err(Failure::During(failed)) => (failed, true),
        };
        let reason = format!("the store file cannot be written: {}", chain(&failed));
        error!(reason, "a commit failed; the store file is opened again");
        self.resting = Some((now + REST_AFTER_FAILURE, reason.clone()));
        match inner.reopen() {
            // The head in the file tells what became of it.
            Ok(head) if head == expected => Err(CommitError::Unavailable { reason }),
            // It is there, but nobody knows whether it would survive a loss of power.
            Ok(head) if head == last => Err(CommitError::Unknown { reason }),
            Ok(head) => Err(CommitError::Unknown { reason: format!("{reason}; the head is at {head}") }),
            Err(error) => {
                error!(%error, "the store file cannot be opened again");
                if began {
                    Err(CommitError::Unknown { reason })
                } else {
                    Err(CommitError::Unavailable { reason })
                }
            }
        }
    }

    /// Puts other definitions in the place of all that is there, in one transaction of the file, and answers the new
    /// identity.
    pub(super) fn restore(
        &mut self,
        inner: &Inner,
        restoration: &Restoration,
        now: Instant,
    ) -> Result<StoreId, RestoreError> {
        let not_restored = |error: &dyn std::error::Error| RestoreError::NotRestored { reason: chain(error) };
        self.refuse_unless_ready(inner, now).map_err(|error| not_restored(&error))?;
        let attempt = inner.file.with(|database| replace(database, restoration));
        match attempt.map_err(|error| not_restored(&error))? {
            Ok(()) => {}
            Err(Failure::Refused(error)) => return Err(not_restored(&error)),
            Err(Failure::Before(failed) | Failure::During(failed)) => {
                let reason = format!("the store file cannot be written: {}", chain(&failed));
                error!(reason, "a restore failed; the store file is opened again");
                self.resting = Some((now + REST_AFTER_FAILURE, reason.clone()));
                // The identity in the file tells what became of it, if it can be read.
                return match inner.reopen() {
                    Ok(_) if inner.in_force().store != Some(restoration.store) => {
                        Err(RestoreError::NotRestored { reason })
                    }
                    _ => Err(RestoreError::Unknown { reason }),
                };
            }
        }
        self.resting = None;
        self.retention.restart(restoration.head, now);
        inner.quarantine().clear();
        let identity = Identity { store: restoration.store, replaced: restoration.replaced.clone() };
        inner.adopt(identity, restoration.head);
        info!(store = %restoration.store, clusters = restoration.clusters.len(), "the store was restored");
        Ok(restoration.store)
    }

    /// After a failure writes are refused for a while; then the file has to be open again.
    fn refuse_unless_ready(&mut self, inner: &Inner, now: Instant) -> Result<(), CommitError> {
        if let Some((until, reason)) = &self.resting
            && now < *until
        {
            return Err(CommitError::Unavailable { reason: reason.clone() });
        }
        if inner.file.is_closed()
            && let Err(error) = inner.reopen()
        {
            self.resting = Some((now + REST_AFTER_FAILURE, error.to_string()));
            return Err(unavailable(&error));
        }
        Ok(())
    }
}

fn unavailable(error: &LoadError) -> CommitError {
    CommitError::Unavailable { reason: error.to_string() }
}

/// Clusters that were deleted are no longer quarantined.
fn release(inner: &Inner, submission: &Submission) {
    let mut quarantine = inner.quarantine();
    if quarantine.is_empty() {
        return;
    }
    for entry in &submission.transaction.entries {
        if quarantine.remove(&entry.change.cluster).is_some() {
            warn!(cluster = %entry.change.cluster, "a cluster that could not be read was deleted");
        }
    }
}

pub(super) fn write(
    database: &Database,
    submission: &Submission,
    expected: Revision,
    trim: Option<Trim>,
    quarantine: &Quarantine,
) -> Result<(), Failure> {
    let mut write = database.begin_write()?;
    write
        .set_durability(Durability::Immediate)
        .expect("only savepoints restrict durability, and none are made");
    {
        let mut meta = write.open_table(META)?;
        let found = Revision(tables::number(&meta, META_HEAD)?);
        if found != expected {
            return Err(Failure::Refused(CommitError::Conflict { expected, found }));
        }
        meta.insert(META_HEAD, u128::from(submission.transaction.last().0))?;
        apply(&write, submission, quarantine)?;
        append(&write, &mut meta, submission, trim)?;
    }
    write.commit().map_err(|error| Failure::During(error.into()))
}

fn replace(database: &Database, restoration: &Restoration) -> Result<(), Failure> {
    let mut write = database.begin_write()?;
    write
        .set_durability(Durability::Immediate)
        .expect("only savepoints restrict durability, and none are made");
    write.delete_table(CLUSTERS)?;
    write.delete_table(NODES)?;
    write.delete_table(LOG)?;
    {
        let mut meta = write.open_table(META)?;
        let mut clusters = write.open_table(CLUSTERS)?;
        let mut nodes = write.open_table(NODES)?;
        write.open_table(LOG)?;
        for (name, cluster) in &restoration.clusters {
            // A header beside which the nodes lie is a cluster without them.
            let header = cluster.without_nodes();
            let header = record::encode(&v1::Cluster::from(&header));
            clusters.insert(name.as_str().as_bytes(), header.as_slice())?;
            for node in &cluster.nodes {
                let row = record::encode(&v1::Node::from(node.as_ref()));
                nodes.insert(node_key(name, &node.id), row.as_slice())?;
            }
        }
        let identity = Identity { store: restoration.store, replaced: restoration.replaced.clone() };
        tables::identify(&mut meta, &identity)?;
        meta.insert(META_HEAD, u128::from(restoration.head.0))?;
        meta.insert(META_LOG_OPERATIONS, 0)?;
        meta.insert(META_LOG_BYTES, 0)?;
    }
    write.commit().map_err(|error| Failure::During(error.into()))
}

/// Adds the transaction to the log and trims the log's other end.
fn append(
    write: &WriteTransaction,
    meta: &mut Table<'_, &'static str, u128>,
    submission: &Submission,
    trim: Option<Trim>,
) -> Result<(), Failure> {
    let mut log = write.open_table(LOG)?;
    let count = u32::try_from(submission.operations.len()).unwrap_or(u32::MAX);
    let mut operations = tables::number(meta, META_LOG_OPERATIONS)? + u64::from(count);
    let mut log_bytes = tables::number(meta, META_LOG_BYTES)? + submission.record.len() as u64;
    if let Some(trim) = trim {
        for _ in 0..trim.rows_max {
            let is_over = operations > trim.operations_max || log_bytes > trim.log_bytes_max;
            let first = log.first()?.map(|(last, _)| last.value());
            if !first.is_some_and(|last| is_over || last <= trim.old.0) {
                break;
            }
            if let Some((_, row)) = log.pop_first()? {
                let (count, record) = row.value();
                operations = operations.saturating_sub(u64::from(count));
                log_bytes = log_bytes.saturating_sub(record.len() as u64);
            }
        }
    }
    log.insert(submission.transaction.last().0, (count, submission.record.as_slice()))?;
    meta.insert(META_LOG_OPERATIONS, u128::from(operations))?;
    meta.insert(META_LOG_BYTES, u128::from(log_bytes))?;
    Ok(())
}

/// The definitions while one transaction is applied to them.
struct Definitions<'w, 'q> {
    clusters: Table<'w, &'static [u8], &'static [u8]>,
    nodes: Table<'w, (&'static [u8], &'static [u8]), &'static [u8]>,
    quarantine: &'q Quarantine,
    /// Clusters without their nodes, as far as they were touched: written once, however often.
    touched: BTreeMap<ClusterName, Option<Arc<Cluster>>>,
}

fn apply(write: &WriteTransaction, submission: &Submission, quarantine: &Quarantine) -> Result<(), Failure> {
    let mut definitions = Definitions {
        clusters: write.open_table(CLUSTERS)?,
        nodes: write.open_table(NODES)?,
        quarantine,
        touched: BTreeMap::new(),
    };
    for entry in &submission.transaction.entries {
        definitions.apply(&entry.change)?;
    }
    for (name, cluster) in &definitions.touched {
        let name = name.as_str().as_bytes();
        match cluster {
            Some(cluster) => {
                let header = record::encode(&v1::Cluster::from(cluster.as_ref()));
                definitions.clusters.insert(name, header.as_slice())?;
            }
            None => {
                definitions.clusters.remove(name)?;
            }
        }
    }
    Ok(())
}

impl Definitions<'_, '_> {
    /// Carries one change out on the rows. What it means for a cluster beside its nodes is the model's to say.
    fn apply(&mut self, change: &Change) -> Result<(), Failure> {
        let name = &change.cluster;
        let Effect::Updated { created, header, put, removed } = &change.effect else {
            // Also of a cluster that cannot be read: to delete it is the one way to be rid of it.
            self.remove_nodes(name)?;
            self.touched.insert(name.clone(), None);
            return Ok(());
        };
        let before = self.before(name)?;
        if *created && before.is_some() {
            self.remove_nodes(name)?;
        }
        for id in removed {
            self.nodes.remove(node_key(name, id))?;
        }
        for node in put {
            let row = record::encode(&v1::Node::from(node.as_ref()));
            self.nodes.insert(node_key(name, &node.id), row.as_slice())?;
        }
        let without_nodes = Change {
            cluster: name.clone(),
            revision: change.revision,
            effect: Effect::Updated {
                created: *created,
                header: header.clone(),
                put: Vec::new(),
                removed: Vec::new(),
            },
        };
        let after = without_nodes.apply(before.as_ref());
        self.touched.insert(name.clone(), after);
        Ok(())
    }

    /// A cluster as it is before a change, without its nodes. One that cannot be read is refused: what is written to
    /// it was worked out by somebody who believed that it is not there.
    fn before(&self, name: &ClusterName) -> Result<Option<Arc<Cluster>>, Failure> {
        if let Some(touched) = self.touched.get(name) {
            return Ok(touched.clone());
        }
        if let Some(reason) = self.quarantine.get(name) {
            return Err(quarantined(name, reason));
        }
        let bytes = name.as_str().as_bytes();
        if let Some(row) = self.clusters.get(bytes)? {
            return match header_of(bytes, row.value()) {
                Ok(cluster) => Ok(Some(Arc::new(cluster))),
                Err(error) => Err(quarantined(name, &chain(&error))),
            };
        }
        if has_nodes(&self.nodes, name)? {
            return Err(quarantined(name, "it has nodes and no header"));
        }
        Ok(None)
    }

    fn remove_nodes(&mut self, name: &ClusterName) -> Result<(), Failure> {
        let start = (name.as_str().as_bytes(), &b""[..]);
        let end = tables::end_of(name.as_str());
        self.nodes.retain_in(start..(end.as_slice(), &b""[..]), |_, _| false)?;
        Ok(())
    }
}

fn quarantined(name: &ClusterName, reason: &str) -> Failure {
    Failure::Refused(CommitError::Refused {
        reason: format!("cluster `{name}` cannot be read and is left alone: {reason}; nothing was submitted"),
    })
}
