//! The task that takes what others wrote.
//!
//! Watches are hints: a lost one costs the time until the next look, never a change. After each event, each new
//! connection and each interval it reads where the log ends, and takes what is missing. Two watches are kept, whatever
//! the number of clusters: on the head and on the identity.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::debug;
use zookeeper_client as zk;

use super::fetch::{self, REQUEST_PATIENCE};
use super::inner::Inner;
use super::session::Line;
use crate::LoadError;

/// What a lost notification costs at most, with as much again at random: servers do not look all at once.
const RECONCILE: Duration = Duration::from_secs(2);
/// The pause after a look that failed.
const RETRY: Duration = Duration::from_millis(300);

type Watch = Pin<Box<dyn Future<Output = zk::WatchedEvent> + Send>>;

/// The watches that did not fire yet.
#[derive(Default)]
struct Watches {
    head: Option<Watch>,
    identity: Option<Watch>,
}

impl Watches {
    /// Waits until one fires.
    async fn fired(&mut self) {
        let Self { head, identity } = self;
        let event = tokio::select! {
            event = wait(head) => event,
            event = wait(identity) => event,
        };
        if trusts_watches() && event.event_type == zk::EventType::Session {
            pending::<()>().await;
        }
    }
}

async fn wait(watch: &mut Option<Watch>) -> zk::WatchedEvent {
    match watch {
        Some(fires) => {
            let event = fires.await;
            *watch = None;
            event
        }
        None => pending().await,
    }
}

/// A fault on purpose: no reading after a reconnect, and none from time to time.
fn trusts_watches() -> bool {
    #[cfg(feature = "planted")]
    return crate::planted::is_planted("trust-watches");
    #[cfg(not(feature = "planted"))]
    false
}

pub(super) async fn follow(inner: Arc<Inner>, stop: CancellationToken) {
    let mut contact = inner.session.contact();
    let mut watches = Watches::default();
    // The connection on which everything was compared.
    let mut compared = 0;
    // Whether to read what nothing has told to be different.
    let mut thorough = true;
    loop {
        let (connection, down) = {
            let contact = contact.borrow_and_update();
            let down = if let Line::Down { since } = contact.line { Some(since) } else { None };
            (contact.connection, down)
        };
        let is_new = connection != compared;
        let pause = if let Some(since) = down {
            inner.set_stale(since);
            None
        } else if !inner.state().is_open {
            None
        } else if is_new && compared > 0 && trusts_watches() {
            compared = connection;
            None
        } else {
            match compare(&inner, is_new, thorough, &mut watches).await {
                Ok(()) => {
                    compared = connection;
                    inner.set_fresh();
                    (!trusts_watches()).then(|| RECONCILE.mul_f64(1.0 + fastrand::f64()))
                }
                Err(error) => {
                    debug!(%error, "what others wrote cannot be read");
                    inner.set_stale(Instant::now());
                    Some(RETRY)
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            changed = contact.changed() => match changed {
                Ok(()) => thorough = true,
                Err(_) => return,
            },
            () = watches.fired() => thorough = false,
            () = inner.hint.notified() => thorough = true,
            () = async { match pause { Some(pause) => tokio::time::sleep(pause).await, None => pending().await } } => thorough = true,
        }
    }
}

/// Reads where the log ends, and takes what is missing; before that which store is there, unless its watch stands and
/// this is no look of the thorough kind. So a commit of another server costs one way there and back until it is known.
async fn compare(
    inner: &Inner,
    is_new: bool,
    thorough: bool,
    watches: &mut Watches,
) -> Result<(), LoadError> {
    if is_new {
        // This member may be behind the one that was asked before.
        fetch::sync(&inner.session, Instant::now() + REQUEST_PATIENCE).await?;
    }
    let is_watched = !is_new && watches.identity.is_some();
    if !is_watched {
        // Watched before it is read: what happens in between fires.
        watches.identity = Some(Box::pin(fetch::watch_identity(&inner.session).await?.changed()));
    }
    let bound = match inner.bound() {
        Some(bound) if is_watched && !thorough => bound,
        _ => inner.recognise().await?,
    };
    watches.head = Some(Box::pin(inner.look(&bound).await?.changed()));
    Ok(())
}
