//! Where one reader learns which of its clusters changed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use jcm_model::ClusterName;
use tokio::sync::Notify;

use super::Views;

/// One reader's set of clusters that changed since it looked: bounded by the clusters it watches, whatever happens.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    changed: Mutex<HashSet<u32>>,
    notify: Notify,
}

impl Inbox {
    /// The cluster under this key changed.
    pub(crate) fn tell(&self, key: u32) {
        let first = {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            changed.insert(key) && changed.len() == 1
        };
        if first {
            self.notify.notify_one();
        }
    }

    /// Waits until something changed, and takes all that did. Cancelling the wait loses nothing.
    pub(crate) async fn take(&self) -> HashSet<u32> {
        loop {
            {
                let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
                if !changed.is_empty() {
                    return std::mem::take(&mut changed);
                }
            }
            self.notify.notified().await;
        }
    }
}

/// While this lives, the inbox is told of changes of the cluster.
#[derive(Debug)]
pub(crate) struct Watching {
    views: Arc<Views>,
    name: ClusterName,
    inbox: Arc<Inbox>,
    key: u32,
}

impl Watching {
    pub(super) fn new(views: Arc<Views>, name: ClusterName, inbox: Arc<Inbox>, key: u32) -> Self {
        Self { views, name, inbox, key }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.views.stop_watching(&self.name, &self.inbox, self.key);
    }
}
