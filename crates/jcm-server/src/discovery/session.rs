//! One subscriber's stream: what it says next, whenever its connection has room for a message.

mod hearing;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::http::HeaderMap;
use bytes::Bytes;
use http_body::Frame;
use jcm_model::ClusterName;
use jcm_proto::v1::{WatchRequest, watch_response};
use slab::Slab;
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};
use tracing::info;

use super::servers::Servers;
use crate::app::App;
use crate::leases::Tie;
use crate::subscribers::{COALESCE_FOR, Counted, HEARTBEAT, LEAVE_MAX};
use crate::views::{Held, Inbox, Keys, Watching, general};

/// What is said when nothing else is, while the store is in reach and while it is not: the same for all streams.
static HEARTBEATS: LazyLock<[Bytes; 2]> = LazyLock::new(|| {
    [false, true].map(|stale| general(watch_response::Event::Heartbeat(watch_response::Heartbeat { stale })))
});

/// Those who keep leases through a server that is cut off are asked to go within this time.
const ASK_OVER: Duration = Duration::from_secs(2);

/// One subscriber's stream.
#[expect(clippy::struct_excessive_bools, reason = "five questions, each with its own answer")]
pub(super) struct Session {
    app: Arc<App>,
    inbox: Arc<Inbox>,
    _counted: Counted,
    peer: Option<SocketAddr>,
    requests: Streaming<WatchRequest>,
    /// The inbox, to be woken when there are some.
    requests_waker: Waker,
    standing: Standing,
    watched: Slab<Watched>,
    /// Messages that belong to no cluster, and are sent before all others. There are four kinds of them, each of which waits
    /// here once at most (two of `go_away`), and a heartbeat behind them.
    general: VecDeque<Bytes>,
    beat: bool,
    /// Leases that the client keeps and that are not there: it is told in one message.
    lost: Vec<watch_response::LostLease>,
    /// Clusters that are told of now, and those that are to be told of next.
    telling: Keys,
    changed: Keys,
    /// Until then what changes is gathered.
    gathering_until: Instant,
    /// It was asked until it had nothing to say, and has left word with all that it waits for.
    resting: bool,
    /// When it was asked for a message last, and when it gave one.
    now: Instant,
    spoke_at: Instant,
    leave_at: Option<Instant>,
    /// It keeps leases through this server.
    keeps: Option<Tie>,
    /// The client came, or was asked to go, while this server was cut off: others may be out of its reach.
    stays: bool,
    /// When it is to be asked to go because this server is cut off.
    ask_at: Option<Instant>,
    /// Clusters whose reader is ahead of this server, and until when it waits.
    waiting: BTreeMap<u32, Instant>,
    servers: Servers,
    /// What the client was told last.
    stale: bool,
    /// It wakes at the time it was set to or earlier than needed: set anew for every message, it would cost more than those.
    timer: Pin<Box<Sleep>>,
}

struct Watched {
    watching: Watching,
    held: Held,
}

enum Standing {
    /// The client has not said what it is.
    Unknown {
        until: Instant,
    },
    Open {
        protocol: u32,
    },
    /// The last thing it is told.
    Ending(Status),
    Ended,
}

impl Session {
    pub(super) fn new(app: Arc<App>, peer: Option<SocketAddr>, requests: Streaming<WatchRequest>) -> Self {
        let now = Instant::now();
        let (until, inbox) = (now + HEARTBEAT, Arc::<Inbox>::default());
        let requests_waker = Waker::from(Arc::clone(&inbox));
        Self {
            _counted: app.subscribers.enter(Some(&inbox)),
            stale: app.views.is_stale(),
            keeps: None,
            stays: app.subscribers.is_cut_off(),
            ask_at: None,
            app,
            inbox,
            peer,
            requests,
            requests_waker,
            standing: Standing::Unknown { until },
            watched: Slab::new(),
            general: VecDeque::new(),
            beat: false,
            lost: Vec::new(),
            telling: Keys::new(),
            changed: Keys::new(),
            gathering_until: now,
            resting: false,
            now,
            spoke_at: now,
            leave_at: None,
            waiting: BTreeMap::new(),
            servers: Servers::default(),
            timer: Box::pin(tokio::time::sleep_until(until)),
        }
    }

    /// The next message, or `None` when there will be no other.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let now = self.now;
            if matches!(self.standing, Standing::Ending(_) | Standing::Ended) {
                return Poll::Ready(None);
            }
            if let Some(message) = self.next_general() {
                return Poll::Ready(Some(message));
            }
            if self.inbox.take_word()
                && let Err(status) = self.hear()
            {
                self.end(status);
                continue;
            }
            if let Poll::Ready(nudged) = self.inbox.poll_take(context, &mut self.changed) {
                self.changed.sort_unstable();
                self.changed.dedup();
                if nudged {
                    self.look(now);
                    continue;
                }
            }
            if self.beat || !self.general.is_empty() {
                continue;
            }
            if !self.lost.is_empty() {
                let leases = std::mem::take(&mut self.lost);
                let lost = watch_response::Event::Lost(watch_response::Lost { leases });
                return Poll::Ready(Some(general(lost)));
            }
            if let Some(event) = self.tell(now) {
                return Poll::Ready(Some(event));
            }
            let due = self.due_at();
            if due <= now {
                self.act(now);
                continue;
            }
            if due < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(context).is_pending() {
                self.resting = true;
                return Poll::Pending;
            }
            self.now = Instant::now();
        }
    }

    /// Whether nothing has happened since it came to rest. The connection asks whenever its room for messages changed, which is
    /// twice for each of them.
    fn is_undisturbed(&self, context: &Context<'_>) -> bool {
        self.resting && !self.timer.is_elapsed() && self.inbox.is_quiet(context.waker())
    }

    /// The next message that belongs to no cluster.
    fn next_general(&mut self) -> Option<Bytes> {
        if let Some(message) = self.general.pop_front() {
            if self.general.is_empty() {
                // Nearly all of them come first, and there may be no other for days.
                self.general = VecDeque::new();
            }
            return Some(message);
        }
        std::mem::take(&mut self.beat).then(|| HEARTBEATS[usize::from(self.stale)].clone())
    }

    /// What holds for all streams may have changed.
    fn look(&mut self, now: Instant) {
        if !matches!(self.standing, Standing::Open { .. }) {
            return;
        }
        if self.app.cut.is_cancelled() {
            // Whoever does not read learns from the closed connection that this server is gone.
            return self.end(Status::ok(""));
        }
        self.general.extend(self.servers.news(self.app.roster()));
        // One small message for all clusters of the stream, when it turns: their next views and deltas say it too.
        if std::mem::replace(&mut self.stale, self.app.views.is_stale()) != self.stale {
            self.beat = true;
        }
        let is_cut_off = self.app.subscribers.is_cut_off();
        self.stays &= is_cut_off;
        if self.leave_at.is_none() && self.app.draining.is_cancelled() {
            self.leave_at = Some(now + LEAVE_MAX);
            self.ask_to_go("the server is stopping");
        } else if is_cut_off && self.keeps.is_some() && !self.stays {
            // Not all at once: who finds no other server comes back.
            self.stays = true;
            self.ask_at = Some(now + ASK_OVER.mul_f64(fastrand::f64()));
        }
    }

    fn ask_to_go(&mut self, reason: &str) {
        let go_away = watch_response::GoAway { reason: reason.to_owned() };
        self.general.push_back(general(watch_response::Event::GoAway(go_away)));
    }

    fn key(&self, name: &ClusterName) -> Option<usize> {
        self.watched.iter().find(|(_, watched)| watched.watching.name() == name).map(|(key, _)| key)
    }

    /// The next event of a cluster.
    fn tell(&mut self, now: Instant) -> Option<Bytes> {
        if self.telling.is_empty() && !self.changed.is_empty() && now >= self.gathering_until {
            std::mem::swap(&mut self.telling, &mut self.changed);
            self.gathering_until = now + COALESCE_FOR;
        }
        while let Some(key) = self.telling.pop() {
            let Some(watched) = self.watched.get_mut(key as usize) else { continue };
            let event = watched.watching.event(&mut watched.held);
            if let Some(at) = watched.held.due_at() {
                self.waiting.insert(key, at.into());
            } else if !self.waiting.is_empty() {
                self.waiting.remove(&key);
            }
            if let Some(event) = event {
                if event.name == "view" {
                    self.app.subscribers.send(event.body.len());
                }
                return Some(event.body);
            }
        }
        None
    }

    /// When something is to be done although nothing may happen.
    fn due_at(&self) -> Instant {
        if let Standing::Unknown { until } = self.standing {
            return until;
        }
        let mut due = self.heartbeat_at();
        if !self.changed.is_empty() {
            due = due.min(self.gathering_until);
        }
        for at in [self.leave_at, self.ask_at].into_iter().flatten() {
            due = due.min(at);
        }
        self.waiting.values().min().map_or(due, |at| due.min(*at))
    }

    fn heartbeat_at(&self) -> Instant {
        self.app.subscribers.heartbeat_at(self.spoke_at.into_std()).into()
    }

    /// The time for something has come.
    fn act(&mut self, now: Instant) {
        if matches!(self.standing, Standing::Unknown { .. }) {
            return self.end(Status::deadline_exceeded("no `hello` came in time"));
        }
        if self.leave_at.is_some_and(|at| at <= now) {
            return self.end(Status::ok(""));
        }
        if self.ask_at.is_some_and(|at| at <= now) {
            self.ask_at = None;
            if self.app.subscribers.is_cut_off() {
                self.ask_to_go("the server is cut off from the store and from every other server");
            }
        }
        self.waiting.retain(|key, at| {
            let is_due = *at <= now;
            if is_due {
                self.telling.push(*key);
            }
            !is_due
        });
        if self.heartbeat_at() <= now {
            self.spoke_at = now;
            self.beat = true;
        }
    }

    fn end(&mut self, status: Status) {
        if status.code() != tonic::Code::Ok {
            info!(code = ?status.code(), reason = status.message(), peer = ?self.peer, "subscriber refused");
        }
        self.standing = Standing::Ending(status);
    }
}

impl http_body::Body for Session {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let session = &mut *self;
        if session.is_undisturbed(context) {
            return Poll::Pending;
        }
        session.resting = false;
        session.now = Instant::now();
        match session.poll_next(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(message)) => {
                session.spoke_at = session.now;
                Poll::Ready(Some(Ok(Frame::data(message))))
            }
            Poll::Ready(None) => {
                let last = std::mem::replace(&mut session.standing, Standing::Ended);
                let Standing::Ending(status) = last else { return Poll::Ready(None) };
                let mut trailers = HeaderMap::new();
                // What cannot be a header leaves the client with a stream that ended without a status: an error as well.
                let _ = status.add_header(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

fn to_u32(key: usize) -> u32 {
    u32::try_from(key).expect("a stream has a thousand clusters at most")
}
