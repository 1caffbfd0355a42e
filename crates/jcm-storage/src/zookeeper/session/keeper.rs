//! Keeps a session up: the one task that makes clients, and says where things stand.

use std::future::pending;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zookeeper_client as zk;

use super::{Config, Contact, Line, acls};
use crate::store::chain;

/// The pause after the first failed attempt.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between attempts: what an outage is longer for us than for ZooKeeper.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the end of a session is waited for at shutdown.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// How a session ended for us.
enum End {
    Stopped,
    /// It is lost. Perhaps another one is there already.
    Lost(Option<zk::Client>),
}

pub(super) async fn run(config: Config, contact: watch::Sender<Contact>, stop: CancellationToken) {
    let mut next = None;
    loop {
        let client = if let Some(client) = next.take() {
            client
        } else {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                client = dial(&config) => client,
            }
        };
        info!(session = %client.session_id(), hosts = config.hosts, "session with ZooKeeper");
        contact.send_modify(|contact| {
            contact.session += 1;
            contact.connection += 1;
            contact.line = Line::Up(client.clone());
        });
        match tend(&config, client, &contact, &stop).await {
            End::Stopped => return,
            End::Lost(client) => next = client,
        }
    }
}

/// Follows one session until it is lost.
async fn tend(
    config: &Config,
    client: zk::Client,
    contact: &watch::Sender<Contact>,
    stop: &CancellationToken,
) -> End {
    let mut states = client.state_watcher();
    let mut state = states.peek_state();
    let session_timeout = client.session_timeout();
    let mut lost: Option<Instant> = None;
    loop {
        match state {
            zk::SessionState::SyncConnected => {
                if let Some(since) = lost.take() {
                    info!(after_ms = millis(since.elapsed()), "connected to ZooKeeper again");
                }
            }
            zk::SessionState::Disconnected | zk::SessionState::ConnectedReadOnly => {
                if lost.is_none() {
                    warn!("the connection with ZooKeeper is lost");
                    lost = Some(hang_up(contact));
                }
            }
            ended => {
                warn!(state = %ended, "the session with ZooKeeper is lost");
                hang_up(contact);
                return End::Lost(None);
            }
        }
        // The pauses of the library double without a cap, so that it may sleep through what is left of its session:
        // from the half of it on somebody else tries too, and who is first is taken.
        let replacement = async {
            match lost {
                None => pending().await,
                Some(since) => {
                    sleep_until((since + session_timeout / 2).into()).await;
                    dial(config).await
                }
            }
        };
        let mut replacement = pin!(replacement);
        state = tokio::select! {
            biased;
            () = stop.cancelled() => {
                hang_up(contact);
                close(client, states).await;
                return End::Stopped;
            }
            state = states.changed() => state,
            client = &mut replacement => {
                warn!("the session with ZooKeeper is given up for a new one");
                return End::Lost(Some(client));
            }
        };
        if state == zk::SessionState::SyncConnected {
            contact.send_modify(|contact| {
                contact.connection += 1;
                contact.line = Line::Up(client.clone());
            });
        }
    }
}

/// Says that nothing can be asked, since when it was first known.
fn hang_up(contact: &watch::Sender<Contact>) -> Instant {
    let mut since = Instant::now();
    contact.send_if_modified(|contact| match contact.line {
        Line::Up(_) => {
            contact.line = Line::Down { since };
            true
        }
        Line::Down { since: earlier } => {
            since = earlier;
            false
        }
    });
    since
}

/// Gives the client back, with which its session ends, and waits until ZooKeeper has it.
async fn close(client: zk::Client, mut states: zk::StateWatcher) {
    drop(client);
    let ended = async { while !states.changed().await.is_terminated() {} };
    if timeout(CLOSE_PATIENCE, ended).await.is_err() {
        debug!("ZooKeeper did not confirm the end of the session");
    }
}

/// Makes a session, however long it takes.
async fn dial(config: &Config) -> zk::Client {
    let mut pause = PAUSE_MIN;
    let mut is_told = false;
    loop {
        let reason = match timeout(config.session_timeout, open(config)).await {
            Ok(Ok(client)) => return client,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no session within {} ms", config.session_timeout.as_millis()),
        };
        if is_told {
            debug!(hosts = config.hosts, reason, "ZooKeeper still cannot be reached");
        } else {
            warn!(hosts = config.hosts, reason, "ZooKeeper cannot be reached; trying on");
            is_told = true;
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Makes a session, with the root below which everything is kept.
async fn open(config: &Config) -> Result<zk::Client, zk::Error> {
    let mut connector =
        zk::Client::connector().with_session_timeout(config.session_timeout).with_fail_eagerly();
    if let Some((user, password)) = &config.digest {
        // The library says it again on each new connection.
        connector = connector.with_auth("digest", format!("{user}:{password}").as_bytes());
    }
    let client = connector.connect(&config.hosts).await?;
    make_root(&client, config).await?;
    client.chroot(config.root.as_str()).map_err(|_| zk::Error::BadArguments(&"the root is no path"))
}

async fn make_root(client: &zk::Client, config: &Config) -> Result<(), zk::Error> {
    // Whoever only gave us the root may have kept for himself what is above it.
    if config.root == "/" || client.check_stat(&config.root).await?.is_some() {
        return Ok(());
    }
    let options = zk::CreateMode::Persistent.with_acls(acls(config.digest.is_some()));
    client.mkdir(&config.root, &options).await
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
