//! The file itself: made whole or not at all, recognised before it is used, opened again after a failed write.
//!
//! The database underneath stops for good at the first failed read or write, and goes on once it is opened again. So
//! a full disk costs the commit that met it, and not the readers.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Builder, Database, DatabaseError, StorageError};
use tracing::info;

use super::tables::{self, FORMAT};
use crate::LoadError;
use crate::store::chain;

/// Definitions are read once, at the start: what is kept is the part of the trees that commits touch.
const CACHE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A way to get at the database, again and again.
type Opener = Box<dyn Fn() -> Result<Database, LoadError> + Send + Sync>;

/// The file of a store.
pub(super) struct DataFile {
    opener: Opener,
    /// `None` while it cannot be opened.
    database: RwLock<Option<Database>>,
}

impl std::fmt::Debug for DataFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataFile").finish_non_exhaustive()
    }
}

impl DataFile {
    /// Opens the file, or makes a new one where there is none.
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let exists = path.try_exists().map_err(|error| unreadable(path, &error))?;
        if !exists {
            create(path)?;
        }
        // Every page is verified once, also after an orderly stop: damage is refused here and met nowhere else.
        let checked = open_database(path, true)?;
        let path = path.to_owned();
        Ok(Self {
            opener: Box::new(move || open_database(&path, false)),
            database: RwLock::new(Some(checked)),
        })
    }

    /// A file that is opened in another way: for tests with a disk that fails.
    #[cfg(test)]
    pub(super) fn with_opener(opener: Opener) -> Result<Self, LoadError> {
        let database = opener()?;
        Ok(Self { opener, database: RwLock::new(Some(database)) })
    }

    /// Whether the last attempt to open it again failed.
    pub(super) fn is_closed(&self) -> bool {
        self.database.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Works on the database. It stays open until the work is done.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Database) -> T) -> Result<T, LoadError> {
        match &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            Some(database) => Ok(work(database)),
            None => Err(LoadError::Unavailable {
                reason: "the store file is closed after a failed write".to_owned(),
            }),
        }
    }

    /// Reads from the database.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, LoadError> {
        self.with(read)?.map_err(|error| match error {
            redb::Error::Corrupted(what) => {
                LoadError::Unusable { reason: format!("the store file is damaged: {what}") }
            }
            error => LoadError::Unavailable { reason: format!("the store file cannot be read: {error}") },
        })
    }

    /// Closes the database and opens it again.
    pub(super) fn reopen(&self) -> Result<(), LoadError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Closed first: the lock on the file goes with it.
        *database = None;
        *database = Some((self.opener)()?);
        Ok(())
    }
}

/// Makes an empty store. It appears under its name when it is complete, so that a crash never leaves half of one; of
/// two processes that try at the same time one finds the other's.
fn create(path: &Path) -> Result<(), LoadError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let draft = tempfile::Builder::new()
        .prefix(".new-store-")
        .tempfile_in(&directory)
        .map_err(|error| unreadable(path, &error))?;
    let database = Builder::new().create(draft.path()).map_err(|error| refusal(path, error))?;
    tables::initialise(&database).map_err(|error| unreadable(path, &error))?;
    drop(database);
    match draft.persist_noclobber(path) {
        Ok(_) => info!(path = %path.display(), "new store file"),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(unreadable(path, &error.error)),
    }
    // Without this the name may be gone after a loss of power, and the first definitions with it.
    std::fs::File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| unreadable(path, &error))
}

fn open_database(path: &Path, verify: bool) -> Result<Database, LoadError> {
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES_MAX)
        .set_check_integrity_on_open(verify)
        .open(path)
        .map_err(|error| refusal(path, error))?;
    let unusable = |reason| Err(LoadError::Unusable { reason: format!("{}: {reason}", path.display()) });
    match tables::format_of(&database).map_err(|error| unreadable(path, &error))? {
        Some(FORMAT) => Ok(database),
        Some(found) if found > FORMAT => unusable(format!(
            "its format {found} is newer than {FORMAT}, the latest this version knows; use the version that wrote it"
        )),
        Some(found) => unusable(format!("it has an unknown format {found}")),
        None => unusable("it is a database, but not one of jcm-server".to_owned()),
    }
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> LoadError {
    LoadError::Unavailable { reason: format!("{}: {}", path.display(), chain(error)) }
}

fn refusal(path: &Path, error: DatabaseError) -> LoadError {
    let reason = match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            let reason = format!("another jcm-server uses this data directory: {} is open", path.display());
            return LoadError::Unavailable { reason };
        }
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            format!("it is no store file: {error}")
        }
        DatabaseError::Storage(StorageError::Corrupted(what)) => {
            format!("it is damaged: {what}; put back a copy")
        }
        DatabaseError::UpgradeRequired(found) => format!("its file format {found} is too old"),
        error => return unreadable(path, &error),
    };
    LoadError::Unusable { reason: format!("{}: {reason}", path.display()) }
}
