//! The connection to one other server: it follows that server, and calls go over it for as long as that is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{ServerId, StoreId};
use jcm_proto::v1::peers_client::PeersClient;
use jcm_proto::{PEER_PROTOCOLS, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use v1::follow_request::{self, Request};
use v1::follow_response::{self, Event};

use super::forwarding;
use super::gate::Gate;
use super::keeper::Word;
use super::line::{Client, Line};
use super::parcel::{self, MESSAGE_BYTES_MAX};
use super::stock::Stock;
use super::token::{Bearer, Token};
use super::{Heard, SERVERS_MAX, SILENT_AFTER, Shared, Standing, renewed};
use crate::pause::Pulse;

/// Time to connect and be welcomed, names looked up included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// HTTP/2 asks a quiet connection for a sign of life after this time, and takes it for dead when none comes for as long.
const PING_AFTER: Duration = Duration::from_secs(2);

/// Pauses between attempts: the first short, because most connections that break can be had again at once.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Requests under way to a server that is followed: a few short ones, all of which it reads at once.
const REQUESTS_MAX: usize = 16;

/// How long verdicts may wait for the checker. What does not get through is asked for again: a server that cannot follow
/// must not take the others for silent.
const CHECKER_WAIT_MAX: Duration = Duration::from_secs(1);

/// What never becomes equal is asked for again at every so many digests, some five minutes apart: something else may have
/// gone missing beside it.
const DOUBTS_REPEAT: u32 = 32;

/// Follows one server.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) stock: Arc<Stock>,
    pub(super) token: Option<Token>,
    /// The server that is meant: whoever answers in its place is not followed.
    pub(super) server: ServerId,
    pub(super) address: watch::Receiver<String>,
    /// The servers that this one shall relay.
    pub(super) relayed: watch::Receiver<BTreeSet<ServerId>>,
    pub(super) words: mpsc::Sender<Word>,
    pub(super) checker: mpsc::Sender<Heard>,
    pub(super) pulse: Pulse,
}

/// Why a server is not followed any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum End {
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    #[error("it did not welcome this server within {} ms", CONNECT_DEADLINE.as_millis())]
    NotWelcomed,
    #[error("it refuses this server: {0}")]
    Refused(String),
    #[error("server `{0}` answers at its address")]
    Impostor(String),
    #[error("it speaks protocol {0} between servers, this server speaks {PEER_PROTOCOLS}")]
    Protocol(u32),
    #[error("what it sends cannot be read: {0}")]
    Unreadable(String),
    #[error("it has been silent for {} s", SILENT_AFTER.as_secs())]
    Silent,
    #[error("it does not read what it is asked")]
    Unread,
    #[error("this server stood still: what it was told meanwhile is too old")]
    Paused,
    #[error("it closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl Connection {
    /// Follows the server until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut address = self.address.clone();
        let mut told = None;
        let mut pause = PAUSE_MIN;
        loop {
            let at = address.borrow_and_update().clone();
            let mut was_followed = false;
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = address.changed() => {
                    pause = PAUSE_MIN;
                    continue;
                }
                end = self.follow(&at, &mut was_followed) => end,
            };
            if was_followed {
                pause = PAUSE_MIN;
                told = None;
            }
            // An attempt a second must not be a line a second.
            if told.as_ref() != Some(&end) {
                warn!(server = %self.server, address = at, because = %end, "a server is not followed");
                told = Some(end);
            }
            let jittered = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            pause = (pause * 2).min(PAUSE_MAX);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Ok(()) = address.changed() => {}
                () = tokio::time::sleep(jittered) => {}
            }
        }
    }

    async fn follow(&self, address: &str, was_followed: &mut bool) -> End {
        let gate = Gate::new(&self.pulse);
        let welcomed = tokio::time::timeout(CONNECT_DEADLINE, self.connect(address, gate.clone())).await;
        let (client, requests, stream) = match welcomed {
            Ok(Ok(welcomed)) => welcomed,
            Ok(Err(end)) => return end,
            Err(_) => return End::NotWelcomed,
        };
        *was_followed = true;
        info!(server = %self.server, address, "a server is followed");
        let (forwarder, forwarding) = forwarding::to(self.server.clone());
        let line = Line { server: self.server.clone(), client: client.clone(), forwarder };
        let _listed = Listed::new(Arc::clone(&self.shared), &line);
        let store = self.stock.store();
        let mut listening =
            Listening { connection: self, requests, store, missed: false, doubts: BTreeMap::new() };
        tokio::select! {
            biased;
            () = gate.shut() => End::Paused,
            status = forwarding.run(client) => ended(&status),
            ended = listening.listen(stream) => {
                let (Ok(end) | Err(end)) = ended.map(|never| match never {});
                end
            }
        }
    }

    async fn connect(
        &self,
        address: &str,
        gate: Gate,
    ) -> Result<(Client, mpsc::Sender<v1::FollowRequest>, Streaming<v1::FollowResponse>), End> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| End::Unreachable(chain(&error)))?
            .connect_timeout(CONNECT_DEADLINE)
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_AFTER)
            .keep_alive_while_idle(true);
        let channel =
            endpoint.connect_with_connector(gate).await.map_err(|error| End::Unreachable(chain(&error)))?;
        let mut client = PeersClient::with_interceptor(channel, Bearer(self.token.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let hello = follow_request::Hello {
            protocol: PEER_PROTOCOLS.oldest(),
            newest_protocol: PEER_PROTOCOLS.newest(),
            server: self.shared.server.to_string(),
        };
        ask(&requests, Request::Hello(hello))?;
        let response = client.follow(ReceiverStream::new(receiver)).await.map_err(|status| ended(&status))?;
        let mut stream = response.into_inner();
        let first = stream.message().await.map_err(|status| ended(&status))?;
        let Some(v1::FollowResponse { event: Some(Event::Welcome(welcome)) }) = first else {
            return Err(End::Unreadable("it did not begin with `welcome`".to_owned()));
        };
        if !PEER_PROTOCOLS.speaks(welcome.protocol) {
            return Err(End::Protocol(welcome.protocol));
        }
        if welcome.server != self.server.as_str() {
            return Err(End::Impostor(jcm_model::invalid::quoted(&welcome.server)));
        }
        Ok((client, requests, stream))
    }
}

/// A server that is heard can be asked, and no other.
struct Listed {
    shared: Arc<Shared>,
    server: ServerId,
}

impl Listed {
    fn new(shared: Arc<Shared>, line: &Line) -> Self {
        let server = line.server.clone();
        shared.lines.rcu(|lines| {
            let mut lines = BTreeMap::clone(lines);
            lines.insert(line.server.clone(), line.clone());
            lines
        });
        Self { shared, server }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.lines.rcu(|lines| {
            let mut lines = BTreeMap::clone(lines);
            lines.remove(&self.server);
            lines
        });
    }
}

/// What is known of a stream while it lasts.
struct Listening<'a> {
    connection: &'a Connection,
    requests: mpsc::Sender<v1::FollowRequest>,
    /// The store that verdicts must belong to: those of another one were dropped.
    store: StoreId,
    /// Verdicts did not get through to the checker: they are asked for again when it has room.
    missed: bool,
    /// How often in a row the digest of a server did not agree.
    doubts: BTreeMap<ServerId, u32>,
}

impl Listening<'_> {
    async fn listen(
        &mut self,
        mut stream: Streaming<v1::FollowResponse>,
    ) -> Result<std::convert::Infallible, End> {
        let mut relayed = self.connection.relayed.clone();
        relayed.mark_unchanged();
        if !relayed.borrow().is_empty() {
            relayed.mark_changed();
        }
        self.word(Word::Heard(self.connection.server.clone())).await?;
        loop {
            tokio::select! {
                biased;
                Ok(()) = relayed.changed() => {
                    let servers = relayed.borrow_and_update().iter().map(ServerId::to_string).collect();
                    ask(&self.requests, Request::Relay(follow_request::Relay { servers }))?;
                }
                message = tokio::time::timeout(SILENT_AFTER, stream.message()) => {
                    let message = message.map_err(|_| End::Silent)?.map_err(|status| ended(&status))?;
                    self.hear(message.ok_or(End::Closed)?).await?;
                }
            }
        }
    }

    async fn hear(&mut self, message: v1::FollowResponse) -> Result<(), End> {
        let server = self.connection.server.clone();
        match message.event {
            Some(Event::Heartbeat(heartbeat)) => {
                let follow_response::Heartbeat { hears, suspended, draining } = heartbeat;
                let hears = hears.into_iter().take(SERVERS_MAX).filter_map(|hears| {
                    Some((ServerId::parse(&hears.server).ok()?, Duration::from_millis(hears.age_ms)))
                });
                let standing = Standing { suspended, draining };
                self.connection.shared.leases.contact(&server, Instant::now());
                self.word(Word::Told { server, standing, hears: hears.collect() }).await?;
                self.catch_up()
            }
            Some(Event::Verdicts(verdicts)) => {
                self.word(Word::Heard(server)).await?;
                self.hand_over(verdicts).await
            }
            Some(Event::Digests(digests)) => {
                self.word(Word::Heard(server)).await?;
                self.compare(digests).await
            }
            Some(Event::Welcome(_)) => Err(End::Unreadable("`welcome` comes once, first".to_owned())),
            Some(Event::Renewals(renewals)) => {
                self.connection.shared.leases.hear(&server, &renewed::open(renewals, Instant::now()));
                self.word(Word::Heard(server)).await
            }
            // Something that only a later version says.
            None => self.word(Word::Heard(server)).await,
        }
    }

    async fn hand_over(&mut self, message: follow_response::Verdicts) -> Result<(), End> {
        let opened = parcel::open(message).map_err(|error| End::Unreadable(chain(&error)))?;
        let server = &self.connection.server;
        if let Some((error, count)) = &opened.unreadable {
            debug!(%server, count, error = chain(error), "verdicts were left out that cannot be read");
            let count = u64::try_from(*count).unwrap_or(u64::MAX);
            metrics::counter!("jcm_peer_verdicts_unreadable_total").increment(count);
        }
        metrics::counter!("jcm_peer_verdict_batches_total", "direction" => "in").increment(1);
        let heard = Heard::Verdicts { from: server.clone(), store: opened.store, verdicts: opened.verdicts };
        match tokio::time::timeout(CHECKER_WAIT_MAX, self.connection.checker.send(heard)).await {
            Ok(Ok(())) => {}
            // The checker ends before its server does.
            Ok(Err(_)) => debug!("the checker hears nothing any more"),
            Err(_) => {
                if !std::mem::replace(&mut self.missed, true) {
                    warn!(%server, "verdicts are left out: the checker does not keep up");
                }
                metrics::counter!("jcm_peer_verdict_batches_missed_total").increment(1);
            }
        }
        Ok(())
    }

    /// Asks for what did not get through, once there is room, and for all of it under another store.
    fn catch_up(&mut self) -> Result<(), End> {
        let store = self.connection.stock.store();
        self.missed |= std::mem::replace(&mut self.store, store) != store;
        if !self.missed || self.connection.checker.capacity() < self.connection.checker.max_capacity() {
            return Ok(());
        }
        self.missed = false;
        let mut servers: Vec<String> =
            self.connection.relayed.borrow().iter().map(ServerId::to_string).collect();
        servers.push(self.connection.server.to_string());
        ask(&self.requests, Request::Again(follow_request::Again { servers }))
    }

    /// Asks for what is out of step: of the server itself, and of those that are not heard here.
    async fn compare(&mut self, theirs: follow_response::Digests) -> Result<(), End> {
        let ours = self.connection.stock.digests().await;
        if theirs.store != ours.store.0.as_bytes() {
            return Ok(());
        }
        let liveness = Arc::clone(&self.connection.shared.liveness.borrow());
        let mut servers = Vec::new();
        for theirs in theirs.digests.into_iter().take(SERVERS_MAX) {
            let Ok(server) = ServerId::parse(&theirs.server) else { continue };
            let is_theirs = server == self.connection.server
                || (server != self.connection.shared.server && !liveness.is_heard(&server));
            if !is_theirs || ours.by_server.get(&server) == Some(&theirs.digest) {
                self.doubts.remove(&server);
                continue;
            }
            // Once may be a turn that is under way. From the second time on less and less often: what does not become
            // equal by being sent again, for example because a cluster cannot be read here, must not be sent for good.
            let doubts = self.doubts.entry(server).or_default();
            *doubts += 1;
            if *doubts >= 2 && (doubts.is_power_of_two() || doubts.is_multiple_of(DOUBTS_REPEAT)) {
                servers.push(theirs.server);
            }
        }
        if servers.is_empty() {
            return Ok(());
        }
        debug!(server = %self.connection.server, ?servers, "verdicts are out of step and asked for again");
        metrics::counter!("jcm_peer_repairs_total").increment(1);
        ask(&self.requests, Request::Again(follow_request::Again { servers }))
    }

    async fn word(&self, word: Word) -> Result<(), End> {
        self.connection.words.send(word).await.map_err(|_| End::Closed)
    }
}

fn ask(requests: &mpsc::Sender<v1::FollowRequest>, request: Request) -> Result<(), End> {
    requests.try_send(v1::FollowRequest { request: Some(request) }).map_err(|_| End::Unread)
}

fn ended(status: &Status) -> End {
    let reason = jcm_model::invalid::quoted(status.message());
    match status.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::InvalidArgument
        | Code::Unimplemented => End::Refused(reason),
        Code::OutOfRange => End::Unreadable(reason),
        _ => End::Broken(reason),
    }
}

/// An error with what led to it.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
