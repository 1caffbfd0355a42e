//! Verdicts as they travel, in pieces that every receiver takes.

use std::collections::BTreeSet;

use jcm_model::{ClusterName, Judged, NodeId, ServerId, StoreId};
use jcm_proto::{Malformed, discovery, v1};

use crate::views::Verdicts;

/// Verdicts in one message. Names have at most 128 bytes, so that even the longest stay below 2 MiB.
const VERDICTS_MAX: usize = 4096;

/// Largest message that is sent or taken: what a write may be, as JSON in one piece, with room for how it is written.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What was in a message.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) store: StoreId,
    pub(super) verdicts: Verdicts,
    /// Why the first verdict was left out that cannot be read, and how many were.
    pub(super) unreadable: Option<(Malformed, usize)>,
}

/// The verdicts that these servers stamped, in pieces.
pub(super) fn pieces<'a>(
    store: StoreId,
    verdicts: &'a Verdicts,
    servers: &'a BTreeSet<ServerId>,
    is_news: impl Fn(&Judged) -> bool + Send + 'a,
) -> impl Iterator<Item = v1::follow_response::Verdicts> + Send + 'a {
    let flat = verdicts
        .iter()
        .flat_map(|(cluster, verdicts)| verdicts.iter().map(move |(node, judged)| (cluster, node, judged)));
    let mut wanted =
        flat.filter(move |(_, _, judged)| servers.contains(&judged.stamp.server) && is_news(judged));
    std::iter::from_fn(move || {
        let mut clusters: Vec<v1::ClusterVerdicts> = Vec::new();
        for (cluster, node, judged) in wanted.by_ref().take(VERDICTS_MAX) {
            let verdict = v1::NodeVerdict::new(node, judged);
            match clusters.last_mut().filter(|last| last.cluster == cluster.as_str()) {
                Some(last) => last.verdicts.push(verdict),
                None => clusters
                    .push(v1::ClusterVerdicts { cluster: cluster.to_string(), verdicts: vec![verdict] }),
            }
        }
        let store = store.0.as_bytes().to_vec();
        (!clusters.is_empty()).then_some(v1::follow_response::Verdicts { store, clusters })
    })
}

/// The verdicts in a message. One that cannot be read costs none of the others.
pub(super) fn open(message: v1::follow_response::Verdicts) -> Result<Opened, Malformed> {
    let store = discovery::store_id(&message.store)?;
    let mut opened = Opened { store, verdicts: Verdicts::new(), unreadable: None };
    let mut refuse = |error: Malformed| {
        let (_, count) = opened.unreadable.get_or_insert((error, 0));
        *count += 1;
    };
    for cluster in message.clusters {
        let name = match ClusterName::parse(&cluster.cluster) {
            Ok(name) => name,
            Err(error) => {
                refuse(error.into());
                continue;
            }
        };
        let mut verdicts: Vec<(NodeId, Judged)> = Vec::with_capacity(cluster.verdicts.len());
        for verdict in cluster.verdicts {
            match verdict.try_into() {
                Ok(verdict) => verdicts.push(verdict),
                Err(error) => refuse(error),
            }
        }
        opened.verdicts.entry(name).or_default().append(&mut verdicts);
    }
    Ok(opened)
}
