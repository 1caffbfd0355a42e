//! Who the servers are, which of them leads, and which of them share the checks.
//!
//! All of it is one level, the [`Roster`]: whoever needs it reads the latest, and waits for the next. What a server
//! wants to be (a member, in the ring) is kept until it leaves, through every loss of the store: nobody has to ask
//! again.

use std::sync::Arc;

use async_trait::async_trait;
use jcm_model::{ServerId, StoreId};
use tokio::sync::watch;
use uuid::Uuid;

/// One server as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: ServerId,
    /// Its data directory: another process that claims the id from another directory is not the same server.
    pub instance: Uuid,
    /// Where clients and peers reach it, `host:port`.
    pub advertise: String,
    /// Where it stands; may be empty.
    pub zone: String,
    /// The version of its program.
    pub version: String,
}

/// The servers as they were last known. While the store is gone it stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    /// The members, in the order of their ids.
    pub members: Vec<Member>,
    /// The server that leads, where that is known.
    pub leader: Option<ServerId>,
    /// Rises with every new leader. What only a leader may do carries it, and a store refuses an older one.
    pub epoch: u64,
    /// The servers that share the checks.
    pub ring: RingMembers,
}

/// The servers that share the checks, read in one step with the number that orders such readings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RingMembers {
    /// The store that it was read in: only epochs of one store tell which of two readings is later. `None`: it is in no
    /// store.
    pub store: Option<StoreId>,
    /// Rises with every change, within one history of the store: one that was put back to an earlier state counts from a
    /// lower number on.
    pub epoch: u64,
    /// In the order of their ids.
    pub servers: Vec<ServerId>,
}

/// What became of a server's wish to be known.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Standing {
    /// The others do not know it: it did not ask, has left, or the store has not been reached since.
    #[default]
    Absent,
    /// It was made known. It stays `Known` while the store is gone: it is made known again on its return.
    Known,
    /// Another server has its id, and kept it for as long as one that is dead could have. It is tried on.
    Taken {
        /// Where the other one is reached.
        advertise: String,
    },
}

/// Who the servers are, and which of them leads.
#[async_trait]
pub trait Membership: Send + Sync + std::fmt::Debug {
    /// Records that this server shall be known, until it leaves, and returns at once: also while the store cannot be
    /// reached.
    fn announce(&self, member: Member);

    /// What became of that, as a level.
    fn standing(&self) -> watch::Receiver<Standing>;

    /// Announces this server and waits, bounded in time, until it is known once. After an error the wish is kept and
    /// tried on, unless the server leaves.
    async fn join(&self, member: Member) -> Result<(), JoinError>;

    /// Leads no longer and does not stand again until it announces itself anew; it stays known, and in the ring. Returns
    /// at once, and the store hears of it as soon as it can.
    fn resign(&self);

    /// Makes this server unknown again, before it stops: out of the ring first. Bounded in time.
    async fn leave(&self);

    /// Shares in the checks from now on, or no longer. Waits, bounded in time, until the store has it; what is wanted
    /// is kept all the same.
    async fn share_checks(&self, wanted: bool);

    /// The servers, as a level.
    fn roster(&self) -> watch::Receiver<Arc<Roster>>;

    /// Whether this server leads, by what it can be sure of: a leader that lost the store for longer than its
    /// successor needs to take over is none.
    fn leads(&self) -> bool;

    /// The epoch in which this server leads, by what it can be sure of.
    fn leads_in(&self) -> Option<u64> {
        self.leads().then(|| self.roster().borrow().epoch)
    }
}

/// Why a server could not be made known.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The store does not answer; trying again may help, and is done.
    #[error("the store does not answer: {reason}")]
    Unavailable {
        /// What was tried and failed.
        reason: String,
    },
    /// Another server has that id.
    #[error("server id `{id}` belongs to the server at {advertise}: give one of both another `server.id`")]
    Taken {
        /// The id.
        id: ServerId,
        /// Where the other one is reached.
        advertise: String,
    },
}

/// A server on its own: the only member, and the leader for good.
#[derive(Debug)]
pub struct Solo {
    roster: watch::Sender<Arc<Roster>>,
    standing: watch::Sender<Standing>,
}

impl Default for Solo {
    fn default() -> Self {
        Self {
            roster: watch::Sender::new(Arc::new(Roster { epoch: 1, ..Roster::default() })),
            standing: watch::Sender::default(),
        }
    }
}

#[async_trait]
impl Membership for Solo {
    fn announce(&self, member: Member) {
        let leader = Some(member.id.clone());
        let ring = RingMembers { store: None, epoch: 0, servers: vec![member.id.clone()] };
        self.roster.send_replace(Arc::new(Roster { members: vec![member], leader, epoch: 1, ring }));
        self.standing.send_replace(Standing::Known);
    }

    fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    async fn join(&self, member: Member) -> Result<(), JoinError> {
        self.announce(member);
        Ok(())
    }

    /// Nobody could lead in its place.
    fn resign(&self) {}

    async fn leave(&self) {
        self.roster.send_replace(Arc::new(Roster { epoch: 1, ..Roster::default() }));
        self.standing.send_replace(Standing::Absent);
    }

    async fn share_checks(&self, _wanted: bool) {}

    fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    fn leads(&self) -> bool {
        true
    }
}
