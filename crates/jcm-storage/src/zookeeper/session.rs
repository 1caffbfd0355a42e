//! One session with ZooKeeper, kept up for as long as the process runs.
//!
//! The client library keeps one session and gives it up for good when it expires. This module goes on from there: it
//! makes the next one, numbers sessions and connections, and publishes as a level where things stand. Who keeps
//! something in ZooKeeper compares the numbers: after a new *connection* a watch may have missed something, after a new
//! *session* every ephemeral znode and every watch is gone.
//!
//! Invariant: nothing is sent while the connection is known to be gone. The library would queue it without a bound,
//! and send it when nobody waits for it any more. What was sent just before a loss may still arrive later: whoever
//! writes has to be able to tell (a commit is conditional on the head for that reason).

mod keeper;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zookeeper_client as zk;

use super::Config;
use crate::store::chain;

/// Requests that wait for an answer at one time. At a millisecond each this is more than a member serves, and few
/// enough that pings, which share the connection, come through in time.
const IN_FLIGHT_MAX: usize = 64;

/// Where things stand with ZooKeeper.
#[derive(Debug, Clone)]
pub(crate) struct Contact {
    /// Which session this is; 0 before the first. Rises with each new one.
    pub(crate) session: u64,
    /// Which connection this is. Rises with each return, also within one session.
    pub(crate) connection: u64,
    pub(crate) line: Line,
}

/// Whether ZooKeeper can be asked.
#[derive(Debug, Clone)]
pub(crate) enum Line {
    /// By this client, whose paths start below the root. A clone keeps its session alive: to be dropped with it.
    Up(zk::Client),
    /// Not since then.
    Down { since: Instant },
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError<E = zk::Error> {
    /// ZooKeeper was not asked.
    #[error("ZooKeeper was not asked: {reason}")]
    NotSent { reason: String },
    /// It may or may not have been done, or may be done yet.
    #[error("ZooKeeper did not answer: {reason}")]
    Unknown { reason: String },
    /// It was not done, and ZooKeeper says why.
    #[error("ZooKeeper refused")]
    Refused(#[source] E),
}

/// An error of the client library.
pub(crate) trait Reply: std::error::Error {
    /// Whether ZooKeeper itself said so: then nothing was done.
    fn is_answer(&self) -> bool;
}

impl Reply for zk::Error {
    fn is_answer(&self) -> bool {
        // All else is a loss of the connection, of which the library has several names, or of the session.
        matches!(
            self,
            Self::NoNode
                | Self::NodeExists
                | Self::BadVersion
                | Self::NotEmpty
                | Self::NoAuth
                | Self::NoChildrenForEphemerals
                | Self::InvalidAcl
                | Self::QuotaExceeded
                | Self::Throttled
                | Self::Unimplemented
                | Self::BadArguments(_)
        )
    }
}

impl Reply for zk::MultiWriteError {
    fn is_answer(&self) -> bool {
        match self {
            Self::OperationFailed { .. } => true,
            Self::RequestFailed { source } => source.is_answer(),
        }
    }
}

/// The session. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    contact: watch::Receiver<Contact>,
    in_flight: Semaphore,
    is_digest: bool,
}

/// Begins to keep a session.
pub(super) fn keep(config: Config, tasks: &TaskTracker, stop: CancellationToken) -> Session {
    let contact = Contact { session: 0, connection: 0, line: Line::Down { since: Instant::now() } };
    let (sender, receiver) = watch::channel(contact);
    let session = Session(Arc::new(Inner {
        contact: receiver,
        in_flight: Semaphore::new(IN_FLIGHT_MAX),
        is_digest: config.digest.is_some(),
    }));
    tasks.spawn(keeper::run(config, sender, stop));
    session
}

impl Session {
    /// Where things stand, as a level.
    pub(crate) fn contact(&self) -> watch::Receiver<Contact> {
        self.0.contact.clone()
    }

    /// Who may do what with the znodes that are made: with a digest only who has it.
    pub(crate) fn acls(&self) -> zk::Acls<'static> {
        acls(self.0.is_digest)
    }

    /// Asks ZooKeeper one thing: waits for a connection where there is none, then for the answer, all of it until the
    /// deadline.
    pub(crate) async fn call<T, E: Reply, F: Future<Output = Result<T, E>>>(
        &self,
        deadline: Instant,
        work: impl FnOnce(zk::Client) -> F,
    ) -> Result<T, CallError<E>> {
        let until = tokio::time::Instant::from_std(deadline);
        let ready = async {
            let permit = self.0.in_flight.acquire().await.ok()?;
            Some((self.client().await?, permit))
        };
        let (client, _permit) = match tokio::time::timeout_at(until, ready).await {
            Ok(Some(ready)) => ready,
            Ok(None) => return Err(CallError::NotSent { reason: "it is being shut down".to_owned() }),
            Err(_) => return Err(CallError::NotSent { reason: self.describe() }),
        };
        let sent = Instant::now();
        // A timer that is late, as after a pause of this process, must not let through what its caller has given up.
        if sent >= deadline {
            return Err(CallError::NotSent {
                reason: "its time was over before it could be sent".to_owned(),
            });
        }
        match tokio::time::timeout_at(until, work(client)).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if error.is_answer() => Err(CallError::Refused(error)),
            Ok(Err(error)) => Err(CallError::Unknown { reason: chain(&error) }),
            Err(_) => Err(CallError::Unknown {
                reason: format!("no answer came within {} ms", sent.elapsed().as_millis()),
            }),
        }
    }

    /// Carries out several requests whose answers are taken together. `None`: another session began meanwhile. It may have
    /// asked a member that is behind the one before, so that the answers do not belong together.
    pub(crate) async fn as_one<T>(&self, requests: impl Future<Output = T>) -> Option<T> {
        let session = || self.0.contact.borrow().session;
        let before = session();
        let answers = requests.await;
        (session() == before).then_some(answers)
    }

    /// The client, as soon as there is a connection. `None`: there will be none.
    async fn client(&self) -> Option<zk::Client> {
        let mut contact = self.contact();
        let up = contact.wait_for(|contact| matches!(contact.line, Line::Up(_))).await.ok()?;
        match &up.line {
            Line::Up(client) => Some(client.clone()),
            Line::Down { .. } => None,
        }
    }

    fn describe(&self) -> String {
        match self.0.contact.borrow().line {
            Line::Up(_) => format!("{IN_FLIGHT_MAX} requests before it wait for an answer"),
            Line::Down { since } => format!("no connection for {} ms", since.elapsed().as_millis()),
        }
    }
}

fn acls(is_digest: bool) -> zk::Acls<'static> {
    if is_digest { zk::Acls::creator_all() } else { zk::Acls::anyone_all() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::testing::Ensemble;
    use super::*;

    #[tokio::test]
    async fn answers_of_two_sessions_are_not_taken_together() {
        let contact = Contact { session: 4, connection: 7, line: Line::Down { since: Instant::now() } };
        let contact = watch::Sender::new(contact);
        let in_flight = Semaphore::new(1);
        let session = Session(Arc::new(Inner { contact: contact.subscribe(), in_flight, is_digest: false }));
        let reconnected = session.as_one(async { contact.send_modify(|contact| contact.connection += 1) });
        assert_eq!(reconnected.await, Some(()), "one session never goes back");
        let another = session.as_one(async { contact.send_modify(|contact| contact.session += 1) });
        assert_eq!(another.await, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_given_up_before_it_could_be_sent_is_not_sent() {
        let ensemble = Ensemble::new();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let session = keep(ensemble.config(&ensemble.hosts, Duration::from_secs(10)), &tasks, stop.clone());
        let mut contact = session.contact();
        let up = contact.wait_for(|contact| matches!(contact.line, Line::Up(_)));
        tokio::time::timeout(Duration::from_secs(30), up).await.unwrap().unwrap();
        let over = Instant::now();
        let mut is_sent = false;
        let asked = session
            .call(over, |_| {
                is_sent = true;
                std::future::ready(Ok::<_, zk::Error>(()))
            })
            .await;
        assert!(matches!(asked, Err(CallError::NotSent { .. })) && !is_sent, "{asked:?}");
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
