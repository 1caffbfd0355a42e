//! Durations as people write them: a number with a unit (`800ms`, `1s`, `5m`, `1h`).

use std::time::Duration;

use crate::invalid::{Invalid, quoted};

/// Parses `250ms`, `1s`, `1.5s`, `5m` or `1h`. A bare number is refused, because nobody can tell its unit.
pub fn parse(input: &str) -> Result<Duration, Invalid> {
    let refused = || {
        Invalid::new(format!(
            "{} is no duration: write a number with a unit, like `800ms`, `1s`, `5m` or `1h`",
            quoted(input)
        ))
    };
    let split = input.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(refused)?;
    let (number, unit) = input.split_at(split);
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || (number.contains('.') && fraction.is_empty())
        || fraction.len() > 3
    {
        return Err(refused());
    }
    let whole: u64 = whole.parse().map_err(|_| refused())?;
    let thousandths: u64 = format!("{fraction:0<3}").parse().map_err(|_| refused())?;
    let ms = whole
        .checked_mul(unit_ms)
        .and_then(|ms| ms.checked_add(thousandths * unit_ms / 1_000))
        .ok_or_else(refused)?;
    Ok(Duration::from_millis(ms))
}

/// Writes whole seconds as `90s` and everything else as `800ms`.
pub fn format(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1_000) && ms > 0 { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

/// Serde for a `Option<Duration>` field.
pub(crate) mod optional {
    use super::Duration;
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde's `with` hands the field by reference")]
    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&super::format(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_written_with_units() {
        for (text, ms) in [
            ("800ms", 800),
            ("1s", 1_000),
            ("1.5s", 1_500),
            ("0.25s", 250),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("0ms", 0),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for text in
            ["", "1", "s", "-1s", "1 s", "1d", "1.s", ".5s", "1.2345s", "99999999999999999999h", "1e3s", "٣s"]
        {
            assert!(parse(text).is_err(), "{text:?} was accepted");
        }
        for text in ["800ms", "1s", "90s", "1500ms"] {
            assert_eq!(format(parse(text).unwrap()), text);
        }
    }
}
