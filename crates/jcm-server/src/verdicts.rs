//! The last verdicts on disk, so that a server that was restarted does not begin with ignorance: a node that was down
//! a second ago is not routed to until its first checks are in.
//!
//! It is a convenience and never a truth: what cannot be read is left out, and what was read is marked stale until
//! this run's own checks confirm it. Nothing waits for it to be written.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{ClusterName, Judged, NodeId, StoreId, Timestamp};
use jcm_proto::{Malformed, discovery, record, v1};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::data_dir::write_whole;
use crate::views::Views;

/// How often verdicts are written at most: what a crash may lose of them.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of the checksum in front of the record.
const CHECKSUM_BYTES: usize = 4;

/// Verdicts by cluster and node.
pub(crate) type Remembered = HashMap<(ClusterName, NodeId), Judged>;

/// The verdicts that an earlier run left, marked stale since now. None where there are none that can be trusted.
pub(crate) fn load(file: &Path, store: StoreId) -> Remembered {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Remembered::new(),
        Err(error) => {
            warn!(%error, file = %file.display(), "the last verdicts could not be read, starting without them");
            return Remembered::new();
        }
    };
    match decode(&bytes, store) {
        Ok(remembered) => {
            info!(nodes = remembered.len(), "resuming from the last verdicts");
            remembered
        }
        Err(error) => {
            warn!(%error, file = %file.display(), "the last verdicts are damaged or not of this store, starting without them");
            Remembered::new()
        }
    }
}

/// Writes verdicts whenever some turned, and once more at the end.
pub(crate) async fn keep(file: PathBuf, views: Arc<Views>, stop: CancellationToken) {
    let mut written = views.sequence();
    loop {
        let stopping = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(WRITE_PAUSE) => false,
        };
        let sequence = views.sequence();
        if sequence != written {
            let (file, views) = (file.clone(), Arc::clone(&views));
            let write = move || write_whole(&file, &encode(&views));
            match tokio::task::spawn_blocking(write).await {
                Ok(Ok(())) => written = sequence,
                Ok(Err(error)) => warn!(%error, "the last verdicts could not be written"),
                Err(error) => warn!(%error, "writing the last verdicts was cut short"),
            }
        }
        if stopping {
            return;
        }
    }
}

fn encode(views: &Views) -> Vec<u8> {
    let clusters = views.verdicts(|cluster, verdicts| v1::ClusterVerdicts {
        cluster: cluster.to_string(),
        verdicts: verdicts.map(|(id, judged)| v1::NodeVerdict::new(id, judged)).collect(),
    });
    let body = record::encode(&v1::VerdictSnapshot {
        store: views.snapshot().store.0.as_bytes().to_vec(),
        clusters,
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
    let mut remembered = Remembered::new();
    for cluster in snapshot.clusters {
        let name = ClusterName::parse(&cluster.cluster)?;
        for verdict in cluster.verdicts {
            let (id, judged) = <(NodeId, Judged)>::try_from(verdict)?;
            let stale_since = judged.stale_since.or(Some(now));
            remembered.insert((name.clone(), id), Judged { stale_since, ..judged });
        }
    }
    Ok(remembered)
}
