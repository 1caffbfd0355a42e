//! What checks found of a node, and the stamp that orders one finding against another.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Revision, ServerId};

/// What checks found of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Never judged in its present form, or not checked at all.
    #[default]
    Unknown,
    /// Its checks succeed.
    Healthy,
    /// Reachable, but too many of its recent checks failed.
    Degraded,
    /// Its checks failed often enough in a row.
    Down,
}

impl Verdict {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who judged, and when in the order of judging. Compared field by field in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The ring under which the judge owned the node.
    pub ring_epoch: u64,
    /// Rises when a substitute takes a node over, and again when the owner takes it back.
    pub term: u64,
    /// The server that judged.
    pub server: ServerId,
    /// How often that server has started on its data directory.
    pub incarnation: u64,
    /// Rises with each verdict of that incarnation.
    pub sequence: u64,
}

/// A verdict with all that is needed to order, show and drop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What was found.
    pub verdict: Verdict,
    /// The form of the node that was checked: the revision at which it was added or its address, ports or check changed.
    pub birth: Revision,
    /// Who judged, and in which order.
    pub stamp: Stamp,
    /// Since when the node has this verdict. For people; nothing is decided by it.
    pub since: Timestamp,
    /// Whether a `down` rests on one server's word, because nobody else could be asked.
    pub single_vantage: bool,
    /// Since when the judge has been silent; the verdict is the last one known.
    pub stale_since: Option<Timestamp>,
}

impl Judged {
    /// Whether this verdict says more than `held`: it is of a later form of the node, or of the same form and stamped later.
    pub fn supersedes(&self, held: &Self) -> bool {
        (self.birth, &self.stamp) > (held.birth, &held.stamp)
    }

    /// Whether both are of one form of the node and stamped alike, but for the sequence.
    pub fn is_of_same_judge(&self, other: &Self) -> bool {
        let prefix = |judged: &Self| {
            let Stamp { ring_epoch, term, incarnation, .. } = judged.stamp;
            (judged.birth, ring_epoch, term, incarnation)
        };
        prefix(self) == prefix(other) && self.stamp.server == other.stamp.server
    }
}

/// Whether both say the same. The very same value is not looked at.
pub fn same(a: Option<&Judged>, b: Option<&Judged>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => std::ptr::eq(a, b) || a == b,
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(birth: u64, ring_epoch: u64, term: u64, sequence: u64) -> Judged {
        let server = ServerId::parse("s1").unwrap();
        Judged {
            verdict: Verdict::Healthy,
            birth: Revision(birth),
            stamp: Stamp { ring_epoch, term, server, incarnation: 1, sequence },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: false,
            stale_since: None,
        }
    }

    #[test]
    fn a_later_ring_outranks_a_later_sequence() {
        assert!(judged(1, 2, 0, 1).supersedes(&judged(1, 1, 9, 99)));
        assert!(judged(1, 1, 1, 1).supersedes(&judged(1, 1, 0, 99)));
        assert!(judged(2, 1, 1, 1).supersedes(&judged(1, 9, 9, 9)));
        assert!(!judged(1, 1, 1, 1).supersedes(&judged(1, 1, 1, 1)));
    }
}
