//! One follower's stream: all that this server stamped, then what it stamps, and a heartbeat twice a second.
//!
//! What is sent whole is read from the board after the stream of turns was subscribed to, so that nothing falls between
//! the two; and the checker publishes on the board first, so that a turn which was sent with the whole is known by its
//! sequence and not sent again. A follower that falls behind is sent everything again instead of a backlog.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{Judged, ServerId, StoreId};
use jcm_proto::{PEER_PROTOCOLS, Protocols, v1};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::MissedTickBehavior;
use tonic::{Status, Streaming};
use tracing::{debug, info};
use v1::follow_request::Request;
use v1::follow_response::{self, Event};

use super::stock::{Digests, Stock};
use super::turned::Batch;
use super::{HEARTBEAT, SERVERS_MAX, Shared, Standing, parcel, renewed};
use crate::leases::Renewals;
use crate::views::Verdicts;

/// Messages between a stream's task and its connection: what changes while it is full waits in the queue of turns.
pub(super) const MESSAGES_MAX: usize = 4;

/// Time for the first word of a follower.
const HELLO_DEADLINE: Duration = Duration::from_secs(3);

/// A follower that does not read for as long is cut: it looks for another connection itself by then.
const UNREAD_MAX: Duration = Duration::from_secs(10);

/// How often renewals of leases are told: a small part of the shortest time that one lasts.
const RENEWALS_PAUSE: Duration = Duration::from_millis(200);

/// One follower's stream.
pub(super) struct Session {
    shared: Arc<Shared>,
    stock: Arc<Stock>,
    standing: watch::Receiver<Standing>,
    turned: broadcast::Receiver<Batch>,
    renewed: broadcast::Receiver<Arc<Renewals>>,
    sender: mpsc::Sender<Result<v1::FollowResponse, Status>>,
    /// The servers whose verdicts are sent: this one, and those that the follower cannot reach.
    servers: BTreeSet<ServerId>,
    /// Up to which of this server's own verdicts everything was sent: incarnation and sequence.
    sent: (u64, u64),
    /// The store that the verdicts which were sent whole belong to.
    store: StoreId,
}

/// Why a stream ends.
pub(super) enum End {
    /// The follower went away or closed its side.
    Closed,
    /// The follower is told this.
    Refused(Status),
    /// The follower does not read.
    Unread,
    /// This server stops.
    Stopping,
}

impl Session {
    pub(super) fn new(
        shared: Arc<Shared>,
        stock: Arc<Stock>,
        sender: mpsc::Sender<Result<v1::FollowResponse, Status>>,
    ) -> Self {
        Self {
            standing: shared.standing.subscribe(),
            turned: shared.turned.subscribe(),
            renewed: shared.leases.subscribe(),
            servers: BTreeSet::from([shared.server.clone()]),
            shared,
            store: stock.store(),
            stock,
            sender,
            sent: (0, 0),
        }
    }

    pub(super) async fn run(mut self, mut requests: Streaming<v1::FollowRequest>) {
        match self.serve(&mut requests).await {
            End::Closed | End::Stopping => {}
            End::Refused(status) => {
                info!(code = ?status.code(), reason = status.message(), "a server that wants to follow was refused");
                let _ = tokio::time::timeout(UNREAD_MAX, self.sender.send(Err(status))).await;
            }
            End::Unread => {
                info!(limit_s = UNREAD_MAX.as_secs(), "a server that follows was cut: it does not read");
            }
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<v1::FollowRequest>) -> End {
        let stopping = self.shared.hanging_up.clone();
        let follow = async {
            let follower = self.greet(requests).await?;
            self.send_renewals(&self.shared.leases.own()).await?;
            self.heartbeat().await?;
            self.tell_whole().await?;
            debug!(%follower, "a server follows");
            self.go_on(requests).await
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => End::Stopping,
            Err(end) = follow => end,
        }
    }

    async fn go_on(&mut self, requests: &mut Streaming<v1::FollowRequest>) -> Result<(), End> {
        let mut heartbeats = tokio::time::interval(HEARTBEAT);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewals = tokio::time::interval(RENEWALS_PAUSE);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut digests = tokio::time::interval(self.shared.digests_pause);
        digests.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sender = self.sender.clone();
        loop {
            tokio::select! {
                biased;
                () = sender.closed() => return Err(End::Closed),
                _ = heartbeats.tick() => {
                    self.heartbeat().await?;
                    if self.stock.store() != self.store {
                        // Nothing that was sent counts any more.
                        self.tell_whole().await?;
                    }
                }
                Ok(()) = self.standing.changed() => self.heartbeat().await?,
                _ = renewals.tick() => self.tell_renewals().await?,
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request).await?,
                    Ok(None) | Err(_) => return Err(End::Closed),
                },
                _ = digests.tick() => {
                    let digests = self.stock.digests().await;
                    self.send(Event::Digests(message(&digests))).await?;
                }
                batch = self.turned.recv() => match batch {
                    Ok(batch) => self.tell(&batch).await?,
                    Err(RecvError::Lagged(batches)) => {
                        debug!(batches, "a server that follows is behind and sent everything again");
                        metrics::counter!("jcm_peer_followers_behind_total").increment(1);
                        self.turned = self.shared.turned.subscribe();
                        self.tell_whole().await?;
                    }
                    Err(RecvError::Closed) => return Err(End::Stopping),
                },
            }
        }
    }

    async fn greet(&mut self, requests: &mut Streaming<v1::FollowRequest>) -> Result<ServerId, End> {
        let refused = |text: String| Err(End::Refused(Status::failed_precondition(text)));
        let hello = match tokio::time::timeout(HELLO_DEADLINE, requests.message()).await {
            Ok(Ok(Some(v1::FollowRequest { request: Some(Request::Hello(hello)) }))) => hello,
            Ok(Ok(Some(_))) => return refused("the first message of a stream is `hello`".to_owned()),
            Ok(Ok(None) | Err(_)) => return Err(End::Closed),
            Err(_) => return Err(End::Refused(Status::deadline_exceeded("no `hello` came in time"))),
        };
        let theirs = Protocols::said(hello.protocol, hello.newest_protocol);
        let common = theirs.and_then(|theirs| PEER_PROTOCOLS.highest_common(theirs));
        // First of all: one of another version learns which is spoken here.
        let protocol = common.unwrap_or(PEER_PROTOCOLS.newest());
        let welcome = follow_response::Welcome { protocol, server: self.shared.server.to_string() };
        self.send(Event::Welcome(welcome)).await?;
        if common.is_none() {
            return refused(format!(
                "protocol {} between servers is not known, server `{}` speaks {PEER_PROTOCOLS}",
                hello.protocol, self.shared.server
            ));
        }
        let follower = parse(&hello.server)?;
        if follower == self.shared.server {
            return refused(format!(
                "server id `{follower}` is this server's own: one of both needs another"
            ));
        }
        Ok(follower)
    }

    async fn take(&mut self, request: v1::FollowRequest) -> Result<(), End> {
        match request.request {
            Some(Request::Relay(relay)) => {
                let mut servers = parse_all(&relay.servers)?;
                servers.insert(self.shared.server.clone());
                let added = servers.difference(&self.servers).cloned().collect();
                self.servers = servers;
                self.tell_all_of(added).await
            }
            Some(Request::Again(again)) => {
                let servers = parse_all(&again.servers)?;
                self.tell_all_of(servers).await
            }
            Some(Request::Hello(_)) => {
                Err(End::Refused(Status::failed_precondition("`hello` comes once, first")))
            }
            None => Err(End::Refused(Status::unimplemented("a request that this server does not know"))),
        }
    }

    /// All that is followed.
    async fn tell_whole(&mut self) -> Result<(), End> {
        self.store = self.stock.store();
        self.tell_all_of(self.servers.clone()).await
    }

    async fn tell_all_of(&mut self, servers: BTreeSet<ServerId>) -> Result<(), End> {
        if servers.is_empty() {
            return Ok(());
        }
        let whole = self.stock.whole(servers.clone()).await;
        let own = whole.verdicts.values().flatten().map(|(_, judged)| judged);
        let own = own.filter(|judged| judged.stamp.server == self.shared.server).map(order).max();
        self.tell_verdicts(whole.store, &whole.verdicts, &servers, None).await?;
        self.sent = self.sent.max(own.unwrap_or_default());
        Ok(())
    }

    /// What the checker took over, as far as it is news to this follower.
    async fn tell(&mut self, batch: &Batch) -> Result<(), End> {
        let servers = self.servers.clone();
        self.tell_verdicts(batch.store, &batch.verdicts, &servers, Some(self.sent)).await?;
        metrics::histogram!("jcm_peer_lag_seconds").record(batch.published.elapsed().as_secs_f64());
        Ok(())
    }

    /// Of this server's own verdicts only those that come after the last one that was sent; without one all of them.
    async fn tell_verdicts(
        &self,
        store: StoreId,
        verdicts: &Verdicts,
        servers: &BTreeSet<ServerId>,
        sent: Option<(u64, u64)>,
    ) -> Result<(), End> {
        let is_news = |judged: &Judged| {
            judged.stamp.server != self.shared.server || sent.is_none_or(|sent| order(judged) > sent)
        };
        for piece in parcel::pieces(store, verdicts, servers, is_news) {
            metrics::counter!("jcm_peer_verdict_batches_total", "direction" => "out").increment(1);
            self.send(Event::Verdicts(piece)).await?;
        }
        Ok(())
    }

    /// What was renewed here up to now.
    async fn tell_renewals(&mut self) -> Result<(), End> {
        self.shared.leases.hand_on();
        loop {
            match self.renewed.try_recv() {
                Ok(batch) => self.send_renewals(&batch).await?,
                Err(TryRecvError::Lagged(_)) => {
                    self.renewed = self.shared.leases.subscribe();
                    self.send_renewals(&self.shared.leases.own()).await?;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => return Ok(()),
            }
        }
    }

    async fn send_renewals(&self, renewals: &Renewals) -> Result<(), End> {
        for piece in renewed::pieces(renewals, Instant::now()) {
            self.send(Event::Renewals(piece)).await?;
        }
        Ok(())
    }

    /// A heartbeat says also that all renewals before it were told.
    async fn heartbeat(&mut self) -> Result<(), End> {
        self.tell_renewals().await?;
        let standing = *self.standing.borrow_and_update();
        let liveness = Arc::clone(&self.shared.liveness.borrow());
        let hears = |(server, age): (&ServerId, Duration)| follow_response::Hears {
            server: server.to_string(),
            age_ms: super::millis(age),
        };
        let hears = liveness.ages(Instant::now()).take(SERVERS_MAX).map(hears).collect();
        let Standing { suspended, draining } = standing;
        self.send(Event::Heartbeat(follow_response::Heartbeat { hears, suspended, draining })).await
    }

    async fn send(&self, event: Event) -> Result<(), End> {
        let message = v1::FollowResponse { event: Some(event) };
        match tokio::time::timeout(UNREAD_MAX, self.sender.send(Ok(message))).await {
            Ok(sent) => sent.map_err(|_| End::Closed),
            Err(_) => Err(End::Unread),
        }
    }
}

/// In which order one server stamps, whatever the ring.
fn order(judged: &Judged) -> (u64, u64) {
    (judged.stamp.incarnation, judged.stamp.sequence)
}

fn message(digests: &Digests) -> follow_response::Digests {
    let digest = |(server, digest): (&ServerId, &u64)| follow_response::Digest {
        server: server.to_string(),
        digest: *digest,
    };
    follow_response::Digests {
        store: digests.store.0.as_bytes().to_vec(),
        digests: digests.by_server.iter().take(SERVERS_MAX).map(digest).collect(),
    }
}

fn parse(server: &str) -> Result<ServerId, End> {
    ServerId::parse(server).map_err(|error| End::Refused(Status::invalid_argument(error.to_string())))
}

fn parse_all(servers: &[String]) -> Result<BTreeSet<ServerId>, End> {
    if servers.len() > SERVERS_MAX {
        let text = format!("{} servers are named, the limit is {SERVERS_MAX}", servers.len());
        return Err(End::Refused(Status::invalid_argument(text)));
    }
    servers.iter().map(|server| parse(server)).collect()
}
