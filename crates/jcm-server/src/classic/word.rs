//! Single values as programs of 2015 write them: words in any case, numbers as text, booleans for on and off.
//!
//! The decoder that those programs were written against converted freely, so this one does as well.

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use jcm_model::invalid::quoted;

/// A boolean, a number or a text, before anybody asked what it shall mean.
#[derive(Debug, Clone, PartialEq)]
enum Word {
    Boolean(bool),
    Number(i64),
    Text(String),
}

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Word;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a word, a whole number or a boolean")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Word, E> {
                Ok(Word::Boolean(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Word, E> {
                Ok(Word::Number(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Word, E> {
                i64::try_from(value)
                    .map(Word::Number)
                    .map_err(|_| E::custom(format!("{value} is larger than any number here")))
            }

            /// Some languages have no other numbers, and write whole ones with a point or an exponent.
            fn visit_f64<E: Error>(self, value: f64) -> Result<Word, E> {
                const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
                if value.fract() != 0.0 || value.abs() > EXACT_MAX {
                    return Err(E::custom(format!("{value} is no whole number")));
                }
                #[expect(clippy::cast_possible_truncation, reason = "whole and within range")]
                let whole = value as i64;
                Ok(Word::Number(whole))
            }

            fn visit_str<E>(self, value: &str) -> Result<Word, E> {
                Ok(Word::Text(value.trim().to_owned()))
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Boolean(value) => write!(f, "`{value}`"),
            Self::Number(value) => write!(f, "`{value}`"),
            Self::Text(value) => f.write_str(&quoted(value)),
        }
    }
}

/// Words of the facade: what they are written as, and how they are read.
macro_rules! word_type {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ } $allowed:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum $name {
            $($(#[$variant_doc])* $variant),+
        }

        impl $name {
            pub(super) fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text),+
                }
            }

            /// Reads the word without regard to case.
            pub(super) fn parse(text: &str) -> Option<Self> {
                [$(Self::$variant),+]
                    .into_iter()
                    .find(|word| word.as_str().eq_ignore_ascii_case(text))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = Word::deserialize(deserializer)?;
                Self::from_word(&word)
                    .ok_or_else(|| D::Error::custom(format!("{word} is refused: {}", $allowed)))
            }
        }
    };
}

word_type! {
    /// What a port speaks.
    Proto {
        /// HTTP.
        Http = "HTTP",
        /// Anything else.
        Tcp = "TCP"
    } "write `HTTP` or `TCP`"
}

word_type! {
    /// How nodes are checked.
    CheckType {
        /// Not at all.
        None = "NONE",
        /// By a request.
        Http = "HTTP",
        /// By a connection.
        Tcp = "TCP"
    } "write `NONE`, `HTTP` or `TCP`"
}

word_type! {
    /// Whether a cluster or node is in use.
    Online {
        /// It is.
        Yes = "ONLINE",
        /// It is not.
        No = "OFFLINE",
        /// It is not yet.
        Soon = "INITING"
    } "write `ONLINE`, `OFFLINE`, `true` or `false`"
}

impl Proto {
    fn from_word(word: &Word) -> Option<Self> {
        match word {
            Word::Text(text) => Self::parse(text),
            Word::Boolean(_) | Word::Number(_) => None,
        }
    }
}

impl CheckType {
    fn from_word(word: &Word) -> Option<Self> {
        match word {
            Word::Text(text) => Self::parse(text),
            Word::Boolean(_) | Word::Number(_) => None,
        }
    }
}

impl Online {
    fn from_word(word: &Word) -> Option<Self> {
        match word {
            Word::Boolean(value) => Some((*value).into()),
            Word::Text(text) if text.eq_ignore_ascii_case("true") => Some(Self::Yes),
            Word::Text(text) if text.eq_ignore_ascii_case("false") => Some(Self::No),
            Word::Text(text) => Self::parse(text),
            Word::Number(_) => None,
        }
    }

    pub(super) fn is_online(self) -> bool {
        self == Self::Yes
    }
}

impl From<bool> for Online {
    fn from(online: bool) -> Self {
        if online { Self::Yes } else { Self::No }
    }
}

/// A whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Number(pub(super) i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Word::deserialize(deserializer)?;
        let number = match &word {
            Word::Number(number) => Some(*number),
            Word::Text(text) => text.parse().ok(),
            Word::Boolean(_) => None,
        };
        number.map(Self).ok_or_else(|| D::Error::custom(format!("{word} is no whole number")))
    }
}

/// A port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Port(pub(super) u16);

impl Port {
    /// The original held ports in 16 bits with a sign, so its library writes those above 32767 as negative numbers.
    pub(super) fn from_number(number: i64) -> Option<Self> {
        let number = if (-32_768..0).contains(&number) { number + 65_536 } else { number };
        u16::try_from(number).ok().filter(|port| *port != 0).map(Self)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Number(number) = Number::deserialize(deserializer)?;
        Self::from_number(number)
            .ok_or_else(|| D::Error::custom(format!("{number} is no port: from 1 to 65535")))
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.0)
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn online(json: &str) -> Option<Online> {
        serde_json::from_str(json).ok()
    }

    #[test]
    fn on_and_off_have_many_spellings() {
        for json in ["true", r#""true""#, r#""ONLINE""#, r#""Online""#, r#"" online ""#] {
            assert_eq!(online(json), Some(Online::Yes), "{json}");
        }
        for json in ["false", r#""False""#, r#""OFFLINE""#] {
            assert_eq!(online(json), Some(Online::No), "{json}");
        }
        assert_eq!(online(r#""INITING""#), Some(Online::Soon));
        for json in ["1", "null", r#""on""#, "[]", "{}"] {
            assert_eq!(online(json), None, "{json}");
        }
    }

    #[test]
    fn a_port_is_one_in_every_spelling() {
        let port = |json: &str| serde_json::from_str::<Port>(json).map(|port| port.0);
        for (json, wanted) in [
            ("80", 80),
            (r#""80""#, 80),
            ("80.0", 80),
            ("40000", 40_000),
            ("65535", 65_535),
            // 40000 as the original's library writes it.
            ("-25536", 40_000),
            ("-1", 65_535),
        ] {
            assert_eq!(port(json).unwrap(), wanted, "{json}");
        }
        for json in ["0", "65536", "-32769", "80.5", "true", "null", r#""""#, "1e300", "18446744073709551615"]
        {
            assert!(port(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_refusal_says_what_is_allowed() {
        let error = serde_json::from_str::<Proto>(r#""UDP""#).unwrap_err().to_string();
        assert!(error.contains("`UDP`") && error.contains("`TCP`"), "{error}");
    }
}
