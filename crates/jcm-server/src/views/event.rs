//! What a reader is told: the way from what it holds to what is published, encoded once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use jcm_model::view::NodeView;
use jcm_model::{ClusterName, Delta, NodeId, Revision, StoreId};
use jcm_proto::token::Token;
use jcm_proto::v1::{self, NodeVerdict, WatchResponse, watch_response};
use prost::Message;
use serde::Serialize;

use super::published::Published;
use super::step::Step;

/// How long a reader who holds something newer than this server waits before it is told that this server cannot tell:
/// by then a server that is in contact with its store has caught up many times over.
pub(super) const BEHIND_MAX: Duration = Duration::from_secs(5);

/// The protocol of the watch stream in which deltas leave out what the client holds.
const SHORT_DELTAS_SINCE: u32 = 2;

/// What stands before each message of a gRPC stream.
pub(super) const GRPC_PREFIX_BYTES: usize = 5;

/// The name of the event that leaves nothing of what was held before.
const VIEW: &str = "view";

/// In which clothes a reader wants its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventKind {
    /// Messages of the watch stream, in this version of its protocol.
    Proto(u32),
    /// Lines of JSON for server-sent events.
    Json,
}

/// What a reader holds of one cluster.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    kind: EventKind,
    what: What,
    /// The reader does not know whether what it holds is still right, and is told so even when nothing has changed.
    in_doubt: bool,
    /// It was told of this cluster by another run of a server. Tokens agree on verdicts, not on who judged: what a verdict
    /// has in common with the one before it must not be left out for this reader.
    told_elsewhere: bool,
    /// Since when it waits for this server to catch up with it.
    pub(super) behind_since: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Nothing,
    View(Token),
    /// Whatever was published when this run had come to this publication.
    Settled(u64),
    /// It was told that the cluster is not there.
    Absent,
    /// It was told to wait, and what it held before still counts.
    Unknown(Option<Token>),
}

/// Where what a reader holds was counted.
pub(super) enum Place {
    /// It holds just this.
    Same,
    /// It holds something newer than this server has.
    Ahead,
    /// In this run of this server, at this sequence or at the last publication before it.
    Here(u64),
    /// Nowhere, or somewhere else.
    Elsewhere,
}

/// One event, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// `view`, `delta`, `removed` or `unknown`.
    pub(crate) name: &'static str,
    /// An encoded `WatchResponse` with what gRPC puts before a message, or a line of JSON.
    pub(crate) body: Bytes,
    what: What,
}

impl Held {
    /// A reader that starts with a token, or with nothing.
    pub(crate) fn new(kind: EventKind, token: Option<Token>) -> Self {
        // A subscriber of the stream shows its status, and asks by subscribing. To a reader of server-sent events what a
        // sent event held is not sent again.
        let in_doubt = matches!(kind, EventKind::Proto(_));
        Self { in_doubt, ..Self::holding(kind, token.map_or(What::Nothing, What::View)) }
    }

    fn holding(kind: EventKind, what: What) -> Self {
        Self { kind, what, in_doubt: false, told_elsewhere: false, behind_since: None }
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    pub(super) fn kind(&self) -> EventKind {
        self.kind
    }

    /// Notes where it was told what it holds, before it is led on from there. Answers whether it was elsewhere.
    pub(super) fn note_origin(&mut self, published: &Token) -> bool {
        self.told_elsewhere |= self.token().is_some_and(|token| token.origin != published.origin);
        self.told_elsewhere
    }

    /// A reader that was told of everything up to a publication of this run.
    pub(crate) fn settled(kind: EventKind, sequence: u64) -> Self {
        Self::holding(kind, What::Settled(sequence))
    }

    /// A reader that was told that the cluster is not there.
    pub(crate) fn absent(kind: EventKind) -> Self {
        Self::holding(kind, What::Absent)
    }

    /// Whether all it says is that it was told of everything up to a publication, and that is this one or an earlier.
    pub(super) fn is_settled_by(&self, sequence: u64) -> bool {
        matches!(self.what, What::Settled(settled) if settled <= sequence)
    }

    pub(crate) fn is_absent(&self) -> bool {
        self.what == What::Absent
    }

    /// What it holds, as a token.
    pub(crate) fn token(&self) -> Option<Token> {
        match self.what {
            What::View(token) | What::Unknown(Some(token)) => Some(token),
            What::Nothing | What::Settled(_) | What::Absent | What::Unknown(None) => None,
        }
    }

    /// Where the reader stands, seen from what is published.
    pub(super) fn place(&self, published: &Token) -> Place {
        if let What::Settled(sequence) = self.what {
            return if published.sequence <= sequence { Place::Same } else { Place::Here(sequence) };
        }
        let Some(held) = self.token() else {
            return Place::Elsewhere;
        };
        if held.store != published.store {
            Place::Elsewhere
        } else if (held.revision, held.digest) == (published.revision, published.digest) {
            // Sequences count more than the digest shows: a verdict that was found again by another server, say.
            if held.origin == published.origin && held.sequence != published.sequence {
                Place::Here(held.sequence)
            } else {
                Place::Same
            }
        } else if held.revision > published.revision {
            Place::Ahead
        } else if held.origin == published.origin {
            Place::Here(held.sequence)
        } else {
            Place::Elsewhere
        }
    }

    /// The reader is told this now.
    pub(super) fn advance(&mut self, event: &Event) {
        self.what = event.what.clone();
        self.told_elsewhere &= event.name != VIEW;
        self.in_doubt = matches!(self.what, What::Unknown(_));
        self.behind_since = None;
    }

    /// When to ask for its event again, although nothing may have happened: it waits for this server to catch up.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        self.behind_since.map(|since| since + BEHIND_MAX)
    }

    /// The reader holds the same content from elsewhere: from here on it is counted here.
    pub(super) fn adopt(&mut self, token: Token) {
        self.what = What::View(token);
        self.behind_since = None;
    }
}

impl Event {
    /// The cluster is not there, as far as the reader does not know that already.
    pub(super) fn absent(
        name: &ClusterName,
        store: StoreId,
        revision: Revision,
        held: &mut Held,
    ) -> Option<Self> {
        if held.what == What::Absent {
            return None;
        }
        if let Some(token) = held.token() {
            // Behind what the reader holds: it may be there by now, and a late server must not empty anybody.
            if token.store == store && token.revision > revision {
                return Self::behind(name, held);
            }
            // What is not in another store says nothing about this one. Who reads the stream is told of which it is.
            if token.store != store && held.kind == EventKind::Json {
                return Self::unknown(name, held);
            }
        }
        let body = match held.kind {
            EventKind::Proto(_) => proto(watch_response::Event::Removed(watch_response::Removed {
                cluster: name.to_string(),
                store: store.0.as_bytes().to_vec(),
                revision: revision.0,
            })),
            EventKind::Json => json(&serde_json::json!({ "cluster": name, "revision": revision })),
        };
        Some(Self { name: "removed", body, what: What::Absent })
    }

    /// The reader holds something newer: it waits for this server to catch up, and when that takes too long it is told
    /// that this server cannot tell.
    pub(super) fn behind(name: &ClusterName, held: &mut Held) -> Option<Self> {
        let now = Instant::now();
        let since = *held.behind_since.get_or_insert(now);
        if now < since + BEHIND_MAX {
            return None;
        }
        Self::unknown(name, held)
    }

    /// This server cannot tell yet, as far as the reader was not told that already.
    pub(super) fn unknown(name: &ClusterName, held: &mut Held) -> Option<Self> {
        // There is nothing to catch up with.
        held.behind_since = None;
        if matches!(held.what, What::Unknown(_)) {
            return None;
        }
        let reason = "this server has no view of the cluster yet";
        let body = match held.kind {
            EventKind::Proto(_) => proto(watch_response::Event::Unknown(watch_response::Unknown {
                cluster: name.to_string(),
                reason: reason.to_owned(),
            })),
            EventKind::Json => json(&serde_json::json!({ "cluster": name, "reason": reason })),
        };
        Some(Self { name: "unknown", body, what: What::Unknown(held.token()) })
    }

    pub(super) fn view(kind: EventKind, published: &Arc<Published>, stale: bool) -> Self {
        let body = match kind {
            EventKind::Json => published.json(stale),
            EventKind::Proto(_) => {
                let token = (published.token.to_bytes(), published.token.kept());
                proto(watch_response::Event::View(watch_response::View::new(
                    published.token.store,
                    token,
                    &published.state,
                    stale,
                )))
            }
        };
        Self { name: VIEW, body, what: What::View(published.token) }
    }

    /// The way over the given steps, which end at what is published. Who is in doubt is sent the whole token: it may have
    /// heard of the cluster from elsewhere since it asked. Who was told elsewhere is sent whole verdicts.
    pub(super) fn delta<'a>(
        kind: EventKind,
        in_doubt: bool,
        told_elsewhere: bool,
        published: &Arc<Published>,
        stale: bool,
        steps: impl Iterator<Item = &'a Step>,
    ) -> Self {
        let mut from = None;
        let mut header = false;
        let (mut defined, mut judged, mut relaid) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut anew = BTreeSet::new();
        for step in steps {
            from.get_or_insert(step.from_revision);
            header |= step.header;
            for (id, happened) in step.nodes() {
                for (did, ids) in [
                    (happened.defined, &mut defined),
                    (happened.judged, &mut judged),
                    (happened.judged_anew, &mut anew),
                    (happened.relaid, &mut relaid),
                ] {
                    if did {
                        ids.insert(id);
                    }
                }
            }
        }
        let state = &published.state;
        let cluster = state.cluster();
        let mut delta = Delta {
            from: from.unwrap_or(cluster.revision),
            to: cluster.revision,
            check_changed: cluster.check_changed,
            header: header.then(|| Arc::clone(&cluster.header)),
            put: Vec::new(),
            removed: Vec::new(),
            judged: Vec::new(),
        };
        for id in defined {
            match cluster.node(id) {
                Some(node) => delta.put.push(Arc::clone(node)),
                None => delta.removed.push(id.clone()),
            }
        }
        let body = match kind {
            EventKind::Proto(protocol) => {
                let is_short = protocol >= SHORT_DELTAS_SINCE;
                // A node that was defined anew may have its verdict already, and its old one does not count.
                anew.extend(delta.put.iter().map(|node| &node.id));
                judged.extend(delta.put.iter().map(|node| &node.id));
                let verdict = |id: &NodeId| {
                    let judged = state.judged(id)?;
                    let is_whole = !is_short || told_elsewhere || anew.contains(id);
                    let new = if is_whole { NodeVerdict::new } else { NodeVerdict::of_same_judge };
                    Some(new(id, judged))
                };
                let mut message = watch_response::Delta::new(&cluster.name, &delta, stale);
                message.verdicts = judged.into_iter().filter_map(verdict).collect();
                if !is_short {
                    (message.to, message.check_changed) = (delta.to.0, delta.check_changed.0);
                }
                if is_short && !in_doubt {
                    // The reader was told of it here, so it has the rest of the token.
                    message.token_end = published.token.end_bytes();
                } else {
                    (message.token, message.token_kept) =
                        (published.token.to_bytes(), published.token.kept());
                }
                proto(watch_response::Event::Delta(message))
            }
            EventKind::Json => {
                let rows: BTreeSet<&NodeId> =
                    judged.into_iter().chain(relaid).chain(delta.put.iter().map(|node| &node.id)).collect();
                delta_json(published, &delta, stale, &rows)
            }
        };
        Self { name: "delta", body, what: What::View(published.token) }
    }
}

#[derive(Serialize)]
struct DeltaView<'a> {
    cluster: &'a ClusterName,
    from: Revision,
    to: Revision,
    token: String,
    stale: bool,
    panic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    properties: Option<&'a jcm_model::cluster::Properties>,
    nodes: Vec<NodeView<'a>>,
    removed: &'a [NodeId],
}

fn delta_json(published: &Published, delta: &Delta, stale: bool, rows: &BTreeSet<&NodeId>) -> Bytes {
    let state = &published.state;
    let cluster = state.cluster();
    let row = |id: &&NodeId| {
        let at = cluster.position(id).ok()?;
        Some(NodeView::new(&cluster.nodes[at], state.judged(id), published.routing.nodes[at]))
    };
    json(&DeltaView {
        cluster: &cluster.name,
        from: delta.from,
        to: delta.to,
        token: published.token.to_text(),
        stale,
        panic: published.routing.panic,
        online: delta.header.as_ref().map(|header| header.online()),
        properties: delta.header.as_ref().map(|_| &cluster.header.properties),
        nodes: rows.iter().filter_map(row).collect(),
        removed: &delta.removed,
    })
}

/// A message of gRPC: a byte that says that it is not compressed, its length, and itself.
fn proto(event: watch_response::Event) -> Bytes {
    let message = WatchResponse { event: Some(event) };
    let length = u32::try_from(message.encoded_len()).expect("a view is far below 4 GiB");
    let mut bytes = BytesMut::with_capacity(GRPC_PREFIX_BYTES + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    message.encode(&mut bytes).expect("there is room for it");
    bytes.freeze()
}

fn json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("an event is JSON"))
}

/// A message of the stream that belongs to no cluster.
pub(crate) fn general(event: v1::watch_response::Event) -> Bytes {
    proto(event)
}
