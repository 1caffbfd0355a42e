//! Where things are in ZooKeeper, below the root.
//!
//! ```text
//! /identity                             format, uuid, the uuids whose place it took
//! /epoch  /election  /servers  /ring    the servers (see membership)
//! /stores/<uuid>/head                   the revision
//! /stores/<uuid>/clusters/<xx>/<name>   256 buckets by hash: a cluster, with its nodes while they are few
//! /stores/<uuid>/clusters/<xx>/<name>/<xx>   else its nodes, in chunks by the hash of their ids
//! /stores/<uuid>/changes/<block>/<revision>  a transaction, named by its last revision, in blocks of 1,024 revisions
//! ```
//!
//! Definitions lie under the uuid of their store, so that a restore of any size is built beside them and comes into
//! force with one write to `/identity`. Every commit checks that znode: nobody commits to a store that was replaced.
//!
//! What the names of people become is decided by [`encode`] alone, and [`decode`] is its only way back.

use jcm_model::{ClusterName, NodeId, Revision, StoreId};
use xxhash_rust::xxh3::xxh3_64;

/// Which store this is. Made with the store, and replaced by a restore.
pub(crate) const IDENTITY: &str = "/identity";
/// The parent of all stores.
pub(crate) const STORES: &str = "/stores";

/// Revisions that share a block of the change log: its list of children stays small, and 200,000 operations take 200.
const BLOCK_REVISIONS: u64 = 1024;
/// Buckets of clusters, and of them a list of names at most this long for a hundred thousand clusters: 400.
pub(crate) const BUCKETS: u16 = 256;
/// Up to so many nodes are kept with their cluster: one znode to read for all the small ones.
const NODES_INLINE_MAX: usize = 128;
/// Into so many chunks the nodes of a larger cluster are cut: of 10,000 a chunk holds 156, and registering one node
/// rewrites no more.
pub(crate) const CHUNKS: u32 = 64;

/// The znodes of one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    base: String,
}

impl Layout {
    pub(crate) fn of(store: StoreId) -> Self {
        Self { base: format!("{STORES}/{store}") }
    }

    /// The znode above all the others.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) fn head(&self) -> String {
        format!("{}/head", self.base)
    }

    pub(crate) fn clusters(&self) -> String {
        format!("{}/clusters", self.base)
    }

    /// All buckets of clusters.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = String> + use<'_> {
        (0..BUCKETS).map(|bucket| format!("{}/clusters/{bucket:02x}", self.base))
    }

    pub(crate) fn cluster(&self, name: &ClusterName) -> String {
        let bucket = xxh3_64(name.as_str().as_bytes()) % u64::from(BUCKETS);
        format!("{}/clusters/{bucket:02x}/{}", self.base, encode(name.as_str()))
    }

    pub(crate) fn changes(&self) -> String {
        format!("{}/changes", self.base)
    }

    /// The znode above the records of a block.
    pub(crate) fn block(&self, block: u64) -> String {
        format!("{}/changes/{block:013x}", self.base)
    }

    /// The record of the transaction that ends at a revision.
    pub(crate) fn change(&self, last: Revision) -> String {
        format!("{}/{:016x}", self.block(block_of(last)), last.0)
    }
}

/// A chunk of a cluster's nodes.
pub(crate) fn chunk(cluster: &str, chunk: u32) -> String {
    format!("{cluster}/{chunk:02x}")
}

/// The block in which the record of a transaction is that ends at a revision.
pub(crate) fn block_of(last: Revision) -> u64 {
    last.0 / BLOCK_REVISIONS
}

/// The block that a znode below `changes` is.
pub(crate) fn parse_block(name: &str) -> Option<u64> {
    u64::from_str_radix(name, 16).ok().filter(|block| format!("{block:013x}") == name)
}

/// The revision by which a record is named.
pub(crate) fn parse_change(name: &str) -> Option<Revision> {
    u64::from_str_radix(name, 16).ok().filter(|last| format!("{last:016x}") == name).map(Revision)
}

/// Into how many chunks the nodes of a cluster are cut; 0: they are kept with it. Of the number of nodes alone, so that
/// whoever knows a cluster knows its znodes.
pub(crate) fn chunks_for(nodes: usize) -> u32 {
    if nodes <= NODES_INLINE_MAX { 0 } else { CHUNKS }
}

/// The chunk in which a node is.
pub(crate) fn chunk_of(node: &NodeId) -> u32 {
    u32::try_from(xxh3_64(node.as_str().as_bytes()) % u64::from(CHUNKS)).unwrap_or(0)
}

/// A name as the name of a znode: letters, digits, `-`, `_` and inner dots stay, all else becomes `%XX`.
pub(crate) fn encode(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && at > 0) {
            encoded.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

/// The name that was encoded. `None`: it is not one that [`encode`] makes.
pub(crate) fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let (digits, tail) = rest.split_at_checked(2)?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = tail;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| encode(name) == encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_other_way_to_write_it_does() {
        for name in ["orders", "a.b_c-1", "..", ".", "/", "ünï", "a%2F", "a b", "\u{202e}x", ""] {
            let encoded = encode(name);
            assert!(!encoded.contains('/') && encoded != "." && encoded != "..", "{name:?}: {encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(name));
        }
        for alien in ["a%2f", "%61", "%", "%F", "a/b", "..", "%ZZ", "%FF"] {
            assert_eq!(decode(alien), None, "{alien}");
        }
    }

    #[test]
    fn records_of_neighbouring_revisions_share_a_block() {
        let layout = Layout::of(StoreId(uuid::Uuid::nil()));
        assert!(layout.change(Revision(1023)).ends_with("/changes/0000000000000/00000000000003ff"));
        assert!(layout.change(Revision(1024)).ends_with("/changes/0000000000001/0000000000000400"));
        assert_eq!(parse_block("0000000000001"), Some(1));
        assert_eq!(parse_change("0000000000000400"), Some(Revision(1024)));
        for alien in ["1", "+000000000400", "head", ""] {
            assert_eq!((parse_block(alien), parse_change(alien)), (None, None), "{alien}");
        }
    }
}
