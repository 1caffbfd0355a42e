//! What the handles of one cluster share with the task that keeps it up to date.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use jcm_model::ClusterName;
use tokio::sync::watch;

use crate::alloc::SlotNumber;
use crate::status::Standing;
use crate::view::{Content, View};

/// One cluster. The driver writes, everybody reads.
#[derive(Debug)]
pub(crate) struct Core {
    generation: Generation,
    view: ArcSwap<View>,
    published: watch::Sender<Published>,
    slot: SlotNumber,
}

/// The number of the current view, on a cache line of its own: every pick reads it, and it is written once a view.
#[derive(Debug)]
#[repr(align(64))]
struct Generation(AtomicU64);

/// What is held at one moment, and how far it can be relied on.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) view: Arc<View>,
    pub(crate) standing: Standing,
}

impl Core {
    pub(crate) fn new(name: ClusterName) -> Self {
        let slot = SlotNumber::take();
        let view = Arc::new(View::empty(name, slot.get()));
        Self {
            generation: Generation(AtomicU64::new(view.generation)),
            view: ArcSwap::new(Arc::clone(&view)),
            published: watch::Sender::new(Published { view, standing: Standing::Unknown }),
            slot,
        }
    }

    /// Replaces what is held in one step. `None` keeps the view and changes the standing alone.
    pub(crate) fn publish(&self, content: Option<Content>, standing: Standing) {
        let view = match content {
            None => self.view(),
            Some(content) => {
                let next = Arc::new(self.view.load().next(content));
                self.view.store(Arc::clone(&next));
                // After the view: a thread that sees this number finds a view at least as new.
                self.generation.0.store(next.generation, Ordering::Release);
                next
            }
        };
        self.published.send_replace(Published { view, standing });
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.0.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn slot(&self) -> usize {
        self.slot.get()
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    pub(crate) fn standing(&self) -> Standing {
        self.published.borrow().standing
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}
