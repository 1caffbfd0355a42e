//! Through which servers a lease may be renewed without this server knowing of it. Pure: what is known is told, and so is the
//! time.
//!
//! A server is in contact while its heartbeats come: each of them says that all it was told of before is here. One that is not
//! may hold every lease that nobody else has renewed since it was last in contact: those that it handed on, and those whose
//! programs came to it in its last moment. A program finds out by itself that its server is gone, and needs some time for it, so
//! the same is true for a while of a server that the store no longer names.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jcm_model::ServerId;

use crate::subscribers::WATCH_HEARTBEAT;

/// Without a heartbeat for so long a server is out of contact: three of them.
const CONTACT_LOST_AFTER: Duration = Duration::from_millis(1_500);

/// How long a program may take until it renews elsewhere, from the moment at which its server is gone: it misses three
/// heartbeats, and connects to another one, perhaps not to the first that it tries.
pub(crate) const MOVE_MAX: Duration =
    WATCH_HEARTBEAT.saturating_mul(3).saturating_add(Duration::from_secs(2));

/// The other servers, as far as they may hold leases.
#[derive(Debug, Default)]
pub(crate) struct Holders(BTreeMap<ServerId, Holder>);

#[derive(Debug)]
struct Holder {
    /// When all that it had handed on was here; at first: when it became known.
    contact: Instant,
    /// When the store no longer named it.
    left: Option<Instant>,
}

/// What can be said at one moment of renewals that this server does not know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Around {
    pub(crate) now: Instant,
    /// Up to here every renewal through a server that is in contact is known.
    pub(crate) heard_until: Instant,
    /// Somebody who is out of contact may hold what was not renewed elsewhere since then.
    pub(crate) unheard_since: Option<Instant>,
    /// Somebody who is out of contact here is heard by others: programs may go to it at any time.
    pub(crate) is_cut: bool,
}

impl Around {
    /// Whether somebody who is out of contact may hold a lease that was renewed last at that time. A renewal from before he
    /// fell silent may have been followed by others, through just him.
    pub(crate) fn may_be_held_unheard(&self, renewed: Option<Instant>) -> bool {
        self.is_cut || self.unheard_since.is_some_and(|since| renewed.is_none_or(|at| at <= since))
    }
}

impl Holders {
    /// `others` are the servers that the store names; `is_live` tells whether anybody hears a server.
    pub(crate) fn look(
        &mut self,
        others: &BTreeSet<ServerId>,
        contacts: &BTreeMap<ServerId, Instant>,
        is_live: impl Fn(&ServerId) -> bool,
        now: Instant,
    ) -> Around {
        for server in others {
            self.0.entry(server.clone()).or_insert(Holder { contact: now, left: None });
        }
        let mut around = Around { now, heard_until: now, unheard_since: None, is_cut: false };
        self.0.retain(|server, holder| {
            if let Some(contact) = contacts.get(server) {
                holder.contact = holder.contact.max(*contact);
            }
            let is_named = others.contains(server);
            if is_named {
                holder.left = None;
            } else {
                holder.left.get_or_insert(now);
            }
            let is_in_contact = now.saturating_duration_since(holder.contact) < CONTACT_LOST_AFTER;
            match holder.left {
                // It went in order, or nobody is left who could come from it.
                Some(left) if !is_in_contact && now.saturating_duration_since(left) >= MOVE_MAX => {
                    return false;
                }
                None if is_in_contact => around.heard_until = around.heard_until.min(holder.contact),
                None if is_live(server) => around.is_cut = true,
                _ => around.unheard_since = around.unheard_since.max(Some(holder.contact)),
            }
            true
        });
        around
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        holders: Holders,
        others: BTreeSet<ServerId>,
        contacts: BTreeMap<ServerId, Instant>,
        live: BTreeSet<ServerId>,
    }

    fn server(id: &str) -> ServerId {
        ServerId::parse(id).unwrap()
    }

    impl World {
        fn of(ids: &[&str]) -> Self {
            let others: BTreeSet<ServerId> = ids.iter().map(|id| server(id)).collect();
            Self { holders: Holders::default(), live: others.clone(), others, contacts: BTreeMap::new() }
        }

        fn look(&mut self, now: Instant) -> Around {
            let Self { holders, others, contacts, live } = self;
            holders.look(others, contacts, |server| live.contains(server), now)
        }
    }

    #[test]
    fn a_server_alone_knows_everything() {
        let now = Instant::now();
        let expected = Around { now, heard_until: now, unheard_since: None, is_cut: false };
        assert_eq!(World::of(&[]).look(now), expected);
    }

    #[test]
    fn the_one_heard_least_lately_says_up_to_when_all_is_known() {
        let (start, mut world) = (Instant::now(), World::of(&["s2", "s3"]));
        world.contacts = [("s2", 9_500), ("s3", 9_000)]
            .map(|(id, ms)| (server(id), start + Duration::from_millis(ms)))
            .into();
        world.look(start);
        let around = world.look(start + 10 * SECOND);
        assert_eq!(around.heard_until, start + 9 * SECOND);
        assert_eq!((around.unheard_since, around.is_cut), (None, false));
    }

    #[test]
    fn one_that_nobody_hears_may_hold_what_was_not_renewed_since() {
        let (start, mut world) = (Instant::now(), World::of(&["s2", "s3"]));
        world.look(start);
        world.contacts = [("s2", 10), ("s3", 4)].map(|(id, s)| (server(id), start + s * SECOND)).into();
        world.live.remove(&server("s3"));
        let around = world.look(start + 10 * SECOND);
        assert_eq!((around.unheard_since, around.is_cut), (Some(start + 4 * SECOND), false));
        assert_eq!(around.heard_until, start + 10 * SECOND);
        // One that never spoke counts from when it became known.
        world.others.insert(server("s4"));
        world.look(start + 11 * SECOND);
        world.contacts.insert(server("s2"), start + 14 * SECOND);
        world.live.remove(&server("s4"));
        assert_eq!(world.look(start + 14 * SECOND).unheard_since, Some(start + 11 * SECOND));
    }

    #[test]
    fn one_that_others_hear_may_hold_anything() {
        let (start, mut world) = (Instant::now(), World::of(&["s2"]));
        world.look(start);
        assert!(world.look(start + 5 * SECOND).is_cut);
    }

    #[test]
    fn one_that_is_gone_may_hold_leases_until_its_programs_have_moved() {
        let (start, mut world) = (Instant::now(), World::of(&["s2"]));
        world.look(start);
        world.contacts.insert(server("s2"), start + SECOND);
        world.live.clear();
        world.others.clear();
        let left = start + 7 * SECOND;
        for (at, expected) in [
            (left, Some(start + SECOND)),
            (left + MOVE_MAX / 2, Some(start + SECOND)),
            (left + MOVE_MAX, None),
        ] {
            assert_eq!(world.look(at).unheard_since, expected, "{:?} after it left", at - left);
        }
        // It comes back as any other.
        world.others.insert(server("s2"));
        world.contacts.insert(server("s2"), left + 20 * SECOND);
        assert_eq!(world.look(left + 20 * SECOND).unheard_since, None);
    }
}
