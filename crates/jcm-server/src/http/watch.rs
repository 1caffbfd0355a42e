//! Server-sent events: views of clusters and what changes in them, for programs without a client library.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use jcm_model::ClusterName;
use jcm_proto::token::{Resume, Token};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::Problem;
use super::request::Params;
use super::view::too_many;
use crate::app::App;
use crate::definitions::{Freshness, caught_up};
use crate::listen::UNREAD_MAX;
use crate::subscribers::{CLUSTERS_MAX, COALESCE_FOR, HEARTBEAT};
use crate::views::{Event, EventKind, Held, Inbox, Subscriber, Watching};

/// Clusters that one event id resumes: some 2 KiB, which every client can send back in a header.
const RESUMED_MAX: usize = 32;

/// Chunks between the stream's task and its connection: one under way and one being made. More would be backlog.
const CHUNKS_MAX: usize = 2;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParams {
    clusters: String,
    min_revision: Option<u64>,
    #[serde(default)]
    consistent: bool,
}

pub(super) async fn get(
    State(app): State<App>,
    Params(params): Params<WatchParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let names = names(&params.clusters)?;
    let WatchParams { min_revision, consistent, .. } = params;
    caught_up(&app, Freshness { min_revision, consistent }).await?;
    let resume = match headers.get("last-event-id") {
        Some(id) => Resume::from_text(id.as_bytes()).map_err(|error| {
            Problem::invalid(format!("`Last-Event-ID`: {error}; leave it out to start anew"))
        })?,
        None => Resume::default(),
    };
    // What was settled elsewhere says nothing here.
    let settled = Some(resume.settled).filter(|settled| *settled > 0 && resume.origin == app.views.origin());
    let known: HashMap<ClusterName, Option<Token>> = resume.held.into_iter().collect();
    let inbox = Arc::new(Inbox::default());
    // Server-sent events go one way: their readers cannot say what they hold.
    inbox.belongs_to(Subscriber { peer: "events".into(), acknowledges: false });
    let mut watched = Vec::with_capacity(names.len());
    for (key, name) in (0_u32..).zip(names) {
        let watching = app.views.watch(&name, &inbox, key).ok_or_else(too_many)?;
        let held = match (known.get(&name), settled) {
            (Some(Some(token)), _) => Held::new(EventKind::Json, Some(*token)),
            (Some(None), _) => Held::absent(EventKind::Json),
            (None, Some(settled)) => Held::settled(EventKind::Json, settled),
            (None, None) => Held::new(EventKind::Json, None),
        };
        inbox.tell(key);
        watched.push(Watched { name, held, told: 0, watching });
    }
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    // The task ends with its connection, when the server drains, or when nobody reads.
    let subscribers = Arc::clone(&app.subscribers);
    subscribers.spawn(Stream { app, inbox, watched, told: 0, settled: 0, sender }.run());
    let body = Body::from_stream(ReceiverStream::new(chunks).map(Ok::<_, Infallible>));
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, body).into_response())
}

/// One reader's stream.
struct Stream {
    app: App,
    inbox: Arc<Inbox>,
    watched: Vec<Watched>,
    /// Events told so far.
    told: u64,
    /// The publication up to which this reader was told of everything; 0 until its first events are complete.
    settled: u64,
    sender: mpsc::Sender<Bytes>,
}

struct Watched {
    name: ClusterName,
    held: Held,
    /// When it was last told of, in the stream's own count of events.
    told: u64,
    watching: Watching,
}

impl Stream {
    async fn run(mut self) {
        let _counted = self.app.subscribers.enter(None);
        let mut stale = self.app.views.stale();
        // Who resumes may be sent nothing else.
        if *stale.borrow_and_update() {
            stale.mark_changed();
        }
        loop {
            // Before the inbox is emptied: whatever was settled by now is in it, or was told already.
            let settled = self.app.views.settled();
            let due_at = self.watched.iter().filter_map(|cluster| cluster.held.due_at()).min();
            let chunk = tokio::select! {
                biased;
                () = self.app.draining.cancelled() => return,
                () = self.sender.closed() => return,
                // One small event for all clusters of the stream: their next views and deltas say it too.
                Ok(()) = stale.changed() => about_store(*stale.borrow_and_update()),
                () = until(due_at) => self.tell(self.due(), self.settled),
                changed = tokio::time::timeout(HEARTBEAT, self.inbox.take()) => match changed {
                    Err(_) => Bytes::from_static(b": heartbeat\n\n"),
                    Ok(changed) => self.tell(changed, settled),
                },
            };
            if chunk.is_empty() {
                continue;
            }
            match tokio::time::timeout(UNREAD_MAX, self.sender.send(chunk)).await {
                Ok(Ok(())) => tokio::time::sleep(COALESCE_FOR).await,
                // The reader is gone, or does not read: it resumes by its last id.
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// The clusters whose reader has waited long enough for this server to catch up with it.
    fn due(&self) -> Vec<u32> {
        let now = Instant::now();
        let is_due = |cluster: &Watched| cluster.held.due_at().is_some_and(|at| at <= now);
        (0_u32..).zip(&self.watched).filter(|(_, cluster)| is_due(cluster)).map(|(key, _)| key).collect()
    }

    /// The events of these clusters. The last one's id says that everything up to `settled` was told.
    fn tell(&mut self, changed: impl IntoIterator<Item = u32>, settled: u64) -> Bytes {
        let mut chunk = BytesMut::new();
        let mut last: Option<Event> = None;
        for key in changed {
            let Some(cluster) = usize::try_from(key).ok().and_then(|at| self.watched.get_mut(at)) else {
                continue;
            };
            let Some(event) = cluster.watching.event(&mut cluster.held) else {
                continue;
            };
            if let Some(previous) = last.replace(event) {
                write(&mut chunk, &previous, &self.id());
            }
            self.told += 1;
            self.watched[key as usize].told = self.told;
        }
        self.settled = settled;
        if let Some(last) = last {
            write(&mut chunk, &last, &self.id());
        }
        chunk.freeze()
    }

    /// The id that resumes this stream. Few clusters each stand there with what is held of them, which any run of any
    /// server understands; of many, only those that were told of after what is settled.
    fn id(&self) -> String {
        let is_small = self.watched.len() <= RESUMED_MAX;
        let mut recent: Vec<&Watched> = self
            .watched
            .iter()
            .filter(|cluster| match cluster.held.token() {
                Some(token) => is_small || self.settled == 0 || token.sequence > self.settled,
                None => cluster.held.is_absent(),
            })
            .collect();
        if recent.len() > RESUMED_MAX {
            recent.sort_by_key(|cluster| std::cmp::Reverse(cluster.told));
            recent.truncate(RESUMED_MAX);
        }
        let held = recent.into_iter().map(|cluster| (cluster.name.clone(), cluster.held.token())).collect();
        Resume { held, origin: self.app.views.origin(), settled: self.settled }.to_text()
    }
}

/// Whether everything on the stream may be behind the store. It has no id: there is nothing in it to resume from.
fn about_store(stale: bool) -> Bytes {
    let state = if stale { "unavailable" } else { "ok" };
    format!("event: store\ndata: {{\"state\":\"{state}\",\"stale\":{stale}}}\n\n").into()
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn write(chunk: &mut BytesMut, event: &Event, id: &str) {
    for part in [
        b"event: ".as_slice(),
        event.name.as_bytes(),
        b"\nid: ",
        id.as_bytes(),
        b"\ndata: ",
        &event.body,
        b"\n\n",
    ] {
        chunk.put_slice(part);
    }
}

fn names(list: &str) -> Result<Vec<ClusterName>, Problem> {
    let mut names = Vec::new();
    let mut seen = HashSet::new();
    for part in list.split(',') {
        let name = ClusterName::parse(part).map_err(|error| error.within("clusters"))?;
        if seen.insert(name.clone()) {
            names.push(name);
        }
        if names.len() > CLUSTERS_MAX {
            let detail = format!("clusters: more than {CLUSTERS_MAX}, the limit of one stream");
            return Err(Problem::invalid(detail).with("field", "clusters"));
        }
    }
    Ok(names)
}
