//! One module for each noun or verb. Each turns arguments into requests and answers into a report; none knows how a
//! request is sent or how a format looks.

mod apply;
mod check;
mod cluster;
mod config;
mod converge;
mod export;
mod node;
mod resolve;
mod snapshot;
mod version;
mod wait;
mod watch;
mod why;

use std::io::{IsTerminal as _, Write as _};

use clap::CommandFactory as _;
use serde_json::Value;

use crate::cli::{Arguments, Command, Format, Global};
use crate::client::Client;
use crate::failure::{Exit, Failure};
use crate::output::{self, Report};
use crate::settings::{Environment, Settings};
use crate::text;

/// What every command has at hand.
struct Session {
    client: Client,
    /// `None`: whatever the command prints by itself.
    format: Option<Format>,
    quiet: bool,
    no_input: bool,
}

/// Runs the command that was asked for.
pub(crate) async fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let environment = Environment::read();
    let command = match arguments.command {
        Command::Completion { shell } => return completion(shell),
        Command::Config(command) => return config::run(command, &arguments.global, &environment),
        command => command,
    };
    let session = Session::new(&arguments.global, &environment)?;
    match command {
        Command::Cluster(command) => cluster::run(&session, command).await,
        Command::Node(command) => node::run(&session, command).await,
        Command::Check(command) => check::run(&session, command).await,
        Command::Apply(apply) => apply::run(&session, apply).await,
        Command::Diff(diff) => apply::diff(&session, diff).await,
        Command::Export(export) => export::run(&session, export).await,
        Command::Resolve(resolve) => resolve::run(&session, resolve).await,
        Command::Watch(watch) => watch::run(&session, watch).await,
        Command::Wait(wait) => wait::run(&session, wait).await,
        Command::Converge(converge) => converge::run(&session, converge).await,
        Command::Why(why) => why::run(&session, why).await,
        Command::Snapshot(command) => snapshot::run(&session, command).await,
        Command::Version => version::run(&session).await,
        Command::Completion { .. } | Command::Config(_) => unreachable!("they have returned above"),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "jcmctl", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

impl Session {
    fn new(global: &Global, environment: &Environment) -> Result<Self, Failure> {
        let settings = Settings::fetch(global, environment)?;
        Ok(Self {
            client: Client::new(&settings, global.verbose),
            format: global.output,
            quiet: global.quiet,
            no_input: global.no_input,
        })
    }

    /// Prints a report in the format that was asked for, or as a table.
    fn show(&self, report: &Report) -> Result<(), Failure> {
        output::print(&output::render(report, self.format.unwrap_or(Format::Table)))
    }

    /// Prints what a write did: a sentence for people, the server's answer for scripts, the name for pipes.
    fn done(&self, name: &str, sentence: &str, answer: Value) -> Result<(), Failure> {
        match self.format.unwrap_or(Format::Table) {
            Format::Table | Format::Wide if self.quiet => Ok(()),
            Format::Table | Format::Wide => output::print(&format!("{}\n", text::escaped(sentence))),
            format => {
                let report = Report {
                    items: vec![answer.clone()],
                    document: answer,
                    names: vec![name.to_owned()],
                    ..Report::default()
                };
                output::print(&output::render(&report, format))
            }
        }
    }

    /// Says something beside the data.
    fn note(&self, line: &str) {
        if !self.quiet {
            // Nowhere is left to report a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "{}", text::escaped(line));
        }
    }

    /// Asks before something that cannot be taken back. Only a person at a terminal is asked; a script that calls a
    /// command has decided already.
    fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        let person = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        if yes || !person {
            return Ok(());
        }
        if self.no_input {
            return Err(Failure::usage(format!("{question} Nobody may be asked with --no-input"))
                .next("the same command with --yes"));
        }
        let mut err = std::io::stderr();
        let _ = write!(err, "{} [y/N] ", text::escaped(question)).and_then(|()| err.flush());
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        match read {
            Ok(_) if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") => Ok(()),
            _ => Err(Failure::new(Exit::Failure, "not confirmed, nothing was changed")
                .next("the same command with --yes")),
        }
    }
}

/// The names as a sentence lists them; a long list is cut.
fn listed(names: &[impl AsRef<str>]) -> String {
    const SHOWN_MAX: usize = 5;
    let mut shown: Vec<String> =
        names.iter().take(SHOWN_MAX).map(|name| format!("`{}`", name.as_ref())).collect();
    if names.len() > SHOWN_MAX {
        shown.push(format!("{} more", names.len() - SHOWN_MAX));
    }
    shown.join(", ")
}

/// `1 node`, `2 nodes`.
fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}
