//! Runs `jcmctl` to its end, in an environment that is empty but for what a test puts there.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// One invocation.
pub(crate) struct Program {
    command: Command,
    input: Option<String>,
    home: tempfile::TempDir,
}

/// What it left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Program {
    /// `arguments` are split at blanks; a test that needs one inside an argument adds it with [`Program::arg`].
    pub(crate) fn new(arguments: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(env!("CARGO_BIN_EXE_jcmctl"));
        command.env_clear().env("HOME", home.path()).args(arguments.split_whitespace());
        Self { command, input: None, home }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    /// A file in the home directory.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a directory"))
            .expect("the directory is made");
        std::fs::write(path, text).expect("the file is written");
        self.in_home()
    }

    /// Relative paths are the home directory's.
    pub(crate) fn in_home(mut self) -> Self {
        self.command.current_dir(self.home.path());
        self
    }

    pub(crate) fn run(mut self) -> Outcome {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("jcmctl starts");
        if let (Some(text), Some(mut stdin)) = (self.input.take(), child.stdin.take()) {
            stdin.write_all(text.as_bytes()).expect("the input is taken");
        }
        Outcome::from(child.wait_with_output().expect("jcmctl ends"))
    }

    /// Runs it with a reader that hangs up before the first byte.
    pub(crate) fn run_without_reader(mut self) -> i32 {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let status = self.command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::null()).status();
        status.expect("jcmctl starts").code().expect("jcmctl is not killed by a signal")
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("the program writes UTF-8");
        Self {
            exit: output.status.code().expect("jcmctl is not killed by a signal"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Outcome {
    /// Standard output of a success.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.exit, 0, "{self:?}");
        self.out
    }

    /// The error line of a failure: one line, with something to try, and no data beside it.
    #[track_caller]
    pub(crate) fn failed(self, exit: i32) -> String {
        assert_eq!(self.exit, exit, "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        let line = self.err.lines().last().unwrap_or_default().to_owned();
        assert!(line.starts_with("error: ") && line.contains("; try: "), "{self:?}");
        assert_eq!(self.err.matches("error: ").count(), 1, "{self:?}");
        line
    }
}
