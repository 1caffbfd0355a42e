//! How servers talk to one another: who hears whom, verdicts in and out, and questions to one server.
//!
//! Every server connects to every other member and follows it: all verdicts that it stamped, then those it stamps, with
//! a heartbeat each second. Calls go over the same connection, so that a server which is not heard is not asked either:
//! nobody waits for a dead one. A server on its own knows nobody, and none of this costs it anything.
//!
//! Absent on purpose: what follows from all this. The checker decides who checks what and which verdict stands, the
//! registry who writes.

mod carrying;
mod connection;
mod error;
mod follow;
mod forwarding;
mod gate;
mod keeper;
mod line;
mod liveness;
mod parcel;
mod question;
mod relay;
mod renewed;
mod service;
mod stock;
#[cfg(test)]
mod tests;
mod token;
mod turned;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use jcm_model::{ClusterName, Head, Lease, NodeId, ServerId};
use jcm_proto::v1;
use jcm_storage::Roster;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::checker::Findings;
use crate::convergence::Count;
use crate::leases::Leases;
use crate::pause::Pulse;
use crate::registry::{Patience, Write, WriteError, Written};
use crate::views::Views;
pub(crate) use error::PeerError;
pub(crate) use keeper::Keeper;
use line::Line;
pub(crate) use liveness::{Liveness, SILENT_AFTER};
pub(crate) use question::{Answer, Question, Said};
pub(crate) use service::routes;
use stock::Stock;
pub(crate) use token::Token;
pub(crate) use turned::{HEARD_QUEUE_MAX, Heard, Turned};

/// How often every server says that it lives, at least.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How often every server tells the digests of what it holds: what went missing is found within two of them.
const DIGESTS_PAUSE: Duration = Duration::from_secs(10);

/// Servers that one message may name: far more than one group has.
const SERVERS_MAX: usize = 1024;

/// Questions in one call: with the longest names they stay far below what a message may hold.
pub(crate) const QUESTIONS_MAX: usize = 4096;

/// How this server stands, as it tells its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// It suspects itself: its successes count, its failures do not.
    pub(crate) suspended: bool,
    /// It is about to stop.
    pub(crate) draining: bool,
}

/// Asks the other servers, and knows which of them are heard.
#[derive(Debug, Clone)]
pub(crate) struct Peers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    server: ServerId,
    standing: watch::Sender<Standing>,
    liveness: watch::Sender<Arc<Liveness>>,
    /// Where calls go: one line for each server that is connected.
    lines: ArcSwap<BTreeMap<ServerId, Line>>,
    turned: Turned,
    leases: Leases,
    digests_pause: Duration,
    /// Cancelled when the streams of those who follow shall end.
    hanging_up: CancellationToken,
    /// The tasks of those streams.
    sessions: TaskTracker,
    /// What those who come in need; nobody does to a server on its own.
    door: Option<Door>,
}

#[derive(Debug)]
struct Door {
    stock: Arc<Stock>,
    token: Option<Token>,
}

impl Peers {
    /// A server on its own: nobody is heard, nobody can be asked.
    pub(crate) fn nobody(server: ServerId) -> Self {
        Self(Arc::new(Shared::new(server, DIGESTS_PAUSE, None)))
    }

    /// A server among others: the handle, the task that keeps the connections to all members, and what they say, for the
    /// checker.
    pub(crate) fn new(
        server: ServerId,
        token: Option<Token>,
        views: Arc<Views>,
        roster: watch::Receiver<Arc<Roster>>,
        pulse: Pulse,
    ) -> (Self, Keeper, mpsc::Receiver<Heard>) {
        Self::with_digests_every(DIGESTS_PAUSE, server, token, views, roster, pulse)
    }

    fn with_digests_every(
        pause: Duration,
        server: ServerId,
        token: Option<Token>,
        views: Arc<Views>,
        roster: watch::Receiver<Arc<Roster>>,
        pulse: Pulse,
    ) -> (Self, Keeper, mpsc::Receiver<Heard>) {
        let stock = Arc::new(Stock::new(views));
        let door = Door { stock: Arc::clone(&stock), token: token.clone() };
        let shared = Arc::new(Shared::new(server, pause, Some(door)));
        let (checker, heard) = mpsc::channel(HEARD_QUEUE_MAX);
        let keeper = Keeper::new(Arc::clone(&shared), stock, token, roster, checker, pulse);
        (Self(shared), keeper, heard)
    }

    /// Who is heard, as a level. It changes at least twice a second while there are others.
    pub(crate) fn liveness(&self) -> watch::Receiver<Arc<Liveness>> {
        self.0.liveness.subscribe()
    }

    /// Whether the server can be asked now.
    pub(crate) fn is_connected(&self, server: &ServerId) -> bool {
        self.0.lines.load().contains_key(server)
    }

    /// The servers that can be asked now, in the order of their ids.
    pub(crate) fn connected(&self) -> Vec<ServerId> {
        self.0.lines.load().keys().cloned().collect()
    }

    /// Where the checker publishes every batch of verdicts that it took over, for all who follow.
    pub(crate) fn turned(&self) -> Turned {
        self.0.turned.clone()
    }

    /// What this server and its peers were told of leases.
    pub(crate) fn leases(&self) -> Leases {
        self.0.leases.clone()
    }

    /// Tells all who follow, at once, whether this server suspects itself.
    pub(crate) fn suspend(&self, suspended: bool) {
        self.0.standing.send_if_modified(|standing| {
            let changed = standing.suspended != suspended;
            standing.suspended = suspended;
            changed
        });
    }

    /// Tells all who follow, at once, that this server is about to stop.
    pub(crate) fn drain(&self) {
        self.0.standing.send_modify(|standing| standing.draining = true);
    }

    /// Ends the streams of all who follow, so that their connections can be closed.
    pub(crate) fn hang_up(&self) {
        self.0.hanging_up.cancel();
    }

    /// Waits until the streams of all who follow have ended.
    pub(crate) async fn join(&self) {
        self.0.sessions.close();
        self.0.sessions.wait().await;
    }

    /// How this server stands.
    pub(crate) fn standing(&self) -> Standing {
        *self.0.standing.borrow()
    }

    /// What the server's own probes of these nodes find now: one answer for each question, in their order. The answers
    /// come together, so questions that are in a hurry are asked apart from slow ones.
    pub(crate) async fn probe(
        &self,
        to: &ServerId,
        questions: Vec<Question>,
        within: Duration,
    ) -> Result<Vec<Answer>, PeerError> {
        let count = questions.len();
        if count > QUESTIONS_MAX {
            let reason = format!("{count} questions, the limit is {QUESTIONS_MAX}");
            return Err(PeerError::NotSent { server: to.clone(), reason });
        }
        let request = v1::ProbeRequest {
            questions: questions.iter().map(Into::into).collect(),
            within_ms: millis(within),
        };
        let response = self.line(to)?.call(within, async |mut client| client.probe(request).await).await?;
        if response.answers.len() != count {
            return Err(PeerError::Malformed {
                server: to.clone(),
                reason: format!("{} answers to {count} questions", response.answers.len()),
            });
        }
        let suspended = response.suspended;
        Ok(response.answers.into_iter().map(|answer| Answer::new(answer, suspended)).collect())
    }

    /// What the server found of a node lately; `None` when it does not check it.
    pub(crate) async fn findings(
        &self,
        to: &ServerId,
        cluster: &ClusterName,
        node: &NodeId,
        within: Duration,
    ) -> Result<Option<Findings>, PeerError> {
        let request = v1::FindingsRequest { cluster: cluster.to_string(), node: node.to_string() };
        let response = self.line(to)?.call(within, async |mut client| client.findings(request).await).await?;
        if response.findings.is_empty() { Ok(None) } else { json(to, &response.findings).map(Some) }
    }

    /// How many of the server's own subscribers of a cluster hold a revision of it.
    pub(crate) async fn count(
        &self,
        to: &ServerId,
        cluster: &ClusterName,
        wanted: Head,
        within: Duration,
    ) -> Result<Count, PeerError> {
        let request = v1::CountRequest {
            cluster: cluster.to_string(),
            revision: wanted.revision.0,
            store: wanted.store.0.as_bytes().to_vec(),
        };
        let response = self.line(to)?.call(within, async |mut client| client.count(request).await).await?;
        json(to, &response.count)
    }

    /// Which of these leases clients of the server keep: one answer for each, in their order.
    pub(crate) async fn holds(
        &self,
        to: &ServerId,
        leases: &[(ClusterName, NodeId, Lease)],
        within: Duration,
    ) -> Result<Vec<bool>, PeerError> {
        let asked = |(cluster, node, lease): &(ClusterName, NodeId, Lease)| v1::holds_request::Asked {
            cluster: cluster.to_string(),
            node: node.to_string(),
            lease: lease.id().as_bytes().to_vec(),
            ttl_ms: millis(lease.ttl()),
        };
        let request = v1::HoldsRequest { leases: leases.iter().map(asked).collect() };
        let held = self.line(to)?.call(within, async |mut client| client.holds(request).await).await?.held;
        if held.len() != leases.len() {
            let reason = format!("{} answers to {} questions", held.len(), leases.len());
            return Err(PeerError::Malformed { server: to.clone(), reason });
        }
        Ok(held)
    }

    /// Lets the server carry the write out by itself. Unless the error says that nothing was sent, it may have been
    /// carried out: the same operation elsewhere, or again, is then the safe way on.
    pub(crate) async fn forward(
        &self,
        to: &ServerId,
        write: &Write,
        patience: Patience,
    ) -> Result<Result<Written, WriteError>, PeerError> {
        let line = self.line(to)?;
        let write = serde_json::to_vec(write)
            .map_err(|error| PeerError::NotSent { server: to.clone(), reason: error.to_string() })?;
        json(to, &line.forwarder.forward(to, write, patience).await?)
    }

    fn line(&self, to: &ServerId) -> Result<Line, PeerError> {
        let not_connected = || PeerError::NotConnected { server: to.clone() };
        self.0.lines.load().get(to).cloned().ok_or_else(not_connected)
    }
}

impl Shared {
    fn new(server: ServerId, digests_pause: Duration, door: Option<Door>) -> Self {
        let now = Instant::now();
        let liveness = Liveness::new(server.clone(), now);
        let leases = Leases::new(server.clone(), now);
        Self {
            server,
            standing: watch::Sender::default(),
            liveness: watch::Sender::new(Arc::new(liveness)),
            lines: ArcSwap::default(),
            turned: Turned::new(),
            leases,
            digests_pause,
            hanging_up: CancellationToken::new(),
            sessions: TaskTracker::new(),
            door,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn json<T: serde::de::DeserializeOwned>(server: &ServerId, bytes: &[u8]) -> Result<T, PeerError> {
    serde_json::from_slice(bytes)
        .map_err(|error| PeerError::Malformed { server: server.clone(), reason: error.to_string() })
}
