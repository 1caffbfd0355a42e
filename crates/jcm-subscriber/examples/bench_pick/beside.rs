//! A contender in a program of its own, asked for one measurement at a time: its dependencies are nobody else's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;

/// The running program. It ends when its input does.
pub(crate) struct Beside {
    program: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Beside {
    pub(crate) fn start(program: &Path) -> anyhow::Result<Self> {
        let mut started = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let questions = started.stdin.take();
        let answers = BufReader::new(started.stdout.take().context("it has an output")?);
        Ok(Self { program: started, questions, answers })
    }

    /// CPU nanoseconds of one pick; `None` when the machine is too busy to tell.
    pub(crate) fn measure(
        &mut self,
        contender: &str,
        nodes: u16,
        threads: usize,
    ) -> anyhow::Result<Option<f64>> {
        let questions = self.questions.as_mut().context("it is asked until it is dropped")?;
        writeln!(questions, "{contender} {nodes} {threads}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match answer.trim() {
            "-" => Ok(None),
            figure => Ok(Some(figure.parse().with_context(|| format!("`{contender}` was not measured"))?)),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.program.wait();
    }
}
