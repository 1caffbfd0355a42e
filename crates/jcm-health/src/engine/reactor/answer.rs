//! Reads an HTTP/1 answer out of bytes. Pure: bytes in, progress out, from the start each time.
//!
//! Any correct answer of RFC 9112 counts, and so do a few habits of old servers that every client forgives (bare line
//! feeds, folded headers, more than one blank in the status line). The head decides about the node; the body is followed
//! to know where the next answer would start, and its text is found for a policy that looks for something in it.

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Error, Header, ParserConfig, Response, Status};
use jcm_model::check::Method;

use crate::outcome::Malformed;

/// Bytes of head that are read, interim answers included.
pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Bytes of body that are read, framing included.
pub(crate) const BODY_BYTES_MAX: usize = 4 * 1024;

/// Interim answers (100, 102, 103) before the real one. Servers send one or two.
const INTERIM_MAX: usize = 8;

/// Headers for which there is room without a heap. More are rare but correct.
const HEADERS_USUAL: usize = 64;

/// No head of [`HEAD_BYTES_MAX`] has more: the shortest header line, `a:` and a line feed, takes three bytes.
const HEADERS_MAX: usize = HEAD_BYTES_MAX / 3;

/// How far an answer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The head is not complete.
    Partial,
    /// The head is complete.
    Complete(Head),
    /// More bytes than a head may have, and it is not complete.
    TooLarge,
    /// No continuation would make this an HTTP/1 answer.
    Broken(Malformed),
}

/// The head of the final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Where the body starts.
    pub(crate) length: usize,
    pub(crate) body: Body,
    /// Whether the node keeps the connection open after the body.
    pub(crate) persistent: bool,
}

/// How the end of the body is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// What is known of the rest of an answer whose head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// The body is complete and nothing follows it.
    Complete,
    /// More of the body must come.
    Missing,
    /// The body is larger than is read, or broken, or something follows it: not worth another byte.
    Unwanted,
}

/// What is known of the text of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Text<'b> {
    /// As much of it as is there, without framing and as it was sent: nothing is unpacked.
    pub(crate) bytes: Cow<'b, [u8]>,
    /// Whether more of it may come and would be read.
    pub(crate) may_go_on: bool,
}

/// Reads as far as the bytes go, which answer a request with this method. To give more bytes later never changes an
/// answer other than `Partial`.
pub(crate) fn parse(bytes: &[u8], method: Method) -> Progress {
    let readable = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let mut start = 0;
    for _ in 0..=INTERIM_MAX {
        match parse_one(&readable[start..], method) {
            Ok(Some(head)) if matches!(head.status, 100 | 102..=199) => start += head.length,
            Ok(Some(head)) => {
                return Progress::Complete(Head { length: start + head.length, ..head });
            }
            Ok(None) if bytes.len() > HEAD_BYTES_MAX => return Progress::TooLarge,
            Ok(None) => return Progress::Partial,
            Err(what) => return Progress::Broken(what),
        }
    }
    Progress::Broken(Malformed::EndlessInterim)
}

fn parse_one(bytes: &[u8], method: Method) -> Result<Option<Head>, Malformed> {
    let mut usual = [EMPTY_HEADER; HEADERS_USUAL];
    match parse_into(bytes, &mut usual, method) {
        Err(Error::TooManyHeaders) => parse_into(bytes, &mut vec![EMPTY_HEADER; HEADERS_MAX], method),
        parsed => parsed,
    }
    .map_err(|error| match error {
        Error::Version | Error::Status | Error::Token => Malformed::StatusLine,
        Error::HeaderName | Error::HeaderValue | Error::NewLine | Error::TooManyHeaders => Malformed::Header,
    })
}

fn parse_into<'b>(
    bytes: &'b [u8],
    headers: &mut [Header<'b>],
    method: Method,
) -> Result<Option<Head>, Error> {
    let mut config = ParserConfig::default();
    config.allow_multiple_spaces_in_response_status_delimiters(true);
    config.allow_obsolete_multiline_headers_in_responses(true);
    config.allow_spaces_after_header_name_in_responses(true);
    let mut response = Response::new(headers);
    let Status::Complete(length) = config.parse_response(&mut response, bytes)? else {
        return Ok(None);
    };
    let status = response.code.expect("a complete head has a status");
    let minor = response.version.expect("a complete head has a version");
    Ok(Some(describe(status, minor, length, response.headers, method)))
}

/// RFC 9112, sections 6.3 (length of the body) and 9.3 (persistence). Where the rules call a framing ambiguous, the
/// connection is not kept: the next answer could not be told from the rest of this one.
fn describe(status: u16, minor: u8, length: usize, headers: &[Header<'_>], method: Method) -> Head {
    let (mut close, mut keep, mut coded, mut chunked, mut ambiguous) = (false, false, false, false, false);
    let mut content_length = None;
    for Header { name, value } in headers {
        let elements = || value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if name.eq_ignore_ascii_case("connection") {
            close |= elements().any(|option| option.eq_ignore_ascii_case(b"close"));
            keep |= elements().any(|option| option.eq_ignore_ascii_case(b"keep-alive"));
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            coded = true;
            chunked = elements().next_back().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked"));
        } else if name.eq_ignore_ascii_case("content-length") {
            for element in elements() {
                let parsed = decimal(element);
                ambiguous |= parsed.is_none() || content_length.is_some_and(|before| Some(before) != parsed);
                content_length = parsed;
            }
        }
    }
    ambiguous |= coded && (content_length.is_some() || minor == 0);
    let body = match content_length {
        _ if matches!(status, 204 | 304) || method == Method::Head => Body::None,
        _ if ambiguous || status == 101 => Body::UntilClose,
        _ if chunked => Body::Chunked,
        Some(bytes) if !coded => Body::Length(bytes),
        _ => Body::UntilClose,
    };
    let persistent = !close && !ambiguous && (minor > 0 || keep) && body != Body::UntilClose;
    Head { status, length, body, persistent }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok()).flatten()
}

impl Body {
    /// Whether the body ends with these bytes, which are all that followed the head.
    pub(crate) fn rest(self, bytes: &[u8]) -> Rest {
        if bytes.len() > BODY_BYTES_MAX {
            return Rest::Unwanted;
        }
        match self {
            Self::None if bytes.is_empty() => Rest::Complete,
            Self::None => Rest::Unwanted,
            Self::Length(length) if length > BODY_BYTES_MAX as u64 => Rest::Unwanted,
            Self::Length(length) => match (bytes.len() as u64).cmp(&length) {
                std::cmp::Ordering::Less => Rest::Missing,
                std::cmp::Ordering::Equal => Rest::Complete,
                std::cmp::Ordering::Greater => Rest::Unwanted,
            },
            Self::Chunked => chunks_rest(bytes),
            Self::UntilClose => Rest::Missing,
        }
    }

    /// The text in these bytes, which are all that followed the head.
    pub(crate) fn text(self, bytes: &[u8]) -> Text<'_> {
        let read = &bytes[..bytes.len().min(BODY_BYTES_MAX)];
        let may_go_on = bytes.len() < BODY_BYTES_MAX;
        match self {
            Self::None => Text { bytes: Cow::Borrowed(&[]), may_go_on: false },
            Self::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let text = &read[..read.len().min(length)];
                Text { bytes: Cow::Borrowed(text), may_go_on: may_go_on && text.len() < length }
            }
            Self::Chunked => {
                let (text, is_over) = chunks_text(read);
                Text { bytes: Cow::Owned(text), may_go_on: may_go_on && !is_over }
            }
            Self::UntilClose => Text { bytes: Cow::Borrowed(read), may_go_on },
        }
    }
}

/// What stands in the chunks as far as they go, and whether the last one was among them (or what can be none).
fn chunks_text(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut text = Vec::with_capacity(bytes.len());
    loop {
        if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
            return (text, true);
        }
        let (line, size) = match httparse::parse_chunk_size(bytes) {
            Ok(Status::Complete((line, size))) if size > 0 => (line, size),
            Ok(Status::Partial) => return (text, false),
            Ok(Status::Complete(_)) | Err(_) => return (text, true),
        };
        let chunk = &bytes[line..];
        let Some((inside, after)) = usize::try_from(size).ok().and_then(|size| chunk.split_at_checked(size))
        else {
            text.extend_from_slice(chunk);
            return (text, false);
        };
        text.extend_from_slice(inside);
        bytes = match after {
            [b'\r', b'\n', next @ ..] => next,
            [] | [b'\r'] => return (text, false),
            _ => return (text, true),
        };
    }
}

fn chunks_rest(mut bytes: &[u8]) -> Rest {
    loop {
        if bytes.first().is_some_and(|first| !first.is_ascii_hexdigit()) {
            return Rest::Unwanted;
        }
        let (line, size) = match httparse::parse_chunk_size(bytes) {
            Ok(Status::Complete(parsed)) => parsed,
            Ok(Status::Partial) => return Rest::Missing,
            Err(_) => return Rest::Unwanted,
        };
        bytes = &bytes[line..];
        if size == 0 {
            break;
        }
        let Some(size) = usize::try_from(size).ok().filter(|size| *size <= BODY_BYTES_MAX) else {
            return Rest::Unwanted;
        };
        let Some(after) = bytes.get(size..) else {
            return Rest::Missing;
        };
        bytes = match after {
            [b'\r', b'\n', next @ ..] => next,
            [] | [b'\r'] => return Rest::Missing,
            _ => return Rest::Unwanted,
        };
    }
    // Trailers: lines up to an empty one.
    loop {
        let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else {
            return Rest::Missing;
        };
        let empty = matches!(&bytes[..end], [] | [b'\r']);
        bytes = &bytes[end + 1..];
        if empty {
            return if bytes.is_empty() { Rest::Complete } else { Rest::Unwanted };
        }
    }
}

#[cfg(test)]
mod tests;
