//! The command line: nouns, verbs and flags. What they mean is in [`crate::commands`].

mod check;
mod cluster;
mod node;
mod refusal;
mod snapshot;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jcm_model::{ClusterName, NodeId};

pub(crate) use crate::cli::check::{CheckCommand, CheckRun};
pub(crate) use crate::cli::cluster::{ClusterCommand, Create, Delete};
pub(crate) use crate::cli::node::{NodeAdd, NodeAttributes, NodeCommand, NodeRemove, NodeSet};
pub(crate) use crate::cli::refusal::refused;
pub(crate) use crate::cli::snapshot::{Restore, Save, SnapshotCommand};

/// Where a command reads and writes when nobody says otherwise, and what its exit statuses mean.
const AFTER_HELP: &str = "\
Environment:
  JCM_SERVER      servers, separated by commas, when no --server is given
  JCM_TOKEN_FILE  file with the token, when no --token-file is given
  JCM_CONFIG      configuration file instead of ~/.config/jcm/config.toml
  NO_COLOR        no colours

Exit status:
  0  ok
  1  failure; `diff`: there are differences; a write whose outcome is unknown
  2  usage: the command line, a file or the configuration is not right
  3  not found
  4  condition not met: it exists already, the wait timed out, nothing is routable, a probe failed
  5  revision conflict: somebody wrote first, or a node's place is taken
  6  not authorised
  7  unreachable: no server took the request, nothing was changed";

/// Register clusters, see what checks found, and watch it change.
#[derive(Debug, Parser)]
#[command(name = "jcmctl", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Server to talk to; more than one for failover [default: `http://127.0.0.1:8080`]
    #[arg(long, value_name = "URL", global = true, value_delimiter = ',')]
    pub server: Vec<String>,
    /// Context of the configuration file to use
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// File that holds the token
    #[arg(long, value_name = "PATH", global = true)]
    pub token_file: Option<PathBuf>,
    /// Configuration file [default: ~/.config/jcm/config.toml]
    #[arg(long, value_name = "PATH", global = true)]
    pub config: Option<PathBuf>,
    /// Longest time that one attempt at one server may take
    #[arg(long, value_name = "DURATION", global = true, default_value = "5s", value_parser = duration)]
    pub request_timeout: Duration,
    /// How long to go on trying while servers cannot take the request
    #[arg(long, value_name = "DURATION", global = true, default_value = "5s", value_parser = duration)]
    pub retry_for: Duration,
    /// Name the write, so that sending it again cannot apply it twice [default: a random one]
    #[arg(long, value_name = "KEY", global = true)]
    pub idempotency_key: Option<String>,
    /// How to print [default: table; `export`: yaml; `watch`: table on a terminal, else jsonl]
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub output: Option<Format>,
    /// Never ask anything
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Print data and errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print each request to standard error
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document, as the server sends it
    Json,
    /// The same as YAML
    Yaml,
    /// One line of JSON for each thing
    Jsonl,
    /// Names only, one a line
    Name,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Clusters: list, get, create, delete
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Nodes of a cluster: list, add, set, remove
    #[command(subcommand)]
    Node(NodeCommand),
    /// Checks: run one now
    #[command(subcommand)]
    Check(CheckCommand),
    /// Make clusters exactly what files say, in one atomic commit
    Apply(Apply),
    /// Show what `apply` would change; exit 1 when there are differences
    Diff(Diff),
    /// Write clusters in the form that `apply` reads
    Export(Export),
    /// Pick routable nodes of a cluster
    Resolve(Resolve),
    /// Follow changes of clusters as they happen
    Watch(Watch),
    /// Wait until a cluster is as wanted; exit 4 when the time is over
    Wait(Wait),
    /// Show whether every subscriber holds a revision of a cluster; exit 4 when not, or when a server does not answer
    Converge(Converge),
    /// Show why a node has its verdict: vantages, last results, thresholds, protection
    Why(Why),
    /// All definitions in one file: save, restore
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Contexts: which servers to talk to
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the version of this program and, when reachable, of the servers
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// YAML or JSON file (`-`: standard input) with one cluster, a list, or several documents
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Show what would change, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Delete every cluster that the files do not name
    #[arg(long)]
    pub prune: bool,
    /// Do not ask before pruning
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// YAML or JSON file (`-`: standard input) with one cluster, a list, or several documents
    #[arg(short, long, value_name = "FILE", required = true, num_args = 1..)]
    pub file: Vec<PathBuf>,
    /// Count clusters that the files do not name as to be deleted
    #[arg(long)]
    pub prune: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Which clusters [default: all]
    pub cluster: Vec<ClusterName>,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// How many nodes at most [default: 1]
    #[arg(short, long = "count", value_name = "N")]
    pub n: Option<u32>,
    /// Prefer nodes of this zone
    #[arg(long)]
    pub zone: Option<String>,
    /// How to pick [default: the server's]
    #[arg(long)]
    pub policy: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// Names of clusters
    #[arg(required = true)]
    pub cluster: Vec<ClusterName>,
    /// End after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// What to wait for: `healthy` (every online node is), `revision=N` (at least), `nodes=N` (routable, at least)
    #[arg(long = "for", value_name = "CONDITION")]
    pub condition: Condition,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    Healthy,
    Revision(u64),
    Nodes(usize),
}

impl std::str::FromStr for Condition {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |what: &str, digits: &str| format!("`{digits}` is no number of {what}");
        match text.split_once('=') {
            None if text == "healthy" => Ok(Self::Healthy),
            Some(("revision", n)) => n.parse().map(Self::Revision).map_err(|_| number("a revision", n)),
            Some(("nodes", n)) => n.parse().map(Self::Nodes).map_err(|_| number("nodes", n)),
            _ => Err("write `healthy`, `revision=N` or `nodes=N`".to_owned()),
        }
    }
}

impl std::fmt::Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Revision(n) => write!(f, "revision={n}"),
            Self::Nodes(n) => write!(f, "nodes={n}"),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Converge {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// At least this revision [default: the cluster's own]
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
    /// How long to wait for it [default: not at all]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Why {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// Id of the node
    pub node: NodeId,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the contexts, and which is in use
    View,
    /// Use a context from now on
    UseContext {
        /// Name of the context
        name: String,
    },
    /// Create or change a context: its servers, its token file (`--server`, `--token-file`)
    SetContext {
        /// Name of the context
        name: String,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    jcm_model::duration::parse(text).map_err(|invalid| invalid.to_string())
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn conditions_read_as_they_are_written() {
        for text in ["healthy", "revision=42", "nodes=3"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        for text in ["", "revision", "revision=", "revision=-1", "nodes=x", "healthy=1", "sick"] {
            assert!(text.parse::<Condition>().is_err(), "{text:?} was accepted");
        }
    }
}
