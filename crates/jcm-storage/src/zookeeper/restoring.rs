//! Putting other definitions in force.
//!
//! In an order in which nothing of the old is lost before the new is whole: they are written below an identity of their
//! own, where nobody reads them; one write of `/identity` puts them in force; then the old ones go. A restore that ends
//! in the middle leaves the old ones in force, and rubbish that the next restore clears.
//!
//! Commits check the identity in their transaction, so none that was worked out on the old definitions can land after
//! that write. Who follows the old store sees what took its place, and follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{Cluster, Revision, StoreId};
use tracing::{info, warn};
use uuid::Uuid;
use zookeeper_client as zk;

use super::chunks::Chunks;
use super::draft::{REQUEST_BYTES_MAX, Write};
use super::fetch::{self, REQUEST_PATIENCE};
use super::identity::{Verdict, judge};
use super::inner::Inner;
use super::layout::{IDENTITY, Layout, STORES, block_of, chunk};
use super::session::CallError;
use super::stored::{Head, Identity, encode_cluster};
use crate::RestoreError;
use crate::restoration::{InForce, Restoration};
use crate::store::chain;

/// What one request of a restore may take: they come one after the other, and leave room for the commits of others.
const BATCH_BYTES_MAX: usize = REQUEST_BYTES_MAX / 2;
/// How long one request may take: a large one is written to the disks of a majority.
const BATCH_PATIENCE: Duration = Duration::from_secs(10);
/// How long clearing away may take. What is left is cleared by the next restore.
const CLEARING_PATIENCE: Duration = Duration::from_mins(1);
/// Znodes that are deleted with one request.
const CLEARING_BATCH: usize = 1_000;

/// What is in force.
struct There {
    identity: Option<(Identity, i32)>,
    /// The children of the parent of all stores.
    stores: Vec<String>,
    head: Revision,
}

impl Inner {
    pub(super) async fn restore(
        &self,
        clusters: Vec<Arc<Cluster>>,
        replaces: Vec<StoreId>,
    ) -> Result<StoreId, RestoreError> {
        // Commits of this server wait: they would only be refused.
        let writer = self.writer.lock().await;
        let there = self.there().await.map_err(|reason| RestoreError::NotRestored { reason })?;
        let (store, replaced) = match &there.identity {
            Some((identity, _)) => (Some(identity.store), identity.replaces.clone()),
            None => (None, Vec::new()),
        };
        // Where the ensemble was wiped, those who hold what it had may follow too.
        let held = self.expected().filter(|id| Some(*id) != store);
        let replaces = replaces.into_iter().chain(held).collect();
        let now = InForce { store, replaced, head: there.head };
        let restoration = Restoration::work_out(clusters, replaces, now)?;
        let layout = Layout::of(restoration.store);
        self.build(&layout, &restoration).await.map_err(|reason| RestoreError::NotRestored {
            reason: format!("{reason}; what was there before is in force"),
        })?;
        self.put_in_force(&layout, &restoration, there.identity.map(|(_, version)| version)).await?;
        info!(store = %restoration.store, clusters = restoration.clusters.len(), "the store was restored");
        // From here on it is restored, whatever comes.
        if let Err(error) = self.recognise().await {
            warn!(%error, "the restored store is not followed yet");
        }
        // Clearing takes its time, and touches nothing that is in force.
        drop(writer);
        let old = there.stores.iter().filter(|name| **name != restoration.store.to_string());
        if tokio::time::timeout(CLEARING_PATIENCE, self.clear(old)).await.is_err() {
            warn!(
                "what the restored store replaced is not all cleared away; the next restore goes on with it"
            );
        }
        Ok(restoration.store)
    }

    /// Finds out what is in force.
    async fn there(&self) -> Result<There, String> {
        let session = &self.session;
        fetch::sync(session, Instant::now() + REQUEST_PATIENCE).await.map_err(|error| chain(&error))?;
        let found = fetch::identity(session).await.map_err(|error| chain(&error))?;
        let identity = match judge(self.expected(), found) {
            Verdict::Ours { identity, version } => Some((identity, version)),
            // Another store, or one that nobody here can read, is somebody else's to restore; an empty ensemble is not.
            Verdict::Make | Verdict::Emptied(_) => None,
            Verdict::Alien(reason) => return Err(reason),
        };
        let stores = fetch::children(session, STORES).await.map_err(|error| chain(&error))?;
        // Also what this server holds counts, where the ensemble has lost it.
        let mut head = self.state().latest_held();
        if let Some((identity, _)) = &identity {
            let deadline = Instant::now() + REQUEST_PATIENCE;
            let found = fetch::head(session, &Layout::of(identity.store), deadline).await;
            match found.map_err(|error| chain(&error))? {
                Some(Ok(found)) => head = head.max(found.revision),
                Some(Err(reason)) => warn!(reason, "the head of the store that is replaced cannot be read"),
                None => {}
            }
        }
        Ok(There { identity, stores: stores.unwrap_or_default(), head })
    }

    /// Writes everything where nobody reads it yet.
    async fn build(&self, layout: &Layout, restoration: &Restoration) -> Result<(), String> {
        let create = |path: String| Write::Create { path, data: Vec::new() };
        match self.write(vec![create(STORES.to_owned())]).await {
            Ok(())
            | Err(CallError::Refused(zk::MultiWriteError::OperationFailed {
                source: zk::Error::NodeExists,
                ..
            })) => {}
            Err(error) => return Err(chain(&error)),
        }
        let head = Head { revision: restoration.head, version: 0, recent: Vec::new(), latest: Vec::new() };
        let mut batch = vec![
            create(layout.base().to_owned()),
            Write::Create { path: layout.head(), data: head.encode() },
            create(layout.changes()),
            create(layout.block(block_of(restoration.head))),
            create(layout.clusters()),
        ];
        batch.extend(layout.buckets().map(create));
        let mut batch_bytes: usize = batch.iter().map(|write| write.size_bytes() + self.root_bytes).sum();
        for (name, cluster) in &restoration.clusters {
            for write in creation(&layout.cluster(name), cluster) {
                let size_bytes = write.size_bytes() + self.root_bytes;
                if size_bytes > REQUEST_BYTES_MAX {
                    return Err(format!(
                        "cluster `{name}` takes {size_bytes} bytes, over the limit of {REQUEST_BYTES_MAX}"
                    ));
                }
                if batch_bytes + size_bytes > BATCH_BYTES_MAX {
                    self.write(std::mem::take(&mut batch)).await.map_err(|error| chain(&error))?;
                    batch_bytes = 0;
                }
                batch_bytes += size_bytes;
                batch.push(write);
            }
        }
        self.write(batch).await.map_err(|error| chain(&error))
    }

    /// Writes some znodes with one request.
    async fn write(&self, writes: Vec<Write>) -> Result<(), CallError<zk::MultiWriteError>> {
        let options = zk::CreateMode::Persistent.with_acls(self.session.acls());
        let request = self.session.call(Instant::now() + BATCH_PATIENCE, |client| async move {
            let mut writer = client.new_multi_writer();
            for write in &writes {
                match write {
                    Write::Create { path, data } => writer.add_create(path, data, &options)?,
                    Write::Set { path, data } => writer.add_set_data(path, data, None)?,
                    Write::Delete { path } => writer.add_delete(path, None)?,
                }
            }
            writer.commit().await
        });
        request.await.map(|_| ())
    }

    /// The one write that counts. `version` is that of the identity which is there.
    async fn put_in_force(
        &self,
        layout: &Layout,
        restoration: &Restoration,
        version: Option<i32>,
    ) -> Result<(), RestoreError> {
        let identity = Identity { store: restoration.store, replaces: restoration.replaced.clone() }.encode();
        let options = zk::CreateMode::Persistent.with_acls(self.session.acls());
        let (identity, head) = (&identity, layout.head());
        let request = self.session.call(Instant::now() + BATCH_PATIENCE, |client| async move {
            let mut writer = client.new_multi_writer();
            match version {
                Some(version) => writer.add_set_data(IDENTITY, identity, Some(version))?,
                None => writer.add_create(IDENTITY, identity, &options)?,
            }
            // Whoever cleared it away meanwhile began with the head.
            writer.add_check_version(&head, 0)?;
            writer.commit().await
        });
        match request.await {
            Ok(_) => Ok(()),
            Err(CallError::Unknown { reason }) => {
                self.find_out_restored(restoration.store, version, reason).await
            }
            Err(error @ CallError::Refused(_)) => Err(RestoreError::NotRestored {
                reason: format!("somebody else restored the store meanwhile: {}", chain(&error)),
            }),
            Err(error) => Err(RestoreError::NotRestored { reason: chain(&error) }),
        }
    }

    /// Finds out what became of that write when no answer came.
    async fn find_out_restored(
        &self,
        store: StoreId,
        version: Option<i32>,
        reason: String,
    ) -> Result<(), RestoreError> {
        let unknown = |reason: String| RestoreError::Unknown { reason };
        let deadline = Instant::now() + BATCH_PATIENCE;
        fetch::sync(&self.session, deadline).await.map_err(|error| unknown(chain(&error)))?;
        let found = fetch::identity(&self.session).await.map_err(|error| unknown(chain(&error)))?;
        match found {
            Some((Ok(identity), _)) if identity.store == store => Ok(()),
            // It may still be on its way.
            Some((_, now)) if Some(now) == version => Err(unknown(reason)),
            None if version.is_none() => Err(unknown(reason)),
            _ => Err(RestoreError::NotRestored { reason }),
        }
    }

    /// Deletes stores that are not in force, each beginning with its head.
    async fn clear(&self, stores: impl Iterator<Item = &String>) {
        for store in stores {
            // What has another name was not made here.
            let Ok(id) = Uuid::parse_str(store) else { continue };
            let layout = Layout::of(StoreId(id));
            if let Err(error) = self.clear_one(&layout).await {
                warn!(%store, reason = error, "a store that is not in force any more is not all cleared away");
            }
        }
    }

    async fn clear_one(&self, layout: &Layout) -> Result<(), String> {
        self.delete(vec![layout.head()]).await?;
        // Parents before their children; deleted in the other order.
        let mut found = vec![layout.base().to_owned()];
        let mut next = 0;
        while next < found.len() {
            let level: Vec<String> = found[next..].to_vec();
            next = found.len();
            let listed =
                fetch::children_of_many(&self.session, &level).await.map_err(|error| chain(&error))?;
            for (parent, children) in level.iter().zip(listed) {
                found.extend(children.into_iter().map(|child| format!("{parent}/{child}")));
            }
        }
        found.reverse();
        for batch in found.chunks(CLEARING_BATCH) {
            self.delete(batch.to_vec()).await?;
        }
        Ok(())
    }

    /// Deletes these; none of them there is as good.
    async fn delete(&self, paths: Vec<String>) -> Result<(), String> {
        let writes = paths.into_iter().map(|path| Write::Delete { path }).collect();
        match self.write(writes).await {
            Ok(())
            | Err(CallError::Refused(zk::MultiWriteError::OperationFailed {
                source: zk::Error::NoNode,
                ..
            })) => Ok(()),
            Err(error) => Err(chain(&error)),
        }
    }
}

/// Everything that makes a cluster where none is.
fn creation(path: &str, cluster: &Cluster) -> Vec<Write> {
    let mut writes = vec![Write::Create { path: path.to_owned(), data: encode_cluster(cluster) }];
    let chunks = Chunks::of(cluster);
    let records = chunks.records(&cluster.name, |_| true);
    writes.extend(records.map(|(number, data)| Write::Create { path: chunk(path, number), data }));
    writes
}
