//! What is made once a node and kept as long as the node is there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use jcm_model::{Node, NodeId};

use crate::picked::Picked;

/// One thing for each node that was picked. Its size is bounded by that of the cluster.
pub(crate) struct Kept<T> {
    make: Box<dyn Fn(&Node) -> T + Send + Sync>,
    made: Mutex<Made<T>>,
}

struct Made<T> {
    /// Of the latest plan that was seen: what was not in its view is dropped.
    generation: u64,
    by_node: HashMap<NodeId, (Arc<Node>, T)>,
}

impl<T> Kept<T> {
    pub(crate) fn new(make: impl Fn(&Node) -> T + Send + Sync + 'static) -> Self {
        let made = Made { generation: 0, by_node: HashMap::new() };
        Self { make: Box::new(make), made: Mutex::new(made) }
    }
}

impl<T: Clone> Kept<T> {
    /// That of a node in hand.
    pub(crate) fn of(&self, picked: &Picked) -> T {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if picked.generation() > made.generation {
            made.generation = picked.generation();
            made.by_node.retain(|id, (node, _)| picked.knows(id, node));
        }
        let node = picked.node();
        match made.by_node.get(&node.id) {
            Some((held, thing)) if held.same_form(node) => thing.clone(),
            _ => {
                let thing = (self.make)(node);
                made.by_node.insert(node.id.clone(), (picked.shared_node(), thing.clone()));
                thing
            }
        }
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_set().entries(made.by_node.keys()).finish()
    }
}
