//! The check policy of a cluster: as written, and with defaults filled in.
//!
//! What was left out stays out in the store, so that a default can change with a release. Defaults are constants
//! here, alike on every server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::invalid::{Invalid, quoted};
use crate::name::refuse_unless_port_name;
use crate::object;

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

    /// Whether servers of this version can probe it. A kind that cannot be probed yet is refused at write, because
    /// a policy that nobody carries out would look like protection.
    pub fn is_supported(self) -> bool {
        matches!(self, Self::None | Self::Tcp | Self::Http)
    }
}

/// HTTP statuses that count as success, as inclusive ranges.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Expect(Box<[(u16, u16)]>);

impl Default for Expect {
    fn default() -> Self {
        Self(Box::new([(200, 299)]))
    }
}

impl Expect {
    /// Parses `200`, `200-299` or `200-299,404`.
    pub fn parse(input: &str) -> Result<Self, Invalid> {
        const RANGES_MAX: usize = 16;
        let refused = || {
            Invalid::new(format!(
                "{} is refused: write statuses from 100 to 599 like `200-299` or `200,204,301-308`",
                quoted(input)
            ))
        };
        let status = |text: &str| {
            let text = text.trim();
            let plain = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|status| plain && (100..600).contains(status)).ok_or_else(refused)
        };
        let mut ranges = Vec::new();
        for part in input.split(',') {
            let (low, high) = part.split_once('-').unwrap_or((part, part));
            let range = (status(low)?, status(high)?);
            if range.0 > range.1 || ranges.len() == RANGES_MAX {
                return Err(refused());
            }
            ranges.push(range);
        }
        Ok(Self(ranges.into_boxed_slice()))
    }

    /// Whether a status counts as success.
    pub fn accepts(&self, status: u16) -> bool {
        self.0.iter().any(|(low, high)| (*low..=*high).contains(&status))
    }
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (low, high)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if low == high {
                write!(f, "{comma}{low}")?;
            } else {
                write!(f, "{comma}{low}-{high}")?;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Expect {
    type Error = Invalid;
    fn try_from(input: String) -> Result<Self, Invalid> {
        Self::parse(&input)
    }
}

impl From<Expect> for String {
    fn from(expect: Expect) -> String {
        expect.to_string()
    }
}

/// A check policy as written. What is `None` was left out.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(into = "Raw")]
pub struct CheckSpec(Raw);

/// The written form before its rules were tried.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Raw {
    /// How nodes are probed.
    pub kind: CheckKind,
    /// Which named port; left out: each node's first by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Path of an HTTP request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// HTTP statuses that count as success.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
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
        if !raw.kind.is_supported() {
            return Err(Invalid::at(
                "kind",
                format!(
                    "`{}` checks cannot be carried out by this version: use `http`, `tcp` or `none`",
                    raw.kind.as_str()
                ),
            ));
        }
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
        Ok(Self(raw))
    }
}

impl From<CheckSpec> for Raw {
    fn from(spec: CheckSpec) -> Raw {
        spec.0
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
        let raw = if self.0.kind == CheckKind::None { &unchecked } else { &self.0 };
        let interval = raw.interval.unwrap_or(INTERVAL_DEFAULT);
        let streak =
            |value: Option<i64>, default: u32| value.and_then(|v| u32::try_from(v).ok()).unwrap_or(default);
        Check {
            kind: raw.kind,
            port: raw.port.as_deref().map(Into::into),
            path: raw.path.as_deref().unwrap_or(PATH_DEFAULT).into(),
            expect: raw.expect.clone().unwrap_or_default(),
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

/// The policy that is carried out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// How nodes are probed.
    pub kind: CheckKind,
    /// Which named port; `None`: each node's first by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Box<str>>,
    /// Path of an HTTP request.
    pub path: Box<str>,
    /// HTTP statuses that count as success.
    pub expect: Expect,
    /// Time from one probe to the next.
    #[serde(serialize_with = "as_text")]
    pub interval: Duration,
    /// Total time of one probe: connecting, asking and reading the answer.
    #[serde(serialize_with = "as_text")]
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
        (self.kind, &self.port, &self.path, &self.expect)
            == (other.kind, &other.port, &other.path, &other.expect)
    }
}

fn as_text<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&duration::format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(json: &str) -> Result<CheckSpec, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn a_policy_out_of_range_is_refused_with_the_range() {
        for (json, part) in [
            (r#"{"kind":"http","interval":"0s"}"#, "interval"),
            (r#"{"kind":"http","interval":"2h"}"#, "interval"),
            (r#"{"kind":"http","timeout":"0ms"}"#, "timeout"),
            (r#"{"kind":"http","fall":0}"#, "fall"),
            (r#"{"kind":"http","rise":-1}"#, "rise"),
            (r#"{"kind":"http","window":65}"#, "window"),
            (r#"{"kind":"http","degraded_at":0}"#, "degraded_at"),
            (r#"{"kind":"http","degraded_at":1.5}"#, "degraded_at"),
            (r#"{"kind":"http","path":"status"}"#, "path"),
            (r#"{"kind":"http","path":"/a b"}"#, "path"),
            (r#"{"kind":"http","path":"/a\r\nHost: x"}"#, "path"),
            (r#"{"kind":"http","expect":"99"}"#, "statuses"),
            (r#"{"kind":"http","expect":"300-200"}"#, "statuses"),
            (r#"{"kind":"http","expect":"+200"}"#, "statuses"),
            (r#"{"kind":"script"}"#, "unknown variant"),
            (r#"{"kind":"grpc"}"#, "cannot be carried out"),
            (r#"{"kind":"http","retries":3}"#, "unknown field `retries`"),
        ] {
            let error = decode(json).expect_err(json).to_string();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_left_out_gets_the_default_and_stays_out() {
        let spec = decode(r#"{"kind":"http","interval":"200ms"}"#).unwrap();
        let check = spec.effective();
        assert_eq!(check.timeout, Duration::from_millis(200));
        assert_eq!((check.fall, check.rise, check.window), (3, 2, 10));
        assert_eq!(serde_json::to_string(&spec).unwrap(), r#"{"kind":"http","interval":"200ms"}"#);
        let filled = serde_json::to_string(&check).unwrap();
        assert_eq!(decode(&filled).unwrap().effective(), check);
    }

    #[test]
    fn expected_statuses_are_ranges() {
        let expect = Expect::parse("200-299,404").unwrap();
        assert!(expect.accepts(204) && expect.accepts(404) && !expect.accepts(301));
        assert_eq!(expect.to_string(), "200-299,404");
    }
}
