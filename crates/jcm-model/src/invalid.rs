//! The one refusal of input: which field, and why.

/// A value that was refused, with the field it stood in and the reason.
///
/// `field` is a path as a reader of the JSON would write it (`nodes[3].weight`); it is empty where the caller knows
/// the place better, for example a decoder that tracks the path itself.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Invalid {
    /// Where the value stood; empty when unknown here.
    pub field: String,
    /// What is wrong with it and what is allowed, in lower case, without a full stop.
    pub reason: String,
}

impl std::error::Error for Invalid {}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

impl Invalid {
    /// A refusal whose place the caller adds.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { field: String::new(), reason: reason.into() }
    }

    /// A refusal at a named place.
    pub fn at(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }

    /// The same refusal seen from one level further out.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => outer.to_owned(),
            inner if inner.starts_with('[') => format!("{outer}{inner}"),
            inner => format!("{outer}.{inner}"),
        };
        self
    }
}

/// Input as it may appear in a message: bounded, and with everything escaped that could forge a log line.
pub fn quoted(input: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 64;
    let mut shown: String = input.chars().take(SHOWN_CHARS_MAX).flat_map(char::escape_debug).collect();
    if input.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}
