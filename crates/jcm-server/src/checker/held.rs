//! Which nodes are held because they flap: said once when it begins and once when it is over, and counted.

use std::time::Instant;

use tracing::info;

use super::record::Record;
use super::records::{KeySet, Records};

/// The nodes that are held now.
#[derive(Debug, Default)]
pub(super) struct Held(KeySet);

impl Held {
    /// The node was judged.
    pub(super) fn look(&mut self, record: &Record, now: Instant) {
        let (cluster, node, verdict) = (&record.cluster, &record.node, record.judge.verdict());
        match record.judge.held_until(now) {
            Some(until) if self.0.insert(record.key) => {
                let seconds = until.saturating_duration_since(now).as_secs();
                info!(%cluster, %node, %verdict, seconds, "the node flaps: its verdict is held");
            }
            None if self.0.remove(&record.key) => {
                info!(%cluster, %node, %verdict, "the node is held no longer");
            }
            _ => return,
        }
        self.count();
    }

    /// Nodes that are checked here no longer are held by nobody.
    pub(super) fn forget_gone(&mut self, records: &Records) {
        let before = self.0.len();
        self.0.retain(|key| records.by_key(*key).is_some());
        if self.0.len() != before {
            self.count();
        }
    }

    fn count(&self) {
        metrics::gauge!("jcm_nodes_held").set(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
    }
}
