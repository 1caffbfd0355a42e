//! What a gRPC health check came to.

use std::fmt;

/// What the health service says of a service that is not `SERVING`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotServing {
    /// `UNKNOWN`.
    Unknown,
    /// `NOT_SERVING`.
    NotServing,
    /// `SERVICE_UNKNOWN`.
    ServiceUnknown,
    /// A word that the protocol does not have.
    Unheard,
}

/// The status of a call that failed: the codes of gRPC, and nothing that the node says beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GrpcStatus(u8);

/// In what way an answer is none of gRPC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotGrpc {
    /// The node does not speak HTTP/2, or breaks it.
    Http2,
    /// The call was reset.
    Reset,
    /// The answer says that it is something else.
    ContentType,
    /// The answer ended without a status.
    NoStatus,
    /// The message is packed, and nothing is unpacked.
    Compressed,
    /// The message is no answer of the health service.
    Message,
    /// The message is larger than a checker reads.
    TooLarge,
}

/// The names of the codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl GrpcStatus {
    /// The call was carried out.
    pub const OK: Self = Self(0);
    /// Nothing at the address carries out such calls.
    pub const UNIMPLEMENTED: Self = Self(12);

    /// The status in a header. One that is none is `UNKNOWN`, as the protocol has it.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse::<u8>().ok());
        Self(number.filter(|number| usize::from(*number) < CODES.len()).unwrap_or(2))
    }
}

impl fmt::Display for GrpcStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, CODES[usize::from(self.0)])
    }
}

impl fmt::Display for NotServing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "UNKNOWN",
            Self::NotServing => "NOT_SERVING",
            Self::ServiceUnknown => "SERVICE_UNKNOWN",
            Self::Unheard => "a word that the protocol does not have",
        })
    }
}

impl fmt::Display for NotGrpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http2 => "the node does not speak HTTP/2",
            Self::Reset => "the call was reset",
            Self::ContentType => "its content type is another",
            Self::NoStatus => "it ended without a status",
            Self::Compressed => "its message is compressed",
            Self::Message => "its message is none of the health service",
            Self::TooLarge => "its message is larger than 4 KiB",
        })
    }
}
