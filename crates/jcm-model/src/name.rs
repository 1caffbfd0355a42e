//! Names: one validator for every way in, so that a name in hand is safe in a URL, a path and a log line.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, quoted};

/// Longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Longest node id, in bytes: `[IPv6]:port` with room for ids that people choose.
pub const NODE_ID_BYTES_MAX: usize = 128;

fn refuse_unless_name(input: &str, what: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if input.is_empty() {
        return Err(Invalid::new(format!("{what} is empty")));
    }
    if input.len() > NAME_BYTES_MAX {
        return Err(Invalid::new(format!("{what} has {} bytes, the limit is {NAME_BYTES_MAX}", input.len())));
    }
    if !input.starts_with(|c: char| c.is_ascii_alphanumeric()) || !input.chars().all(allowed) {
        return Err(Invalid::new(format!(
            "{what} {} is refused: a name starts with a letter or digit and goes on with letters, digits, `.`, `_` or `-`",
            quoted(input)
        )));
    }
    if input.contains("..") {
        return Err(Invalid::new(format!(
            "{what} {} is refused: `..` may not stand in a name",
            quoted(input)
        )));
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $validate:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name; the error says which rule it breaks.
            pub fn parse(input: &str) -> Result<Self, Invalid> {
                $validate(input, $what)?;
                Ok(Self(input.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = Invalid;
            fn from_str(input: &str) -> Result<Self, Invalid> {
                Self::parse(input)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(input: String) -> Result<Self, Invalid> {
                Self::parse(&input)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// The name of a cluster: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}` without `..`.
    ClusterName, "cluster name", refuse_unless_name
}
name_type! {
    /// The name of a server; the same rule as for clusters.
    ServerId, "server id", refuse_unless_name
}
name_type! {
    /// The id of a node, unique in its cluster and fixed when the node is added.
    ///
    /// It is `address:port` unless its owner chose one, so brackets and colons are allowed beside the letters of a name.
    NodeId, "node id", refuse_unless_node_id
}

fn refuse_unless_node_id(input: &str, what: &str) -> Result<(), Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '[' | ']');
    if input.is_empty() {
        return Err(Invalid::new(format!("{what} is empty")));
    }
    if input.len() > NODE_ID_BYTES_MAX {
        return Err(Invalid::new(format!(
            "{what} has {} bytes, the limit is {NODE_ID_BYTES_MAX}",
            input.len()
        )));
    }
    if !input.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[') || !input.chars().all(allowed) {
        return Err(Invalid::new(format!(
            "{what} {} is refused: letters, digits, `.`, `_`, `-`, `:` and brackets are allowed, a letter, digit or `[` comes first",
            quoted(input)
        )));
    }
    if input.contains("..") {
        return Err(Invalid::new(format!("{what} {} is refused: `..` may not stand in it", quoted(input))));
    }
    Ok(())
}

/// Checks the name of a port (`http`, `grpc`): short, and the letters of a name.
pub(crate) fn refuse_unless_port_name(input: &str) -> Result<(), Invalid> {
    refuse_unless_name(input, "port name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_are_refused() {
        for bad in
            ["", ".", "..", "a..b", "a/b", "a\0b", "-a", "é", "a b", "a\nb", "\u{202e}abc", &"a".repeat(129)]
        {
            assert!(ClusterName::parse(bad).is_err(), "{bad:?} was accepted");
            assert!(NodeId::parse(bad).is_err() || bad == "-a", "{bad:?} was accepted as a node id");
        }
        for good in ["a", "orders", "com.example.Orders_v2-x", "0", &"a".repeat(128)] {
            assert!(ClusterName::parse(good).is_ok(), "{good:?} was refused");
        }
    }

    #[test]
    fn a_refusal_cannot_forge_a_log_line() {
        let refusal = ClusterName::parse("x\n2026 INFO all is well").unwrap_err().to_string();
        assert!(!refusal.contains('\n'), "{refusal}");
    }
}
