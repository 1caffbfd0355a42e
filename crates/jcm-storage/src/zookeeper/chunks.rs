//! The nodes of a large cluster as the bytes of its chunks, so that writing a few of them anew costs what the chunks hold
//! that are touched, and not a look at every node.
//!
//! They belong to one revision of the cluster and say nothing at any other. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Node, NodeId, Revision};
use jcm_proto::{record, wire};

use super::layout::{CHUNKS, chunk_of, chunks_for};

/// Fields of `v1::StoredChunk`.
const CLUSTER: u8 = 1;
const CHUNK: u8 = 2;
const NODES: u8 = 3;

/// The nodes in which something changes, by the chunk that they are in.
pub(super) type Touched<'a> = BTreeMap<u32, BTreeSet<&'a NodeId>>;

/// All chunks of one cluster at one revision. A clone shares their bytes.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    revision: Revision,
    chunks: Vec<Arc<Chunk>>,
}

#[derive(Debug, Clone, Default)]
struct Chunk {
    /// The nodes as they stand in the record, before that is packed; in no order that means anything.
    nodes: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<u32>,
    /// The ids of the nodes, in the same order.
    ids: Vec<u8>,
    id_ends: Vec<u32>,
}

impl Chunks {
    /// The chunks of a cluster; none where its nodes are few.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let count = usize::try_from(chunks_for(cluster.nodes.len())).unwrap_or(0);
        let mut chunks = vec![Chunk::default(); count];
        if count > 0 {
            for node in &cluster.nodes {
                if let Some(chunk) =
                    usize::try_from(chunk_of(&node.id)).ok().and_then(|at| chunks.get_mut(at))
                {
                    chunk.push(node);
                }
            }
        }
        Self { revision: cluster.revision, chunks: chunks.into_iter().map(Arc::new).collect() }
    }

    /// The chunks of a later state of the cluster, in which nothing but these nodes changed.
    pub(super) fn after(&self, cluster: &Cluster, touched: &Touched<'_>) -> Self {
        let mut chunks = self.chunks.clone();
        for (number, ids) in touched {
            let held = usize::try_from(*number).ok().and_then(|at| chunks.get_mut(at));
            if let Some(held) = held {
                *held = Arc::new(held.after(cluster, ids));
            }
        }
        Self { revision: cluster.revision, chunks }
    }

    /// Whether these are the chunks of the cluster as it is.
    pub(super) fn is_of(&self, cluster: &Cluster) -> bool {
        self.revision == cluster.revision && self.chunks.len() == CHUNKS as usize
    }

    /// What they take in memory.
    pub(super) fn size_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.size_bytes()).sum()
    }

    /// The records of these chunks, each with its number.
    pub(super) fn records<'a>(
        &'a self,
        name: &'a ClusterName,
        is_wanted: impl Fn(u32) -> bool + 'a,
    ) -> impl Iterator<Item = (u32, Vec<u8>)> + 'a {
        let mut plain = Vec::new();
        let numbered = (0..).zip(&self.chunks).filter(move |(number, _)| is_wanted(*number));
        numbered.map(move |(number, chunk)| {
            plain.clear();
            wire::put_text(&mut plain, CLUSTER, name.as_str());
            wire::put_number(&mut plain, CHUNK, u64::from(number));
            plain.extend_from_slice(&chunk.nodes);
            (number, record::pack(&plain))
        })
    }
}

impl Chunk {
    fn push(&mut self, node: &Node) {
        wire::put_node(&mut self.nodes, NODES, node);
        self.ids.extend_from_slice(node.id.as_str().as_bytes());
        self.close();
    }

    fn push_as_it_was(&mut self, id: &[u8], node: &[u8]) {
        self.nodes.extend_from_slice(node);
        self.ids.extend_from_slice(id);
        self.close();
    }

    fn close(&mut self) {
        let end = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a cluster is far smaller than 4 GiB");
        self.ends.push(end(&self.nodes));
        self.id_ends.push(end(&self.ids));
    }

    /// Each node's id with its bytes.
    fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        pieces(&self.ids, &self.id_ends).zip(pieces(&self.nodes, &self.ends))
    }

    fn after(&self, cluster: &Cluster, touched: &BTreeSet<&NodeId>) -> Self {
        let ids: BTreeSet<&[u8]> = touched.iter().map(|id| id.as_str().as_bytes()).collect();
        let mut after = Self {
            nodes: Vec::with_capacity(self.nodes.len()),
            ends: Vec::with_capacity(self.ends.len() + ids.len()),
            ids: Vec::with_capacity(self.ids.len()),
            id_ends: Vec::with_capacity(self.id_ends.len() + ids.len()),
        };
        for (id, node) in self.entries().filter(|(id, _)| !ids.contains(id)) {
            after.push_as_it_was(id, node);
        }
        for node in touched.iter().filter_map(|id| cluster.node(id)) {
            after.push(node);
        }
        after
    }

    fn size_bytes(&self) -> usize {
        self.nodes.capacity() + self.ids.capacity() + (self.ends.capacity() + self.id_ends.capacity()) * 4
    }
}

/// Bytes cut at these ends.
fn pieces<'a>(bytes: &'a [u8], ends: &'a [u32]) -> impl Iterator<Item = &'a [u8]> {
    let mut begin = 0;
    ends.iter().map(move |end| {
        let end = *end as usize;
        let piece = &bytes[begin..end];
        begin = end;
        piece
    })
}

#[cfg(test)]
mod tests {
    use jcm_model::{Change, ClusterSpec, Edit, Effect, Mutation, Precondition, TargetPolicy};
    use serde_json::json;

    use super::super::stored::decode_chunk;
    use super::*;

    fn name() -> ClusterName {
        ClusterName::parse("orders").unwrap()
    }

    fn apply(cluster: Option<&Arc<Cluster>>, mutation: &Mutation) -> (Arc<Cluster>, Change) {
        let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
        let mut edit = Edit::new(cluster.cloned());
        let next = edit.revision().unwrap_or(Revision::ZERO).next();
        let change = mutation.change_in(&edit, &name(), Precondition::default(), next, &targets);
        let change = change.unwrap().unwrap();
        edit.apply(&change);
        (edit.to_cluster().unwrap(), change)
    }

    fn nodes(numbers: std::ops::Range<u16>, weight: u16) -> serde_json::Value {
        let node = |n| json!({ "id": format!("n{n}"), "address": "127.0.0.1", "ports": { "http": 1000 + n }, "weight": weight });
        numbers.map(node).collect()
    }

    /// What a reader makes of the records.
    fn read(chunks: &Chunks) -> Vec<Arc<Node>> {
        let mut nodes: Vec<_> = chunks
            .records(&name(), |_| true)
            .flat_map(|(number, bytes)| decode_chunk(&name(), number, &bytes).unwrap())
            .collect();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        nodes
    }

    #[test]
    fn chunks_that_were_carried_on_are_those_of_the_cluster() {
        let spec: ClusterSpec = serde_json::from_value(json!({ "nodes": nodes(0..300, 1) })).unwrap();
        let (mut cluster, _) = apply(None, &Mutation::PutCluster(spec));
        let mut chunks = Chunks::of(&cluster);
        assert_eq!(read(&chunks), cluster.nodes);
        let put =
            |numbers, weight| Mutation::PutNodes(serde_json::from_value(nodes(numbers, weight)).unwrap());
        let gone = (7..20).map(|n| NodeId::parse(&format!("n{n}")).unwrap()).collect();
        for mutation in [put(300..340, 2), put(10..30, 3), Mutation::DeleteNodes(gone), put(5..9, 4)] {
            let (next, change) = apply(Some(&cluster), &mutation);
            let Effect::Updated { put, removed, .. } = &change.effect else { unreachable!() };
            let mut touched = Touched::new();
            for id in put.iter().map(|node| &node.id).chain(removed) {
                touched.entry(chunk_of(id)).or_default().insert(id);
            }
            let after = chunks.after(&next, &touched);
            assert!(after.is_of(&next) && !after.is_of(&cluster));
            assert_eq!(read(&after), next.nodes);
            assert_eq!(read(&chunks), cluster.nodes, "what was there is left alone");
            let name = name();
            let untouched = chunks.records(&name, |number| !touched.contains_key(&number));
            assert!(untouched.eq(after.records(&name, |number| !touched.contains_key(&number))));
            (cluster, chunks) = (next, after);
        }
    }
}
