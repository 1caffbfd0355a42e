//! How many subscribers hold a revision of a cluster: counted on each server from what its streams have acknowledged, and
//! summed up over all of them.
//!
//! Nothing is kept for this but a number and a moment for each cluster of a stream.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jcm_model::{ClusterName, Head, Revision, ServerId, StoreId};
use serde::{Deserialize, Serialize};

use crate::app::App;

/// Subscribers that are named because they lag; the rest is counted. Enough to see a pattern, little to send.
const LAGGING_MAX: usize = 100;

/// How long another server may take to count.
const PEER_DEADLINE: Duration = Duration::from_secs(2);

/// What one server's streams hold.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) subscribers: usize,
    /// Those that hold the revision or a later one.
    pub(crate) reached: usize,
    /// Those that never say what they hold.
    pub(crate) unacknowledged: usize,
    /// Those that do and hold less, the furthest behind first; some of them, when they are many.
    pub(crate) lagging: Vec<Lagging>,
}

/// A subscriber that holds less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lagging {
    pub(crate) peer: String,
    /// What it acknowledged last; 0: nothing yet.
    pub(crate) revision: Revision,
    /// Since then, or since it asked for the cluster.
    pub(crate) age_ms: u64,
}

/// What a stream acknowledged of one of its clusters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acknowledged {
    pub(crate) revision: Revision,
    /// Of which store it is; `None`: of the one that this server follows.
    pub(crate) store: Option<StoreId>,
    pub(crate) at: Instant,
}

/// All servers' streams.
#[derive(Debug)]
pub(crate) struct Convergence {
    pub(crate) servers: Vec<(ServerId, Count)>,
    /// Those that could not be asked, or did not answer.
    pub(crate) missing: Vec<ServerId>,
}

impl Count {
    /// Counts one subscriber; `None`: it does not say what it holds.
    pub(crate) fn add(&mut self, peer: &str, acknowledged: Option<Acknowledged>, wanted: Head, now: Instant) {
        // Revisions of different stores do not compare: who holds another one's holds nothing of this one.
        let acknowledged = acknowledged.map(|acknowledged| match acknowledged.store {
            Some(store) if store != wanted.store => Acknowledged { revision: Revision::ZERO, ..acknowledged },
            _ => acknowledged,
        });
        self.subscribers += 1;
        match acknowledged {
            None => self.unacknowledged += 1,
            Some(Acknowledged { revision, .. }) if revision >= wanted.revision => self.reached += 1,
            Some(Acknowledged { revision, at, .. }) => {
                let age = now.saturating_duration_since(at).as_millis();
                let age_ms = u64::try_from(age).unwrap_or(u64::MAX);
                self.lagging.push(Lagging { peer: peer.to_owned(), revision, age_ms });
                // Cut now and then, so that ten thousand of them are never all in memory.
                if self.lagging.len() >= 2 * LAGGING_MAX {
                    self.cut();
                }
            }
        }
    }

    /// Leaves those that are furthest behind, and of those the ones that have been for longest.
    pub(crate) fn cut(&mut self) {
        self.lagging.sort_by_key(|lagging| (lagging.revision, std::cmp::Reverse(lagging.age_ms)));
        self.lagging.truncate(LAGGING_MAX);
    }
}

impl Convergence {
    /// Asks every server of the roster at once.
    pub(crate) async fn of(app: &App, cluster: &ClusterName, wanted: Head) -> Self {
        let roster = app.roster();
        let others = roster.members.iter().map(|member| &member.id).filter(|id| **id != app.server);
        let ask =
            async |id: &ServerId| (id.clone(), app.peers.count(id, cluster, wanted, PEER_DEADLINE).await);
        let answers = join_all(others.map(ask)).await;
        let mut convergence = Self {
            servers: vec![(app.server.clone(), app.views.count(cluster, wanted))],
            missing: Vec::new(),
        };
        for (id, answer) in answers {
            match answer {
                Ok(count) => convergence.servers.push((id, count)),
                Err(_) => convergence.missing.push(id),
            }
        }
        convergence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_furthest_behind_are_named_and_the_rest_is_counted() {
        let (now, mut count) = (Instant::now(), Count::default());
        let store = StoreId(uuid::Uuid::from_u128(1));
        let wanted = Head { store, revision: Revision(7) };
        let held =
            |revision| Some(Acknowledged { revision: Revision(revision), store: Some(store), at: now });
        count.add("old", None, wanted, now);
        count.add("level", held(7), wanted, now);
        count.add("ahead", held(9), wanted, now);
        for number in 0..1000 {
            count.add(&format!("late {number}"), held(6 - number % 6), wanted, now);
        }
        count.cut();
        assert_eq!((count.subscribers, count.reached, count.unacknowledged), (1003, 2, 1));
        assert_eq!(count.lagging.len(), LAGGING_MAX);
        assert!(count.lagging.iter().all(|lagging| lagging.revision == Revision(1)), "{:?}", count.lagging);
    }

    #[test]
    fn what_was_acknowledged_of_another_store_is_nothing_of_this_one() {
        let (now, mut count) = (Instant::now(), Count::default());
        let store = |number| StoreId(uuid::Uuid::from_u128(number));
        let wanted = Head { store: store(1), revision: Revision(7) };
        for of in [Some(store(1)), Some(store(2)), None] {
            count.add(
                "program",
                Some(Acknowledged { revision: Revision(9), store: of, at: now }),
                wanted,
                now,
            );
        }
        assert_eq!((count.subscribers, count.reached), (3, 2));
        assert_eq!(count.lagging[0].revision, Revision::ZERO);
    }
}
