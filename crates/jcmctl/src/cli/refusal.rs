//! Command lines that do not parse.

use clap::error::ErrorKind;

use crate::failure::{Exit, Failure};

/// What becomes of a command line that does not parse: help and version are printed, a mistake is one line as every
/// other error is.
pub(crate) fn refused(error: &clap::Error) -> Result<Exit, Failure> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Ok(if error.use_stderr() { Exit::Usage } else { Exit::Ok });
    }
    let text = error.render().to_string();
    let (said, usage) = text.split_once("\n\nUsage: ").unwrap_or((&text, "jcmctl"));
    let mut line = String::new();
    for part in said.trim_start_matches("error: ").lines().map(str::trim) {
        if part.is_empty() || part.starts_with("For more information") {
            continue;
        }
        line.push_str(match line.chars().last() {
            None => "",
            Some(':') => " ",
            Some(_) => "; ",
        });
        line.push_str(part);
    }
    let command: Vec<&str> = usage
        .split_whitespace()
        .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    Err(Failure::usage(line).next(format!("{} --help", command.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Arguments;
    use clap::Parser as _;

    #[test]
    fn a_mistaken_command_line_is_one_line_that_names_the_help() {
        for (line, part, next) in [
            ("jcmctl clustr", "unrecognized subcommand 'clustr'", "jcmctl --help"),
            ("jcmctl cluster get", "<CLUSTER>", "jcmctl cluster get --help"),
            ("jcmctl cluster get ../x", "cluster name `../x` is refused", "jcmctl --help"),
            ("jcmctl wait a --for sick", "write `healthy`", "jcmctl --help"),
            ("jcmctl node list a -o xml", "invalid value 'xml'", "jcmctl --help"),
            ("jcmctl cluster create a --path /x", "--check", "jcmctl cluster create"),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
            let failure = refused(&error).expect_err(line);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.what.contains(part), "{line}: {}", failure.line());
            assert!(failure.next.starts_with(next), "{line}: {}", failure.line());
            assert!(!failure.line().contains('\n') && !failure.line().contains("\\n"), "{}", failure.line());
        }
    }
}
