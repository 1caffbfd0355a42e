//! One cluster while many changes are made to it, one after the other.
//!
//! A change costs what it names, not what the cluster holds: nodes that changed lie over those that were there, and both
//! are merged once, when somebody wants to have the cluster. What it leads to is what the changes lead to one by one.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;

use crate::node::Node;
use crate::{Change, Cluster, Effect, Header, NodeId, Revision};

/// An address with a port: what no two nodes of a cluster share.
pub(crate) type Place = (IpAddr, u16);

/// A cluster, or the lack of one, that changes are being made to.
#[derive(Debug, Default)]
pub struct Edit {
    /// Everything beside the nodes, as it is now; `None`: there is no such cluster.
    now: Option<Cluster>,
    /// Whose nodes are there, unless something lies over them.
    base: Option<Arc<Cluster>>,
    /// Nodes that were put or removed since.
    over: BTreeMap<NodeId, Over>,
    node_count: usize,
    /// Which node has a place: worked out when somebody asks for the first time, and kept up from then on.
    places: OnceCell<HashMap<Place, NodeId>>,
}

/// What lies over the node of an id.
#[derive(Debug)]
enum Over {
    Node(Arc<Node>),
    Nothing,
}

/// Which node has each place of a cluster as it was at one revision. Who makes more changes to it later need not work that
/// out again.
#[derive(Debug)]
pub struct Places {
    revision: Revision,
    holders: HashMap<Place, NodeId>,
}

impl Places {
    /// How many places there are.
    pub fn count(&self) -> usize {
        self.holders.len()
    }
}

/// What takes back the last change that was made; whoever does not want to drops it.
#[derive(Debug)]
pub struct Undo(Before);

#[derive(Debug)]
enum Before {
    Same,
    /// Nothing of the cluster before was kept.
    Whole(Box<Edit>),
    /// Everything beside the nodes, and what lay over each node that was touched, in the order in which they were.
    Parts(Box<Cluster>, Vec<(NodeId, Option<Over>)>),
}

impl Edit {
    /// Begins with a cluster as it is, or with none.
    pub fn new(cluster: Option<Arc<Cluster>>) -> Self {
        Self {
            now: cluster.as_ref().map(|cluster| cluster.without_nodes()),
            node_count: cluster.as_ref().map_or(0, |cluster| cluster.nodes.len()),
            base: cluster,
            over: BTreeMap::new(),
            places: OnceCell::new(),
        }
    }

    /// Begins where another one of the same store ended, if that is where the cluster is; else the places say nothing.
    pub fn resumed(cluster: Arc<Cluster>, places: Places) -> Self {
        let is_of_it = places.revision == cluster.revision;
        let edit = Self::new(Some(cluster));
        if is_of_it {
            // It is new, so that nothing was worked out yet.
            let _ = edit.places.set(places.holders);
        }
        edit
    }

    /// The places of the cluster as it is now, as far as anybody asked for them.
    pub fn into_places(self) -> Option<Places> {
        Some(Places { revision: self.revision()?, holders: self.places.into_inner()? })
    }

    /// Whether there is a cluster.
    pub fn is_there(&self) -> bool {
        self.now.is_some()
    }

    /// The cluster's revision, where there is one.
    pub fn revision(&self) -> Option<Revision> {
        self.now.as_ref().map(|now| now.revision)
    }

    /// How many nodes it has.
    pub fn node_count(&self) -> usize {
        self.node_count
    }

    /// A node by its id.
    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        match self.over.get(id) {
            Some(over) => over.node(),
            None => self.base.as_ref()?.node(id),
        }
    }

    /// All nodes, in no order that means anything.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        let base = self.base.iter().flat_map(|cluster| &cluster.nodes);
        let kept = base.filter(|node| self.over.is_empty() || !self.over.contains_key(&node.id));
        kept.chain(self.over.values().filter_map(Over::node))
    }

    /// Everything beside the nodes: the cluster as it would be without any.
    pub(crate) fn without_nodes(&self) -> Option<&Cluster> {
        self.now.as_ref()
    }

    /// The node that has a place. The first question costs what the cluster holds, the others nothing.
    pub(crate) fn holder(&self, place: Place) -> Option<&NodeId> {
        let places = self.places.get_or_init(|| {
            let mut places = HashMap::with_capacity(self.node_count);
            for node in self.nodes() {
                places.extend(places_of(node).map(|place| (place, node.id.clone())));
            }
            places
        });
        places.get(&place)
    }

    /// Makes a change. One at or below the revision held changes nothing, so that applying the log twice is harmless.
    pub fn apply(&mut self, change: &Change) -> Undo {
        if self.revision().is_some_and(|held| held >= change.revision) {
            return Undo(Before::Same);
        }
        let Effect::Updated { created, header, put, removed } = &change.effect else {
            return Undo(Before::Whole(Box::new(mem::take(self))));
        };
        let whole = (*created || !self.is_there()).then(|| Box::new(mem::take(self)));
        let now = self.now.get_or_insert_with(|| newborn(change));
        let before = whole.is_none().then(|| Box::new(now.clone()));
        now.revision = change.revision;
        if let Some(header) = header {
            let check = header.check();
            if !check.same_question(&now.check) {
                now.check_changed = change.revision;
            }
            now.check = Arc::new(check);
            now.header = Arc::clone(header);
        }
        let mut nodes = Vec::with_capacity(removed.len() + put.len());
        for id in removed {
            if self.node(id).is_some() {
                nodes.push((id.clone(), self.lay(id, Some(Over::Nothing))));
            }
        }
        for node in put {
            nodes.push((node.id.clone(), self.lay(&node.id, Some(Over::Node(Arc::clone(node))))));
        }
        Undo(match (whole, before) {
            (Some(whole), _) => Before::Whole(whole),
            (None, Some(now)) => Before::Parts(now, nodes),
            (None, None) => Before::Same,
        })
    }

    /// Takes back the last change that was made and not taken back yet.
    pub fn undo(&mut self, undo: Undo) {
        match undo.0 {
            Before::Same => {}
            Before::Whole(whole) => *self = *whole,
            Before::Parts(now, nodes) => {
                self.now = Some(*now);
                for (id, over) in nodes.into_iter().rev() {
                    self.lay(&id, over);
                }
            }
        }
    }

    /// The cluster as it is now.
    pub fn to_cluster(&self) -> Option<Arc<Cluster>> {
        let now = self.now.as_ref()?;
        if let Some(base) = &self.base
            && base.revision == now.revision
        {
            return Some(Arc::clone(base));
        }
        let mut nodes = Vec::with_capacity(self.node_count);
        let mut rest: &[Arc<Node>] = self.base.as_ref().map_or(&[], |cluster| &cluster.nodes);
        for (id, over) in &self.over {
            let (before, from) = rest.split_at(rest.partition_point(|node| node.id < *id));
            nodes.extend_from_slice(before);
            nodes.extend(over.node().cloned());
            rest = match from {
                [first, after @ ..] if first.id == *id => after,
                _ => from,
            };
        }
        nodes.extend_from_slice(rest);
        Some(Arc::new(Cluster { nodes, ..now.clone() }))
    }

    /// Lays something over a node, or takes away what lies there. Answers what lay there before.
    fn lay(&mut self, id: &NodeId, over: Option<Over>) -> Option<Over> {
        self.recount(id, false);
        let before = match over {
            Some(over) => self.over.insert(id.clone(), over),
            None => self.over.remove(id),
        };
        self.recount(id, true);
        before
    }

    /// Counts a node in or out. A place that another node took over meanwhile stays with that.
    fn recount(&mut self, id: &NodeId, is_in: bool) {
        let Some(node) = self.node(id).cloned() else { return };
        if is_in {
            self.node_count += 1;
        } else {
            self.node_count -= 1;
        }
        let Some(places) = self.places.get_mut() else { return };
        for place in places_of(&node) {
            if is_in {
                places.insert(place, id.clone());
            } else if places.get(&place) == Some(id) {
                places.remove(&place);
            }
        }
    }
}

impl Over {
    fn node(&self) -> Option<&Arc<Node>> {
        match self {
            Self::Node(node) => Some(node),
            Self::Nothing => None,
        }
    }
}

fn places_of(node: &Node) -> impl Iterator<Item = Place> {
    node.ports.iter().map(|(_, port)| (node.address, port.get()))
}

fn newborn(change: &Change) -> Cluster {
    let header = Header::default();
    Cluster {
        name: change.cluster.clone(),
        revision: change.revision,
        created: change.revision,
        check_changed: change.revision,
        check: Arc::new(header.check()),
        header: Arc::new(header),
        nodes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_another_revision_say_nothing() {
        let id = NodeId::parse("n1").expect("an id");
        let place = (IpAddr::from([127, 0, 0, 1]), 80);
        let change = Change {
            cluster: crate::ClusterName::parse("orders").expect("a name"),
            revision: Revision(7),
            effect: Effect::Updated { created: true, header: None, put: Vec::new(), removed: Vec::new() },
        };
        let mut edit = Edit::default();
        edit.apply(&change);
        let cluster = edit.to_cluster().expect("it was created");
        for (revision, holder) in [(7, Some(&id)), (6, None), (8, None)] {
            let holders = HashMap::from([(place, id.clone())]);
            let places = Places { revision: Revision(revision), holders };
            assert_eq!(Edit::resumed(Arc::clone(&cluster), places).holder(place), holder, "{revision}");
        }
    }
}
