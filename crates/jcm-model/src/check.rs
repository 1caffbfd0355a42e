//! The check policy of a cluster: as written, and with defaults filled in.
//!
//! What was left out stays out in the store, so that a default can change with a release. Defaults are constants
//! here, alike on every server.

mod expect;
mod host;
mod question;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::invalid::{Invalid, quoted};
use crate::name::refuse_unless_port_name;
use crate::object;
use crate::text::refuse_unless_text;

pub use expect::Expect;
pub use host::Host;
pub(crate) use question::drop_left_over;
use question::refuse_misplaced;

/// Shortest interval between two probes of one node.
pub const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Longest interval between two probes of one node.
pub const INTERVAL_MAX: Duration = Duration::from_hours(1);
/// Shortest total time a probe may be given.
pub const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Longest total time a probe may be given.
pub const TIMEOUT_MAX: Duration = Duration::from_mins(1);
/// Most results in a row that a turn may be made to wait for.
pub const STREAK_MAX: u64 = 100;
/// Longest window of results: one machine word of them is kept for each node.
pub const WINDOW_MAX: u64 = 64;
/// Longest path of an HTTP check.
pub const PATH_BYTES_MAX: usize = 1024;
/// Longest text that a body may be asked to contain: a word or a line of a status page, far less than what is read of it.
pub const BODY_CONTAINS_BYTES_MAX: usize = 256;
/// Longest name of a gRPC service: packages nest, but nobody writes more.
pub const SERVICE_BYTES_MAX: usize = 256;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(1);
const TIMEOUT_DEFAULT: Duration = Duration::from_millis(800);
const FALL_DEFAULT: u32 = 3;
const RISE_DEFAULT: u32 = 2;
const WINDOW_DEFAULT: u32 = 10;
const DEGRADED_AT_DEFAULT: f64 = 0.4;
const PATH_DEFAULT: &str = "/";

/// How nodes are probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// Not at all.
    #[default]
    None,
    /// A TCP connection is accepted.
    Tcp,
    /// An HTTP/1 request is answered with an expected status.
    Http,
    /// The same through TLS.
    Https,
    /// The gRPC health service says `SERVING`.
    Grpc,
    /// The node itself renews a lease.
    Lease,
}

impl CheckKind {
    /// The word used in JSON, logs and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Lease => "lease",
        }
    }
}

/// What an HTTP check asks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// The page.
    #[default]
    Get,
    /// Only what would stand before it.
    Head,
}

impl Method {
    /// The word used in requests, JSON and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// A check policy as written. What is `None` was left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(into = "Raw")]
pub struct CheckSpec(Box<Raw>);

/// The written form before its rules were tried.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// How nodes are probed.
    pub kind: CheckKind,
    /// Which named port; left out: each node's first by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Method of an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Method>,
    /// Path of an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Which virtual host is asked, and the name that a certificate is for; left out: the node's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<Host>,
    /// HTTP statuses that count as success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// Text that the start of the body must contain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_contains: Option<String>,
    /// Whether a certificate must be valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
    /// Which service a gRPC check asks for; empty: the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Time from one probe to the next.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub interval: Option<Duration>,
    /// Total time of one probe.
    #[serde(with = "duration::optional", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Failures in a row that make a node down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<i64>,
    /// Successes in a row that bring it back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<i64>,
    /// Results over which the rate of failures is judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Rate of failures from which a node is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degraded_at: Option<f64>,
    /// Whether each probe opens a connection of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh: Option<bool>,
}

impl<'de> Deserialize<'de> for CheckSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Raw = object::decode(deserializer, "a check")?;
        Self::try_from(raw).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<Raw> for CheckSpec {
    type Error = Invalid;

    fn try_from(raw: Raw) -> Result<Self, Invalid> {
        let span = |field: &str, value: Option<Duration>, min: Duration, max: Duration| match value {
            Some(v) if !(min..=max).contains(&v) => Err(Invalid::at(
                field,
                format!(
                    "{} is out of range: from {} to {}",
                    duration::format(v),
                    duration::format(min),
                    duration::format(max)
                ),
            )),
            _ => Ok(()),
        };
        let count = |field: &str, value: Option<i64>, max: u64| match value {
            Some(v) if v < 1 || v.unsigned_abs() > max => {
                Err(Invalid::at(field, format!("{v} is out of range: from 1 to {max}")))
            }
            _ => Ok(()),
        };
        refuse_misplaced(&raw)?;
        span("interval", raw.interval, INTERVAL_MIN, INTERVAL_MAX)?;
        span("timeout", raw.timeout, TIMEOUT_MIN, TIMEOUT_MAX)?;
        count("fall", raw.fall, STREAK_MAX)?;
        count("rise", raw.rise, STREAK_MAX)?;
        count("window", raw.window, WINDOW_MAX)?;
        if let Some(at) = raw.degraded_at
            && !(at > 0.0 && at <= 1.0)
        {
            return Err(Invalid::at("degraded_at", format!("{at} is out of range: above 0, up to 1")));
        }
        if let Some(port) = &raw.port {
            refuse_unless_port_name(port).map_err(|e| e.within("port"))?;
        }
        if let Some(path) = &raw.path {
            refuse_unless_path(path).map_err(|e| e.within("path"))?;
        }
        if let Some(text) = &raw.body_contains {
            refuse_unless_fragment(text, raw.method).map_err(|e| e.within("body_contains"))?;
        }
        if let Some(service) = &raw.service {
            refuse_unless_service(service).map_err(|e| e.within("service"))?;
        }
        Ok(Self(Box::new(raw)))
    }
}

impl From<CheckSpec> for Raw {
    fn from(spec: CheckSpec) -> Raw {
        *spec.0
    }
}

impl CheckSpec {
    /// The fields as written.
    pub fn raw(&self) -> &Raw {
        &self.0
    }

    /// The policy that is carried out: defaults filled in.
    pub fn effective(&self) -> Check {
        // Without a kind the rest means nothing, and two policies that mean nothing mean the same.
        let unchecked = Raw::default();
        let raw = if self.0.kind == CheckKind::None { &unchecked } else { &*self.0 };
        let interval = raw.interval.unwrap_or(INTERVAL_DEFAULT);
        let streak =
            |value: Option<i64>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        Check {
            kind: raw.kind,
            port: raw.port.as_deref().map(Into::into),
            method: raw.method.unwrap_or_default(),
            path: raw.path.as_deref().unwrap_or(PATH_DEFAULT).into(),
            host: raw.host.clone(),
            expect: raw.expect.clone().unwrap_or_default(),
            body_contains: raw.body_contains.as_deref().map(Into::into),
            verify: raw.verify.unwrap_or(true),
            service: raw.service.as_deref().unwrap_or_default().into(),
            interval,
            // A policy that only shortens the interval must not get a default that outlasts it.
            timeout: raw.timeout.unwrap_or(TIMEOUT_DEFAULT.min(interval)),
            fall: streak(raw.fall, FALL_DEFAULT),
            rise: streak(raw.rise, RISE_DEFAULT),
            window: streak(raw.window, WINDOW_DEFAULT),
            degraded_at: raw.degraded_at.unwrap_or(DEGRADED_AT_DEFAULT),
            fresh: raw.fresh.unwrap_or(false),
        }
    }
}

fn refuse_unless_path(path: &str) -> Result<(), Invalid> {
    if path.len() > PATH_BYTES_MAX {
        return Err(Invalid::new(format!("{} bytes, the limit is {PATH_BYTES_MAX}", path.len())));
    }
    // The path goes into a request line as it is: a blank or line end would let it write headers of its own.
    if !path.starts_with('/') || !path.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'#') {
        return Err(Invalid::new(format!(
            "{} is refused: a path starts with `/` and holds visible ASCII without `#`",
            quoted(path)
        )));
    }
    Ok(())
}

fn refuse_unless_fragment(text: &str, method: Option<Method>) -> Result<(), Invalid> {
    if method == Some(Method::Head) {
        return Err(Invalid::new("the answer to a `HEAD` request has no body: ask with `GET`"));
    }
    if text.is_empty() || text.len() > BODY_CONTAINS_BYTES_MAX {
        return Err(Invalid::new(format!(
            "{} bytes, 1 to {BODY_CONTAINS_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    refuse_unless_text(text, "the text")
}

fn refuse_unless_service(service: &str) -> Result<(), Invalid> {
    if service.len() > SERVICE_BYTES_MAX {
        return Err(Invalid::new(format!("{} bytes, the limit is {SERVICE_BYTES_MAX}", service.len())));
    }
    refuse_unless_text(service, "the service")
}

/// The policy that is carried out. As JSON it has the fields that its kind has, in the form in which they are written.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "Raw")]
pub struct Check {
    /// How nodes are probed.
    pub kind: CheckKind,
    /// Which named port; `None`: each node's first by name.
    pub port: Option<Box<str>>,
    /// Method of an HTTP request.
    pub method: Method,
    /// Path of an HTTP request.
    pub path: Box<str>,
    /// Which virtual host is asked, and the name that a certificate is for; `None`: the node's address and port.
    pub host: Option<Host>,
    /// HTTP statuses that count as success.
    pub expect: Expect,
    /// Text that the start of the body must contain.
    pub body_contains: Option<Box<str>>,
    /// Whether the node's certificate must be valid.
    pub verify: bool,
    /// Which service a gRPC check asks for; empty: the whole server.
    pub service: Box<str>,
    /// Time from one probe to the next.
    pub interval: Duration,
    /// Total time of one probe: connecting, asking and reading the answer.
    pub timeout: Duration,
    /// Failures in a row that make a node down.
    pub fall: u32,
    /// Successes in a row that bring it back.
    pub rise: u32,
    /// Results over which the rate of failures is judged.
    pub window: u32,
    /// Rate of failures, over a full window, from which a node is degraded.
    pub degraded_at: f64,
    /// Whether each probe opens a connection of its own.
    pub fresh: bool,
}

impl Check {
    /// Whether both ask a node the same thing. Thresholds and timing may differ: what was found stays true under
    /// another of those, and a node known to be down must not become routable because an interval was changed.
    pub fn same_question(&self, other: &Self) -> bool {
        let question = |check: &Self| Raw {
            interval: None,
            timeout: None,
            fall: None,
            rise: None,
            window: None,
            degraded_at: None,
            fresh: None,
            ..Raw::from(check.clone())
        };
        question(self) == question(other)
    }
}

impl From<Check> for Raw {
    fn from(check: Check) -> Self {
        Self {
            kind: check.kind,
            port: check.port.map(Into::into),
            // Left out where it is the usual one: readers of the shape that was there before do not know the word.
            method: Some(check.method).filter(|method| *method != Method::Get),
            path: Some(check.path.into()),
            host: check.host,
            expect: Some(check.expect),
            body_contains: check.body_contains.map(Into::into),
            verify: Some(check.verify),
            service: Some(check.service.into()),
            interval: Some(check.interval),
            timeout: Some(check.timeout),
            fall: Some(check.fall.into()),
            rise: Some(check.rise.into()),
            window: Some(check.window.into()),
            degraded_at: Some(check.degraded_at),
            fresh: Some(check.fresh),
        }
        .without_misplaced()
    }
}

#[cfg(test)]
mod tests;
