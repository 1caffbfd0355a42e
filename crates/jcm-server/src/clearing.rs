//! Clearing away: the leader removes nodes that registered themselves and that nobody keeps any more.
//!
//! One round after the other it looks for nodes whose lease nobody renewed within its time, as far as it was told, asks every
//! server whether a client of its own keeps them, and lets [`Clearing`] decide. What it removes is an ordinary write, for the
//! leader of this epoch alone, of nodes that still are what was found.
//!
//! A node without a lease is none of its business, and one that checks find fit is not removed: its program may be cut off from
//! every server and work all the same. But when nobody has held its lease for long enough, the registry is told, and gives its
//! place to a program that asks for it (`leases/vacancy.rs`).

mod decide;
mod leasing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jcm_model::{
    Admin, Cluster, ClusterName, Lapsed, Lease, Mutation, Node, NodeId, Precondition, ServerId, Verdict,
};
use jcm_storage::Membership;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::leases::{Around, Claims, Holders, Leases, Vacancies};
use crate::peers::{Peers, QUESTIONS_MAX};
use crate::registry::{Registry, WRITE_DEADLINE, Wish, Write};
use crate::views::Views;
use decide::{Candidate, Clearing, Decision, Round, Share};
use leasing::Leasing;

/// How often the leader looks: a small part of the shortest time of a lease.
const ROUND_PAUSE: Duration = Duration::from_millis(500);

/// How long a server may take to say what it holds. One that takes longer holds all.
const ASK_DEADLINE: Duration = Duration::from_secs(1);

/// Nodes that one write removes: more go with the next rounds.
const REMOVED_MAX: usize = 2_000;

/// Under which name it writes.
const PRINCIPAL: &str = "lease";

/// What the task works with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) server: ServerId,
    pub(crate) views: Arc<Views>,
    pub(crate) leases: Leases,
    pub(crate) vacancies: Vacancies,
    pub(crate) peers: Peers,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) registry: Registry,
    /// How long many that lapse together are left where they are.
    pub(crate) grace: Duration,
}

/// Clears away whenever this server leads, until told to stop.
pub(crate) async fn run(parts: Parts, stop: CancellationToken) {
    let mut clearing = Clearing::new(parts.grace);
    let (mut holders, mut leasing) = (Holders::default(), Leasing::default());
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ROUND_PAUSE) => {}
        }
        let others = parts.others();
        let (liveness, contacts) = (parts.peers.liveness().borrow().clone(), parts.leases.contacts());
        // Also while another one leads: who was silent when this one begins to lead counts then.
        let around = holders.look(&others, &contacts, |server| liveness.is_live(server), Instant::now());
        let epoch = parts.membership.leads_in().filter(|_| parts.registry.is_store_available());
        let Some(epoch) = epoch else {
            clearing.interrupt();
            parts.vacancies.withdraw(around.now);
            // Not even what was defined when it last led; and the figures are the leader's.
            leasing = Leasing::default();
            tell(0, 0);
            continue;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = parts.round(&mut clearing, &mut leasing, epoch, (&others, &around)) => {}
        }
    }
}

fn tell(waiting: usize, mass: usize) {
    metrics::gauge!("jcm_lease_lapsed_nodes").set(u32::try_from(waiting).unwrap_or(u32::MAX));
    metrics::gauge!("jcm_lease_mass_nodes").set(u32::try_from(mass).unwrap_or(u32::MAX));
}

impl Parts {
    fn others(&self) -> BTreeSet<ServerId> {
        let roster = Arc::clone(&self.membership.roster().borrow());
        let named = roster.members.iter().map(|member| member.id.clone());
        // One that the store lost a moment ago and that goes on is still a server.
        named.chain(self.peers.connected()).filter(|id| *id != self.server).collect()
    }

    async fn round(
        &self,
        clearing: &mut Clearing,
        leasing: &mut Leasing,
        epoch: u64,
        (others, around): (&BTreeSet<ServerId>, &Around),
    ) {
        let mut round = self.candidates(leasing, around, &self.vacancies.claims(around.now));
        self.ask(&mut round, others).await;
        let now = Instant::now();
        let Decision { ripe, vacant } = clearing.round(epoch, &round, now);
        self.vacancies.publish(epoch, vacant, around.now);
        let (waiting, mass) = clearing.counts();
        tell(waiting, mass);
        if !ripe.is_empty() {
            self.remove(ripe, epoch).await;
        }
    }

    /// The nodes whose lease was not renewed within its time as far as this server was told and that checks do not find fit, and
    /// those that are in the way of another program.
    fn candidates(&self, leasing: &mut Leasing, around: &Around, claims: &Claims) -> Round {
        let snapshot = self.views.snapshot();
        leasing.look(&snapshot);
        let mut round = Round::new();
        self.leases.look_up(|renewal| {
            for cluster in leasing.clusters() {
                let name = &cluster.name;
                let claims = claims.get(name);
                let mut share = Share::default();
                for node in &cluster.nodes {
                    let Some(lease) = node.attributes.lease() else { continue };
                    share.leased += 1;
                    let renewal = renewal(name, &node.id, lease.id());
                    let renewed = renewal.map(|renewal| renewal.at);
                    let silence = renewed.map(|at| around.now.saturating_duration_since(at));
                    let is_renewed = silence.is_some_and(|silence| silence < lease.ttl());
                    let is_claimed =
                        || claims.is_some_and(|claims: &HashMap<_, _>| claims.contains_key(&node.id));
                    let is_gone = !is_renewed && !self.is_fit(cluster, node);
                    // What checks find fit nobody has to be asked about, for as long as nobody wants its place.
                    if !is_gone && !is_claimed() {
                        continue;
                    }
                    share.candidates.push(Candidate {
                        lapsed: Lapsed { node: node.id.clone(), birth: node.birth, lease: lease.id() },
                        lease: *lease,
                        is_held: around.may_be_held_unheard(renewed),
                        renewed,
                        is_gone,
                    });
                }
                if !share.candidates.is_empty() {
                    round.insert(name.clone(), share);
                }
            }
        });
        for (name, share) in &mut round {
            for found in &mut share.candidates {
                found.is_held |= self.leases.holds(name, &found.lapsed.node, &found.lease, around.now);
            }
            if let Some(cluster) = snapshot.clusters.get(name) {
                self.weigh(cluster, share);
            }
        }
        round
    }

    /// Where checks judge, what they say; where nobody judges, only the lease counts.
    fn is_fit(&self, cluster: &Cluster, node: &Node) -> bool {
        let judged = self.views.judged(&cluster.name, &node.id);
        judged.is_some_and(|judged| matches!(judged.verdict, Verdict::Healthy | Verdict::Degraded))
            && cluster.is_checked()
    }

    fn weigh(&self, cluster: &Cluster, share: &mut Share) {
        let gone = share.candidates.iter().filter(|candidate| candidate.is_gone);
        let gone: BTreeSet<&NodeId> = gone.map(|candidate| &candidate.lapsed.node).collect();
        let online = || cluster.nodes.iter().filter(|node| node.admin() == Admin::Online);
        let is_fit = |node: &&Arc<Node>| !cluster.is_checked() || self.is_fit(cluster, node);
        let fit = online().filter(|node| !gone.contains(&node.id)).filter(is_fit).count();
        (share.online, share.fit) = (online().count(), fit);
        share.panic_below = cluster.header.panic_below();
    }

    /// Asks every other server, all at once. One that does not answer for all holds all.
    async fn ask(&self, round: &mut Round, others: &BTreeSet<ServerId>) {
        let mut asked: Vec<(ClusterName, NodeId, Lease)> = Vec::new();
        for (cluster, share) in &*round {
            let nodes = share.candidates.iter().filter(|candidate| !candidate.is_held);
            asked.extend(nodes.map(|found| (cluster.clone(), found.lapsed.node.clone(), found.lease)));
        }
        if asked.is_empty() || others.is_empty() {
            return;
        }
        let answers = join_all(others.iter().map(|server| self.ask_one(server, &asked))).await;
        let is_held = |at: usize| answers.iter().any(|held| held.as_ref().is_none_or(|held| held[at]));
        let unheld =
            round.values_mut().flat_map(|share| &mut share.candidates).filter(|found| !found.is_held);
        for (at, candidate) in unheld.enumerate() {
            candidate.is_held = is_held(at);
        }
    }

    async fn ask_one(&self, server: &ServerId, asked: &[(ClusterName, NodeId, Lease)]) -> Option<Vec<bool>> {
        let deadline = tokio::time::Instant::now() + ASK_DEADLINE;
        let mut held = Vec::with_capacity(asked.len());
        for part in asked.chunks(QUESTIONS_MAX) {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            match self.peers.holds(server, part, left).await {
                Ok(answers) => held.extend(answers),
                Err(error) => {
                    debug!(%server, %error, "a server does not say which leases it holds: it may hold all");
                    return None;
                }
            }
        }
        Some(held)
    }

    async fn remove(&self, ripe: BTreeMap<ClusterName, Vec<Lapsed>>, epoch: u64) {
        let (mut wishes, mut count) = (Vec::new(), 0);
        for (cluster, mut lapsed) in ripe {
            lapsed.truncate(REMOVED_MAX - count);
            count += lapsed.len();
            let nodes: Vec<&str> = lapsed.iter().take(10).map(|lapsed| lapsed.node.as_str()).collect();
            info!(%cluster, count = lapsed.len(), ?nodes, "nodes are cleared away: nobody keeps their leases");
            let mutation = Mutation::ClearAway(lapsed);
            wishes.push(Wish { cluster, mutation, precondition: Precondition::default() });
            if count == REMOVED_MAX {
                break;
            }
        }
        let write = Write { epoch: Some(epoch), ..Write::new(PRINCIPAL, None, wishes, false) };
        match self.registry.carry_out(write, WRITE_DEADLINE).await {
            Ok(_) => metrics::counter!("jcm_lease_nodes_removed_total").increment(count as u64),
            Err(error) => warn!(%error, "nodes could not be cleared away; trying on"),
        }
    }
}
