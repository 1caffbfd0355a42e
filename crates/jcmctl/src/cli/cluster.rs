//! `cluster …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jcm_model::ClusterName;

use super::pair;

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
    /// How nodes are checked: none, tcp, http, https or grpc [default: none]
    #[arg(long, value_name = "KIND", conflicts_with = "file")]
    pub check: Option<String>,
    /// Which named port is checked [default: the first by name]
    #[arg(long, value_name = "NAME", requires = "check")]
    pub check_port: Option<String>,
    /// Path of an HTTP check [default: /]
    #[arg(long, requires = "check")]
    pub path: Option<String>,
    /// The virtual host that is asked [default: each node's address and port]
    #[arg(long, requires = "check")]
    pub host: Option<String>,
    /// Text that an HTTP check looks for in the body
    #[arg(long, value_name = "TEXT", requires = "check")]
    pub body_contains: Option<String>,
    /// Which service a gRPC check asks for [default: the whole server]
    #[arg(long, requires = "check")]
    pub service: Option<String>,
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
