//! A transaction worked out into writes of znodes. Pure.
//!
//! A cluster of many nodes is cut into chunks, and only those are written in which a node changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use jcm_model::{Cluster, ClusterName, Edit, Effect};
use jcm_proto::Transaction;

use super::chunks::{self, Chunks};
use super::layout::{Layout, chunk, chunk_of, chunks_for};
use super::mirror::{After, Before, quarantined};
use super::stored::encode_cluster;
use crate::CommitError;

/// What one request may take. ZooKeeper cuts the connection, and with it all others in flight, at 1,048,575 bytes; what
/// it adds to a request before it passes it on is well below the difference.
pub(super) const REQUEST_BYTES_MAX: usize = 1_000_000;
/// What an operation takes beside its path and its data: headers, lengths, the access list.
const OPERATION_BYTES: usize = 128;

/// One write of a znode.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write {
    Create { path: String, data: Vec<u8> },
    Set { path: String, data: Vec<u8> },
    Delete { path: String },
}

impl Write {
    /// What it takes in a request, with a root of no bytes before its path.
    pub(super) fn size_bytes(&self) -> usize {
        OPERATION_BYTES
            + match self {
                Self::Create { path, data } | Self::Set { path, data } => path.len() + data.len(),
                Self::Delete { path } => path.len(),
            }
    }
}

/// A transaction worked out.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) writes: Vec<Write>,
    /// The clusters as they are after it.
    pub(super) after: Vec<After>,
}

impl Draft {
    /// Refuses what is too large for one request, together with a root of that many bytes before each path.
    pub(super) fn refuse_oversized(&self, root_bytes: usize) -> Result<(), CommitError> {
        let size_bytes: usize = self.writes.iter().map(|write| write.size_bytes() + root_bytes).sum();
        if size_bytes > REQUEST_BYTES_MAX {
            return Err(CommitError::TooLarge { size_bytes, limit_bytes: REQUEST_BYTES_MAX });
        }
        Ok(())
    }
}

/// What becomes of one cluster.
struct Touched<'a> {
    edit: Edit,
    /// Whether nothing of what was there is kept.
    is_new: bool,
    /// The nodes that changed, by their chunks.
    nodes: chunks::Touched<'a>,
}

/// Works a transaction out on what it touches.
pub(super) fn draft(
    layout: &Layout,
    transaction: &Transaction,
    excerpt: &BTreeMap<ClusterName, Before>,
) -> Result<Draft, CommitError> {
    let mut touched: BTreeMap<&ClusterName, Touched<'_>> = BTreeMap::new();
    for entry in &transaction.entries {
        let change = &entry.change;
        let before = excerpt.get(&change.cluster).unwrap_or(&Before::Absent);
        let touched = touched.entry(&change.cluster).or_insert_with(|| Touched {
            edit: Edit::new(if let Before::There(cluster, _) = before {
                Some(Arc::clone(cluster))
            } else {
                None
            }),
            is_new: false,
            nodes: chunks::Touched::new(),
        });
        match &change.effect {
            Effect::Deleted => touched.is_new = true,
            Effect::Updated { created, put, removed, .. } => {
                if let Before::Quarantined(unreadable) = before
                    && !touched.is_new
                {
                    return Err(quarantined(&change.cluster, &unreadable.reason));
                }
                touched.is_new |= created;
                for id in put.iter().map(|node| &node.id).chain(removed) {
                    touched.nodes.entry(chunk_of(id)).or_default().insert(id);
                }
            }
        }
        touched.edit.apply(change);
    }
    let mut draft = Draft { writes: Vec::new(), after: Vec::new() };
    for (name, touched) in touched {
        let before = excerpt.get(name).unwrap_or(&Before::Absent);
        let now = touched.edit.to_cluster();
        let chunks = now.as_ref().and_then(|now| chunks_after(before, now, &touched));
        let after = After { name: name.clone(), cluster: now, chunks };
        write_cluster(&mut draft.writes, &layout.cluster(name), before, &after, &touched);
        draft.after.push(after);
    }
    Ok(draft)
}

/// The chunks of a cluster as it is now. `None`: it is not cut.
fn chunks_after(before: &Before, now: &Cluster, touched: &Touched<'_>) -> Option<Chunks> {
    if chunks_for(now.nodes.len()) == 0 {
        return None;
    }
    match before {
        Before::There(_, Some(chunks)) if !touched.is_new => Some(chunks.after(now, &touched.nodes)),
        _ => Some(Chunks::of(now)),
    }
}

fn write_cluster(writes: &mut Vec<Write>, path: &str, before: &Before, after: &After, touched: &Touched<'_>) {
    let chunks_before = match before {
        Before::There(cluster, _) => chunks_for(cluster.nodes.len()),
        Before::Absent | Before::Quarantined(_) => 0,
    };
    let chunks_now = after.cluster.as_ref().map_or(0, |cluster| chunks_for(cluster.nodes.len()));
    // Children go before their parent.
    for gone in chunks_now..chunks_before {
        writes.push(Write::Delete { path: chunk(path, gone) });
    }
    if let Before::Quarantined(unreadable) = before {
        writes.extend(
            unreadable.children.iter().map(|child| Write::Delete { path: format!("{path}/{child}") }),
        );
        writes.push(Write::Delete { path: path.to_owned() });
    }
    let is_there = matches!(before, Before::There(..));
    let Some(cluster) = &after.cluster else {
        if is_there {
            writes.push(Write::Delete { path: path.to_owned() });
        }
        return;
    };
    let (path_of_it, data) = (path.to_owned(), encode_cluster(cluster));
    writes.push(if is_there {
        Write::Set { path: path_of_it, data }
    } else {
        Write::Create { path: path_of_it, data }
    });
    let Some(chunks) = &after.chunks else { return };
    let is_written =
        |number: u32| number >= chunks_before || touched.is_new || touched.nodes.contains_key(&number);
    for (number, data) in chunks.records(&cluster.name, is_written) {
        let path = chunk(path, number);
        writes.push(if number >= chunks_before {
            Write::Create { path, data }
        } else {
            Write::Set { path, data }
        });
    }
}
