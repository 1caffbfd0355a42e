//! One look at all that the servers have in the store, and the roster that it makes.
//!
//! Pure: what was read is given. A reading is taken whole, from one member of the ensemble and in one go, so that
//! readings of one server never go back, unless the store itself was put back to an earlier state. What follows from a ring
//! whose number is lower than before is for whoever shares out the checks to decide.

use std::collections::BTreeMap;

use jcm_model::ServerId;
use jcm_proto::{Malformed, PEER_PROTOCOLS, record, v1};
use uuid::Uuid;

use super::election::{Epoch, Leader, Queue};
use crate::{Member, RingMembers, Roster};

/// What is there of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registration {
    /// The session that it lasts with.
    pub(super) session: i64,
    /// The version of its znode.
    pub(super) version: i32,
    /// Who it is; `None`: that cannot be read.
    pub(super) member: Option<Member>,
}

/// One look at all that the servers have in the store.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reading {
    pub(super) servers: BTreeMap<ServerId, Registration>,
    pub(super) ring: RingMembers,
    /// The session of this server's own place in the ring, where it has one.
    pub(super) ring_session: Option<i64>,
    pub(super) queue: Queue,
    pub(super) epoch: Epoch,
}

impl Reading {
    /// Who leads: the one that began the epoch, as long as it stands.
    pub(super) fn leader(&self) -> Option<&Leader> {
        self.epoch.leader.as_ref().filter(|leader| self.queue.has(&leader.candidate))
    }

    /// The roster that follows from it, after the one before.
    pub(super) fn roster(&self, before: &Roster) -> Roster {
        Roster {
            members: self.servers.values().filter_map(|server| server.member.clone()).collect(),
            leader: self.leader().map(|leader| leader.server.clone()),
            epoch: self.epoch.number.max(before.epoch),
            ring: self.ring.clone(),
        }
    }
}

/// The bytes that make a server known.
pub(super) fn encode_member(member: &Member) -> Vec<u8> {
    record::encode(&v1::Server {
        id: member.id.to_string(),
        instance: member.instance.as_bytes().to_vec(),
        advertise: member.advertise.clone(),
        zone: member.zone.clone(),
        version: member.version.clone(),
        peer_protocol: PEER_PROTOCOLS.newest(),
        record_format: u32::from(record::VERSION),
    })
}

/// The server in such bytes, found under a name.
pub(super) fn decode_member(name: &ServerId, bytes: &[u8]) -> Result<Member, Malformed> {
    let message: v1::Server = record::decode(bytes)?;
    if message.id != name.as_str() {
        return Err(Malformed::Shape("the record is of another server"));
    }
    Ok(Member {
        id: name.clone(),
        instance: Uuid::from_slice(&message.instance).map_err(|_| Malformed::Missing("instance"))?,
        advertise: message.advertise,
        zone: message.zone,
        version: message.version,
    })
}

/// The bytes that say who began an epoch.
pub(super) fn encode_leader(leader: &Leader) -> Vec<u8> {
    record::encode(&v1::Leader { server: leader.server.to_string(), candidate: leader.candidate.clone() })
}

/// The leader in such bytes; before the first one there are none.
pub(super) fn decode_leader(bytes: &[u8]) -> Result<Option<Leader>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let message: v1::Leader = record::decode(bytes)?;
    Ok(Some(Leader { server: ServerId::parse(&message.server)?, candidate: message.candidate }))
}

#[cfg(test)]
mod tests {
    use super::super::election::Candidate;
    use super::*;

    fn id(name: &str) -> ServerId {
        ServerId::parse(name).unwrap()
    }

    #[test]
    fn a_member_and_a_leader_read_back_and_what_is_not_theirs_is_refused() {
        let member = Member {
            id: id("a"),
            instance: Uuid::from_u128(7),
            advertise: "[::1]:80".to_owned(),
            zone: String::new(),
            version: "1".to_owned(),
        };
        let bytes = encode_member(&member);
        assert_eq!(decode_member(&id("a"), &bytes).unwrap(), member);
        assert!(decode_member(&id("b"), &bytes).is_err(), "a record was taken for another server's");
        assert!(decode_member(&id("a"), b"alien").is_err());
        let leader = Leader { server: id("a"), candidate: "x".to_owned() };
        assert_eq!(decode_leader(&encode_leader(&leader)).unwrap(), Some(leader));
        assert_eq!(decode_leader(b"").unwrap(), None);
    }

    #[test]
    fn who_began_the_epoch_leads_only_while_its_candidate_stands() {
        let name = format!("{}0000000004", Candidate::prefix(9, &id("a")));
        let epoch = Epoch { number: 3, leader: Some(Leader { server: id("a"), candidate: name.clone() }) };
        let mut reading = Reading { queue: Queue::new([name.as_str()]), epoch, ..Reading::default() };
        let roster = reading.roster(&Roster::default());
        assert_eq!((roster.leader, roster.epoch), (Some(id("a")), 3));
        reading.queue = Queue::default();
        assert_eq!(reading.roster(&Roster::default()).leader, None);
    }

    #[test]
    fn the_epoch_never_goes_back_and_the_ring_is_told_as_it_is_read() {
        let ring = |epoch, server| RingMembers { store: None, epoch, servers: vec![id(server)] };
        let before = Roster { ring: ring(8, "a"), epoch: 5, ..Roster::default() };
        let older =
            Reading { ring: ring(7, "b"), epoch: Epoch { number: 4, leader: None }, ..Reading::default() };
        let roster = older.roster(&before);
        assert_eq!((roster.ring, roster.epoch), (ring(7, "b"), 5));
        let newer = Reading { ring: ring(9, "b"), ..Reading::default() };
        assert_eq!(newer.roster(&before).ring, ring(9, "b"));
    }
}
