//! The time that a caller gives a call: the header `grpc-timeout`.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

/// The name of the header.
pub(super) const NAME: &str = "grpc-timeout";
/// Its units, finest first, each with its length in nanoseconds.
const UNITS: [(char, u128); 6] = [
    ('n', 1),
    ('u', 1_000),
    ('m', 1_000_000),
    ('S', 1_000_000_000),
    ('M', 60_000_000_000),
    ('H', 3_600_000_000_000),
];
const AMOUNT_MAX: u128 = 99_999_999;

/// By the gRPC protocol at most eight digits and a unit; anything else is no time-out.
pub(super) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(NAME)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// What says that so much time is left: in the finest unit that it fits, rounded down, and never none at all.
pub(super) fn header(left: Duration) -> HeaderValue {
    let fits = |(_, length): &(char, u128)| left.as_nanos() / length <= AMOUNT_MAX;
    let (unit, length) = UNITS.into_iter().find(fits).unwrap_or(UNITS[5]);
    let amount = (left.as_nanos() / length).clamp(1, AMOUNT_MAX);
    HeaderValue::try_from(format!("{amount}{unit}")).expect("digits and a letter make a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_in_each_of_its_units_and_nothing_else() {
        for (text, wanted) in [
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("7S", Some(Duration::from_secs(7))),
            ("250m", Some(Duration::from_millis(250))),
            ("9u", Some(Duration::from_micros(9))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999S", None),
            ("S", None),
            ("", None),
            ("+1S", None),
            ("1s", None),
            ("1", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(NAME, text.parse().unwrap());
            assert_eq!(of(&headers), wanted, "{text}");
        }
    }

    #[test]
    fn what_is_left_is_said_in_the_finest_unit_that_it_fits() {
        for (left, wanted) in [
            (Duration::ZERO, "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_millis(250), "250000u"),
            (Duration::from_mins(2), "120000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(header(left), wanted, "{left:?}");
            let headers = HeaderMap::from_iter([(http::header::HeaderName::from_static(NAME), header(left))]);
            assert!(of(&headers).is_some_and(|said| said <= left.max(Duration::from_nanos(1))));
        }
    }
}
