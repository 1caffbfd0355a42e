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
const MANY_BYTES_MAX: usize = 12 * 1024;

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
        v1::ResumeToken {
            store: self.store.0.as_bytes().to_vec(),
            revision: self.revision.0,
            digest: self.digest,
            origin: self.origin,
            sequence: self.sequence,
        }
        .encode_to_vec()
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

/// The text that stands for what a reader of several clusters holds.
pub fn many_to_text<'a>(held: impl IntoIterator<Item = (&'a ClusterName, Token)>) -> String {
    let held = held.into_iter().map(|(cluster, token)| v1::resume_tokens::Held {
        cluster: cluster.to_string(),
        token: token.to_bytes(),
    });
    URL_SAFE_NO_PAD.encode(v1::ResumeTokens { held: held.collect() }.encode_to_vec())
}

/// Reads what [`many_to_text`] wrote.
pub fn many_from_text(text: &[u8]) -> Result<Vec<(ClusterName, Token)>, Malformed> {
    if text.len() > MANY_BYTES_MAX {
        return Err(Malformed::Shape("the token is too long"));
    }
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Malformed::Shape("the token is no token of this service"))?;
    let tokens = v1::ResumeTokens::decode(bytes.as_slice())?;
    tokens
        .held
        .iter()
        .map(|held| {
            Ok((
                ClusterName::parse(&held.cluster)?,
                Token::from_bytes(&held.token)?,
            ))
        })
        .collect()
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
        for bad in ["", "!!", "AAAA", &"A".repeat(10_000)] {
            assert!(Token::from_text(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
