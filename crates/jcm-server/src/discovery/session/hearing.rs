//! What the client of a stream says, and what follows from it.

use std::error::Error as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use jcm_model::{ClusterName, Revision};
use jcm_proto::discovery::store_id;
use jcm_proto::token::Token;
use jcm_proto::v1::{WatchRequest, watch_request, watch_response};
use jcm_proto::{Protocols, WATCH_PROTOCOLS};
use slab::Slab;
use tokio::time::Instant;
use tokio_stream::Stream as _;
use tonic::Status;
use tracing::debug;

use super::{Session, Standing, Watched, to_u32};
use crate::leases::Kept;
use crate::subscribers::{CLUSTERS_MAX, WATCH_HEARTBEAT};
use crate::views::{EventKind, Held, Subscriber, general};

/// Requests that are read before others have a turn: a program that starts follows some tens of clusters.
const REQUESTS_A_TURN: usize = 64;

/// Leases in one message of a client: with the longest names they fit what a request may be.
const KEPT_MAX: usize = 128;

/// Lost leases that wait to be told.
const LOST_MAX: usize = 1024;

impl Session {
    /// Reads what the client says, as much as a turn has room for: who says more comes again.
    pub(super) fn hear(&mut self) -> Result<(), Status> {
        for _ in 0..REQUESTS_A_TURN {
            let request =
                Pin::new(&mut self.requests).poll_next(&mut Context::from_waker(&self.requests_waker));
            let Poll::Ready(request) = request else { return Ok(()) };
            match request {
                Some(Ok(request)) => self.take(request)?,
                // What cannot be read, by what it is; anything else is a connection that broke.
                Some(Err(status)) if status.source().is_none() => return Err(status),
                // The client went away or closed its side.
                Some(Err(_)) | None => return Err(Status::ok("")),
            }
        }
        self.requests_waker.wake_by_ref();
        Ok(())
    }

    fn take(&mut self, request: WatchRequest) -> Result<(), Status> {
        use watch_request::Request;
        let name = |text: &str| {
            ClusterName::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))
        };
        let Standing::Open { protocol } = self.standing else {
            let Some(Request::Hello(hello)) = request.request else {
                return Err(Status::failed_precondition("the first message of a stream is `hello`"));
            };
            return self.greet(&hello);
        };
        match request.request {
            Some(Request::Hello(_)) => Err(Status::failed_precondition("`hello` comes once, first")),
            Some(Request::Subscribe(subscribe)) => {
                self.subscribe(&name(&subscribe.cluster)?, &subscribe, EventKind::Proto(protocol))
            }
            Some(Request::Unsubscribe(unsubscribe)) => {
                if let Some(key) = self.key(&name(&unsubscribe.cluster)?) {
                    self.watched.remove(key);
                    self.waiting.remove(&to_u32(key));
                }
                Ok(())
            }
            Some(Request::Acknowledge(acknowledge)) => {
                if let Some(key) = self.key(&name(&acknowledge.cluster)?) {
                    let store = store_id(&acknowledge.store).ok();
                    self.inbox.acknowledge(to_u32(key), Revision(acknowledge.revision), store);
                }
                Ok(())
            }
            Some(Request::Keep(keep)) => self.keep(keep),
            None => Err(Status::unimplemented("a request that this server does not know")),
        }
    }

    /// The client keeps these leases.
    fn keep(&mut self, keep: watch_request::Keep) -> Result<(), Status> {
        let tie = self.keeps.get_or_insert_default();
        let count = keep.held.len();
        if count > KEPT_MAX {
            let text = format!("{count} leases in one message, the limit is {KEPT_MAX}");
            return Err(Status::invalid_argument(text));
        }
        let kept: Result<Vec<Kept>, _> = keep.held.into_iter().map(Kept::try_from).collect();
        let kept = kept.map_err(|error| Status::invalid_argument(format!("keep: {}", chain(&error))))?;
        let (leases, snapshot) = (self.app.peers.leases(), self.app.views.snapshot());
        let lost = leases.keep(tie, kept, &snapshot, std::time::Instant::now());
        // Who does not read what it lost is told again with its next word.
        self.lost.extend(lost.into_iter().take(LOST_MAX.saturating_sub(self.lost.len())));
        Ok(())
    }

    fn greet(&mut self, hello: &watch_request::Hello) -> Result<(), Status> {
        let theirs = Protocols::said(hello.protocol, hello.newest_protocol);
        let Some(protocol) = theirs.and_then(|theirs| WATCH_PROTOCOLS.highest_common(theirs)) else {
            let text =
                format!("protocol {} is not known, this server speaks {WATCH_PROTOCOLS}", hello.protocol);
            return Err(Status::failed_precondition(text));
        };
        let client = jcm_model::invalid::quoted(&hello.client);
        debug!(client, "subscriber connected");
        let peer = match self.peer {
            Some(address) => format!("{client} at {address}"),
            None => client,
        };
        self.inbox.belongs_to(Subscriber { peer: peer.into(), acknowledges: hello.acknowledges });
        let welcome = watch_response::Welcome {
            protocol,
            server: self.app.server.to_string(),
            heartbeat_ms: u32::try_from(WATCH_HEARTBEAT.as_millis()).expect("a heartbeat is seconds"),
        };
        self.standing = Standing::Open { protocol };
        self.gathering_until = self.app.subscribers.let_in(Instant::now().into_std()).into();
        self.general.push_back(general(watch_response::Event::Welcome(welcome)));
        self.look(Instant::now());
        Ok(())
    }

    fn subscribe(
        &mut self,
        name: &ClusterName,
        subscribe: &watch_request::Subscribe,
        kind: EventKind,
    ) -> Result<(), Status> {
        // A token that cannot be read stands for nothing held: the whole view is always a right answer.
        let token = Some(&subscribe.token)
            .filter(|token| !token.is_empty())
            .and_then(|token| Token::from_bytes(token).ok());
        let held = Held::new(kind, token);
        let key = if let Some(key) = self.key(name) {
            self.watched[key].held = held;
            key
        } else {
            if self.watched.len() == CLUSTERS_MAX {
                let text = format!("a stream carries at most {CLUSTERS_MAX} clusters");
                return Err(Status::resource_exhausted(text));
            }
            if self.watched.capacity() == 0 {
                // Most follow one cluster, and room would be made for four.
                self.watched = Slab::with_capacity(1);
            }
            let key = self.watched.vacant_key();
            let inbox = &self.inbox;
            let Some(watching) = self.app.views.watch(name, inbox, to_u32(key)) else {
                let text = "too many clusters that do not exist are being watched on this server";
                return Err(Status::resource_exhausted(text));
            };
            // Somebody else's cluster may have had this key.
            inbox.acknowledge(to_u32(key), Revision::ZERO, None);
            self.watched.insert(Watched { watching, held })
        };
        if !self.changed.contains(&to_u32(key)) {
            self.changed.push(to_u32(key));
        }
        Ok(())
    }
}

/// An error with what led to it.
fn chain(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
