//! Text from elsewhere, made safe for a terminal.
//!
//! Servers refuse control characters in what people write, but a terminal must not depend on that: an answer may come
//! from anything that listens on the port.

use std::fmt::Write as _;

/// The text with every character escaped that could move a cursor, end a line or turn the reading direction.
pub(crate) fn escaped(input: &str) -> String {
    let mut shown = String::with_capacity(input.len());
    for c in input.chars() {
        if is_misleading(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// JSON text with the same characters escaped in JSON's own way. Line ends stay: between values they are layout, and
/// inside strings the serializer has escaped them already.
pub(crate) fn escaped_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        if is_misleading(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(shown, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

fn is_misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Whether the environment lets colours through (<https://no-color.org>).
pub(crate) fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_bidirectional_characters_do_not_reach_a_terminal() {
        assert_eq!(escaped("a\u{1b}[31mb\r\n\t\u{9b}c\u{202e}é"), "a\\u{1b}[31mb\\r\\n\\t\\u{9b}c\\u{202e}é");
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({"a": "x\u{9b}y\u{202e}z\n\u{1b}\u{7f}é"});
        let json = escaped_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!json.chars().any(|c| is_misleading(c) && c != '\n'), "{json}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), value);
    }
}
