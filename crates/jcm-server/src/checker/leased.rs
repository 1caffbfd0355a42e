//! Nodes whose check is their lease: healthy at the first renewal, down when nobody renewed for its whole time.
//!
//! Nothing is probed, so there is nobody to ask for a second opinion, and a lapse is no failure of this server's own probes.
//! Whether this server can tell at all is [`crate::leases::Holders`]' to say and [`Watch`]'s; until they can, the last verdict stands.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use jcm_model::{
    Cluster, ClusterName, Judged, Lease, Node, NodeId, Revision, ServerId, Timestamp, Verdict, duration,
};
use tracing::{info, warn};

use super::Checker;
use super::findings::{Findings, LastTurn, Vantage};
use super::turns::wall_clock;
use crate::leases::{Holders, Look, Watch};
use crate::views::Verdicts;

/// How often leases are looked at: a renewal is seen as fast, and a lapse as late.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// Without a look for so long this server stood still, or was far too slow to hear of renewals.
const PAUSED_AFTER: Duration = Duration::from_secs(1);

/// How often what no definition names is forgotten.
const TIDY_PAUSE: Duration = Duration::from_secs(10);

/// The nodes whose leases this server watches.
#[derive(Debug)]
pub(super) struct Leased {
    nodes: HashMap<ClusterName, HashMap<NodeId, Watched>>,
    count: usize,
    holders: Holders,
    /// Neither the store nor another server was in reach, and none has been heard since.
    cut_off: bool,
    looked: Instant,
    tidied: Instant,
}

#[derive(Debug)]
struct Watched {
    birth: Revision,
    lease: Lease,
    watch: Watch,
    verdict: Verdict,
    /// The verdict is another server's or an earlier run's: since when it has held, until this one finds the same.
    unconfirmed: Option<Timestamp>,
    last_turn: Option<Turned>,
}

#[derive(Debug)]
struct Turned {
    at: Timestamp,
    from: Verdict,
    to: Verdict,
    because: String,
}

/// What is to be published of a node.
struct Step {
    cluster: ClusterName,
    node: NodeId,
    birth: Revision,
    verdict: Verdict,
    since: Timestamp,
    /// From which verdict it turned, and why; `None`: it did not.
    turned: Option<(Verdict, String)>,
}

impl Leased {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            nodes: HashMap::new(),
            count: 0,
            holders: Holders::default(),
            cut_off: false,
            looked: now,
            tidied: now,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn contains(&self, cluster: &ClusterName, node: &NodeId) -> bool {
        self.nodes.get(cluster).is_some_and(|nodes| nodes.contains_key(node))
    }

    pub(super) fn clusters(&self) -> impl Iterator<Item = &ClusterName> {
        self.nodes.keys()
    }

    pub(super) fn nodes(&self, cluster: &ClusterName) -> impl Iterator<Item = &NodeId> {
        self.nodes.get(cluster).into_iter().flat_map(HashMap::keys)
    }

    /// Watches the node's lease from now on, as it is defined now. `held` is the verdict that stands.
    pub(super) fn keep(&mut self, cluster: &Cluster, node: &Node, held: Option<Judged>, now: Instant) {
        let Some(lease) = node.attributes.lease() else {
            self.forget(&cluster.name, &node.id);
            return;
        };
        let birth = cluster.birth(node);
        let nodes = self.nodes.entry(cluster.name.clone()).or_default();
        match nodes.get_mut(&node.id) {
            Some(watched) if watched.birth == birth => {
                if watched.lease != *lease {
                    watched.lease = *lease;
                    watched.watch.begin_anew(now);
                }
            }
            before => {
                let is_new = before.is_none();
                let held = held.filter(|held| held.birth == birth);
                let watched = Watched {
                    birth,
                    lease: *lease,
                    watch: Watch::new(now),
                    verdict: held.as_ref().map_or(Verdict::Unknown, |held| held.verdict),
                    unconfirmed: held.map(|held| held.since),
                    last_turn: None,
                };
                nodes.insert(node.id.clone(), watched);
                self.count += usize::from(is_new);
            }
        }
    }

    /// Another server judged the node after this one did.
    pub(super) fn overrule(&mut self, cluster: &ClusterName, node: &NodeId, held: &Judged) {
        let watched = self.nodes.get_mut(cluster).and_then(|nodes| nodes.get_mut(node));
        if let Some(watched) = watched.filter(|watched| watched.birth == held.birth) {
            (watched.verdict, watched.unconfirmed) = (held.verdict, Some(held.since));
        }
    }

    pub(super) fn forget(&mut self, cluster: &ClusterName, node: &NodeId) {
        let Some(nodes) = self.nodes.get_mut(cluster) else { return };
        self.count -= usize::from(nodes.remove(node).is_some());
        if nodes.is_empty() {
            self.nodes.remove(cluster);
        }
    }

    pub(super) fn forget_cluster(&mut self, cluster: &ClusterName) {
        self.count -= self.nodes.remove(cluster).map_or(0, |nodes| nodes.len());
    }

    fn begin_anew(&mut self, now: Instant) {
        for watched in self.nodes.values_mut().flat_map(HashMap::values_mut) {
            watched.watch.begin_anew(now);
        }
    }

    pub(super) fn findings(
        &self,
        cluster: &ClusterName,
        node: &NodeId,
        server: &ServerId,
    ) -> Option<Findings> {
        let watched = self.nodes.get(cluster)?.get(node)?;
        let ttl = duration::format(watched.lease.ttl());
        let needs = match watched.verdict {
            Verdict::Healthy | Verdict::Degraded => format!("{ttl} without a renewal make it down"),
            Verdict::Down | Verdict::Unknown => "a renewal of its lease makes it healthy".to_owned(),
        };
        Some(Findings {
            vantages: vec![Vantage { server: server.clone(), results: Vec::new() }],
            thresholds: None,
            last_turn: watched.last_turn.as_ref().map(|turned| LastTurn {
                at: turned.at,
                from: turned.from,
                to: turned.to,
                because: turned.because.clone(),
                results: Vec::new(),
            }),
            held: None,
            needs: vec![needs],
            suspended: None,
        })
    }
}

impl Watched {
    /// Answers since when the verdict holds, where others should know.
    fn take(&mut self, look: Look, through: Option<&ServerId>, now: Timestamp) -> Option<Timestamp> {
        let found = match look {
            Look::Renewed => Verdict::Healthy,
            Look::Lapsed => Verdict::Down,
            Look::CannotTell => return None,
        };
        if found == self.verdict {
            // Another server's word, or an earlier run's, holds under this run's stamp.
            return self.unconfirmed.take();
        }
        let from = std::mem::replace(&mut self.verdict, found);
        let because = match (look, through) {
            (Look::Renewed, Some(server)) => format!("its lease was renewed through {server}"),
            _ => format!("nobody renewed its lease for {}", duration::format(self.lease.ttl())),
        };
        self.unconfirmed = None;
        self.last_turn = Some(Turned { at: now, from, to: found, because });
        Some(now)
    }
}

impl Checker {
    /// Looks at every lease that is watched here.
    pub(super) fn look_at_leases(&mut self) {
        let (moment, now) = (Instant::now(), wall_clock());
        if moment.saturating_duration_since(self.leased.looked) > PAUSED_AFTER {
            let late_ms = moment.saturating_duration_since(self.leased.looked).as_millis();
            warn!(late_ms, "leases were not looked at in time: each has its whole time anew");
            self.leases.begin_anew(moment);
            self.leased.begin_anew(moment);
        }
        self.leased.looked = moment;
        if moment.saturating_duration_since(self.leased.tidied) >= TIDY_PAUSE {
            self.leased.tidied = moment;
            self.leases.tidy(&self.views.snapshot(), moment);
        }
        let steps = self.see(moment, now);
        let mut turned = Verdicts::new();
        for Step { cluster, node, birth, verdict, since, turned: turn } in steps {
            if let Some((from, because)) = turn {
                info!(%cluster, %node, %from, to = %verdict, because, "verdict turned");
                let (from, to) = (from.as_str(), verdict.as_str());
                metrics::counter!("jcm_verdict_turns_total", "from" => from, "to" => to).increment(1);
            }
            let stamp = self.stamps.next(&self.duty, &self.views, (&cluster, &node));
            let judged = Judged { verdict, birth, stamp, since, single_vantage: false, stale_since: None };
            turned.entry(cluster).or_default().push((node, judged));
        }
        if !turned.is_empty() {
            self.publish(turned);
        }
    }

    fn see(&mut self, moment: Instant, now: Timestamp) -> Vec<Step> {
        let roster = self.around.roster.borrow();
        let named = roster.members.iter().map(|member| member.id.clone());
        // One that the store lost a moment ago and that goes on is still a server.
        let others: BTreeSet<ServerId> =
            named.chain(self.around.peers.connected()).filter(|id| *id != self.server).collect();
        drop(roster);
        let liveness = self.around.liveness.borrow().clone();
        let contacts = self.leases.contacts();
        let mut around =
            self.leased.holders.look(&others, &contacts, |server| liveness.is_live(server), moment);
        // Programs may have gone to others for just that, and will be known to have when one of those is heard.
        self.leased.cut_off = liveness.hears_nobody() && (self.leased.cut_off || self.views.is_stale());
        around.is_cut |= self.leased.cut_off;
        let mut steps = Vec::new();
        if self.leased.nodes.is_empty() {
            return steps;
        }
        let nodes = &mut self.leased.nodes;
        self.leases.look_up(|renewal| {
            for (cluster, nodes) in &mut *nodes {
                for (node, watched) in nodes {
                    let renewal = renewal(cluster, node, watched.lease.id());
                    let look = watched.watch.look(&watched.lease, renewal.as_ref(), &around);
                    let from = watched.verdict;
                    let through = renewal.as_ref().map(|renewal| &renewal.through);
                    let Some(since) = watched.take(look, through, now) else { continue };
                    let (birth, verdict) = (watched.birth, watched.verdict);
                    let turned = watched.last_turn.as_ref().filter(|_| from != verdict);
                    let turned = turned.map(|turned| (from, turned.because.clone()));
                    let (cluster, node) = (cluster.clone(), node.clone());
                    steps.push(Step { cluster, node, birth, verdict, since, turned });
                }
            }
        });
        steps
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::leases::tests::{cluster, cluster_name, leased, node_id};

    fn watching(lease: u8) -> (Leased, Instant) {
        let start = Instant::now();
        let mut all = Leased::new(start);
        define(&mut all, 1, lease, start);
        (all, start)
    }

    fn define(all: &mut Leased, revision: u64, lease: u8, now: Instant) {
        let spec = json!({ "check": { "kind": "lease" }, "nodes": [leased("n1", Some(lease))] });
        let cluster = cluster(revision, spec);
        all.keep(&cluster, &cluster.nodes[0], None, now);
    }

    fn watched(all: &mut Leased) -> &mut Watched {
        all.nodes.get_mut(&cluster_name()).unwrap().get_mut(&node_id("n1")).unwrap()
    }

    #[test]
    fn a_verdict_turns_once_and_another_servers_is_confirmed_once() {
        let (mut all, _) = watching(1);
        let (now, through) = (Timestamp::UNIX_EPOCH, ServerId::parse("s2").unwrap());
        let watched = watched(&mut all);
        assert_eq!(watched.take(Look::CannotTell, None, now), None);
        assert_eq!(watched.take(Look::Renewed, Some(&through), now), Some(now));
        assert_eq!(watched.last_turn.as_ref().unwrap().because, "its lease was renewed through s2");
        assert_eq!(watched.take(Look::Renewed, Some(&through), now), None);
        watched.unconfirmed = Some(now);
        assert_eq!(watched.take(Look::Renewed, Some(&through), now), Some(now));
        assert_eq!(watched.take(Look::Renewed, Some(&through), now), None);
        assert_eq!(watched.take(Look::Lapsed, Some(&through), now), Some(now));
        assert_eq!(watched.last_turn.as_ref().unwrap().because, "nobody renewed its lease for 10s");
        assert_eq!(watched.verdict, Verdict::Down);
    }

    #[test]
    fn another_lease_has_its_whole_time_and_another_form_begins_anew() {
        let (mut all, start) = watching(1);
        watched(&mut all).verdict = Verdict::Healthy;
        let later = start + Duration::from_secs(5);
        define(&mut all, 1, 2, later);
        assert_eq!(watched(&mut all).watch, Watch::new(later));
        assert_eq!(watched(&mut all).verdict, Verdict::Healthy, "it is the same node");
        define(&mut all, 2, 2, later);
        assert_eq!(watched(&mut all).verdict, Verdict::Unknown, "it was born anew");
        assert_eq!(all.len(), 1);
        all.forget(&cluster_name(), &node_id("n1"));
        assert_eq!((all.len(), all.clusters().count()), (0, 0));
    }
}
