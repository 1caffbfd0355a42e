//! The last verdicts on disk, so that a server that was restarted does not begin with ignorance: a node that was down
//! a second ago is not routed to until its first checks are in.
//!
//! It is a convenience and never a truth: what cannot be read is left out, and what was read is marked stale until
//! this run's own checks confirm it. Nothing waits for it to be written.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jcm_health::Ring;
use jcm_model::{ClusterName, Judged, NodeId, ServerId, StoreId, Timestamp};
use jcm_proto::{Malformed, discovery, record, v1};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::checker::Asker;
use crate::data_dir::write_whole;
use crate::views::{Verdicts, Views};

/// How often verdicts are written at most: what a crash may lose of them.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of the checksum in front of the record.
const CHECKSUM_BYTES: usize = 4;

/// What an earlier run left.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) verdicts: Verdicts,
    /// The servers that shared the checks, as that run last knew them.
    pub(crate) ring: Ring,
}

/// The verdicts that an earlier run left, marked stale since now. None where there are none that can be trusted.
pub(crate) fn load(file: &Path, store: StoreId) -> Remembered {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Remembered::default(),
        Err(error) => {
            warn!(%error, file = %file.display(), "the last verdicts could not be read, starting without them");
            return Remembered::default();
        }
    };
    match decode(&bytes, store) {
        Ok(remembered) => {
            let nodes: usize = remembered.verdicts.values().map(Vec::len).sum();
            info!(nodes, ring_epoch = remembered.ring.epoch(), "resuming from the last verdicts");
            remembered
        }
        Err(error) => {
            warn!(%error, file = %file.display(), "the last verdicts are damaged or not of this store, starting without them");
            Remembered::default()
        }
    }
}

/// Writes verdicts whenever some turned or the ring changed, and once more at the end.
pub(crate) async fn keep(file: PathBuf, views: Arc<Views>, asker: Asker, stop: CancellationToken) {
    let state = || (views.sequence(), asker.duty().ring().clone());
    let mut written = state();
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(WRITE_PAUSE) => false,
        };
        let now = state();
        if now != written {
            let (file, views, ring) = (file.clone(), Arc::clone(&views), now.1.clone());
            let write = move || write_whole(&file, &encode(&views, &ring));
            match tokio::task::spawn_blocking(write).await {
                Ok(Ok(())) => written = now,
                Ok(Err(error)) => warn!(%error, "the last verdicts could not be written"),
                Err(error) => warn!(%error, "writing the last verdicts was cut short"),
            }
        }
        if stopping {
            return;
        }
    }
}

fn encode(views: &Views, ring: &Ring) -> Vec<u8> {
    let clusters = views.verdicts(|cluster, verdicts| v1::ClusterVerdicts {
        cluster: cluster.to_string(),
        verdicts: verdicts.map(|(id, judged)| v1::NodeVerdict::new(id, judged)).collect(),
    });
    let body = record::encode(&v1::VerdictSnapshot {
        store: views.snapshot().store.0.as_bytes().to_vec(),
        clusters,
        ring_epoch: ring.epoch(),
        ring: ring.servers().iter().map(ServerId::to_string).collect(),
    });
    let mut bytes = crc32fast::hash(&body).to_le_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

fn decode(bytes: &[u8], store: StoreId) -> Result<Remembered, Malformed> {
    let (checksum, body) =
        bytes.split_at_checked(CHECKSUM_BYTES).ok_or(Malformed::Shape("the file is cut short"))?;
    if crc32fast::hash(body).to_le_bytes() != checksum {
        return Err(Malformed::Shape("the checksum does not fit"));
    }
    let snapshot: v1::VerdictSnapshot = record::decode(body)?;
    if discovery::store_id(&snapshot.store)? != store {
        return Err(Malformed::Shape("it belongs to another store"));
    }
    let now = Timestamp::now();
    let servers = snapshot.ring.iter().map(|server| ServerId::parse(server));
    let ring = Ring::new(snapshot.ring_epoch, servers.collect::<Result<Vec<_>, _>>()?);
    let mut verdicts = Verdicts::new();
    for cluster in snapshot.clusters {
        let name = ClusterName::parse(&cluster.cluster)?;
        for verdict in cluster.verdicts {
            let (id, judged) = <(NodeId, Judged)>::try_from(verdict)?;
            let stale_since = judged.stale_since.or(Some(now));
            verdicts.entry(name.clone()).or_default().push((id, Judged { stale_since, ..judged }));
        }
    }
    Ok(Remembered { verdicts, ring })
}
