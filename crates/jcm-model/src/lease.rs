//! A lease: what a node has that a program registered, and that is there for as long as the program renews it.
//!
//! A node without a lease is written by people, and nobody else takes it away. Renewals are no writes: the definition
//! says only which lease it is and how long one renewal lasts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, quoted};
use crate::{Node, NodeId, Revision, duration, object};

/// Shortest time that a renewal may last. Renewals travel in batches and are judged a few times a second: in less time than
/// this there would be no room for one that is lost.
pub const TTL_MIN: Duration = Duration::from_secs(2);
/// Longest time that a renewal may last.
pub const TTL_MAX: Duration = Duration::from_hours(1);

const ID_BYTES: usize = 16;

/// Which lease it is: random, another one for each registration. By it a program recognises its node again, through whichever
/// server, and whoever takes a node away says which one is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LeaseId([u8; ID_BYTES]);

impl LeaseId {
    /// The id of these bytes.
    pub fn new(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes that are sent.
    pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
        &self.0
    }

    /// Reads the text used in JSON: 32 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let refused = || Invalid::new(format!("{} is no lease: 32 hexadecimal digits", quoted(text)));
        if text.len() != 2 * ID_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(refused());
        }
        u128::from_str_radix(text, 16).map(|id| Self(id.to_be_bytes())).map_err(|_| refused())
    }
}

impl TryFrom<&[u8]> for LeaseId {
    type Error = Invalid;

    fn try_from(bytes: &[u8]) -> Result<Self, Invalid> {
        let bytes = bytes
            .try_into()
            .map_err(|_| Invalid::new(format!("{} bytes: the id of a lease has {ID_BYTES}", bytes.len())))?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for LeaseId {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl From<LeaseId> for String {
    fn from(id: LeaseId) -> Self {
        id.to_string()
    }
}

impl std::fmt::Display for LeaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The lease of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(into = "RawLease")]
pub struct Lease {
    id: LeaseId,
    ttl: Duration,
}

/// The written form before its rules were tried.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLease {
    id: LeaseId,
    ttl: String,
}

impl Lease {
    /// A lease of which each renewal lasts for `ttl`, in whole milliseconds.
    pub fn new(id: LeaseId, ttl: Duration) -> Result<Self, Invalid> {
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
            let [given, min, max] = [ttl, TTL_MIN, TTL_MAX].map(duration::format);
            return Err(Invalid::at("ttl", format!("{given} is out of range: from {min} to {max}")));
        }
        let whole_ms = u64::try_from(ttl.as_millis()).expect("it is an hour at most");
        Ok(Self { id, ttl: Duration::from_millis(whole_ms) })
    }

    /// Which lease it is.
    pub fn id(&self) -> LeaseId {
        self.id
    }

    /// How long a renewal lasts.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawLease { id, ttl } = object::decode(deserializer, "a lease")?;
        let lease = duration::parse(&ttl).map_err(|e| e.within("ttl")).and_then(|ttl| Self::new(id, ttl));
        lease.map_err(serde::de::Error::custom)
    }
}

impl From<Lease> for RawLease {
    fn from(lease: Lease) -> Self {
        Self { id: lease.id, ttl: duration::format(lease.ttl) }
    }
}

/// A node whose lease nobody renews any more, as it was when that was found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lapsed {
    /// The node.
    pub node: NodeId,
    /// The revision at which it was added or moved last.
    pub birth: Revision,
    /// Its lease.
    pub lease: LeaseId,
}

impl Lapsed {
    /// Whether the node is still that.
    pub fn is_of(&self, node: &Node) -> bool {
        node.birth == self.birth && node.attributes.lease().map(Lease::id) == Some(self.lease)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "00112233445566778899aabbccddeeff";

    #[test]
    fn a_lease_is_written_as_it_is_read() {
        let text = format!(r#"{{"id":"{ID}","ttl":"10s"}}"#);
        let lease: Lease = serde_json::from_str(&text).unwrap();
        assert_eq!(lease.ttl(), Duration::from_secs(10));
        assert_eq!(lease.id().as_bytes()[..3], [0x00, 0x11, 0x22]);
        assert_eq!(serde_json::to_string(&lease).unwrap(), text);
        assert_eq!(LeaseId::try_from(&lease.id().as_bytes()[..]).unwrap(), lease.id());
    }

    #[test]
    fn a_lease_that_makes_no_sense_is_refused_by_field() {
        for (json, part) in [
            (format!(r#"{{"id":"{ID}","ttl":"1999ms"}}"#), "ttl: 1999ms is out of range"),
            (format!(r#"{{"id":"{ID}","ttl":"3601s"}}"#), "ttl: 3601s is out of range"),
            (format!(r#"{{"id":"{ID}","ttl":"10"}}"#), "ttl: `10` is no duration"),
            (format!(r#"{{"id":"{ID}"}}"#), "missing field `ttl`"),
            (format!(r#"{{"id":"{ID}","ttl":"10s","held":1}}"#), "unknown field `held`"),
            (r#"{"ttl":"10s"}"#.to_owned(), "missing field `id`"),
            (format!(r#"{{"id":"{}","ttl":"10s"}}"#, &ID[1..]), "32 hexadecimal digits"),
            (format!(r#"{{"id":"+{}","ttl":"10s"}}"#, &ID[1..]), "32 hexadecimal digits"),
            (format!(r#"["{ID}","10s"]"#), "as an object"),
        ] {
            let error = serde_json::from_str::<Lease>(&json).expect_err(&json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
        assert!(LeaseId::try_from(&[0; 15][..]).is_err());
    }
}
