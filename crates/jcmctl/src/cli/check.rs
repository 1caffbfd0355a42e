//! `check …`.

use clap::{Args, Subcommand};
use jcm_model::{ClusterName, NodeId};

#[derive(Debug, Subcommand)]
pub(crate) enum CheckCommand {
    /// Probe nodes once, now; no verdict follows from it. Exit 4 when a probe did not pass
    Run(CheckRun),
}

#[derive(Debug, Args)]
pub(crate) struct CheckRun {
    /// Name of the cluster
    pub cluster: ClusterName,
    /// Ids of nodes, as `jcmctl node list` shows them [default: all nodes of the cluster]
    pub node: Vec<NodeId>,
    /// Server that probes, by its id, or `all` of them [default: the server that checks the node]
    #[arg(long, value_name = "SERVER")]
    pub from: Option<String>,
}
