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
        let written = self.written.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
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
            return Err(if word(8) > FORMAT { Damage::Newer { found: word(8) } } else { Damage::Checksum });
        }
        match word(8) {
            FORMAT => {}
            0 => return Err(Damage::Alien),
            found => return Err(Damage::Newer { found }),
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
                return Err(Damage::OtherCluster { found: crate::servers::shown(found) });
            }
            None => return Err(Damage::Alien),
        }
        Ok(Self { held: Held::from_event(event)?, written: written.ok_or(Damage::Alien)? })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jcm_model::{
        Change, ClusterState, Effect, Judged, NodeId, Revision, ServerId, Stamp, StoreId, Timestamp, Verdict,
    };

    use super::*;
    use crate::held::Token;

    fn orders() -> ClusterName {
        ClusterName::parse("orders").unwrap()
    }

    fn saved() -> Saved {
        let spec: jcm_model::ClusterSpec = serde_json::from_str(
            r#"{"check":{"kind":"http"},"properties":{"timeout_ms":"300"},
                "nodes":[{"address":"127.0.0.1","ports":{"http":8080},"weight":7,"zone":"z1","labels":{"rack":"a7"}}]}"#,
        )
        .unwrap();
        let node = &spec.nodes[0];
        let node = jcm_model::Node {
            id: NodeId::parse("127.0.0.1:8080").unwrap(),
            address: node.address,
            ports: node.ports.clone(),
            attributes: node.attributes.clone(),
            birth: Revision(3),
        };
        let effect = Effect::Updated {
            created: true,
            header: Some(Arc::new(spec.header)),
            put: vec![Arc::new(node)],
            removed: vec![],
        };
        let cluster = Change { cluster: orders(), revision: Revision(3), effect }.apply(None).unwrap();
        let judged = Judged {
            verdict: Verdict::Degraded,
            birth: Revision(3),
            stamp: Stamp {
                ring_epoch: 1,
                term: 2,
                server: ServerId::parse("s").unwrap(),
                incarnation: 3,
                sequence: 4,
            },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: true,
            stale_since: None,
        };
        let id = NodeId::parse("127.0.0.1:8080").unwrap();
        let state = ClusterState::with_verdicts(cluster, [(id, judged)]);
        Saved {
            held: Held::View {
                store: StoreId(uuid::Uuid::from_u128(5)),
                state: Arc::new(state),
                token: Token::new(vec![1, 2, 3], 2),
            },
            written: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        }
    }

    #[test]
    fn what_was_written_is_read_back() {
        let bytes = saved().to_bytes(&orders()).unwrap();
        assert_eq!(Saved::from_bytes(&orders(), &bytes).unwrap(), saved());
        let gone = Saved {
            held: Held::Removed { store: StoreId(uuid::Uuid::from_u128(5)), revision: Revision(9) },
            ..saved()
        };
        let bytes = gone.to_bytes(&orders()).unwrap();
        assert_eq!(Saved::from_bytes(&orders(), &bytes).unwrap(), gone);
        assert!(Saved { held: Held::Nothing, ..saved() }.to_bytes(&orders()).is_none());
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let bytes = saved().to_bytes(&orders()).unwrap();
        for length in 0..bytes.len() {
            assert!(Saved::from_bytes(&orders(), &bytes[..length]).is_err(), "cut to {length} bytes");
        }
        let longer = [&bytes[..], b"\0"].concat();
        assert!(Saved::from_bytes(&orders(), &longer).is_err(), "a byte too many");
    }

    #[test]
    fn a_file_with_any_bit_flipped_is_refused() {
        let bytes = saved().to_bytes(&orders()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Saved::from_bytes(&orders(), &flipped).is_err(), "bit {bit} flipped");
        }
    }

    #[test]
    fn a_file_of_a_later_format_or_of_another_cluster_is_refused_by_name() {
        let mut later = saved().to_bytes(&orders()).unwrap();
        later[8..12].copy_from_slice(&2_u32.to_le_bytes());
        assert!(matches!(Saved::from_bytes(&orders(), &later), Err(Damage::Newer { found: 2 })));
        let bytes = saved().to_bytes(&orders()).unwrap();
        let other = ClusterName::parse("payments").unwrap();
        assert!(matches!(Saved::from_bytes(&other, &bytes), Err(Damage::OtherCluster { .. })));
    }
}
