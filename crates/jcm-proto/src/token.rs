//! Resume tokens: what a reader holds, in a form that every server reads and no client needs to.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jcm_model::{ClusterName, Revision, StoreId};
use prost::Message;
use uuid::Uuid;

use crate::{Malformed, v1};

/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 256;

/// Longest text for several clusters: what fits the headers of a request.
const RESUME_BYTES_MAX: usize = 12 * 1024;

/// What a reader of a cluster holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which store `revision` belongs to.
    pub store: StoreId,
    /// The cluster's revision.
    pub revision: Revision,
    /// [`jcm_model::ClusterState::digest`].
    pub digest: u64,
    /// Which run of which server counted `sequence`.
    pub origin: u64,
    /// That run's count of changes to this cluster's view.
    pub sequence: u64,
}

impl Token {
    /// The bytes sent in protobuf.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.start_bytes();
        bytes.extend(self.end_bytes());
        bytes
    }

    /// The part that stays the same while one run of a server counts: whole messages may be set one behind the other.
    fn start_bytes(&self) -> Vec<u8> {
        let store = self.store.0.as_bytes().to_vec();
        v1::ResumeToken { store, origin: self.origin, ..Default::default() }.encode_to_vec()
    }

    /// The part that changes with the cluster's view.
    pub fn end_bytes(&self) -> Vec<u8> {
        let Self { revision, digest, sequence, .. } = *self;
        v1::ResumeToken { revision: revision.0, digest, sequence, ..Default::default() }.encode_to_vec()
    }

    /// How many bytes of [`Token::to_bytes`] come before those of [`Token::end_bytes`].
    pub fn kept(&self) -> u32 {
        u32::try_from(self.start_bytes().len()).expect("a token is short")
    }

    /// Reads the bytes sent in protobuf.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > TOKEN_BYTES_MAX {
            return Err(Malformed::Shape("the token is too long"));
        }
        let token = v1::ResumeToken::decode(bytes)?;
        let store = Uuid::from_slice(&token.store).map_err(|_| Malformed::Missing("store"))?;
        Ok(Self {
            store: StoreId(store),
            revision: Revision(token.revision),
            digest: token.digest,
            origin: token.origin,
            sequence: token.sequence,
        })
    }

    /// The text used in HTTP.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.to_bytes())
    }

    /// Reads the text used in HTTP.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        if text.len() > TOKEN_BYTES_MAX * 2 {
            return Err(Malformed::Shape("the token is too long"));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| Malformed::Shape("the token is no token of this service"))?;
        Self::from_bytes(&bytes)
    }
}

/// What a reader of several clusters holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resume {
    /// Single clusters, where that is known of them; `None`: that the cluster is not there.
    pub held: Vec<(ClusterName, Option<Token>)>,
    /// The run of a server that told it.
    pub origin: u64,
    /// The publication of that run up to which it was told of everything; 0: of nothing for sure.
    pub settled: u64,
}

impl Resume {
    /// The text used in HTTP.
    pub fn to_text(&self) -> String {
        let held = |(cluster, token): &(ClusterName, Option<Token>)| v1::resume::Held {
            cluster: cluster.to_string(),
            token: token.map(|token| token.to_bytes()).unwrap_or_default(),
        };
        let message = v1::Resume {
            held: self.held.iter().map(held).collect(),
            origin: self.origin,
            settled: self.settled,
        };
        URL_SAFE_NO_PAD.encode(message.encode_to_vec())
    }

    /// Reads the text used in HTTP.
    pub fn from_text(text: &[u8]) -> Result<Self, Malformed> {
        if text.len() > RESUME_BYTES_MAX {
            return Err(Malformed::Shape("the id is too long"));
        }
        let bytes =
            URL_SAFE_NO_PAD.decode(text).map_err(|_| Malformed::Shape("the id is none of this service"))?;
        let message = v1::Resume::decode(bytes.as_slice())?;
        let held = |held: &v1::resume::Held| -> Result<(ClusterName, Option<Token>), Malformed> {
            let token = if held.token.is_empty() { None } else { Some(Token::from_bytes(&held.token)?) };
            Ok((ClusterName::parse(&held.cluster)?, token))
        };
        let held = message.held.iter().map(held).collect::<Result<_, _>>()?;
        Ok(Self { held, origin: message.origin, settled: message.settled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_a_damaged_one_is_refused() {
        let token = Token {
            store: StoreId(Uuid::from_u128(7)),
            revision: Revision(42),
            digest: 1,
            origin: 2,
            sequence: 3,
        };
        assert_eq!(Token::from_text(&token.to_text()).unwrap(), token);
        let later = Token { revision: Revision(43), digest: 9, sequence: 300, ..token };
        let mut bytes = token.to_bytes();
        bytes.truncate(token.kept() as usize);
        bytes.extend(later.end_bytes());
        assert_eq!(Token::from_bytes(&bytes).unwrap(), later, "another end makes it the later token");
        for bad in ["", "!!", "AAAA", &"A".repeat(10_000)] {
            assert!(Token::from_text(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
