//! What a client says on its stream.

use axum::body::Body;
use jcm_proto::v1::WatchRequest;
use prost::Message;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Status, Streaming};

/// Largest message of a client: names and tokens.
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What is set aside for a message before it comes: most are a name and a token, and there is one such buffer a stream.
const BUFFER_BYTES: usize = 64;

/// The messages in the body of a request.
pub(super) fn read(body: Body) -> Streaming<WatchRequest> {
    Streaming::new_request(Requests, body, None, Some(REQUEST_BYTES_MAX))
}

#[derive(Debug)]
struct Requests;

impl Decoder for Requests {
    type Item = WatchRequest;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<WatchRequest>, Status> {
        WatchRequest::decode(buffer)
            .map(Some)
            .map_err(|error| Status::invalid_argument(format!("a request that cannot be read: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, BUFFER_BYTES)
    }
}
