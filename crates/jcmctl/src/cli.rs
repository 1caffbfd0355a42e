//! The command line: nouns, verbs and flags. What they mean is in [`crate::commands`].

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use jcm_model::{ClusterName, NodeId};

use crate::failure::{Exit, Failure};

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
  4  condition not met: it exists already, the wait timed out, nothing is routable
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
    /// Show why a node has its verdict: vantages, last results, thresholds, protection
    Why(Why),
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

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List clusters
    List {
        /// Only those with this label or property
        #[arg(long, value_name = "KEY=VALUE")]
        label: Option<String>,
        /// Only those in this state
        #[arg(long)]
        state: Option<String>,
    },
    /// Show the definition of a cluster
    Get {
        /// Name of the cluster
        cluster: ClusterName,
    },
    /// Create a cluster; exit 4 when it exists
    Create(Box<Create>),
    /// Delete clusters
    Delete(Delete),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// Read the definition from a YAML or JSON file (`-`: standard input) instead of flags
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A node: `ADDRESS:PORT` or `ADDRESS:NAME=PORT,NAME=PORT`
    #[arg(long, value_name = "NODE", conflicts_with = "file")]
    pub node: Vec<String>,
    /// Name of the port of nodes that give only a number
    #[arg(long, value_name = "NAME", default_value = "http")]
    pub port_name: String,
    /// How nodes are checked: none, tcp or http [default: none]
    #[arg(long, value_name = "KIND", conflicts_with = "file")]
    pub check: Option<String>,
    /// Which named port is checked [default: the first by name]
    #[arg(long, value_name = "NAME", requires = "check")]
    pub check_port: Option<String>,
    /// Path of an HTTP check [default: /]
    #[arg(long, requires = "check")]
    pub path: Option<String>,
    /// HTTP statuses that count as success [default: 200-299]
    #[arg(long, value_name = "STATUSES", requires = "check")]
    pub expect: Option<String>,
    /// Time from one check to the next [default: 1s]
    #[arg(long, value_name = "DURATION", requires = "check")]
    pub interval: Option<String>,
    /// Longest time of one check [default: 800ms]
    #[arg(long, value_name = "DURATION", requires = "check")]
    pub timeout: Option<String>,
    /// Failures in a row that make a node down [default: 3]
    #[arg(long, value_name = "N", requires = "check")]
    pub fall: Option<i64>,
    /// Successes in a row that bring it back [default: 2]
    #[arg(long, value_name = "N", requires = "check")]
    pub rise: Option<i64>,
    /// Free configuration, watched with the cluster
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "file", value_parser = pair)]
    pub property: Vec<(String, String)>,
    /// Create it out of use
    #[arg(long, conflicts_with = "file")]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// Names of clusters
    #[arg(required = true)]
    pub cluster: Vec<ClusterName>,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// Only if the cluster is at this revision; exit 5 otherwise
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// List the nodes of a cluster with what checks found
    List {
        /// Name of the cluster
        cluster: ClusterName,
    },
    /// Add nodes; a node that exists is replaced
    Add(Box<NodeAdd>),
    /// Change attributes of nodes, and nothing else of them
    Set(NodeSet),
    /// Remove nodes
    Remove(NodeRemove),
}

#[derive(Debug, Args)]
pub(crate) struct NodeAdd {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// `ADDRESS:PORT` or `ADDRESS:NAME=PORT,NAME=PORT`; an IPv6 address stands in brackets
    #[arg(value_name = "NODE", required_unless_present = "file")]
    pub node: Vec<String>,
    /// Read nodes from a YAML or JSON file (`-`: standard input): one node or a list
    #[arg(short, long, value_name = "FILE", conflicts_with = "node")]
    pub file: Option<PathBuf>,
    /// Name of the port of nodes that give only a number
    #[arg(long, value_name = "NAME", default_value = "http")]
    pub port_name: String,
    /// Id, when exactly one node is added [default: address and first port by name]
    #[arg(long, conflicts_with = "file")]
    pub id: Option<String>,
    #[command(flatten)]
    pub attributes: NodeAttributes,
    /// Only if the cluster is at this revision; exit 5 otherwise
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
}

/// What people say about a node.
#[derive(Debug, Args)]
pub(crate) struct NodeAttributes {
    /// Share of the traffic, 1–1000
    #[arg(long, value_name = "N")]
    pub weight: Option<i64>,
    /// Order of preference, 0 first
    #[arg(long, value_name = "N")]
    pub priority: Option<i64>,
    /// Where it stands
    #[arg(long)]
    pub zone: Option<String>,
    /// Whether it is in use
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub online: Option<bool>,
    /// Whether it finishes what it has and takes nothing new
    #[arg(long, value_name = "true|false", action = clap::ArgAction::Set)]
    pub draining: Option<bool>,
    /// A free label; `set` takes it away when the value is empty
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub label: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(crate) struct NodeSet {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// Ids of nodes, as `jcmctl node list` shows them
    #[arg(required = true)]
    pub node: Vec<NodeId>,
    #[command(flatten)]
    pub attributes: NodeAttributes,
    /// Only if the cluster is at this revision; exit 5 otherwise
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct NodeRemove {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// Ids of nodes, as `jcmctl node list` shows them
    #[arg(required = true)]
    pub node: Vec<NodeId>,
    /// Only if the cluster is at this revision; exit 5 otherwise
    #[arg(long, value_name = "N")]
    pub if_revision: Option<u64>,
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

/// What becomes of a command line that does not parse: help and version are printed, a mistake is one line as every
/// other error is.
pub(crate) fn refused(error: &clap::Error) -> Result<Exit, Failure> {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Ok(if error.use_stderr() { Exit::Usage } else { Exit::Ok });
    }
    let text = error.render().to_string();
    let (said, usage) = text.split_once("\n\nUsage: ").unwrap_or((&text, "jcmctl"));
    let said: Vec<&str> = said
        .trim_start_matches("error: ")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let command: Vec<&str> = usage
        .split_whitespace()
        .take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    Err(Failure::usage(said.join("; ")).next(format!("{} --help", command.join(" "))))
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
    fn a_mistaken_command_line_is_one_line_that_names_the_help() {
        for (line, part, next) in [
            (
                "jcmctl clustr",
                "unrecognized subcommand 'clustr'",
                "jcmctl --help",
            ),
            ("jcmctl cluster get", "<CLUSTER>", "jcmctl cluster get --help"),
            (
                "jcmctl cluster get ../x",
                "cluster name `../x` is refused",
                "jcmctl --help",
            ),
            ("jcmctl wait a --for sick", "write `healthy`", "jcmctl --help"),
            (
                "jcmctl node list a -o xml",
                "invalid value 'xml'",
                "jcmctl --help",
            ),
            (
                "jcmctl cluster create a --path /x",
                "--check",
                "jcmctl cluster create",
            ),
        ] {
            let error = Arguments::try_parse_from(line.split(' ')).expect_err(line);
            let failure = refused(&error).expect_err(line);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(failure.what.contains(part), "{line}: {}", failure.line());
            assert!(
                failure.next.as_deref().unwrap().starts_with(next),
                "{line}: {}",
                failure.line()
            );
            assert!(
                !failure.line().contains('\n') && !failure.line().contains("\\n"),
                "{}",
                failure.line()
            );
        }
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn conditions_read_as_they_are_written() {
        for text in ["healthy", "revision=42", "nodes=3"] {
            assert_eq!(text.parse::<Condition>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "revision",
            "revision=",
            "revision=-1",
            "nodes=x",
            "healthy=1",
            "sick",
        ] {
            assert!(text.parse::<Condition>().is_err(), "{text:?} was accepted");
        }
    }
}
