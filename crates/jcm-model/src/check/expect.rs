//! HTTP statuses that count as success.

use serde::{Deserialize, Serialize};

use crate::invalid::{Invalid, quoted};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_statuses_are_ranges() {
        let expect = Expect::parse("200-299,404").unwrap();
        assert!(expect.accepts(204) && expect.accepts(404) && !expect.accepts(301));
        assert_eq!(expect.to_string(), "200-299,404");
    }
}
