//! The name under which a node is asked.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, quoted};

/// Longest name in the DNS (RFC 1035, section 2.3.4), as text.
const NAME_BYTES_MAX: usize = 253;
/// Longest part between two dots (RFC 1035, section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A host as a request names it: a DNS name or an IP literal (IPv6 in brackets), and a port where one is written.
///
/// Nothing else passes, because it goes into the head of a request as it is. It says nothing about where the probe connects.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Host(Box<str>);

impl Host {
    /// Parses `orders.example`, `orders.example:8443`, `127.0.0.1` or `[::1]:80`.
    pub fn parse(input: &str) -> Result<Self, Invalid> {
        let (name, port) = split(input);
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        };
        if !(is_literal(name) || is_name(name)) || !port.is_none_or(is_port) {
            return Err(Invalid::new(format!(
                "{} is no host: write a DNS name or an IP literal, with a port or without, like \
                 `orders.example`, `127.0.0.1:80` or `[::1]`",
                quoted(input)
            )));
        }
        Ok(Self(input.into()))
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name or address alone, without a port and without brackets.
    pub fn name(&self) -> &str {
        split(&self.0).0.trim_start_matches('[').trim_end_matches(']')
    }
}

/// What stands before the port, and the port.
fn split(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        // The colons of an IPv6 address stand within its brackets.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

fn is_literal(name: &str) -> bool {
    let in_brackets = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    in_brackets.map_or_else(|| name.parse::<Ipv4Addr>().is_ok(), |name| name.parse::<Ipv6Addr>().is_ok())
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name whose last part is a number is an address with a mistake in it.
    let is_address =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_label) && !is_address
}

impl TryFrom<String> for Host {
    type Error = Invalid;
    fn try_from(input: String) -> Result<Self, Invalid> {
        Self::parse(&input)
    }
}

impl From<Host> for String {
    fn from(host: Host) -> String {
        host.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_that_could_end_its_line() {
        for (good, name) in [
            ("orders.example", "orders.example"),
            ("Orders.Example:8443", "Orders.Example"),
            ("localhost", "localhost"),
            ("a_b.x-y.1e", "a_b.x-y.1e"),
            ("127.0.0.1", "127.0.0.1"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("[::1]", "::1"),
            ("[2001:db8::1]:65535", "2001:db8::1"),
        ] {
            let host = Host::parse(good).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((host.as_str(), host.name()), (good, name));
        }
        let long = ["a"; 127].join(".") + ".aa";
        for bad in [
            "",
            ":80",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "a:80:80",
            "::1",
            "[::1",
            "[127.0.0.1]",
            "[::1]80",
            "a b",
            "a\r\nX-Evil: 1",
            "a\0",
            "a/b",
            "user@a",
            "-a",
            "a-.b",
            "a..b",
            "a.",
            "127.1",
            "300.0.0.1",
            "bücher.example",
            &"a".repeat(64),
            &long,
        ] {
            assert!(Host::parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
