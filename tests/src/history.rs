//! What a test wrote, read and saw, checked afterwards against what JCM promises.
//!
//! Pure: times are durations since the begin of the history, and every check answers *all* violations it finds, each
//! with a short key (`lost`, `went-back`, …) that a table of results can name.

pub mod followers;
pub mod verdicts;
pub mod writes;

use std::fmt::{self, Display};

/// A promise that a history does not keep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub key: &'static str,
    pub text: String,
}

impl Violation {
    fn new(key: &'static str, text: impl Into<String>) -> Self {
        Self { key, text: text.into() }
    }
}

impl Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

#[cfg(test)]
#[track_caller]
fn assert_keys(violations: &[Violation], keys: &[&str]) {
    let found: std::collections::BTreeSet<_> = violations.iter().map(|violation| violation.key).collect();
    assert_eq!(found, keys.iter().copied().collect(), "{violations:#?}");
}
