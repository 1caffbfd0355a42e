//! The file that holds all definitions of a store: what a server keeps for when its store is out of reach, and what
//! people keep for when it is gone.
//!
//! A head of 32 bytes (magic with the format's version, length of the body, its 128-bit checksum), then the body:
//! records with their lengths in front, the first of which says what follows. A file that was cut, or in which one bit
//! is not what was written, is refused as a whole: half of all definitions looks just like a deletion of the others.

use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Revision, StoreId};
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

use crate::{Malformed, discovery, record, v1};

/// What every such file begins with; the last byte is the version of the format.
const MAGIC: [u8; 8] = *b"JCMSNAP\x01";

const HEAD_BYTES: usize = 32;

/// Bytes of clusters in one record, before packing: large enough to pack well, far below what a record may unpack to.
const BATCH_BYTES: usize = 256 * 1024;

/// All definitions of a store at one revision, as they stand in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedDefinitions {
    /// The store that they are of.
    pub store: StoreId,
    /// The revision that all of it was at.
    pub revision: Revision,
    /// Every cluster, in the order of names.
    pub clusters: Vec<Arc<Cluster>>,
    /// Clusters that were there and could not be read, with the reason.
    pub quarantined: Vec<(ClusterName, String)>,
}

impl SavedDefinitions {
    /// How many nodes there are in all clusters.
    pub fn node_count(&self) -> usize {
        self.clusters.iter().map(|cluster| cluster.nodes.len()).sum()
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let quarantined = self.quarantined.iter().map(|(cluster, reason)| {
            let (cluster, reason) = (cluster.to_string(), reason.clone());
            v1::snapshot_head::Quarantined { cluster, reason }
        });
        let head = v1::SnapshotHead {
            store: self.store.0.as_bytes().to_vec(),
            revision: self.revision.0,
            clusters: self.clusters.len() as u64,
            nodes: self.node_count() as u64,
            quarantined: quarantined.collect(),
        };
        let mut file = vec![0; HEAD_BYTES];
        push(&mut file, &record::encode(&head));
        let mut batch = v1::SnapshotBatch::default();
        let mut batch_bytes = 0;
        for cluster in &self.clusters {
            let message = v1::Cluster::from(cluster.as_ref());
            batch_bytes += message.encoded_len();
            batch.clusters.push(message);
            if batch_bytes >= BATCH_BYTES {
                push(&mut file, &record::encode(&batch));
                (batch, batch_bytes) = (v1::SnapshotBatch::default(), 0);
            }
        }
        if !batch.clusters.is_empty() {
            push(&mut file, &record::encode(&batch));
        }
        let (length, checksum) = ((file.len() - HEAD_BYTES) as u64, xxh3_128(&file[HEAD_BYTES..]));
        file[..8].copy_from_slice(&MAGIC);
        file[8..16].copy_from_slice(&length.to_le_bytes());
        file[16..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
        file
    }

    /// Reads a file, all of it or nothing.
    pub fn decode(file: &[u8]) -> Result<Self, Malformed> {
        let (head, body) =
            file.split_first_chunk::<HEAD_BYTES>().ok_or(Malformed::Shape("the file is cut short"))?;
        let (magic, version) = (&head[..7], head[7]);
        if magic != &MAGIC[..7] {
            return Err(Malformed::Shape("the file is no snapshot of definitions"));
        }
        if head[8..16] != (body.len() as u64).to_le_bytes() {
            return Err(Malformed::Shape("the file is cut short, or something follows it"));
        }
        if head[16..] != xxh3_128(body).to_le_bytes() {
            return Err(Malformed::Shape("the checksum does not fit: the file is damaged"));
        }
        // After the checksum, which a later version computes alike: a damaged byte must not pass for a later version.
        if version != MAGIC[7] {
            return Err(Malformed::Newer { found: version, known: MAGIC[7] });
        }
        let mut rest = body;
        let head: v1::SnapshotHead = record::decode(take(&mut rest)?)?;
        let mut clusters = Vec::new();
        while !rest.is_empty() {
            let batch: v1::SnapshotBatch = record::decode(take(&mut rest)?)?;
            for cluster in batch.clusters {
                clusters.push(Arc::new(Cluster::try_from(cluster)?));
            }
        }
        if !clusters.is_sorted_by(|a, b| a.name < b.name) {
            return Err(Malformed::Shape("the clusters of a snapshot stand in the order of their names"));
        }
        let mut quarantined = Vec::new();
        for one in head.quarantined {
            quarantined.push((ClusterName::parse(&one.cluster)?, one.reason));
        }
        let saved = Self {
            store: discovery::store_id(&head.store)?,
            revision: Revision(head.revision),
            clusters,
            quarantined,
        };
        if (saved.clusters.len() as u64, saved.node_count() as u64) != (head.clusters, head.nodes) {
            return Err(Malformed::Shape("the snapshot does not hold what it says"));
        }
        Ok(saved)
    }
}

fn push(file: &mut Vec<u8>, record: &[u8]) {
    file.extend_from_slice(&(record.len() as u64).to_le_bytes());
    file.extend_from_slice(record);
}

fn take<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let cut = || Malformed::Shape("a record of the snapshot is cut short");
    let (length, after) = rest.split_first_chunk::<8>().ok_or_else(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| cut())?;
    let (record, after) = after.split_at_checked(length).ok_or_else(cut)?;
    *rest = after;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use jcm_model::Header;
    use jcm_model::cluster::ClusterSpec;
    use uuid::Uuid;

    use super::*;

    fn cluster(name: &str, revision: u64, nodes: u16) -> Arc<Cluster> {
        let node = |port| {
            format!(
                r#"{{ "address": "127.0.0.1", "ports": {{ "http": {port} }}, "labels": {{ "rack": "a{port}" }} }}"#
            )
        };
        let nodes: Vec<String> = (1..=nodes).map(node).collect();
        let text = format!(r#"{{ "properties": {{ "a": "1" }}, "nodes": [{}] }}"#, nodes.join(","));
        let spec: ClusterSpec = serde_json::from_str(&text).unwrap();
        let header: Header = spec.header;
        let nodes = spec.nodes.into_iter().map(|node| {
            let revision = Revision(revision);
            Arc::new(jcm_model::Node {
                id: node.id.clone().unwrap_or_else(|| node.default_id()),
                address: node.address,
                ports: node.ports.clone(),
                attributes: node.attributes.clone(),
                birth: revision,
            })
        });
        let mut nodes: Vec<Arc<jcm_model::Node>> = nodes.collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        Arc::new(Cluster {
            name: ClusterName::parse(name).unwrap(),
            revision: Revision(revision),
            created: Revision(1),
            check_changed: Revision(1),
            check: Arc::new(header.check()),
            header: Arc::new(header),
            nodes,
        })
    }

    fn saved() -> SavedDefinitions {
        SavedDefinitions {
            store: StoreId(Uuid::from_u128(7)),
            revision: Revision(42),
            clusters: vec![cluster("a", 40, 3), cluster("b", 42, 0)],
            quarantined: vec![(ClusterName::parse("c").unwrap(), "no record".to_owned())],
        }
    }

    #[test]
    fn a_snapshot_reads_back() {
        let saved = saved();
        assert_eq!(SavedDefinitions::decode(&saved.encode()).unwrap(), saved);
    }

    #[test]
    fn definitions_of_several_batches_read_back() {
        let clusters = (0..40).map(|n| cluster(&format!("c{n:03}"), n + 1, 300)).collect();
        let saved = SavedDefinitions { clusters, ..saved() };
        let plain: usize = saved.clusters.iter().map(|c| v1::Cluster::from(c.as_ref()).encoded_len()).sum();
        assert!(plain > 2 * BATCH_BYTES, "{plain} bytes make no two batches");
        assert_eq!(SavedDefinitions::decode(&saved.encode()).unwrap(), saved);
    }

    #[test]
    fn every_cut_every_flipped_bit_and_every_addition_is_noticed() {
        let file = saved().encode();
        for length in 0..file.len() {
            assert!(SavedDefinitions::decode(&file[..length]).is_err(), "cut at {length} of {}", file.len());
        }
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                assert!(SavedDefinitions::decode(&damaged).is_err(), "bit {bit} of byte {at} flipped");
            }
        }
        let mut longer = file;
        longer.push(0);
        assert!(SavedDefinitions::decode(&longer).is_err());
    }

    #[test]
    fn a_later_format_is_refused_by_its_number() {
        let mut file = saved().encode();
        file[7] = 2;
        assert!(matches!(SavedDefinitions::decode(&file), Err(Malformed::Newer { found: 2, known: 1 })));
    }
}
