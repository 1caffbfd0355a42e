//! Heads of requests and answers: from header fields to types and back, with what RFC 9113, section 8, asks of them.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};

use crate::hpack;

/// What one field counts beside its text, in the limit that a client is told.
const FIELD_OVERHEAD: usize = 32;

/// Meant for one connection of HTTP/1, and forbidden here.
const OF_A_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Why a request is not answered as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Malformed,
    TooLarge,
}

/// The fields of one block.
#[derive(Debug)]
pub(crate) struct Fields {
    method: Option<Method>,
    scheme: Option<String>,
    authority: Option<String>,
    path: Option<String>,
    headers: HeaderMap,
    /// No more of these bytes may come.
    room: usize,
    refused: Option<Refused>,
}

impl Fields {
    /// Room for a block of so many bytes, as the limit counts them.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            method: None,
            scheme: None,
            authority: None,
            path: None,
            headers: HeaderMap::new(),
            room,
            refused: None,
        }
    }

    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + FIELD_OVERHEAD;
        let Some(room) = self.room.checked_sub(size) else {
            self.room = 0;
            self.refused.get_or_insert(Refused::TooLarge);
            return;
        };
        self.room = room;
        if self.refused.is_none() && self.take(name, value).is_none() {
            self.refused = Some(Refused::Malformed);
        }
    }

    fn take(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if name.first() != Some(&b':') {
            return self.take_header(name, value);
        }
        // These come before all others, and each once.
        if !self.headers.is_empty() {
            return None;
        }
        if name == b":method" {
            let method = Method::from_bytes(value).ok()?;
            return self.method.replace(method).is_none().then_some(());
        }
        let text = std::str::from_utf8(value).ok()?.to_owned();
        let place = match name {
            b":scheme" => &mut self.scheme,
            b":authority" => &mut self.authority,
            b":path" => &mut self.path,
            _ => return None,
        };
        place.replace(text).is_none().then_some(())
    }

    fn take_header(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        // Refuses capital letters, which are malformed here.
        let name = HeaderName::from_lowercase(name).ok()?;
        let value = HeaderValue::from_bytes(value).ok()?;
        if OF_A_CONNECTION.contains(&name) || name == header::TE && value != "trailers" {
            return None;
        }
        self.headers.try_append(name, value).ok()?;
        Some(())
    }

    pub(crate) fn into_request(self) -> Result<Request<()>, Refused> {
        if let Some(refused) = self.refused {
            return Err(refused);
        }
        let uri = self.uri().ok_or(Refused::Malformed)?;
        let mut request = Request::new(());
        *request.method_mut() = self.method.ok_or(Refused::Malformed)?;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        Ok(request)
    }

    fn uri(&self) -> Option<Uri> {
        let authority = self.authority.as_deref().filter(|authority| !authority.is_empty());
        if self.method.as_ref()? == Method::CONNECT {
            let is_bare = self.scheme.is_none() && self.path.is_none();
            return authority.filter(|_| is_bare)?.parse().ok();
        }
        let (scheme, path) = (self.scheme.as_deref()?, self.path.as_deref()?);
        if !path.starts_with('/') && (path != "*" || self.method.as_ref()? != Method::OPTIONS) {
            return None;
        }
        let Some(authority) = authority else { return path.parse().ok() };
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build().ok()
    }

    pub(crate) fn into_trailers(self) -> Result<HeaderMap, Refused> {
        let is_head =
            self.method.is_some() || self.scheme.is_some() || self.authority.is_some() || self.path.is_some();
        match self.refused {
            Some(refused) => Err(refused),
            None if is_head => Err(Refused::Malformed),
            None => Ok(self.headers),
        }
    }
}

/// The length that a request says its body has. `Err`: it says several, or no number.
pub(crate) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Refused> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter().map(|value| {
        let text = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        text.and_then(|text| text.parse().ok()).ok_or(Refused::Malformed)
    });
    let Some(first) = lengths.next().transpose()? else { return Ok(None) };
    lengths.try_for_each(|other| if other == Ok(first) { Ok(()) } else { Err(Refused::Malformed) })?;
    Ok(Some(first))
}

/// Writes the head of an answer, whose body has that length, if that is known.
pub(crate) fn write_answer<B>(block: &mut Vec<u8>, answer: &Response<B>, length: Option<u64>) {
    hpack::status(block, answer.status());
    let headers = answer.headers();
    write_fields(block, headers);
    if let Some(length) = length
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        hpack::field(block, header::CONTENT_LENGTH.as_str(), length.to_string().as_bytes());
    }
    if !headers.contains_key(header::DATE) {
        write_date(block);
    }
}

/// The head of an answer that has no more than that.
pub(crate) fn write_status(block: &mut Vec<u8>, status: StatusCode) {
    hpack::status(block, status);
    write_date(block);
}

pub(crate) fn write_fields(block: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        if !OF_A_CONNECTION.contains(name) {
            hpack::field(block, name.as_str(), value.as_bytes());
        }
    }
}

fn write_date(block: &mut Vec<u8>) {
    thread_local! {
        /// The last second in which somebody asked, and how it is written.
        static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(written, text)| {
        if *written != second || text.is_empty() {
            (*written, *text) = (second, httpdate::fmt_http_date(now));
        }
        hpack::field(block, header::DATE.as_str(), text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: [(&str, &str); 4] =
        [(":method", "POST"), (":scheme", "http"), (":authority", "here:1"), (":path", "/a?b=c")];

    fn request(fields: &[(&str, &str)]) -> Result<Request<()>, Refused> {
        let mut all = Fields::new(1024);
        for (name, value) in fields {
            all.add(name.as_bytes(), value.as_bytes());
        }
        all.into_request()
    }

    #[test]
    fn a_request_is_made_of_its_fields() {
        let made = request(&[&HEAD[..], &[("te", "trailers"), ("a", "1"), ("a", "2")]].concat()).unwrap();
        assert_eq!((made.method(), made.version()), (&Method::POST, Version::HTTP_2));
        assert_eq!(made.uri(), "http://here:1/a?b=c");
        assert_eq!(made.headers().get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        let bare = request(&[HEAD[0], HEAD[1], HEAD[3]]).unwrap();
        assert_eq!(bare.uri(), "/a?b=c");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (fields, why) in [
            (&HEAD[1..], "no method"),
            (&[HEAD[0], HEAD[2], HEAD[3]], "no scheme"),
            (&HEAD[..3], "no path"),
            (&[HEAD[0], HEAD[1], HEAD[2], (":path", "")], "an empty path"),
            (&[HEAD[0], HEAD[1], HEAD[2], (":path", "a")], "a path that does not begin at the root"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], (":path", "/")], "two paths"),
            (&[HEAD[0], HEAD[1], HEAD[2], ("a", "1"), HEAD[3]], "a path behind a header"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], (":status", "200")], "a field of answers"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], ("A", "1")], "a capital letter"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], ("a", "1\n2")], "two lines"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], ("connection", "close")], "of HTTP/1"),
            (&[HEAD[0], HEAD[1], HEAD[2], HEAD[3], ("te", "gzip")], "of HTTP/1"),
            (&[(":method", "CONNECT"), HEAD[2], HEAD[3]], "CONNECT with a path"),
        ] {
            assert_eq!(request(fields).unwrap_err(), Refused::Malformed, "{why}");
        }
        let long = "x".repeat(1024);
        let large = [&HEAD[..], &[("a", long.as_str())]].concat();
        assert_eq!(request(&large).unwrap_err(), Refused::TooLarge);
    }

    #[test]
    fn a_length_is_one_number() {
        let length = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_LENGTH, HeaderValue::from_static(value));
            }
            content_length(&headers)
        };
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["17"]), Ok(Some(17)));
        assert_eq!(length(&["17", "17"]), Ok(Some(17)));
        for odd in [&["17", "18"][..], &["+17"], &[""], &["1 7"], &["99999999999999999999"]] {
            assert_eq!(length(odd), Err(Refused::Malformed), "{odd:?}");
        }
    }
}
