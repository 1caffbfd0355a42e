//! Which nodes are cleared away. Pure: what was found is told round by round, and so is the time.
//!
//! A node is cleared away when every round of a whole time of its lease found the same: this server led, in one epoch and
//! without a pause, the store was writable, nobody renewed the lease, and every server said so. One round that finds otherwise
//! begins that time anew. One that checks find fit stays; but nobody has held its lease then either, and its place may be had
//! by another program (see `leases/vacancy.rs`).
//!
//! Many that lapse together are no many deaths: something between them and the servers is broken. They are left for the grace
//! time, and then cleared away only if enough of the cluster is fit without them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Lapsed, Lease, NodeId};

use crate::leases::Vacant;

/// From this share of a cluster's leases on, lapsed within one time of theirs, it is a mass. A lone one never is.
const MASS_ABOVE: f64 = 0.2;
const MASS_NODES_MIN: usize = 2;

/// Rounds that are further apart are not in a row: this server stood still, or did something else.
const ROUND_GAP_MAX: Duration = Duration::from_secs(3);

/// So many rounds find that nobody holds a lease, however short its time: what is still to be read after a pause that is no gap
/// yet counts in one of them.
const ROUNDS_MIN: u32 = 3;

/// A node whose lease was not renewed within its time, as far as this server knows, or whose place another program wants.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) lapsed: Lapsed,
    pub(super) lease: Lease,
    /// Some server holds the lease, or may.
    pub(super) is_held: bool,
    /// When it was renewed last, as far as this server was told.
    pub(super) renewed: Option<Instant>,
    /// It was not renewed within its time, and checks do not find the node fit.
    pub(super) is_gone: bool,
}

/// A cluster that has candidates.
#[derive(Debug, Clone, Default)]
pub(super) struct Share {
    pub(super) candidates: Vec<Candidate>,
    /// Its nodes that have a lease.
    pub(super) leased: usize,
    /// Its nodes that people have in use.
    pub(super) online: usize,
    /// Those of them that are routed to by their own verdict and are not gone.
    pub(super) fit: usize,
    pub(super) panic_below: f64,
}

/// What a round led to.
#[derive(Debug, Default)]
pub(super) struct Decision {
    /// What is to be cleared away.
    pub(super) ripe: BTreeMap<ClusterName, Vec<Lapsed>>,
    /// Whose place may be had, because nobody has held its lease for its whole time.
    pub(super) vacant: Vacant,
}

/// All candidates of one round, by their clusters.
pub(super) type Round = BTreeMap<ClusterName, Share>;

/// What became of candidates in the rounds before.
#[derive(Debug)]
pub(super) struct Clearing {
    grace: Duration,
    /// The epoch of the rounds, and when the last one was.
    last: Option<(u64, Instant)>,
    clusters: HashMap<ClusterName, HashMap<NodeId, Pending>>,
}

#[derive(Debug)]
struct Pending {
    lapsed: Lapsed,
    /// Since when it is gone; `None` while it is not.
    gone: Option<Instant>,
    /// Since when no round found that anybody holds it, and how many rounds that were.
    unheld: Instant,
    unheld_rounds: u32,
    /// It lapsed with many others. That stands: those who come back one by one must not make the rest look like few.
    is_mass: bool,
}

impl Clearing {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, last: None, clusters: HashMap::new() }
    }

    /// This server does not lead, or the store takes no writes.
    pub(super) fn interrupt(&mut self) {
        self.last = None;
    }

    /// Takes in what this round found, and answers what follows.
    pub(super) fn round(&mut self, epoch: u64, round: &Round, now: Instant) -> Decision {
        let in_a_row = |(before, at): (u64, Instant)| {
            before == epoch && now.saturating_duration_since(at) <= ROUND_GAP_MAX
        };
        if !self.last.is_some_and(in_a_row) {
            self.begin_anew(now);
        }
        self.last = Some((epoch, now));
        self.clusters.retain(|cluster, _| round.contains_key(cluster));
        let mut decision = Decision::default();
        for (cluster, share) in round {
            let pending = self.clusters.entry(cluster.clone()).or_default();
            take_in(pending, &share.candidates, now);
            mark_masses(pending, share);
            let may_go = ripe_of(pending, share, self.grace, now);
            if !may_go.is_empty() {
                decision.ripe.insert(cluster.clone(), may_go);
            }
            let vacant = vacant_of(pending, share, now);
            if !vacant.is_empty() {
                decision.vacant.insert(cluster.clone(), vacant);
            }
        }
        decision
    }

    /// Every time begins anew. What lapsed with many others stays a mass: leaders change just when such things happen.
    fn begin_anew(&mut self, now: Instant) {
        for pending in self.clusters.values_mut().flat_map(HashMap::values_mut) {
            (pending.gone, pending.unheld) = (pending.gone.map(|_| now), now);
            pending.unheld_rounds = 0;
        }
    }

    /// How many of those that are gone wait, and how many of them lapsed with many others.
    pub(super) fn counts(&self) -> (usize, usize) {
        let pending = || self.clusters.values().flat_map(HashMap::values);
        let all = || pending().filter(|pending| pending.gone.is_some());
        (all().count(), all().filter(|pending| pending.is_mass).count())
    }
}

fn take_in(pending: &mut HashMap<NodeId, Pending>, candidates: &[Candidate], now: Instant) {
    let found: HashMap<&NodeId, &Candidate> =
        candidates.iter().map(|candidate| (&candidate.lapsed.node, candidate)).collect();
    pending.retain(|node, pending| found.get(node).is_some_and(|found| found.lapsed == pending.lapsed));
    for candidate in candidates {
        let pending = pending.entry(candidate.lapsed.node.clone()).or_insert_with(|| Pending {
            lapsed: candidate.lapsed.clone(),
            gone: None,
            unheld: now,
            unheld_rounds: 0,
            is_mass: false,
        });
        // Nobody holds one whose client opens a stream for each renewal; it is kept all the same.
        let kept_at = if candidate.is_held { Some(now) } else { candidate.renewed };
        if let Some(kept_at) = kept_at.filter(|at| *at > pending.unheld || candidate.is_held) {
            (pending.unheld, pending.unheld_rounds) = (kept_at, 0);
        } else {
            pending.unheld_rounds += 1;
        }
        if candidate.is_gone {
            pending.gone.get_or_insert(now);
        } else {
            (pending.gone, pending.is_mass) = (None, false);
        }
    }
}

fn mark_masses(pending: &mut HashMap<NodeId, Pending>, share: &Share) {
    let ttls: HashMap<&NodeId, Duration> =
        share.candidates.iter().map(|candidate| (&candidate.lapsed.node, candidate.lease.ttl())).collect();
    let mut by_time: Vec<(Instant, Duration, NodeId)> = pending
        .iter()
        .filter_map(|(node, pending)| Some((pending.gone?, ttls[node], node.clone())))
        .collect();
    by_time.sort_unstable_by(|one, other| (one.0, &one.2).cmp(&(other.0, &other.2)));
    // The times of one cluster's leases differ little: the longest is the careful choice.
    let window = by_time.iter().map(|(_, ttl, _)| *ttl).max().unwrap_or_default();
    // Up to there all are marked.
    let (mut first, mut marked) = (0, 0);
    for last in 0..by_time.len() {
        while by_time[last].0.saturating_duration_since(by_time[first].0) > window {
            first += 1;
        }
        let together = last - first + 1;
        #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
        let is_mass = together >= MASS_NODES_MIN && together as f64 > MASS_ABOVE * share.leased as f64;
        if is_mass {
            for (_, _, node) in &by_time[first.max(marked)..=last] {
                if let Some(pending) = pending.get_mut(node) {
                    pending.is_mass = true;
                }
            }
            marked = last + 1;
        }
    }
}

fn ripe_of(pending: &HashMap<NodeId, Pending>, share: &Share, grace: Duration, now: Instant) -> Vec<Lapsed> {
    #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
    let is_enough_left = share.fit as f64 >= share.panic_below * share.online as f64;
    let is_ripe = |candidate: &&Candidate| {
        let Some(pending) = pending.get(&candidate.lapsed.node) else { return false };
        let Some(gone) = pending.gone else { return false };
        let waited = now.saturating_duration_since(gone);
        pending.is_vacant(candidate, now)
            && waited >= candidate.lease.ttl()
            && (!pending.is_mass || (waited >= grace && is_enough_left))
    };
    share.candidates.iter().filter(is_ripe).map(|candidate| candidate.lapsed.clone()).collect()
}

fn vacant_of(pending: &HashMap<NodeId, Pending>, share: &Share, now: Instant) -> HashMap<NodeId, Lapsed> {
    let is_vacant = |candidate: &&Candidate| {
        pending.get(&candidate.lapsed.node).is_some_and(|pending| pending.is_vacant(candidate, now))
    };
    let vacant = share.candidates.iter().filter(is_vacant);
    vacant.map(|candidate| (candidate.lapsed.node.clone(), candidate.lapsed.clone())).collect()
}

impl Pending {
    /// Whether nobody has held its lease for its whole time.
    fn is_vacant(&self, candidate: &Candidate, now: Instant) -> bool {
        !candidate.is_held
            && self.unheld_rounds >= ROUNDS_MIN
            && now.saturating_duration_since(self.unheld) >= candidate.lease.ttl()
    }
}

#[cfg(test)]
mod tests;
