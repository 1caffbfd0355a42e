//! All definitions on disk, for a start while the store is out of reach.
//!
//! Invariant: what is read back is what one store held at one revision, or nothing: a damaged file is passed over for
//! the one before it, and without either there is only the store. Nothing waits for these files to be written.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{Revision, StoreId};
use jcm_proto::SavedDefinitions;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::data_dir::{DataDir, write_whole};
use crate::snapshot::Snapshot;
use crate::views::Views;

/// How often definitions are written at most: what a crash may lose of them is what the store still has.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// After a file was written, the disk and a core are left alone for so many times as long as that took.
const REST_FACTOR: u32 = 20;

/// The latest file and the one before it.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    latest: PathBuf,
    previous: PathBuf,
    /// Whether the latest is known to be sound: only then it takes the place of the one before it.
    latest_is_sound: bool,
}

impl Files {
    pub(crate) fn of(data_dir: &DataDir) -> Self {
        Self {
            latest: data_dir.file("definitions.snapshot"),
            previous: data_dir.file("definitions.snapshot.previous"),
            latest_is_sound: false,
        }
    }

    /// The newest definitions of the store that can be trusted.
    pub(crate) fn load(&mut self, store: StoreId) -> Option<SavedDefinitions> {
        for (file, is_latest) in [(self.latest.clone(), true), (self.previous.clone(), false)] {
            let bytes = match std::fs::read(&file) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    error!(%error, file = %file.display(), "saved definitions could not be read");
                    continue;
                }
            };
            match SavedDefinitions::decode(&bytes) {
                Ok(saved) if saved.store == store => {
                    self.latest_is_sound |= is_latest;
                    return Some(saved);
                }
                Ok(saved) => {
                    warn!(file = %file.display(), found = %saved.store, expected = %store, "saved definitions are of another store and are left alone");
                }
                Err(error) => {
                    error!(file = %file.display(), error = &error as &dyn std::error::Error, "saved definitions are damaged and are not used");
                }
            }
        }
        None
    }

    fn write(&mut self, snapshot: &Snapshot) -> std::io::Result<usize> {
        let bytes = from_memory(snapshot).encode();
        if self.latest_is_sound {
            // Until the new one is there the one before it is the latest.
            match std::fs::rename(&self.latest, &self.previous) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        write_whole(&self.latest, &bytes)?;
        self.latest_is_sound = true;
        Ok(bytes.len())
    }
}

/// A server's memory as it is saved.
pub(crate) fn from_memory(snapshot: &Snapshot) -> SavedDefinitions {
    SavedDefinitions {
        store: snapshot.store,
        revision: snapshot.revision,
        clusters: snapshot.clusters.values().cloned().collect(),
        quarantined: snapshot.quarantined.iter().map(|(name, why)| (name.clone(), why.to_string())).collect(),
    }
}

/// What was saved, as a server's memory.
pub(crate) fn into_memory(saved: SavedDefinitions) -> Snapshot {
    let quarantined = saved.quarantined.into_iter().map(|(name, why)| (name, Arc::from(why.as_str())));
    Snapshot {
        store: saved.store,
        revision: saved.revision,
        clusters: saved.clusters.into_iter().map(|cluster| (cluster.name.clone(), cluster)).collect(),
        quarantined: quarantined.collect(),
    }
}

/// Writes definitions a moment after they changed, and once more at the end.
pub(crate) async fn keep(mut files: Files, views: Arc<Views>, stop: CancellationToken) {
    let mut written: Option<(StoreId, Revision)> = None;
    let mut pause = WRITE_PAUSE;
    let mut fails = false;
    loop {
        let stopping = tokio::time::timeout(pause, stop.cancelled()).await.is_ok();
        let snapshot = views.snapshot();
        let current = (snapshot.store, snapshot.revision);
        if written != Some(current) {
            let started = Instant::now();
            let mut held = files.clone();
            let outcome = tokio::task::spawn_blocking(move || {
                let outcome = held.write(&snapshot);
                (held, outcome)
            })
            .await;
            match outcome {
                Ok((held, Ok(size_bytes))) => {
                    (files, written) = (held, Some(current));
                    metrics::gauge!("jcm_definitions_file_bytes")
                        .set(u32::try_from(size_bytes).unwrap_or(u32::MAX));
                    if std::mem::take(&mut fails) {
                        info!("definitions are saved to disk again");
                    }
                }
                Ok((held, Err(error))) => {
                    files = held;
                    metrics::counter!("jcm_definitions_file_failures_total").increment(1);
                    if !std::mem::replace(&mut fails, true) {
                        error!(%error, file = %files.latest.display(), "definitions cannot be saved to disk; a restart while the store is out of reach would not know them");
                    }
                }
                Err(error) => warn!(%error, "saving definitions was cut short"),
            }
            pause = WRITE_PAUSE.max(started.elapsed() * REST_FACTOR);
        }
        if stopping {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use imbl::OrdMap;
    use uuid::Uuid;

    use super::*;

    const STORE: StoreId = StoreId(Uuid::from_u128(1));

    fn snapshot(revision: u64) -> Snapshot {
        let revision = Revision(revision);
        Snapshot { store: STORE, revision, clusters: OrdMap::new(), quarantined: OrdMap::new() }
    }

    fn revision(files: &Files) -> Option<u64> {
        let mut afresh = Files { latest_is_sound: false, ..files.clone() };
        afresh.load(STORE).map(|saved| saved.revision.0)
    }

    #[test]
    fn a_damaged_file_is_passed_over_for_the_one_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path(), None).unwrap();
        let mut files = Files::of(&data_dir);
        assert_eq!(revision(&files), None);
        for n in 1..=3 {
            files.write(&snapshot(n)).unwrap();
        }
        assert_eq!(revision(&files), Some(3));
        let whole = std::fs::read(&files.latest).unwrap();
        for damaged in [&whole[..whole.len() / 2], b"", b"JCMSNAP"] {
            std::fs::write(&files.latest, damaged).unwrap();
            assert_eq!(revision(&files), Some(2));
        }
        // A damaged file never takes the place of a sound one.
        let mut restarted = Files::of(&data_dir);
        restarted.load(STORE).unwrap();
        restarted.write(&snapshot(4)).unwrap();
        std::fs::write(&files.latest, b"damaged").unwrap();
        assert_eq!(revision(&files), Some(2));
        std::fs::write(&files.previous, b"damaged").unwrap();
        assert_eq!(revision(&files), None);
    }

    #[test]
    fn definitions_of_another_store_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::open(dir.path(), None).unwrap();
        let mut files = Files::of(&data_dir);
        files.write(&snapshot(1)).unwrap();
        assert!(files.load(StoreId(Uuid::from_u128(2))).is_none());
    }
}
