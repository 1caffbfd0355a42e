//! The bytes that JCM stores and sends: types generated from `proto/`, and their conversion to the model.
//!
//! Nothing is decided here. A conversion from bytes goes through the same validation as input from people, so that
//! what was damaged or forged is refused at the edge and a model value in hand is always valid.

#[expect(clippy::pedantic, clippy::large_enum_variant, clippy::allow_attributes, reason = "generated code")]
pub mod v1 {
    //! The generated messages and services of protocol version 1.
    tonic::include_proto!("jcm.v1");
}

mod definitions;
pub mod discovery;
mod protocols;
pub mod record;
mod snapshot;
mod store;
pub mod token;
pub mod wire;

pub use protocols::Protocols;
pub use snapshot::SavedDefinitions;
pub use store::{Entry, Transaction, encoded_bytes};

/// The versions of the watch protocol that this crate speaks.
pub const WATCH_PROTOCOLS: Protocols = Protocols::new(1, 3);

/// The first version of the watch protocol in which clients keep leases.
pub const LEASES_SINCE: u32 = 3;

/// The versions of the protocol between servers that this crate speaks.
pub const PEER_PROTOCOLS: Protocols = Protocols::new(1, 1);

/// A message that cannot be a value of the model.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// The bytes are no such message.
    #[error("the bytes are no valid message")]
    Bytes(#[from] prost::DecodeError),
    /// The message holds a value that the model refuses.
    #[error("the message holds an invalid value")]
    Value(#[from] jcm_model::Invalid),
    /// A field that every such message has is not there.
    #[error("the message lacks `{0}`")]
    Missing(&'static str),
    /// The bytes were written by a later version.
    #[error("format version {found} is newer than the {known} this version knows")]
    Newer {
        /// The version in the bytes.
        found: u8,
        /// The latest version that can be read.
        known: u8,
    },
    /// There is nothing, or the token is not in its text form.
    #[error("{0}")]
    Shape(&'static str),
}

impl Malformed {
    /// The same, said of a part of the message.
    #[must_use]
    pub fn within(self, place: &str) -> Self {
        match self {
            Self::Value(invalid) => Self::Value(invalid.within(place)),
            other => other,
        }
    }
}
