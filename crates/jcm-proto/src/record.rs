//! Stored bytes: one byte of format version, then a protobuf message.

use prost::Message;

use crate::Malformed;

/// The format that is written. A reader refuses every later one: prost would silently drop what it does not know.
pub const VERSION: u8 = 1;

/// The bytes to store.
pub fn encode(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(VERSION);
    message.encode(&mut bytes).expect("a vector grows as needed");
    bytes
}

/// The message in stored bytes.
pub fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, Malformed> {
    match bytes.split_first() {
        Some((&VERSION, message)) => Ok(M::decode(message)?),
        Some((&found, _)) if found > VERSION => Err(Malformed::Newer {
            found,
            known: VERSION,
        }),
        _ => Err(Malformed::Shape("the bytes carry no format version")),
    }
}
