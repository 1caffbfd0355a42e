//! `jcmctl`: the command line of JCM.
//!
//! One process is one command: arguments are read ([`cli`]), the servers to talk to are found ([`settings`]), one or
//! a few requests are sent ([`client`]), and the answer is printed ([`output`]). Data goes to standard output, notes
//! and errors to standard error, and the exit status says what kind of thing went wrong ([`failure`]). There is no
//! decision about clusters in here: servers decide, this program asks and shows.

mod cli;
mod client;
mod commands;
mod documents;
mod events;
mod failure;
mod node_text;
mod output;
mod settings;
mod shapes;
mod text;

use clap::Parser;

use crate::cli::Arguments;
use crate::failure::Exit;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::process::ExitCode {
    let outcome = match Arguments::try_parse() {
        Ok(arguments) => commands::run(arguments).await,
        Err(error) => cli::refused(&error),
    };
    let exit = outcome.unwrap_or_else(|failure| {
        failure.print();
        failure.exit
    });
    exit.into()
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        (exit as u8).into()
    }
}
