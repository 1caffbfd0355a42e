//! The stop of a server that is one of several: others take over what it does before it stops doing it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jcm_model::ServerId;
use jcm_storage::Membership;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::App;
use crate::checker::Asker;
use crate::peers::Peers;
use crate::subscribers::{LEAVE_MAX, Subscribers};

/// Time of the whole stop.
const STOP_DEADLINE: Duration = Duration::from_millis(9_500);

/// How long leaving the ring may take: a store that does not answer finds out by itself.
const LEAVE_RING_DEADLINE: Duration = Duration::from_secs(1);

/// How long the others may take after that until they are seen to check: a usual interval, and the time to tell.
const TAKE_OVER_MAX: Duration = Duration::from_secs(2);

/// How long readers get to learn that a server goes which nobody takes over from.
const GO_AWAY_GRACE: Duration = Duration::from_millis(200);

/// How long the tasks of streams may take to end once their connections are closed.
const STREAMS_DEADLINE: Duration = Duration::from_millis(500);

/// How often it is looked whether others have taken over, and readers have gone.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The signals that stop a server.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?,
        })
    }

    /// Waits for one.
    pub(super) async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => info!("SIGTERM"),
            _ = self.interrupt.recv() => info!("interrupted"),
        }
    }

    /// Whoever sends another one does not want to wait, and nobody waits for ever. The task ends with the process.
    pub(super) fn end_process_at_the_next(mut self) {
        tokio::spawn(async move {
            match tokio::time::timeout(STOP_DEADLINE, self.stop()).await {
                Ok(()) => warn!("ending at once"),
                Err(_) => {
                    error!(limit = ?STOP_DEADLINE, "the stop takes too long, ending without the rest of it");
                }
            }
            std::process::exit(1);
        });
    }
}

/// What is told in which order.
pub(super) struct Stop {
    server: ServerId,
    membership: Arc<dyn Membership>,
    peers: Peers,
    asker: Asker,
    subscribers: Arc<Subscribers>,
    stopping: CancellationToken,
    draining: CancellationToken,
    cut: CancellationToken,
    closing: CancellationToken,
}

impl Stop {
    pub(super) fn new(app: &App, peers: Peers, closing: CancellationToken) -> Self {
        Self {
            server: app.server.clone(),
            membership: Arc::clone(&app.membership),
            peers,
            asker: app.asker.clone(),
            subscribers: Arc::clone(&app.subscribers),
            stopping: app.stopping.clone(),
            draining: app.draining.clone(),
            cut: app.cut.clone(),
            closing,
        }
    }

    /// Until the port is closed. At most 6 seconds.
    pub(super) async fn hand_over(&self) {
        // 1. Whoever asks whether to send work here is told no, and so are the other servers. What they have sent is carried
        //    out; somebody else leads before this server is gone.
        self.stopping.cancel();
        self.peers.drain();
        self.membership.resign();
        let is_alone =
            self.membership.roster().borrow().members.iter().all(|member| member.id == self.server);
        // 2. Checks go on until others have taken them over.
        if !is_alone {
            let left = self.membership.share_checks(false);
            if tokio::time::timeout(LEAVE_RING_DEADLINE, left).await.is_err() {
                warn!(
                    "the store does not answer: the others notice by themselves that this server leaves the ring"
                );
            }
            let taken_over = async {
                while self.asker.owned() > 0 {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            };
            if tokio::time::timeout(TAKE_OVER_MAX, taken_over).await.is_err() {
                let nodes = self.asker.owned();
                info!(nodes, "other servers are not seen to check these nodes yet");
            }
        }
        // 3. Readers are told to go elsewhere, and served until they have; those who do not go are cut.
        self.draining.cancel();
        let patience = if is_alone { GO_AWAY_GRACE } else { LEAVE_MAX };
        let gone = async {
            while self.subscribers.count() > 0 {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        };
        if is_alone {
            tokio::time::sleep(patience).await;
        } else if tokio::time::timeout(patience, gone).await.is_err() {
            info!(subscribers = self.subscribers.count(), "cutting subscribers that have not gone elsewhere");
        }
        self.cut.cancel();
        self.peers.hang_up();
        // 4. No new connections; those under way finish what they asked for.
        self.closing.cancel();
    }

    /// Once the port is closed: streams have ended with their connections, and their tasks with them.
    pub(super) async fn join_streams(&self) {
        let streams = async {
            self.peers.join().await;
            self.subscribers.join().await;
        };
        if tokio::time::timeout(STREAMS_DEADLINE, streams).await.is_err() {
            warn!("the task of a stream does not end although its connection is closed");
        }
    }
}
