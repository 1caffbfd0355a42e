//! A cluster as it is published: one immutable value for all readers.

use std::sync::OnceLock;
use std::time::Instant;

use bytes::Bytes;
use jcm_model::routing::{Routing, reroute, route};
use jcm_model::view::View;
use jcm_model::{Admin, ClusterState, Judged, StoreId, Verdict};
use jcm_proto::token::Token;

use super::Origin;

/// A cluster as it is published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) state: ClusterState,
    pub(crate) routing: Routing,
    pub(crate) token: Token,
    /// Before this no view is served; `None`: ready.
    pub(super) ready_at: Option<Instant>,
    json: [OnceLock<Bytes>; 2],
}

impl Published {
    /// The publication of a state; after another one of the same cluster it costs what changed.
    pub(super) fn new(
        origin: &Origin,
        store: StoreId,
        state: ClusterState,
        ready_at: Option<Instant>,
        before: Option<&Self>,
    ) -> Self {
        let (origin, sequence) = origin.next();
        let token =
            Token { store, revision: state.cluster().revision, digest: state.digest(), origin, sequence };
        // Nothing is left to wait for once every node that could be routed to was judged.
        let is_undecided =
            || state.nodes().any(|(node, judged)| node.attributes.online() && judged.is_none());
        let ready_at = ready_at.filter(|_| is_undecided());
        let routing = match before {
            Some(before) => reroute(&state, &before.state, &before.routing),
            None => route(&state),
        };
        Self { routing, state, token, ready_at, json: [OnceLock::new(), OnceLock::new()] }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready_at.is_none_or(|at| Instant::now() >= at)
    }

    /// The JSON of the view, encoded once for all who ask while the store is in reach, and once while it is not.
    pub(crate) fn json(&self, stale: bool) -> Bytes {
        let encode = || {
            let token = self.token.to_text();
            let view = View::new(&self.state, &self.routing, &token, stale);
            Bytes::from(serde_json::to_vec(&view).expect("a view is JSON"))
        };
        self.json[usize::from(stale)].get_or_init(encode).clone()
    }

    /// How many of its nodes are healthy: all of them, and those in use.
    pub(crate) fn healthy_counts(&self) -> (usize, usize) {
        let is_healthy =
            |judged: Option<&Judged>| judged.is_some_and(|judged| judged.verdict == Verdict::Healthy);
        let healthy = || self.state.nodes().filter(|(_, judged)| is_healthy(*judged));
        (healthy().count(), healthy().filter(|(node, _)| node.admin() == Admin::Online).count())
    }
}
