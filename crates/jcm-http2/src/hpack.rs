//! How headers are written on the wire (RFC 7541).

mod decode;
mod encode;
mod fixed;
mod huffman;

pub(crate) use decode::Decoder;
pub(crate) use encode::{begin, field, status};
