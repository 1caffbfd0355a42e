//! What is in the znodes: bytes to values and back. Nothing is asked and nothing is decided here.

use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Node, Revision, StoreId};
use jcm_proto::{Malformed, Transaction, record, v1};
use uuid::Uuid;

use super::layout::{chunk_of, chunks_for};

/// The layout of znodes that this version writes. It refuses every later one.
pub(super) const FORMAT: u32 = 1;

/// How many of the latest transactions the head names: what a follower may be behind without listing a block.
const RECENT_MAX: usize = 32;

/// Up to this size the head holds a copy of the latest record: some hundred registrations, so that who follows reads once
/// also under load; and far less than what a request may have beside what is counted of it.
const LATEST_BYTES_MAX: usize = 16 * 1024;

/// Which store an ensemble holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) store: StoreId,
    /// The stores whose place it took, latest last.
    pub(crate) replaces: Vec<StoreId>,
}

impl Identity {
    /// The store's head, when it is at that revision.
    pub(crate) fn head(&self, revision: Revision) -> jcm_model::Head {
        jcm_model::Head { store: self.store, revision }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        record::encode(&v1::StoreIdentity {
            format: FORMAT,
            store: self.store.0.as_bytes().to_vec(),
            replaces: self.replaces.iter().map(|store| store.0.as_bytes().to_vec()).collect(),
        })
    }

    /// The error says why it is refused.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let message: v1::StoreIdentity = record::decode(bytes).map_err(|error| match error {
            Malformed::Newer { found, .. } => newer(u32::from(found)),
            error => format!("its identity cannot be read: {error}"),
        })?;
        if message.format > FORMAT {
            return Err(newer(message.format));
        }
        let id = |bytes: &Vec<u8>| Uuid::from_slice(bytes).map(StoreId);
        let replaces: Result<_, _> = message.replaces.iter().map(id).collect();
        match (id(&message.store), replaces) {
            (Ok(store), Ok(replaces)) => Ok(Self { store, replaces }),
            _ => Err("its identity cannot be read: a uuid has 16 bytes".to_owned()),
        }
    }
}

fn newer(found: u32) -> String {
    format!(
        "its format {found} is newer than {FORMAT}, the latest this version knows; use the version that wrote it"
    )
}

/// Where the change log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) revision: Revision,
    /// The version of its znode, on which a commit is conditional.
    pub(super) version: i32,
    /// The last revisions of the latest transactions, oldest first.
    pub(super) recent: Vec<Revision>,
    /// The record of the latest transaction, where it is there: a copy of what is in the log.
    pub(super) latest: Vec<u8>,
}

impl Head {
    /// The bytes of the head that follows with a transaction that ends at `last`, of which this is the record.
    pub(super) fn next(&self, last: Revision, record: &[u8]) -> (Vec<Revision>, Vec<u8>) {
        let mut recent = self.recent.clone();
        recent.push(last);
        recent.drain(..recent.len().saturating_sub(RECENT_MAX));
        let latest = if record.len() > LATEST_BYTES_MAX { &[] } else { record };
        let bytes = encode_head(last, &recent, latest);
        (recent, bytes)
    }

    /// The bytes that are there.
    pub(super) fn encode(&self) -> Vec<u8> {
        encode_head(self.revision, &self.recent, &self.latest)
    }

    pub(super) fn decode(bytes: &[u8], version: i32) -> Result<Self, Malformed> {
        let message: v1::StoreHead = record::decode(bytes)?;
        let recent: Vec<Revision> = message.recent.into_iter().map(Revision).collect();
        if recent.last().is_some_and(|last| last.0 != message.revision) || !recent.is_sorted() {
            return Err(Malformed::Shape("the head does not name its last transaction"));
        }
        Ok(Self { revision: Revision(message.revision), version, recent, latest: message.latest })
    }

    /// The one transaction that leads here from a revision, with the size of its record. `None`: it is not here, or there
    /// are others before it.
    pub(super) fn latest_after(&self, revision: Revision) -> Option<(Transaction, usize)> {
        let latest = decode_change(self.revision, &self.latest).ok()?;
        (latest.first() == revision.next()).then_some((latest, self.latest.len()))
    }

    /// The ends of all transactions after a revision. `None`: they are too many to be named here.
    pub(super) fn since(&self, revision: Revision) -> Option<&[Revision]> {
        if revision >= self.revision {
            return Some(&[]);
        }
        let at = self.recent.iter().position(|last| *last == revision);
        match at {
            Some(at) => Some(&self.recent[at + 1..]),
            // The log begins with the first of them.
            None if revision == Revision::ZERO && self.recent.len() < RECENT_MAX => Some(&self.recent),
            None => None,
        }
    }
}

fn encode_head(revision: Revision, recent: &[Revision], latest: &[u8]) -> Vec<u8> {
    let recent = recent.iter().map(|last| last.0).collect();
    record::encode(&v1::StoreHead { revision: revision.0, recent, latest: latest.to_vec() })
}

/// The cluster's own znode.
pub(super) fn encode_cluster(cluster: &Cluster) -> Vec<u8> {
    let chunks = chunks_for(cluster.nodes.len());
    let cluster =
        if chunks == 0 { v1::Cluster::from(cluster) } else { v1::Cluster::from(&cluster.without_nodes()) };
    record::encode(&v1::StoredCluster { cluster: Some(cluster), chunks })
}

/// The cluster, so far without nodes that are in chunks, and how many these are.
pub(super) fn decode_cluster(name: &ClusterName, bytes: &[u8]) -> Result<(Cluster, u32), Malformed> {
    let message: v1::StoredCluster = record::decode(bytes)?;
    let cluster = Cluster::try_from(message.cluster.ok_or(Malformed::Missing("cluster"))?)?;
    if cluster.name != *name {
        return Err(Malformed::Shape("the znode holds another cluster"));
    }
    if message.chunks != chunks_for(cluster.nodes.len()) && message.chunks != super::layout::CHUNKS {
        return Err(Malformed::Shape("its nodes are cut in an unknown way"));
    }
    Ok((cluster, message.chunks))
}

pub(super) fn decode_chunk(
    name: &ClusterName,
    chunk: u32,
    bytes: &[u8],
) -> Result<Vec<Arc<Node>>, Malformed> {
    let message: v1::StoredChunk = record::decode(bytes)?;
    if message.cluster != name.as_str() || message.chunk != chunk {
        return Err(Malformed::Shape("the znode holds nodes of another place"));
    }
    let nodes = message.nodes.into_iter().map(|node| Ok(Arc::new(Node::try_from(node)?)));
    let nodes: Vec<Arc<Node>> = nodes.collect::<Result<_, Malformed>>()?;
    if nodes.iter().any(|node| chunk_of(&node.id) != chunk) {
        return Err(Malformed::Shape("the znode holds nodes of another chunk"));
    }
    Ok(nodes)
}

/// The transaction that a record of the change log holds.
pub(super) fn decode_change(last: Revision, bytes: &[u8]) -> Result<Transaction, Malformed> {
    let transaction = Transaction::try_from(record::decode::<v1::Transaction>(bytes)?)?;
    if transaction.last() != last {
        return Err(Malformed::Shape("the record is of another revision"));
    }
    Ok(transaction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_names_what_a_follower_lacks_or_says_that_it_cannot() {
        let mut head = Head { revision: Revision::ZERO, version: 0, recent: Vec::new(), latest: Vec::new() };
        let mut ends = Vec::new();
        for number in 1..=40 {
            let last = Revision(number * 3);
            ends.push(last);
            let (recent, bytes) = head.next(last, &[]);
            head = Head::decode(&bytes, 0).unwrap();
            assert_eq!(head.recent, recent);
            assert_eq!(head.since(Revision::ZERO), (ends.len() < RECENT_MAX).then_some(&ends[..]));
        }
        assert_eq!(head.since(Revision(120)), Some(&[][..]));
        assert_eq!(head.since(Revision(114)), Some(&[Revision(117), Revision(120)][..]));
        assert_eq!(head.since(Revision(115)), None, "no transaction ends there");
        assert_eq!(head.since(Revision(3)), None, "it is too long ago");
    }

    #[test]
    fn a_small_record_lies_in_the_head_for_who_lacks_nothing_else() {
        let operation = jcm_model::OperationId(Uuid::from_u128(1));
        let change = |revision| jcm_model::Change {
            cluster: ClusterName::parse("a").unwrap(),
            revision: Revision(revision),
            effect: jcm_model::Effect::Deleted,
        };
        let entry = |revision| jcm_proto::Entry {
            operation,
            fingerprint: 7,
            principal: "test".to_owned(),
            change: change(revision),
            created: false,
        };
        let transaction = Transaction { epoch: 1, entries: vec![entry(4), entry(5)] };
        let record = record::encode(&v1::Transaction::from(&transaction));
        let before =
            Head { revision: Revision(3), version: 7, recent: vec![Revision(3)], latest: Vec::new() };
        let read = |record: &[u8]| Head::decode(&before.next(Revision(5), record).1, 8).unwrap();
        let head = read(&record);
        assert_eq!(head.latest_after(Revision(3)).unwrap().0.first(), Revision(4));
        for at in [2, 4, 5] {
            assert!(head.latest_after(Revision(at)).is_none(), "{at}: something else is lacking, or nothing");
        }
        assert!(read(&vec![0; LATEST_BYTES_MAX + 1]).latest.is_empty());
        assert!(read(b"not ours").latest_after(Revision(3)).is_none(), "the log is asked");
        let again = Head::decode(&head.encode(), 9).unwrap();
        assert_eq!((again.latest, again.recent), (head.latest, head.recent));
    }

    #[test]
    fn an_identity_of_a_later_version_is_refused_by_its_number() {
        let identity = Identity { store: StoreId(Uuid::new_v4()), replaces: vec![StoreId(Uuid::new_v4())] };
        assert_eq!(Identity::decode(&identity.encode()).unwrap(), identity);
        let message = v1::StoreIdentity { format: 7, store: vec![0; 16], replaces: Vec::new() };
        assert!(
            Identity::decode(&record::encode(&message)).unwrap_err().contains("format 7 is newer than 1")
        );
        assert!(Identity::decode(b"not ours").is_err());
    }
}
