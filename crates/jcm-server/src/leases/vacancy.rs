//! Places of dead programs that another program may have, and who wants them: between the leader's clearing, which finds out,
//! and the registry, which is asked.
//!
//! A program that is started again under another id finds the node of its predecessor at its own address and port. Clearing
//! away may never make room for it: where checks ask whoever answers there, they find that node fit. So the program has the
//! place itself, in one write that takes the other node away, once nobody has held that one's lease for its whole time. Whether
//! checks find it fit, and how many lapsed with it, does not matter: the cluster has as many nodes as before, and a program that
//! lives says that the place is its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Lapsed, NodeId};

/// Whoever wants a place says so again within this time: several times as long as a program waits between two tries.
const CLAIM_LASTS: Duration = Duration::from_mins(2);

/// Claims beyond which no more are noted: as many as the largest cluster has nodes. What is not noted is found out later.
const CLAIMS_MAX: usize = 20_000;

/// What was found counts for so long: for some rounds of clearing.
const FOUND_LASTS: Duration = Duration::from_secs(3);

/// A handle, of which all copies are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vacancies(Arc<Mutex<State>>);

/// Nodes at whose place another program wants to be, and when it said so last.
pub(crate) type Claims = HashMap<ClusterName, HashMap<NodeId, Instant>>;

/// Nodes whose lease nobody has held for its whole time.
pub(crate) type Vacant = HashMap<ClusterName, HashMap<NodeId, Lapsed>>;

#[derive(Debug, Default)]
struct State {
    claims: Claims,
    found: Option<Found>,
}

#[derive(Debug)]
struct Found {
    /// In which this server led while it found this.
    epoch: u64,
    /// At the renewals, before others were asked.
    looked_at: Instant,
    vacant: Vacant,
}

impl Vacancies {
    /// A program wants to be where this node is. Answers the node as it was when nobody held its lease, and the epoch for whose
    /// leader that is true, and when it was looked; `None`: somebody may hold it, or this server does not know.
    pub(super) fn claim(
        &self,
        cluster: &ClusterName,
        node: &NodeId,
        now: Instant,
    ) -> Option<(Lapsed, u64, Instant)> {
        let mut state = self.state();
        let count: usize = state.claims.values().map(HashMap::len).sum();
        let claim = state.claims.get_mut(cluster).and_then(|nodes| nodes.get_mut(node));
        match claim {
            Some(at) => *at = now,
            None if count < CLAIMS_MAX => {
                state.claims.entry(cluster.clone()).or_default().insert(node.clone(), now);
            }
            None => {}
        }
        let found = state.found.as_ref()?;
        if now.saturating_duration_since(found.looked_at) >= FOUND_LASTS {
            return None;
        }
        Some((found.vacant.get(cluster)?.get(node)?.clone(), found.epoch, found.looked_at))
    }

    /// Nodes whose place somebody wants: those are looked at before their leases have lapsed.
    pub(crate) fn claims(&self, now: Instant) -> Claims {
        let mut state = self.state();
        for nodes in state.claims.values_mut() {
            nodes.retain(|_, at| now.saturating_duration_since(*at) < CLAIM_LASTS);
        }
        state.claims.retain(|_, nodes| !nodes.is_empty());
        state.claims.clone()
    }

    /// What the leader of this epoch found when it looked then.
    pub(crate) fn publish(&self, epoch: u64, vacant: Vacant, looked_at: Instant) {
        self.state().found = Some(Found { epoch, looked_at, vacant });
    }

    /// This server does not lead any more, or cannot tell. Nor does it look at claims, which come here all the same when the
    /// leader is passed by.
    pub(crate) fn withdraw(&self, now: Instant) {
        self.state().found = None;
        self.claims(now);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jcm_model::Revision;

    use super::*;
    use crate::leases::tests::{cluster_name, lease_id, node_id};

    #[test]
    fn a_place_is_to_be_had_for_as_long_as_that_was_found_lately_by_who_leads() {
        let (vacancies, start) = (Vacancies::default(), Instant::now());
        let claim = |node: &str, at| vacancies.claim(&cluster_name(), &node_id(node), at);
        assert_eq!(claim("dead", start), None, "nobody has looked yet");
        let dead = Lapsed { node: node_id("dead"), birth: Revision(3), lease: lease_id(1) };
        let vacant = || Vacant::from([(cluster_name(), HashMap::from([(node_id("dead"), dead.clone())]))]);
        vacancies.publish(7, vacant(), start);
        assert_eq!(claim("alive", start), None);
        assert_eq!(claim("dead", start), Some((dead.clone(), 7, start)));
        assert_eq!(claim("dead", start + FOUND_LASTS), None, "who stands still does not know");
        vacancies.publish(7, vacant(), start + FOUND_LASTS);
        assert!(claim("dead", start + FOUND_LASTS).is_some());
        vacancies.withdraw(start + FOUND_LASTS);
        assert_eq!(claim("dead", start + FOUND_LASTS), None);
    }

    #[test]
    fn a_claim_that_is_not_repeated_is_forgotten() {
        let (vacancies, start) = (Vacancies::default(), Instant::now());
        let claimed = |at| vacancies.claims(at).values().map(HashMap::len).sum::<usize>();
        vacancies.claim(&cluster_name(), &node_id("n1"), start);
        vacancies.claim(&cluster_name(), &node_id("n2"), start);
        vacancies.claim(&cluster_name(), &node_id("n1"), start + CLAIM_LASTS / 2);
        assert_eq!(claimed(start + CLAIM_LASTS / 2), 2);
        assert_eq!(claimed(start + CLAIM_LASTS), 1);
        assert_eq!(claimed(start + CLAIM_LASTS * 2), 0);
    }

    #[test]
    fn so_many_claims_are_noted_and_no_more() {
        let (vacancies, now) = (Vacancies::default(), Instant::now());
        for number in 0..=CLAIMS_MAX {
            vacancies.claim(&cluster_name(), &node_id(&format!("n{number}")), now);
        }
        assert_eq!(vacancies.claims(now)[&cluster_name()].len(), CLAIMS_MAX);
        // Those that are noted are repeated all the same.
        vacancies.claim(&cluster_name(), &node_id("n0"), now + CLAIM_LASTS / 2);
        assert_eq!(vacancies.claims(now + CLAIM_LASTS)[&cluster_name()].len(), 1);
    }
}
