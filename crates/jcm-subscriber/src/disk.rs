//! Snapshots on disk: one file a cluster, written by one task off everybody's way.
//!
//! A file is written beside its place, synced and renamed; the one before it stays as `.prev`, unless it is damaged. A
//! file that cannot be read is skipped with a warning, never read in part: then the previous one is taken, then none.
//! A cluster is written at once when it changes, and then at most once a second, the latest only.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jcm_model::ClusterName;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::snapshot::Saved;

/// Shortest time between two writes of one cluster: a list that flaps must not wear the disk.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Largest file that is read: what the largest cluster takes, and a bound on what a wrong file costs.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The writer. Clones share the same queue.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    directory: PathBuf,
    /// The latest of each cluster that is not written yet: bounded by the number of clusters.
    pending: Arc<Mutex<BTreeMap<ClusterName, Saved>>>,
    wake: Arc<Notify>,
}

/// What the writing task knows of a cluster's files.
#[derive(Debug, Default)]
struct Written {
    at: Option<Instant>,
    /// The file in place is sound, so it is worth keeping as the previous one.
    sound: bool,
    failing: bool,
}

/// Makes sure that the directory is there.
pub(crate) async fn prepare(directory: PathBuf) -> io::Result<()> {
    blocking(move || fs::create_dir_all(directory)).await
}

/// What was held of a cluster when it was last written. Damage is logged and skipped.
pub(crate) async fn load(directory: PathBuf, cluster: ClusterName) -> Option<Saved> {
    blocking(move || Paths::new(&directory, &cluster).load(&cluster)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("file work neither panics nor is aborted")
}

impl Disk {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, pending: Arc::default(), wake: Arc::default() }
    }

    /// Queues what is to be written; it replaces what waits already.
    pub(crate) fn save(&self, cluster: &ClusterName, saved: Saved) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster.clone(), saved);
        self.wake.notify_one();
    }

    /// Writes until told to stop, and then what still waits. Whoever saves must have ended before.
    pub(crate) async fn run(self, stopped: CancellationToken) {
        let mut written: HashMap<ClusterName, Written> = HashMap::new();
        let mut due: Option<Instant> = None;
        while !stopped.is_cancelled() {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = self.wake.notified() => {}
                () = async { tokio::time::sleep_until(due.expect("guarded")).await }, if due.is_some() => {}
            }
            due = self.write_due(&mut written, Some(Instant::now())).await;
        }
        self.write_due(&mut written, None).await;
    }

    /// Writes what is due at the given moment, or everything. Answers when the next is due.
    async fn write_due(
        &self,
        written: &mut HashMap<ClusterName, Written>,
        now: Option<Instant>,
    ) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut ready = Vec::new();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).retain(|cluster, saved| {
            let due = written.get(cluster).and_then(|written| written.at).map(|at| at + WRITE_INTERVAL);
            if let (Some(due), Some(now)) = (due, now)
                && due > now
            {
                next = Some(next.map_or(due, |next| next.min(due)));
                return true;
            }
            ready.push((cluster.clone(), saved.clone()));
            false
        });
        for (cluster, saved) in ready {
            let record = written.entry(cluster.clone()).or_default();
            self.write(&cluster, saved, record).await;
            record.at = Some(Instant::now());
        }
        next
    }

    async fn write(&self, cluster: &ClusterName, saved: Saved, record: &mut Written) {
        let (paths, name, sound) = (Paths::new(&self.directory, cluster), cluster.clone(), record.sound);
        let outcome = blocking(move || match saved.to_bytes(&name) {
            Some(bytes) => paths.store(&bytes, sound || paths.is_sound(&name)),
            None => Ok(()),
        })
        .await;
        match &outcome {
            Ok(()) if record.failing => info!(%cluster, "snapshot written again"),
            // Once, not every second: what changes is that it fails.
            Err(error) if !record.failing => {
                warn!(%cluster, directory = %self.directory.display(), %error, "snapshot cannot be written");
            }
            Ok(()) | Err(_) => {}
        }
        record.failing = outcome.is_err();
        record.sound = outcome.is_ok();
    }
}

/// Where a cluster's files are. Its name is a valid one, so it is a file's name and nothing more.
#[derive(Debug)]
struct Paths {
    directory: PathBuf,
    current: PathBuf,
    previous: PathBuf,
    unfinished: PathBuf,
}

impl Paths {
    fn new(directory: &Path, cluster: &ClusterName) -> Self {
        let path = |suffix: &str| directory.join(format!("{cluster}.jcm{suffix}"));
        Self {
            directory: directory.to_owned(),
            current: path(""),
            previous: path(".prev"),
            unfinished: path(".tmp"),
        }
    }

    fn load(&self, cluster: &ClusterName) -> Option<Saved> {
        [&self.current, &self.previous].into_iter().find_map(|path| match read(path) {
            Ok(bytes) => match Saved::from_bytes(cluster, &bytes) {
                Ok(saved) => Some(saved),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(%cluster, path = %path.display(), error, "snapshot is not used");
                    None
                }
            },
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                warn!(%cluster, path = %path.display(), %error, "snapshot cannot be read");
                None
            }
        })
    }

    fn is_sound(&self, cluster: &ClusterName) -> bool {
        read(&self.current).is_ok_and(|bytes| Saved::from_bytes(cluster, &bytes).is_ok())
    }

    /// Puts a new file in place. Whatever moment the process ends at, a sound file stays that was there before.
    fn store(&self, bytes: &[u8], keep_current: bool) -> io::Result<()> {
        let mut file = File::create(&self.unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        if keep_current {
            match fs::rename(&self.current, &self.previous) {
                // Somebody took it away; the new one is all the more needed.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        fs::rename(&self.unfinished, &self.current)?;
        // The renames too.
        File::open(&self.directory)?.sync_all()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let length = fs::metadata(path)?.len();
    if length > FILE_BYTES_MAX {
        let reason = format!("it has {length} bytes, the limit is {FILE_BYTES_MAX}");
        return Err(io::Error::new(ErrorKind::FileTooLarge, reason));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use jcm_model::{Revision, StoreId};

    use super::*;
    use crate::held::Held;

    fn saved(revision: u64) -> Saved {
        let store = StoreId(uuid::Uuid::from_u128(1));
        Saved { held: Held::Removed { store, revision: Revision(revision) }, written: SystemTime::UNIX_EPOCH }
    }

    fn place() -> (tempfile::TempDir, ClusterName, Paths) {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterName::parse("orders").unwrap();
        let paths = Paths::new(directory.path(), &cluster);
        (directory, cluster, paths)
    }

    #[test]
    fn a_damaged_file_gives_way_to_the_previous_one_and_does_not_replace_it() {
        let (_directory, cluster, paths) = place();
        let bytes = |revision| saved(revision).to_bytes(&cluster).unwrap();
        paths.store(&bytes(1), false).unwrap();
        paths.store(&bytes(2), paths.is_sound(&cluster)).unwrap();
        assert_eq!(paths.load(&cluster), Some(saved(2)));
        fs::write(&paths.current, &bytes(2)[..30]).unwrap();
        assert_eq!(paths.load(&cluster), Some(saved(1)));
        paths.store(&bytes(3), paths.is_sound(&cluster)).unwrap();
        fs::write(&paths.current, b"").unwrap();
        assert_eq!(
            paths.load(&cluster),
            Some(saved(1)),
            "the damaged file took the place of the previous one"
        );
        fs::remove_file(&paths.previous).unwrap();
        assert_eq!(paths.load(&cluster), None);
    }

    #[test]
    fn a_file_that_no_snapshot_can_be_is_not_read() {
        let (_directory, cluster, paths) = place();
        File::create(&paths.current).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(paths.load(&cluster), None);
    }

    #[tokio::test(start_paused = true)]
    async fn changes_in_a_burst_are_written_once_and_the_last_is_never_lost() {
        let (directory, cluster, paths) = place();
        let stopped = CancellationToken::new();
        let disk = Disk::new(directory.path().to_owned());
        let task = tokio::spawn(disk.clone().run(stopped.clone()));
        for revision in 1..=50 {
            disk.save(&cluster, saved(revision));
        }
        while !disk.pending.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        disk.save(&cluster, saved(51));
        stopped.cancel();
        task.await.unwrap();
        assert_eq!(paths.load(&cluster), Some(saved(51)));
        assert_eq!(Saved::from_bytes(&cluster, &fs::read(&paths.previous).unwrap()).unwrap(), saved(50));
    }
}
