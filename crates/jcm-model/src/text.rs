//! Free text: what people may write into labels, properties and zones.

use unicode_normalization::is_nfc;

use crate::invalid::{Invalid, quoted};

/// Longest free text, in bytes. Properties carry configuration, so this is generous; the transaction limit bounds the sum.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Refuses text that could mislead a reader (control and bidirectional characters) or that has a twin which looks
/// the same and compares different (text outside Unicode's NFC form).
pub fn refuse_unless_text(input: &str, what: &str) -> Result<(), Invalid> {
    if input.len() > TEXT_BYTES_MAX {
        return Err(Invalid::new(format!("{what} has {} bytes, the limit is {TEXT_BYTES_MAX}", input.len())));
    }
    if let Some(c) = input.chars().find(|c| misleading(*c)) {
        return Err(Invalid::new(format!(
            "{what} {} holds the control or bidirectional character U+{:04X}",
            quoted(input),
            c as u32
        )));
    }
    if !is_nfc(input) {
        return Err(Invalid::new(format!("{what} {} is not in Unicode's NFC form", quoted(input))));
    }
    Ok(())
}

fn misleading(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

/// Refuses what cannot be the key of a label or property.
pub(crate) fn refuse_unless_key(input: &str, what: &str) -> Result<(), Invalid> {
    if input.is_empty() {
        return Err(Invalid::new(format!("{what} is empty")));
    }
    if input.len() > crate::name::NAME_BYTES_MAX {
        return Err(Invalid::new(format!(
            "{what} has {} bytes, the limit is {}",
            input.len(),
            crate::name::NAME_BYTES_MAX
        )));
    }
    refuse_unless_text(input, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_misleads_is_refused() {
        for bad in ["a\u{202e}b", "a\tb", "line\nline", "\u{0}", "e\u{301}"] {
            assert!(refuse_unless_text(bad, "label").is_err(), "{bad:?} was accepted");
        }
        assert!(refuse_unless_text("é — 300 ms", "label").is_ok());
    }
}
