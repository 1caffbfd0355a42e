//! The one task of a subscriber: it owns what is held, and turns decisions into effects.

use std::collections::HashMap;
use std::sync::Arc;

use jcm_model::ClusterName;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::Core;
use crate::disk::Disk;
use crate::servers::Servers;
use crate::snapshot::Saved;
use crate::subscriber::SubscribeError;

#[derive(Debug)]
pub(crate) enum Command {
    Subscribe {
        cluster: ClusterName,
        saved: Option<Saved>,
        reply: oneshot::Sender<Result<Arc<Core>, SubscribeError>>,
    },
}

pub(crate) struct Driver {
    cores: HashMap<ClusterName, Arc<Core>>,
    stopped: CancellationToken,
}

impl Driver {
    pub(crate) fn new(
        _: String,
        _: Servers,
        _: Option<Disk>,
        _: TaskTracker,
        stopped: CancellationToken,
    ) -> Self {
        Self {
            cores: HashMap::new(),
            stopped,
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(Some(Command::Subscribe {
            cluster,
            saved: _,
            reply,
        })) = self.stopped.clone().run_until_cancelled(commands.recv()).await
        {
            let core = self
                .cores
                .entry(cluster.clone())
                .or_insert_with(|| Arc::new(Core::new(cluster)));
            let _ = reply.send(Ok(Arc::clone(core)));
        }
    }
}
