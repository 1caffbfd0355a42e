//! How far what is held can be relied on.

use std::time::{Duration, Instant, SystemTime};

use jcm_model::Revision;

/// How far what a program holds of a cluster can be relied on. Whatever it is, what is held can be picked from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// A server keeps it up to date.
    Live {
        /// The cluster's revision.
        revision: Revision,
    },
    /// No server keeps it up to date now, or the one that does has lost its store and may be behind it; it is the last
    /// that was known.
    Stale {
        /// Since when.
        age: Duration,
    },
    /// It was read from disk, and no server has confirmed it since this program started.
    Snapshot {
        /// How long ago it was written, by the wall clock.
        age: Duration,
    },
    /// A server said that there is no such cluster.
    Removed {
        /// At which revision of the store it was not there.
        revision: Revision,
    },
    /// Nothing is known yet.
    Unknown,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Live { revision } => write!(f, "live at revision {revision}"),
            Self::Stale { age } => write!(f, "stale for {age:.1?}"),
            Self::Snapshot { age } => write!(f, "from a snapshot written {age:.1?} ago"),
            Self::Removed { revision } => write!(f, "removed by revision {revision}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// The same as moments instead of ages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Live { revision: Revision },
    Stale { since: Instant },
    Snapshot { written: SystemTime },
    Removed { revision: Revision },
    Unknown,
}

impl Standing {
    /// The status as of now.
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Live { revision } => Status::Live { revision },
            Self::Stale { since } => Status::Stale { age: since.elapsed() },
            // A clock that was set back since makes the age 0; nothing is decided by it.
            Self::Snapshot { written } => Status::Snapshot { age: written.elapsed().unwrap_or_default() },
            Self::Removed { revision } => Status::Removed { revision },
            Self::Unknown => Status::Unknown,
        }
    }
}
