//! The servers of one store, kept in ZooKeeper.
//!
//! One task, the keeper, owns all of it. It looks at what the servers have in the store, publishes the roster that this
//! makes, and does what is missing for this server to be what it wants to be. It looks again after every step, event,
//! return and wish, and when nothing happens for a few seconds: a notification that was lost costs a delay.
//!
//! Invariant: nothing is done in an ensemble that does not hold the store to which this server is bound.

mod election;
mod lease;
mod reading;

mod plan;

mod keeper;
mod look;
mod steps;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jcm_model::{ServerId, StoreId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::layout;
use super::session::{Line, Session};
use crate::{JoinError, Member, Membership, Roster, Standing};
use lease::Lease;
use plan::Wish;

/// Its version is the epoch; its data says who leads.
pub(super) const EPOCH: &str = "/epoch";
/// The parent of the candidates.
pub(super) const ELECTION: &str = "/election";
/// The parent of the servers.
pub(super) const SERVERS: &str = "/servers";
/// The parent of the servers that share the checks.
pub(super) const RING: &str = "/ring";

/// How much longer than its session an ephemeral znode may be there after its owner died: a member of the ensemble that
/// takes over begins to count anew.
const GHOST_SLACK: Duration = Duration::from_secs(4);
/// How long joining waits beyond that: for the ensemble to answer at all.
const JOIN_SLACK: Duration = Duration::from_secs(4);
/// How long leaving may take: as long as a stop may be held up, and far longer than an ensemble takes that is there.
const LEAVE_PATIENCE: Duration = Duration::from_secs(1);
/// How long entering or leaving the ring is waited for.
const SHARE_PATIENCE: Duration = Duration::from_secs(2);

/// The store that this server is bound to, if this is what `/identity` of that store holds.
pub(super) type Recognise = Arc<dyn Fn(Option<&[u8]>) -> Option<StoreId> + Send + Sync>;

/// The znode of a server below one of these.
fn place(parent: &str, server: &ServerId) -> String {
    format!("{parent}/{}", layout::encode(server.as_str()))
}

/// The servers of one store, kept in ZooKeeper. See [`super::ZooKeeper::membership`].
#[derive(Debug)]
pub struct ZooKeeperMembership {
    shared: Arc<Shared>,
    session: Session,
    session_timeout: Duration,
}

/// What the keeper and those who ask have in common.
#[derive(Debug)]
struct Shared {
    wish: watch::Sender<Wish>,
    roster: watch::Sender<Arc<Roster>>,
    standing: watch::Sender<Standing>,
    /// Whether this server is in the ring, by the latest reading; `None`: nobody knows.
    shares: watch::Sender<Option<bool>>,
    lease: Mutex<Option<Lease>>,
}

impl Shared {
    fn set_lease(&self, lease: Option<Lease>) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = lease;
    }

    /// The epoch in which this server leads, as far as it can be sure now.
    fn leads_in(&self) -> Option<u64> {
        let lease = (*self.lease.lock().unwrap_or_else(PoisonError::into_inner))?;
        (lease.is_sure(Instant::now()) && self.wish.borrow().stands()).then_some(lease.epoch)
    }
}

impl ZooKeeperMembership {
    /// Begins to follow the servers. Its task is one of `tasks`, and ends with `stop`.
    pub(super) fn keep(
        session: Session,
        recognise: Recognise,
        session_timeout: Duration,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared {
            wish: watch::Sender::default(),
            roster: watch::Sender::default(),
            standing: watch::Sender::default(),
            shares: watch::Sender::default(),
            lease: Mutex::default(),
        });
        tasks.spawn(keeper::run(session.clone(), recognise, Arc::clone(&shared), stop));
        Self { shared, session, session_timeout }
    }

    /// Why this server is not known yet.
    fn describe(&self) -> String {
        match self.session.contact().borrow().line {
            Line::Up(_) => "it was asked, and this server is not known yet".to_owned(),
            Line::Down { since } => format!("no connection for {} ms", since.elapsed().as_millis()),
        }
    }
}

#[async_trait]
impl Membership for ZooKeeperMembership {
    fn announce(&self, member: Member) {
        self.shared.wish.send_if_modified(|wish| {
            let before = wish.clone();
            wish.member = Some(member);
            wish.is_resigned = false;
            wish.is_leaving = false;
            *wish != before
        });
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    async fn join(&self, member: Member) -> Result<(), JoinError> {
        let id = member.id.clone();
        self.announce(member);
        let patience = self.session_timeout + GHOST_SLACK + JOIN_SLACK;
        let mut standing = self.standing();
        let told = standing.wait_for(|standing| *standing != Standing::Absent);
        match tokio::time::timeout(patience, told).await.map(|told| told.map(|told| told.clone())) {
            Ok(Ok(Standing::Known)) => Ok(()),
            Ok(Ok(Standing::Taken { advertise })) => Err(JoinError::Taken { id, advertise }),
            Ok(_) => Err(JoinError::Unavailable { reason: "it is being shut down".to_owned() }),
            Err(_) => Err(JoinError::Unavailable { reason: self.describe() }),
        }
    }

    fn resign(&self) {
        self.shared.wish.send_if_modified(|wish| !std::mem::replace(&mut wish.is_resigned, true));
    }

    async fn leave(&self) {
        // With the wish its leadership is over, whether or not the others hear of it.
        self.shared.wish.send_modify(|wish| wish.is_leaving = true);
        let mut standing = self.standing();
        let left = standing.wait_for(|standing| *standing == Standing::Absent);
        if tokio::time::timeout(LEAVE_PATIENCE, left).await.is_err() {
            tracing::warn!("ZooKeeper was not told in time that this server leaves; it notices by itself");
        }
    }

    async fn share_checks(&self, wanted: bool) {
        self.shared.wish.send_if_modified(|wish| std::mem::replace(&mut wish.shares, wanted) != wanted);
        let mut shares = self.shared.shares.subscribe();
        let done = shares.wait_for(|shares| *shares == Some(wanted));
        // What is wanted is kept: that it takes longer is no error.
        let _ = tokio::time::timeout(SHARE_PATIENCE, done).await;
    }

    fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.shared.roster.subscribe()
    }

    fn leads(&self) -> bool {
        self.shared.leads_in().is_some()
    }

    fn leads_in(&self) -> Option<u64> {
        self.shared.leads_in()
    }
}
