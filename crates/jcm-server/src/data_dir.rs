//! The directory that makes a server itself across restarts: its id, how often it has started, and which store it
//! belongs to. Locked while the server runs, so that two processes are never the same server.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use jcm_model::{ServerId, StoreId};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format that is written. A later one is refused.
const FORMAT: u32 = 1;

/// A locked data directory.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: Identity,
    _lock: File,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    format: u32,
    server: ServerId,
    instance: Uuid,
    incarnation: u64,
    #[serde(default)]
    store: Option<StoreId>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    #[error("data directory {path}: {action}")]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    #[error(
        "data directory {path} is in use by another jcm-server: stop that one, or give this one another directory"
    )]
    InUse { path: PathBuf },
    #[error("{path} cannot be read ({reason}): restore it from a backup, or start with an empty directory")]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{path} has format {found}, newer than the {FORMAT} this version knows: start the version that wrote it"
    )]
    Newer { path: PathBuf, found: u64 },
    #[error(
        "{path} is missing, and this directory belongs to store {store}: restore the file from a backup, or start with an empty directory"
    )]
    StoreMissing { path: PathBuf, store: StoreId },
    #[error(
        "{path} belongs to store {expected}, and the store found is {found}, which did not take its place; nothing was changed: connect this server to the right store, restore a snapshot of {expected} into that one (`jcmctl snapshot restore`), or start with an empty directory"
    )]
    OtherStore { path: PathBuf, expected: StoreId, found: StoreId },
}

impl DataDir {
    /// Opens and locks the directory, creating it where it is not, and counts this start durably.
    pub(crate) fn open(path: &Path, configured: Option<&ServerId>) -> Result<Self, DataDirError> {
        let io = |action| move |source| DataDirError::Io { path: path.to_owned(), action, source };
        fs::create_dir_all(path).map_err(io("cannot be created"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(io("cannot be locked"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => DataDirError::InUse { path: path.to_owned() },
            TryLockError::Error(source) => {
                DataDirError::Io { path: path.to_owned(), action: "cannot be locked", source }
            }
        })?;
        let file = path.join("server.json");
        let mut identity = match fs::read(&file) {
            Ok(bytes) => decode(&file, &bytes)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let instance = Uuid::new_v4();
                let server = ServerId::parse(&format!("jcm-{}", &instance.simple().to_string()[..12]))
                    .expect("hex is a name");
                Identity { format: FORMAT, server, instance, incarnation: 0, store: None }
            }
            Err(source) => {
                return Err(DataDirError::Io { path: file, action: "cannot be read", source });
            }
        };
        if let Some(configured) = configured {
            identity.server = configured.clone();
        }
        identity.incarnation += 1;
        let dir = Self { path: path.to_owned(), identity, _lock: lock };
        dir.save()?;
        Ok(dir)
    }

    /// Binds the directory to the store: once bound, another store is refused.
    pub(crate) fn bind(&mut self, store: StoreId) -> Result<(), DataDirError> {
        match self.identity.store {
            Some(expected) if expected != store => {
                Err(DataDirError::OtherStore { path: self.path.clone(), expected, found: store })
            }
            Some(_) => Ok(()),
            None => {
                self.identity.store = Some(store);
                self.save()
            }
        }
    }

    /// Binds the directory to a store that took the place of the one it is bound to, or was it already.
    pub(crate) fn follow(&mut self, store: StoreId, replaced: &[StoreId]) -> Result<(), DataDirError> {
        if let Some(bound) = self.identity.store
            && replaced.contains(&bound)
        {
            self.identity.store = None;
            let outcome = self.bind(store);
            if outcome.is_err() {
                self.identity.store = Some(bound);
            }
            return outcome;
        }
        self.bind(store)
    }

    /// The store that it is bound to.
    pub(crate) fn store(&self) -> Option<StoreId> {
        self.identity.store
    }

    /// Refuses to go on where a store was, and its file is gone: a new one in its place would look like everything
    /// having been deleted.
    pub(crate) fn refuse_if_store_is_missing(&self, file: &Path) -> Result<(), DataDirError> {
        match self.identity.store {
            Some(store) if !file.exists() => Err(DataDirError::StoreMissing { path: file.to_owned(), store }),
            _ => Ok(()),
        }
    }

    /// Where a file of this server lives.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// This server's id.
    pub(crate) fn server(&self) -> &ServerId {
        &self.identity.server
    }

    /// What tells this directory from every other.
    pub(crate) fn instance(&self) -> Uuid {
        self.identity.instance
    }

    /// How often this server has started here, this time included.
    pub(crate) fn incarnation(&self) -> u64 {
        self.identity.incarnation
    }

    fn save(&self) -> Result<(), DataDirError> {
        let text = serde_json::to_vec_pretty(&self.identity).expect("an identity is JSON");
        write_whole(&self.path.join("server.json"), &text).map_err(|source| DataDirError::Io {
            path: self.path.clone(),
            action: "server.json cannot be written",
            source,
        })
    }
}

fn decode(file: &Path, bytes: &[u8]) -> Result<Identity, DataDirError> {
    let damaged = |reason: String| DataDirError::Damaged { path: file.to_owned(), reason };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(found) if found > u64::from(FORMAT) => Err(DataDirError::Newer { path: file.to_owned(), found }),
        Some(_) => serde_json::from_value(value).map_err(|e| damaged(e.to_string())),
        None => Err(damaged("it has no format".to_owned())),
    }
}

/// Replaces a file in one step, durably: after a crash there is the old content or the new.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::NamedTempFile::new_in(dir)?;
    temporary.write_all(bytes)?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_stays_itself_and_counts_its_starts() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataDir::open(dir.path(), None).unwrap();
        assert!(matches!(DataDir::open(dir.path(), None), Err(DataDirError::InUse { .. })));
        let (server, incarnation) = (first.server().clone(), first.incarnation());
        drop(first);
        let second = DataDir::open(dir.path(), None).unwrap();
        assert_eq!((second.server(), second.incarnation()), (&server, incarnation + 1));
    }

    #[test]
    fn a_newer_or_damaged_identity_and_another_store_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut bound = DataDir::open(dir.path(), None).unwrap();
        bound.bind(StoreId(Uuid::from_u128(1))).unwrap();
        assert!(matches!(bound.bind(StoreId(Uuid::from_u128(2))), Err(DataDirError::OtherStore { .. })));
        // A store that was restored takes the place of the one before it.
        let [one, two, three] = [1, 2, 3].map(|n| StoreId(Uuid::from_u128(n)));
        assert!(matches!(bound.follow(three, &[two]), Err(DataDirError::OtherStore { .. })));
        bound.follow(two, &[three, one]).unwrap();
        drop(bound);
        let mut bound = DataDir::open(dir.path(), None).unwrap();
        assert_eq!(bound.store(), Some(two));
        bound.follow(two, &[]).unwrap();
        drop(bound);
        fs::write(dir.path().join("server.json"), r#"{"format":2,"server":"x"}"#).unwrap();
        assert!(matches!(DataDir::open(dir.path(), None), Err(DataDirError::Newer { found: 2, .. })));
        fs::write(dir.path().join("server.json"), "{").unwrap();
        assert!(matches!(DataDir::open(dir.path(), None), Err(DataDirError::Damaged { .. })));
    }
}
