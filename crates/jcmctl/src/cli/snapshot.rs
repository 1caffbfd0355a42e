//! `snapshot` and what may follow it.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Write all definitions of a server, at one revision, to a file
    Save(Save),
    /// Put the definitions of a file in the place of everything in the store
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Where to
    pub file: PathBuf,
    /// Replace a file that is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// What `snapshot save` wrote
    pub file: PathBuf,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}
