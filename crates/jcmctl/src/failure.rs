//! What ends a command early: an exit status, one line that says what and why, and what to try next.

use std::io::{IsTerminal as _, Write as _};

use crate::text;

/// Exit statuses, alike for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Failed in a way that has no status of its own; for `diff`: there are differences.
    Failure = 1,
    /// The command line, a file or the configuration is not right.
    Usage = 2,
    /// There is no such cluster, node or context.
    NotFound = 3,
    /// The condition does not hold: it exists already, the wait timed out, nothing is routable.
    Condition = 4,
    /// Somebody else wrote first, or the node's place is taken.
    Conflict = 5,
    /// The server does not let this token do that.
    Unauthorised = 6,
    /// No server took the request; nothing was changed.
    Unreachable = 7,
}

/// An error as its reader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit status.
    pub exit: Exit,
    /// What went wrong, and its cause.
    pub what: String,
    /// The next command to try.
    pub next: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), next: "jcmctl help".to_owned() }
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// Sets what to try next.
    #[must_use]
    pub(crate) fn next(mut self, command: impl Into<String>) -> Self {
        self.next = command.into();
        self
    }

    /// Sets what to try next where the failure is of this kind: the caller knows the names that fit.
    #[must_use]
    pub(crate) fn next_if(self, exit: Exit, command: impl FnOnce() -> String) -> Self {
        if self.exit == exit { self.next(command()) } else { self }
    }

    /// One line: what, why, what to try.
    pub(crate) fn line(&self) -> String {
        format!("error: {}; try: {}", text::escaped(&self.what), text::escaped(&self.next))
    }

    /// Writes the line to standard error.
    pub(crate) fn print(&self) {
        let line = self.line();
        let coloured = std::io::stderr().is_terminal() && text::colours_wanted();
        let line = match line.strip_prefix("error:") {
            Some(rest) if coloured => format!("\x1b[1;31merror:\x1b[0m{rest}"),
            _ => line,
        };
        // Nowhere is left to report a standard error that is closed.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_a_server_put_into_it() {
        let failure = Failure::new(Exit::Failure, "refused: bad\nerror: forged \u{1b}[2J\u{202e}")
            .next("jcmctl version");
        assert_eq!(
            failure.line(),
            "error: refused: bad\\nerror: forged \\u{1b}[2J\\u{202e}; try: jcmctl version"
        );
    }
}
