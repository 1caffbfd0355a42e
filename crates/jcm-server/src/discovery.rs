//! The watch stream: one for all clusters of a subscriber, fed with events that are encoded once for everybody.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use jcm_model::ClusterName;
use jcm_proto::token::Token;
use jcm_proto::v1::{WatchRequest, watch_request, watch_response};
use jcm_proto::{Protocols, WATCH_PROTOCOLS};
use jcm_storage::{Member, Roster};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Status, Streaming};
use tracing::{debug, info};

use crate::app::App;
use crate::subscribers::{CLUSTERS_MAX, COALESCE_FOR, HEARTBEAT, LEAVE_MAX, UNREAD_MAX, WATCH_HEARTBEAT};
use crate::views::{EventKind, Held, Inbox, Watching, general};

/// Messages between a stream's task and its connection: one under way and a few small ones. More would be backlog:
/// what changes while the connection is full is told from the latest view.
const MESSAGES_MAX: usize = 4;

/// Largest message of a client: names and tokens.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// The one route of this door. Routed by hand, because its codec is not the generated one.
pub(crate) fn routes() -> Router<App> {
    Router::new().route("/jcm.v1.Discovery/Watch", post(watch))
}

/// `/jcm.v1.Discovery/Watch`.
async fn watch(State(app): State<App>, request: Request) -> Response {
    let mut grpc =
        tonic::server::Grpc::new(EncodedOnce).apply_max_message_size_config(Some(REQUEST_BYTES_MAX), None);
    grpc.streaming(Watch(app), request.map(tonic::body::Body::new))
        .await
        .map(axum::body::Body::new)
        .into_response()
}

struct Watch(App);

impl tonic::server::StreamingService<WatchRequest> for Watch {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        let app = self.0.clone();
        Box::pin(async move {
            let (sender, responses) = mpsc::channel(MESSAGES_MAX);
            let subscribers = Arc::clone(&app.subscribers);
            let session = Session {
                app,
                inbox: Arc::default(),
                names: HashMap::new(),
                watched: HashMap::new(),
                waiting: HashMap::new(),
                next_key: 0,
                servers: Vec::new(),
                sender,
            };
            // The task ends with its stream, when the server drains, or when nobody reads.
            subscribers.spawn(session.run(request.into_inner()));
            Ok(tonic::Response::new(ReceiverStream::new(responses)))
        })
    }
}

/// One subscriber's stream.
struct Session {
    app: App,
    inbox: Arc<Inbox>,
    names: HashMap<ClusterName, u32>,
    watched: HashMap<u32, Watched>,
    /// Clusters whose reader is ahead of this server, and until when it waits.
    waiting: HashMap<u32, Instant>,
    next_key: u32,
    /// The servers that the client was told of last.
    servers: Vec<watch_response::Server>,
    sender: mpsc::Sender<Result<Bytes, Status>>,
}

struct Watched {
    name: ClusterName,
    held: Held,
    _watching: Watching,
}

/// Why a session ends.
enum End {
    /// The client went away or closed its side.
    Closed,
    /// The client is told this.
    Refused(Status),
    /// The client does not read.
    Unread,
    /// The server stops.
    Draining,
}

impl Session {
    async fn run(mut self, mut requests: Streaming<WatchRequest>) {
        let _counted = self.app.subscribers.enter();
        match self.serve(&mut requests).await {
            End::Closed | End::Draining => {}
            End::Refused(status) => {
                info!(code = ?status.code(), reason = status.message(), "subscriber refused");
                let _ = tokio::time::timeout(UNREAD_MAX, self.sender.send(Err(status))).await;
            }
            End::Unread => info!(limit_s = UNREAD_MAX.as_secs(), "subscriber cut: it does not read"),
        }
    }

    async fn serve(&mut self, requests: &mut Streaming<WatchRequest>) -> End {
        let (draining, cut) = (self.app.draining.clone(), self.app.cut.clone());
        let mut roster = self.app.membership.roster();
        let mut stale = self.app.views.stale();
        let mut leave_at = None;
        if let Err(end) = self.greet(requests, &mut roster).await {
            return end;
        }
        loop {
            // Whoever does not read learns from the closed connection that this server is gone.
            let step = tokio::select! {
                biased;
                () = cut.cancelled() => return End::Draining,
                () = until(leave_at) => return End::Draining,
                () = draining.cancelled(), if leave_at.is_none() => {
                    leave_at = Some(Instant::now() + LEAVE_MAX);
                    let go_away = watch_response::GoAway { reason: "the server is stopping".to_owned() };
                    self.send(general(watch_response::Event::GoAway(go_away))).await
                }
                () = self.sender.closed() => return End::Closed,
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request),
                    Ok(None) | Err(_) => return End::Closed,
                },
                // One small message for all clusters of the stream, when it turns: their next views and deltas say it too.
                Ok(()) = stale.changed() => self.beat().await,
                Ok(()) = roster.changed() => self.tell_servers(&mut roster).await,
                () = until(self.waiting.values().min().copied()) => {
                    let now = Instant::now();
                    let due = |(key, at): (&u32, &Instant)| (*at <= now).then_some(*key);
                    let due: Vec<u32> = self.waiting.iter().filter_map(due).collect();
                    self.tell(due).await
                }
                changed = tokio::time::timeout(WATCH_HEARTBEAT, self.inbox.take()) => match changed {
                    Ok(changed) => self.tell(changed).await,
                    Err(_) => self.beat().await,
                },
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn greet(
        &mut self,
        requests: &mut Streaming<WatchRequest>,
        roster: &mut watch::Receiver<Arc<Roster>>,
    ) -> Result<(), End> {
        let first = tokio::time::timeout(HEARTBEAT, requests.message()).await;
        let hello = match first {
            Ok(Ok(Some(WatchRequest { request: Some(watch_request::Request::Hello(hello)) }))) => hello,
            Ok(Ok(Some(_))) => {
                return Err(End::Refused(Status::failed_precondition(
                    "the first message of a stream is `hello`",
                )));
            }
            Ok(Ok(None) | Err(_)) => return Err(End::Closed),
            Err(_) => return Err(End::Refused(Status::deadline_exceeded("no `hello` came in time"))),
        };
        let theirs = Protocols::said(hello.protocol, hello.newest_protocol);
        let Some(protocol) = theirs.and_then(|theirs| WATCH_PROTOCOLS.highest_common(theirs)) else {
            let text =
                format!("protocol {} is not known, this server speaks {WATCH_PROTOCOLS}", hello.protocol);
            return Err(End::Refused(Status::failed_precondition(text)));
        };
        debug!(client = %jcm_model::invalid::quoted(&hello.client), "subscriber connected");
        let welcome = watch_response::Welcome {
            protocol,
            server: self.app.server.to_string(),
            heartbeat_ms: u32::try_from(WATCH_HEARTBEAT.as_millis()).expect("a heartbeat is seconds"),
        };
        self.send(general(watch_response::Event::Welcome(welcome))).await?;
        self.tell_servers(roster).await
    }

    /// The servers, where they are others than the client was told of.
    async fn tell_servers(&mut self, roster: &mut watch::Receiver<Arc<Roster>>) -> Result<(), End> {
        let server = |member: &Member| watch_response::Server {
            id: member.id.to_string(),
            advertise: member.advertise.clone(),
            zone: member.zone.clone(),
        };
        let servers: Vec<_> = roster.borrow_and_update().members.iter().map(server).collect();
        if servers == self.servers {
            return Ok(());
        }
        self.servers.clone_from(&servers);
        self.send(general(watch_response::Event::Servers(watch_response::Servers { servers }))).await
    }

    async fn beat(&self) -> Result<(), End> {
        let heartbeat = watch_response::Heartbeat { stale: self.app.views.is_stale() };
        self.send(general(watch_response::Event::Heartbeat(heartbeat))).await
    }

    fn take(&mut self, request: WatchRequest) -> Result<(), End> {
        use watch_request::Request;
        let name = |text: &str| {
            ClusterName::parse(text)
                .map_err(|error| End::Refused(Status::invalid_argument(error.to_string())))
        };
        match request.request {
            Some(Request::Subscribe(subscribe)) => self.subscribe(name(&subscribe.cluster)?, &subscribe),
            Some(Request::Unsubscribe(unsubscribe)) => {
                if let Some(key) = self.names.remove(&name(&unsubscribe.cluster)?) {
                    self.watched.remove(&key);
                }
                Ok(())
            }
            // What a subscriber holds is asked for by nobody yet; it is read so that clients need no change later.
            Some(Request::Acknowledge(_)) => Ok(()),
            Some(Request::Hello(_)) => {
                Err(End::Refused(Status::failed_precondition("`hello` comes once, first")))
            }
            None => Err(End::Refused(Status::unimplemented("a request that this server does not know"))),
        }
    }

    fn subscribe(&mut self, name: ClusterName, subscribe: &watch_request::Subscribe) -> Result<(), End> {
        // A token that cannot be read stands for nothing held: the whole view is always a right answer.
        let token = Some(&subscribe.token)
            .filter(|token| !token.is_empty())
            .and_then(|token| Token::from_bytes(token).ok());
        let held = Held::new(EventKind::Proto, token);
        if let Some(key) = self.names.get(&name) {
            if let Some(watched) = self.watched.get_mut(key) {
                watched.held = held;
                self.inbox.tell(*key);
            }
            return Ok(());
        }
        if self.names.len() == CLUSTERS_MAX {
            let text = format!("a stream carries at most {CLUSTERS_MAX} clusters");
            return Err(End::Refused(Status::resource_exhausted(text)));
        }
        let key = self.next_key;
        self.next_key += 1;
        let Some(watching) = self.app.views.watch(&name, &self.inbox, key) else {
            let text = "too many clusters that do not exist are being watched on this server";
            return Err(End::Refused(Status::resource_exhausted(text)));
        };
        self.names.insert(name.clone(), key);
        self.watched.insert(key, Watched { name, held, _watching: watching });
        self.inbox.tell(key);
        Ok(())
    }

    async fn tell(&mut self, changed: impl IntoIterator<Item = u32>) -> Result<(), End> {
        for key in changed {
            self.waiting.remove(&key);
            let Some(watched) = self.watched.get_mut(&key) else {
                continue;
            };
            let event = self.app.views.event(&watched.name, &mut watched.held);
            if let Some(at) = watched.held.due_at() {
                self.waiting.insert(key, at.into());
            }
            if let Some(event) = event {
                self.send(event.body).await?;
            }
        }
        tokio::time::sleep(COALESCE_FOR).await;
        Ok(())
    }

    async fn send(&self, message: Bytes) -> Result<(), End> {
        match tokio::time::timeout(UNREAD_MAX, self.sender.send(Ok(message))).await {
            Ok(sent) => sent.map_err(|_| End::Closed),
            Err(_) => Err(End::Unread),
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Sends messages that are encoded already, and decodes requests as usual.
#[derive(Debug, Clone, Copy, Default)]
struct EncodedOnce;

impl Codec for EncodedOnce {
    type Encode = Bytes;
    type Decode = WatchRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for EncodedOnce {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedOnce {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        let request = WatchRequest::decode(buffer.copy_to_bytes(buffer.remaining()));
        request
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("a request that cannot be read: {error}")))
    }
}
