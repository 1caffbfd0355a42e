//! Server-sent events: views of clusters and what changes in them, for programs without a client library.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use jcm_model::ClusterName;
use jcm_proto::token::{self, Token};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::request::Params;
use super::view::too_many;
use super::{App, Problem};
use crate::views::{Event, EventKind, Held, Inbox, Watching};

/// Most clusters of one stream.
pub(crate) const CLUSTERS_MAX: usize = 1000;

/// Pause after events were sent: what changes meanwhile is sent together. The first event after a quiet time waits
/// for nothing.
pub(crate) const COALESCE_FOR: Duration = Duration::from_millis(10);

/// How often a stream says something at least, so that both sides notice a dead connection.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a reader may leave a full connection unread before it is cut.
pub(crate) const UNREAD_MAX: Duration = Duration::from_secs(30);

/// Clusters that one event id resumes: some 2 KiB, which every client can send back in a header.
const RESUMED_MAX: usize = 32;

/// Chunks between the stream's task and its connection: one under way and one being made. More would be backlog.
const CHUNKS_MAX: usize = 2;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParams {
    clusters: String,
}

pub(super) async fn get(
    State(app): State<App>,
    Params(params): Params<WatchParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let names = names(&params.clusters)?;
    let held: HashMap<ClusterName, Token> = match headers.get("last-event-id") {
        Some(id) => token::many_from_text(id.as_bytes())
            .map_err(|error| {
                Problem::invalid(format!("`Last-Event-ID`: {error}; leave it out to start anew"))
            })?
            .into_iter()
            .collect(),
        None => HashMap::new(),
    };
    let inbox = Arc::new(Inbox::default());
    let mut watched = Vec::with_capacity(names.len());
    for (key, name) in (0_u32..).zip(names) {
        let watching = app.views.watch(&name, &inbox, key).ok_or_else(too_many)?;
        let held = Held::new(EventKind::Json, held.get(&name).copied());
        inbox.tell(key);
        watched.push(Watched {
            name,
            held,
            told: 0,
            _watching: watching,
        });
    }
    let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
    // The task ends with its connection, when the server drains, or when nobody reads.
    tokio::spawn(stream(app, inbox, watched, sender));
    let body = Body::from_stream(ReceiverStream::new(chunks).map(Ok::<_, Infallible>));
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body).into_response())
}

struct Watched {
    name: ClusterName,
    held: Held,
    /// When it was last told of, in the stream's own count of events.
    told: u64,
    _watching: Watching,
}

async fn stream(app: App, inbox: Arc<Inbox>, mut watched: Vec<Watched>, sender: mpsc::Sender<Bytes>) {
    let _counted = app.subscribers.enter();
    let mut told = 0;
    loop {
        let changed = tokio::select! {
            biased;
            () = app.draining.cancelled() => return,
            () = sender.closed() => return,
            changed = tokio::time::timeout(HEARTBEAT, inbox.take()) => changed,
        };
        let chunk = match changed {
            Err(_) => Bytes::from_static(b": heartbeat\n\n"),
            Ok(changed) => {
                let mut chunk = BytesMut::new();
                for key in changed {
                    let Some(cluster) = usize::try_from(key).ok().and_then(|at| watched.get_mut(at)) else {
                        continue;
                    };
                    if let Some(event) = app.views.event(&cluster.name, &mut cluster.held) {
                        told += 1;
                        cluster.told = told;
                        let id = resume_id(&watched);
                        write(&mut chunk, &event, &id);
                    }
                }
                chunk.freeze()
            }
        };
        if chunk.is_empty() {
            continue;
        }
        match tokio::time::timeout(UNREAD_MAX, sender.send(chunk)).await {
            Ok(Ok(())) => tokio::time::sleep(COALESCE_FOR).await,
            // The reader is gone, or does not read: it resumes by its last id.
            Ok(Err(_)) | Err(_) => return,
        }
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
    for part in list.split(',') {
        let name = ClusterName::parse(part).map_err(|error| error.within("clusters"))?;
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > CLUSTERS_MAX {
            return Err(Problem::invalid(format!(
                "clusters: more than {CLUSTERS_MAX}, the limit of one stream"
            ))
            .with("field", "clusters"));
        }
    }
    Ok(names)
}

/// The id of the next event: it resumes the clusters that were told of last, and the others anew, so that an id stays
/// small on a stream of many clusters.
fn resume_id(watched: &[Watched]) -> String {
    let mut told: Vec<(u64, &ClusterName, Token)> = watched
        .iter()
        .filter_map(|cluster| Some((cluster.told, &cluster.name, cluster.held.token()?)))
        .collect();
    if told.len() > RESUMED_MAX {
        told.sort_by_key(|(told, _, _)| std::cmp::Reverse(*told));
        told.truncate(RESUMED_MAX);
    }
    token::many_to_text(told.into_iter().map(|(_, name, token)| (name, token)))
}
