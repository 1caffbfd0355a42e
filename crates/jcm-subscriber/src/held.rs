//! What is held of one cluster, and what each message makes of it. Pure.
//!
//! Invariant: within one store it only goes forward, and it is emptied only by a server that says on purpose that the
//! cluster is not there at a revision at least as high. Under another store it stays until a full view of that store
//! replaces it in one step. A message that would break this changes nothing; [`Step`] says what to ask for instead.

use std::sync::Arc;

use jcm_model::{ClusterName, ClusterState, Head, Revision, StoreId};
use jcm_proto::Malformed;
use jcm_proto::v1::watch_request::Subscribe;
use jcm_proto::v1::watch_response::{self as wire, Event};

use crate::view::Content;

/// What is held of one cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum Held {
    #[default]
    Nothing,
    Removed {
        store: StoreId,
        revision: Revision,
    },
    View {
        store: StoreId,
        state: Arc<ClusterState>,
        token: Token,
    },
}

/// What a server hands out to be told from there on: opaque; handed back when subscribing again.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Token {
    bytes: Vec<u8>,
    /// How many of them stand when a delta brings another end.
    kept: usize,
}

impl Token {
    pub(crate) fn new(bytes: Vec<u8>, kept: u32) -> Self {
        Self { bytes, kept: kept as usize }
    }

    /// What a delta makes of it.
    fn after(&self, whole: Vec<u8>, kept: u32, end: &[u8]) -> Self {
        if !whole.is_empty() {
            return Self::new(whole, kept);
        }
        let mut bytes = self.bytes[..self.kept.min(self.bytes.len())].to_vec();
        bytes.extend_from_slice(end);
        Self { bytes, kept: self.kept }
    }
}

/// What a message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// What is held differs from before.
    Changed,
    /// It says just what is held.
    Same,
    /// It is older than what is held: dropped. The sender should learn what is held.
    Behind,
    /// It says that the cluster is not in a store that what is held is not of: dropped.
    Foreign,
    /// It cannot be applied to what is held: only a full view helps.
    Misfit,
}

impl Held {
    pub(crate) fn store(&self) -> Option<StoreId> {
        match self {
            Self::Nothing => None,
            Self::Removed { store, .. } | Self::View { store, .. } => Some(*store),
        }
    }

    pub(crate) fn revision(&self) -> Option<Revision> {
        match self {
            Self::Nothing => None,
            Self::Removed { revision, .. } => Some(*revision),
            Self::View { state, .. } => Some(state.cluster().revision),
        }
    }

    /// Which revision of which store.
    pub(crate) fn head(&self) -> Option<Head> {
        Some(Head { store: self.store()?, revision: self.revision()? })
    }

    pub(crate) fn content(&self) -> Content {
        match self {
            Self::Nothing => Content::Nothing,
            Self::Removed { revision, .. } => Content::Removed(*revision),
            Self::View { state, .. } => Content::State(Arc::clone(state)),
        }
    }

    /// Takes a full view over.
    pub(crate) fn apply_view(&mut self, message: wire::View) -> Result<Step, Malformed> {
        let token = Token::new(message.token.clone(), message.token_kept);
        let (store, new) = message.into_state()?;
        if self.store() == Some(store) && self.revision() > Some(new.cluster().revision) {
            return Ok(Step::Behind);
        }
        if let Self::Removed { store: held, revision } = self
            && *held == store
            && *revision == new.cluster().revision
        {
            // It was not there at this revision any more.
            return Ok(Step::Behind);
        }
        let state = match self {
            Self::View { store: held, state, .. } if *held == store => merged(state, &new),
            _ => new,
        };
        Ok(self.replace(store, state, token))
    }

    /// Takes a delta over, if it starts at what is held.
    pub(crate) fn apply_delta(&mut self, mut message: wire::Delta) -> Result<Step, Malformed> {
        let Self::View { store, state, token } = self else {
            return Ok(Step::Misfit);
        };
        let token = token.after(std::mem::take(&mut message.token), message.token_kept, &message.token_end);
        let Some(delta) = message.into_delta(state)? else {
            return Ok(Step::Misfit);
        };
        if delta.to < delta.from {
            return Ok(Step::Misfit);
        }
        let Some(next) = state.after(&delta) else {
            return Ok(Step::Misfit);
        };
        let store = *store;
        Ok(self.replace(store, next, token))
    }

    /// A server says that the cluster is not there.
    pub(crate) fn apply_removed(&mut self, message: &wire::Removed) -> Result<Step, Malformed> {
        let store = jcm_proto::discovery::store_id(&message.store)?;
        let revision = Revision(message.revision);
        let removed = Self::Removed { store, revision };
        match self {
            Self::View { store: held, .. } if *held != store => return Ok(Step::Foreign),
            Self::View { state, .. } if state.cluster().revision > revision => return Ok(Step::Behind),
            Self::Removed { store: held, revision: at } if *held == store && *at >= revision => {
                return Ok(Step::Same);
            }
            _ => *self = removed,
        }
        Ok(Step::Changed)
    }

    fn replace(&mut self, store: StoreId, state: ClusterState, token: Token) -> Step {
        match self {
            Self::View { store: held, state: old, token: old_token } if *held == store && **old == state => {
                *old_token = token;
                Step::Same
            }
            _ => {
                *self = Self::View { store, state: Arc::new(state), token };
                Step::Changed
            }
        }
    }

    /// The subscription that says what is held.
    pub(crate) fn to_subscribe(&self, cluster: &ClusterName) -> Subscribe {
        Subscribe {
            cluster: cluster.to_string(),
            store: self.store().map(|store| store.0.as_bytes().to_vec()).unwrap_or_default(),
            revision: self.revision().unwrap_or_default().0,
            token: match self {
                Self::View { token, .. } => token.bytes.clone(),
                Self::Nothing | Self::Removed { .. } => Vec::new(),
            },
        }
    }

    /// The message that says all of it; `None` when nothing is held.
    pub(crate) fn to_event(&self, cluster: &ClusterName) -> Option<Event> {
        match self {
            Self::Nothing => None,
            Self::Removed { store, revision } => Some(Event::Removed(wire::Removed {
                cluster: cluster.to_string(),
                store: store.0.as_bytes().to_vec(),
                revision: revision.0,
            })),
            Self::View { store, state, token } => {
                let kept = u32::try_from(token.kept).unwrap_or_default();
                Some(Event::View(wire::View::new(*store, (token.bytes.clone(), kept), state, false)))
            }
        }
    }

    /// What such a message says.
    pub(crate) fn from_event(event: Event) -> Result<Self, Malformed> {
        let mut held = Self::Nothing;
        match event {
            Event::View(view) => held.apply_view(view)?,
            Event::Removed(removed) => held.apply_removed(&removed)?,
            _ => return Err(Malformed::Shape("neither a view nor a removal")),
        };
        Ok(held)
    }
}

/// A newer definition with, for each node, the verdict that says more.
fn merged(held: &ClusterState, new: &ClusterState) -> ClusterState {
    let mut state = held.redefined(Arc::clone(new.cluster()));
    for (node, judged) in new.nodes() {
        if let Some(judged) = judged {
            state.judge(&node.id, judged.clone());
        }
    }
    state
}
