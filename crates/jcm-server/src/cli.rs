//! The command line of `jcm-server`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The JCM server: keeps clusters of nodes, checks them, and tells programs which nodes work.
#[derive(Debug, Parser)]
#[command(name = "jcm-server", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One server on this machine, to try things out: loopback, no auth, a demo cluster.
    Dev(Dev),
    /// A server in production.
    Serve(Serve),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Where to listen; port 0 picks a free one, which is printed.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// Where to keep data; a temporary directory when left out.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Leave the demo cluster out.
    #[arg(long)]
    pub(crate) no_demo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Overrides `server.listen`.
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) listen: Option<String>,
    /// Overrides `server.advertise`.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Overrides `server.id`.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Overrides `server.zone`.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// Overrides `server.data`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<String>,
    /// Listen beyond loopback although there are neither tokens nor TLS: whoever reaches the port may change everything.
    #[arg(long)]
    pub(crate) insecure: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks a configuration file, with the environment, and starts nothing.
    Check {
        /// The configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Prints every key with its default and what it takes.
    Defaults,
}
