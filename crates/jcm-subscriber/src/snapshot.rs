//! The last view of a cluster as a file's bytes.
//!
//! ```text
//! offset  bytes
//!      0      8  "JCMSNAP\n"
//!      8      4  format version, little endian
//!     12      4  CRC-32 of everything after it
//!     16      8  milliseconds since 1970 at which it was written; for people
//!     24      …  a protobuf `WatchResponse`: a `View` with its resume token, or `Removed`
//! ```
//!
//! Invariant: bytes that were cut, flipped or written by a later version are refused, never read in part.

use std::time::{Duration, SystemTime};

use jcm_model::ClusterName;
use jcm_proto::Malformed;
use jcm_proto::v1::{self, watch_response};
use prost::Message;

use crate::held::Held;

const MAGIC: &[u8; 8] = b"JCMSNAP\n";
const FORMAT: u32 = 1;
const HEAD_BYTES: usize = 24;

/// What was held of a cluster, and when it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Saved {
    pub(crate) held: Held,
    pub(crate) written: SystemTime,
}

/// Bytes that are no snapshot of the cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is cut short")]
    Short,
    #[error("it is no snapshot")]
    Alien,
    #[error("format version {found} is newer than the {FORMAT} this version knows")]
    Newer { found: u32 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is of cluster `{found}`")]
    OtherCluster { found: String },
    #[error("its content is invalid")]
    Content(#[from] Malformed),
}

impl Saved {
    /// The bytes of a file; `None` when nothing is held.
    pub(crate) fn to_bytes(&self, cluster: &ClusterName) -> Option<Vec<u8>> {
        let event = self.held.to_event(cluster)?;
        let written = self
            .written
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let written = u64::try_from(written.as_millis()).unwrap_or(u64::MAX);
        let body = v1::WatchResponse { event: Some(event) };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.encoded_len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&written.to_le_bytes());
        body.encode(&mut bytes).expect("a vector grows as needed");
        let checksum = crc32fast::hash(&bytes[16..]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        Some(bytes)
    }

    /// Reads the bytes of a file.
    pub(crate) fn from_bytes(cluster: &ClusterName, bytes: &[u8]) -> Result<Self, Damage> {
        let (head, body) = bytes.split_at_checked(HEAD_BYTES).ok_or(Damage::Short)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("4 of 24 bytes"));
        if head[..8] != MAGIC[..] {
            return Err(Damage::Alien);
        }
        if word(12) != crc32fast::hash(&bytes[16..]) {
            // A later version may place its checksum elsewhere; say what is more useful to know.
            return Err(if word(8) > FORMAT {
                Damage::Newer { found: word(8) }
            } else {
                Damage::Checksum
            });
        }
        if word(8) != FORMAT {
            return Err(Damage::Newer { found: word(8) });
        }
        let written = u64::from_le_bytes(head[16..].try_into().expect("8 of 24 bytes"));
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(written));
        let event = v1::WatchResponse::decode(body).map_err(Malformed::from)?.event;
        let event = event.ok_or(Malformed::Missing("event"))?;
        let found = match &event {
            watch_response::Event::View(view) => view.cluster.as_ref().map(|cluster| cluster.name.as_str()),
            watch_response::Event::Removed(removed) => Some(removed.cluster.as_str()),
            _ => None,
        };
        match found {
            Some(found) if found == cluster.as_str() => {}
            Some(found) => {
                return Err(Damage::OtherCluster {
                    found: crate::servers::shown(found),
                });
            }
            None => return Err(Damage::Alien),
        }
        Ok(Self {
            held: Held::from_event(event)?,
            written: written.ok_or(Damage::Alien)?,
        })
    }
}
