//! `node …`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use jcm_model::{ClusterName, NodeId};

use super::pair;

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
