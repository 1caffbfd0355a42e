//! One cluster that is followed: what is held, who keeps it up to date, and since when nobody does.

use std::time::{Instant, SystemTime};

use crate::held::Held;
use crate::snapshot::Saved;
use crate::status::Standing;

use super::LinkId;

#[derive(Debug)]
pub(super) struct Followed {
    pub(super) held: Held,
    /// The newest link that answered: what older ones say after that does not count.
    pub(super) source: Option<LinkId>,
    /// The link that keeps it up to date.
    pub(super) confirmed: Option<LinkId>,
    /// What programs were told last.
    pub(super) standing: Standing,
    /// The server that keeps it up to date may itself be behind its store.
    server_is_stale: bool,
    /// The last moment at which it was known to be up to date.
    stale_since: Instant,
    /// Read from disk, written then, and not confirmed since.
    written: Option<SystemTime>,
}

impl Followed {
    pub(super) fn new(saved: Option<Saved>, now: Instant) -> Self {
        let written = saved.as_ref().map(|saved| saved.written);
        let mut followed = Self {
            held: saved.map(|saved| saved.held).unwrap_or_default(),
            source: None,
            confirmed: None,
            standing: Standing::Unknown,
            server_is_stale: false,
            stale_since: now,
            written,
        };
        followed.standing = followed.judge_standing();
        followed
    }

    /// A link said, or let stand, that what is held is what there is.
    pub(super) fn confirmed_by(&mut self, link: LinkId, server_is_stale: bool, now: Instant) {
        self.source = Some(link);
        self.confirmed = Some(link);
        self.written = None;
        if !(server_is_stale && self.server_is_stale) {
            self.stale_since = now;
        }
        self.server_is_stale = server_is_stale;
    }

    /// The server of a link says whether it may be behind its store.
    pub(super) fn server_says(&mut self, link: LinkId, stale: bool, now: Instant) {
        if self.confirmed == Some(link) && self.server_is_stale != stale {
            self.confirmed_by(link, stale, now);
        }
    }

    /// A link cannot, or does not, keep it up to date.
    pub(super) fn doubted_by(&mut self, link: LinkId, now: Instant) {
        if self.confirmed == Some(link) {
            self.confirmed = None;
            if !self.server_is_stale {
                self.stale_since = now;
            }
        }
    }

    /// A link is gone whose last message came then.
    pub(super) fn lost(&mut self, link: LinkId, heard: Instant) {
        self.doubted_by(link, heard);
        if self.source == Some(link) {
            self.source = None;
        }
    }

    pub(super) fn judge_standing(&self) -> Standing {
        match &self.held {
            Held::Nothing => Standing::Unknown,
            Held::Removed { revision, .. } => Standing::Removed { revision: *revision },
            Held::View { state, .. } if self.confirmed.is_some() && !self.server_is_stale => {
                Standing::Live { revision: state.cluster().revision }
            }
            Held::View { .. } => match self.written {
                Some(written) => Standing::Snapshot { written },
                None => Standing::Stale { since: self.stale_since },
            },
        }
    }
}
