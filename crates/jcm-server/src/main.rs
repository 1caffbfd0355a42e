//! The `jcm-server` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match jcm_server::run(jcm_server::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jcm-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}
