//! Which servers a client was told of.

use std::sync::Arc;

use bytes::Bytes;
use jcm_proto::v1::watch_response::{self, Event};
use jcm_storage::{Member, Roster};

use crate::views::general;

/// The servers as a client was told of them last.
#[derive(Debug, Default)]
pub(super) struct Servers(Option<Arc<Roster>>);

impl Servers {
    /// What the client is to be told, where these are others.
    pub(super) fn news(&mut self, roster: Arc<Roster>) -> Option<Bytes> {
        if self.0.as_ref().is_some_and(|told| Arc::ptr_eq(told, &roster)) {
            return None;
        }
        let servers = named(&roster);
        let before = self.0.replace(roster);
        // A roster tells more of its members than clients need to know.
        let is_new = before.is_none_or(|before| named(&before) != servers);
        is_new.then(|| general(Event::Servers(watch_response::Servers { servers })))
    }
}

fn named(roster: &Roster) -> Vec<watch_response::Server> {
    let server = |member: &Member| watch_response::Server {
        id: member.id.to_string(),
        advertise: member.advertise.clone(),
        zone: member.zone.clone(),
    };
    roster.members.iter().map(server).collect()
}
