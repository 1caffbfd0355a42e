//! The configuration file: named sets of servers.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::failure::{Exit, Failure};
use crate::settings::Environment;

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The context that is used when no `--context` is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_context: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// One set of servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    pub servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

impl File {
    /// Where it is.
    pub(crate) fn path(global: &Global, environment: &Environment) -> Option<PathBuf> {
        let given = global.config.clone().or_else(|| environment.config.clone());
        given.or_else(|| environment.home.as_ref().map(|home| home.join(".config/jcm/config.toml")))
    }

    /// Reads it; one that is not there is empty.
    pub(crate) fn fetch(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let wrong =
            |what: String| Failure::usage(format!("{}: {what}", path.display())).next("jcmctl config --help");
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| wrong(place(&error, &text))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Writes it in one step: a reader finds the old file or the new one.
    pub(crate) fn store(&self, path: &Path) -> Result<(), Failure> {
        let wrong = |error: std::io::Error| {
            Failure::new(Exit::Failure, format!("{} cannot be written: {error}", path.display()))
                .next("the same command with --config PATH")
        };
        let text = toml::to_string(self).expect("strings and lists of strings are TOML");
        let directory = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(wrong)?;
        let next = path.with_extension(format!("toml.{}", std::process::id()));
        std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, path)).map_err(wrong)
    }
}

/// The TOML error on one line, with its place.
fn place(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
    match line {
        Some(line) => format!("line {line}: {}", error.message()),
        None => error.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_of_the_file_is_named_with_its_line() {
        let text = "current_context = 'a'\ncolour = 'red'\n";
        let error = toml::from_str::<File>(text).unwrap_err();
        let shown = place(&error, text);
        assert!(shown.contains("colour") && shown.starts_with("line 2"), "{shown}");
    }
}
