//! A program registers itself as a node, and stays one while it runs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jcm_model::{ClusterName, Invalid, LeaseId, NodeId, Revision};
use tokio::sync::watch;

use crate::me::Me;
use crate::session::leases::{self, LeaseEvent, Wanted};
use crate::subscriber::Shared;

/// How long one renewal lasts, unless said otherwise.
const TTL_DEFAULT: Duration = Duration::from_secs(10);
/// What [`Registration::leave`] waits for its writes, beside the time that it leaves for draining.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a program is to be registered, see [`Subscriber::register`](crate::Subscriber::register).
#[derive(Debug, Clone)]
#[must_use = "nothing is registered until `start` is awaited"]
pub struct RegistrationBuilder {
    shared: Arc<Shared>,
    cluster: String,
    me: Me,
    ttl: Duration,
    online: bool,
    patient: bool,
}

/// A node of a cluster that this program is, kept there while this lives: across reconnections, moves to other servers
/// and restarts of servers. When the program dies, or drops this without [`leave`](Self::leave), the lease lapses and the node is
/// cleared away.
///
/// What people change about the node by hand stays while the program keeps the node: keeping writes nothing. A restart of the
/// program, or its coming back after the node was cleared away or deleted, writes the program's own description again, with its
/// weight, and online once [`ready`](Self::ready) was called.
#[derive(Debug)]
#[must_use = "dropped, it lapses"]
pub struct Registration {
    shared: Arc<Shared>,
    cluster: ClusterName,
    lease: LeaseId,
    status: watch::Receiver<RegistrationStatus>,
}

/// How a registration stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// The node is not there, or not again; it is being tried.
    Trying {
        /// What stood in the way last; `None` when nothing is known to.
        reason: Option<String>,
    },
    /// The node is there.
    Registered {
        /// Its id.
        node: NodeId,
        /// The revision of this program's last write about it.
        revision: Revision,
        /// Whether the program has said that it is ready.
        online: bool,
    },
    /// It takes nothing new, and is about to go.
    Draining,
    /// It is not kept any more.
    Ended(RegistrationEnd),
}

/// Why a registration is not kept any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistrationEnd {
    /// The program left.
    Left,
    /// Another process registered the same node: the last one has it.
    Taken,
    /// The node is there without a lease: people keep it.
    Adopted,
    /// There is no such cluster.
    NoCluster,
    /// It cannot be as it is. That another node has its address and port is none of it: that is tried on.
    Refused {
        /// What a server said.
        reason: String,
    },
    /// The subscriber was shut down.
    Stopped,
}

impl std::fmt::Display for RegistrationEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Left => f.write_str("the program left"),
            Self::Taken => f.write_str("another process registered the same node, and has its place now"),
            Self::Adopted => f.write_str("the node is there without a lease, so people keep it"),
            Self::NoCluster => f.write_str("there is no such cluster"),
            Self::Refused { reason } => write!(f, "it is refused: {reason}"),
            Self::Stopped => f.write_str("the subscriber was shut down"),
        }
    }
}

/// A program was not registered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegisterError {
    /// That is no cluster's name.
    #[error("the program cannot be registered")]
    Name(#[source] Invalid),
    /// What it says of itself makes no sense.
    #[error("the program cannot be registered in cluster `{cluster}`")]
    Me {
        /// Where.
        cluster: ClusterName,
        /// What is wrong.
        source: Invalid,
    },
    /// Clusters are made by people.
    #[error(
        "there is no cluster `{cluster}` to register in: create it (`PUT /v1/clusters/{cluster}`, or `jcmctl apply`), or wait for it \
         with `wait_for_cluster`"
    )]
    NoCluster {
        /// Which.
        cluster: ClusterName,
    },
    /// A node of this id, that people keep, is there.
    #[error(
        "the node is in cluster `{cluster}` already, without a lease, so people keep it: delete it, or register under an id of its own \
         (`Me::id`)"
    )]
    Adopted {
        /// Where.
        cluster: ClusterName,
    },
    /// A server refuses it.
    #[error("the program cannot be registered in cluster `{cluster}`: {reason}")]
    Refused {
        /// Where.
        cluster: ClusterName,
        /// What the server said.
        reason: String,
    },
    /// Another process registered the same node in the same moment.
    #[error(
        "the program cannot be registered in cluster `{cluster}`: another process took the same node's place"
    )]
    Taken {
        /// Where.
        cluster: ClusterName,
    },
    /// One subscriber keeps no more.
    #[error(
        "the program cannot be registered in cluster `{cluster}`: one subscriber keeps at most {limit} registrations"
    )]
    TooMany {
        /// Where.
        cluster: ClusterName,
        /// How many are allowed.
        limit: usize,
    },
    /// The subscriber was shut down.
    #[error("the program cannot be registered in cluster `{cluster}`: the subscriber was shut down")]
    Stopped {
        /// Where.
        cluster: ClusterName,
    },
}

/// A registration is over.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the registration in cluster `{cluster}` is over: {end}")]
pub struct RegistrationOver {
    /// Where it was.
    pub cluster: ClusterName,
    /// Why.
    pub end: RegistrationEnd,
}

/// It could not be said in time that the program leaves: its lease lapses.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cluster `{cluster}` was not left in time: the node goes when its lease has lapsed{}", reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default())]
pub struct LeaveError {
    /// Where.
    pub cluster: ClusterName,
    /// What stood in the way last.
    pub reason: Option<String>,
}

impl RegistrationBuilder {
    pub(crate) fn new(shared: Arc<Shared>, cluster: String, me: Me) -> Self {
        Self { shared, cluster, me, ttl: TTL_DEFAULT, online: false, patient: false }
    }

    #[cfg(feature = "blocking")]
    pub(crate) fn cluster(&self) -> Result<ClusterName, Invalid> {
        ClusterName::parse(&self.cluster)
    }

    /// For how long the node is kept without a word of this program, from 2 s to 1 h: 10 s unless set. The program speaks about
    /// every third of it. A dead program is cleared away after about twice as long.
    ///
    /// Below 10 s a program whose path to its server breaks may be found down before it has moved: it takes up to 4.5 s to notice
    /// and about 2 s to connect elsewhere.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Where callers reach the program, see [`Me::address`].
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.me = self.me.address(address);
        self
    }

    /// Callers may come as soon as the node is there. Unless said so it is offline until [`Registration::ready`].
    pub fn ready_at_once(mut self) -> Self {
        self.online = true;
        self
    }

    /// A cluster that is not there is no error: the program is registered once it is.
    pub fn wait_for_cluster(mut self) -> Self {
        self.patient = true;
        self
    }

    /// Registers the program. It returns with the first of: the node is there, it cannot be, and the end of the ready timeout.
    /// After that the registration goes on being tried, as its status says.
    ///
    /// A node of the same id with a lease of another process is taken over, because this program may have been
    /// started again; the other process, if it still runs, ends its registration and says so. A node of another id at the same
    /// address and port is waited for, because it may be what a dead process left: it is replaced once nobody has kept its lease
    /// for its whole time. A program is better registered under the same id each time: then there is nothing to wait for.
    pub async fn start(self) -> Result<Registration, RegisterError> {
        let cluster = ClusterName::parse(&self.cluster).map_err(RegisterError::Name)?;
        let refused = |source| RegisterError::Me { cluster: cluster.clone(), source };
        let lease = leases::new_lease(self.ttl).map_err(refused)?;
        self.me.spec(None, false).map_err(refused)?;
        let (me, online, patient) = (self.me, self.online, self.patient);
        let wanted = Wanted { cluster: cluster.clone(), me, lease, online, patient };
        let deadline = tokio::time::Instant::now() + self.shared.ready_timeout();
        let status = self.shared.register(wanted).await?;
        let mut registration = Registration { shared: self.shared, cluster, lease: lease.id(), status };
        let known = |status: &RegistrationStatus| !matches!(status, RegistrationStatus::Trying { .. });
        // Where nothing is known in time, the status says so.
        let _ = tokio::time::timeout_at(deadline, registration.status.wait_for(known)).await;
        let cluster = registration.cluster.clone();
        match registration.status() {
            RegistrationStatus::Ended(end) => Err(match end {
                RegistrationEnd::NoCluster => RegisterError::NoCluster { cluster },
                RegistrationEnd::Adopted => RegisterError::Adopted { cluster },
                RegistrationEnd::Refused { reason } => RegisterError::Refused { cluster, reason },
                RegistrationEnd::Taken => RegisterError::Taken { cluster },
                RegistrationEnd::Left | RegistrationEnd::Stopped => RegisterError::Stopped { cluster },
            }),
            _ => Ok(registration),
        }
    }
}

impl Registration {
    /// Its cluster.
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Which lease the node has.
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// How it stands.
    pub fn status(&self) -> RegistrationStatus {
        let status = self.status.borrow().clone();
        let over = matches!(status, RegistrationStatus::Ended(_));
        if !over && self.shared.has_ended() {
            RegistrationStatus::Ended(RegistrationEnd::Stopped)
        } else {
            status
        }
    }

    /// The next status that is another one than the last that this answered. The caller sets the deadline.
    pub async fn changed(&mut self) -> RegistrationStatus {
        let ended = self.shared.ended();
        match ended.run_until_cancelled(self.status.changed()).await {
            Some(Ok(())) => self.status.borrow_and_update().clone(),
            // Nobody changes it any more.
            Some(Err(_)) | None => self.status(),
        }
    }

    /// Waits until the node is there, and answers its id.
    pub async fn registered(&self) -> Result<NodeId, RegistrationOver> {
        self.until(|status| match status {
            RegistrationStatus::Registered { node, .. } => Some(node.clone()),
            _ => None,
        })
        .await
    }

    /// Says that callers may come, and waits until that is stored. The caller sets the deadline; dropped, it is still said.
    pub async fn ready(&self) -> Result<(), RegistrationOver> {
        self.shared.tell_leases(LeaseEvent::Ready { lease: self.lease }).await;
        self.until(|status| match status {
            RegistrationStatus::Registered { online: true, .. } => Some(()),
            _ => None,
        })
        .await
    }

    /// Waits until the registration is over, and answers why.
    pub async fn ended(&self) -> RegistrationEnd {
        match self.until(|_| None::<()>).await {
            Ok(()) => RegistrationEnd::Stopped,
            Err(over) => over.end,
        }
    }

    /// Leaves the cluster: for the time `drain` the node takes nothing new, then it is deleted. Callers learn of the first at
    /// once, so `drain` is the time for what is under way. At most 10 s longer are waited; after that the lease
    /// lapses.
    pub async fn leave(self, drain: Duration) -> Result<(), LeaveError> {
        let lease = self.lease;
        let left = async {
            self.shared.tell_leases(LeaseEvent::Leave { lease, drain }).await;
            self.ended().await
        };
        let in_time = drain.checked_add(LEAVE_TIMEOUT).unwrap_or(Duration::MAX);
        match tokio::time::timeout(in_time, left).await {
            // Whatever else ended it: the node is not this program's any more.
            Ok(end) if end != RegistrationEnd::Stopped => Ok(()),
            _ => {
                let reason = match self.status() {
                    RegistrationStatus::Trying { reason } => reason,
                    _ => None,
                };
                Err(LeaveError { cluster: self.cluster.clone(), reason })
            }
        }
    }

    async fn until<T>(
        &self,
        mut reached: impl FnMut(&RegistrationStatus) -> Option<T>,
    ) -> Result<T, RegistrationOver> {
        let mut status = self.status.clone();
        let mut found = None;
        let waited = status.wait_for(|status| {
            found = reached(status);
            found.is_some() || matches!(status, RegistrationStatus::Ended(_))
        });
        let _ = self.shared.ended().run_until_cancelled(waited).await;
        found.ok_or_else(|| {
            let end = match self.status() {
                RegistrationStatus::Ended(end) => end,
                _ => RegistrationEnd::Stopped,
            };
            RegistrationOver { cluster: self.cluster.clone(), end }
        })
    }
}
