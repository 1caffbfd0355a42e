//! Tables that keys are looked up in. Those of a large cluster take long to make, so a plan may look up in the table of the
//! plan before while its own is made beside.
//!
//! Invariant: whatever nodes a table was made for, a look-up names only entries that its plan chooses among.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use jcm_model::NodeId;

use crate::plan::maglev::Maglev;
use crate::plan::ring::Ring;
use crate::policy::Choice;

/// Up to so many nodes a table is made on the spot: it takes two or three milliseconds.
const AT_ONCE_MAX: usize = 256;
/// What share of a plan's weight a former table must lead to. More than 1 by the load bound of the ring, so that calls
/// always find a node with room; and nodes that are there take over at most a tenth for those to come.
const CARRIED_MIN: f32 = 0.9;
/// What share of a former table's nodes must be left, so that nobody looks long for one that is.
const LEFT_MIN: f32 = 0.5;

/// A node that a table is made for, and its weight.
pub(crate) type Named = (NodeId, f32);

/// A table, and the nodes that it was made for.
#[derive(Debug)]
pub(crate) struct Hashed {
    pub(super) table: Made,
    /// In the order of ids; places in the table are positions here.
    nodes: Vec<Named>,
}

#[derive(Debug)]
pub(super) enum Made {
    Ring(Ring),
    Maglev(Maglev),
}

/// A table that is still to be made.
#[derive(Debug)]
pub(crate) struct Draft {
    choice: Choice,
    nodes: Vec<Named>,
}

impl Draft {
    pub(super) fn new(choice: Choice, nodes: Vec<Named>) -> Self {
        Self { choice, nodes }
    }

    /// Makes it, which takes up to a tenth of a second for the largest clusters.
    pub(crate) fn make(self) -> Hashed {
        let nodes: Vec<(&str, f64)> =
            self.nodes.iter().map(|(id, weight)| (id.as_str(), f64::from(*weight))).collect();
        let table = match self.choice {
            Choice::RingHash => Made::Ring(Ring::new(&nodes)),
            _ => Made::Maglev(Maglev::new(&nodes)),
        };
        Hashed { table, nodes: self.nodes }
    }
}

/// A table as one plan reads it.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) hashed: Arc<Hashed>,
    /// For each node of the table its entry in the plan, if the plan chooses among it; `None` where the table was made for
    /// just this plan.
    heirs: Option<Box<[Option<u32>]>>,
}

impl Lookup {
    /// The look-up for the nodes of a draft: in a table that there is, if it was made for the same nodes, or if `later`
    /// somebody makes another one; else in its own.
    pub(super) fn new(draft: Draft, former: Option<&Arc<Hashed>>, later: bool) -> Self {
        let may_wait = later && draft.nodes.len() > AT_ONCE_MAX;
        former
            .and_then(|former| Self::within(former, &draft))
            .filter(|lookup| may_wait || lookup.is_own())
            .unwrap_or_else(|| Self { hashed: Arc::new(draft.make()), heirs: None })
    }

    /// The look-up for the nodes of a draft in this table; `None` where it would serve badly.
    pub(super) fn within(table: &Arc<Hashed>, draft: &Draft) -> Option<Self> {
        let heirs = if table.nodes == draft.nodes { None } else { Some(table.heirs(&draft.nodes)?) };
        Some(Self { hashed: Arc::clone(table), heirs })
    }

    /// Whether the table was made for just this plan.
    pub(super) fn is_own(&self) -> bool {
        self.heirs.is_none()
    }

    /// The entry of a node of the table.
    #[inline]
    pub(super) fn entry(&self, position: u32) -> Option<u32> {
        match &self.heirs {
            None => Some(position),
            Some(heirs) => heirs[position as usize],
        }
    }
}

impl Hashed {
    /// Where each node of this table is among others; `None` where these would be served badly by it.
    fn heirs(&self, nodes: &[Named]) -> Option<Box<[Option<u32>]>> {
        let mut others = (0_u32..).zip(nodes).peekable();
        let heirs: Box<[Option<u32>]> = self
            .nodes
            .iter()
            .map(|(id, _)| {
                while others.next_if(|(_, (other, _))| other < id).is_some() {}
                others.next_if(|(_, (other, _))| other == id).map(|(entry, _)| entry)
            })
            .collect();
        let weight: f32 = nodes.iter().map(|(_, weight)| weight).sum();
        let carried: f32 = heirs.iter().flatten().map(|entry| nodes[*entry as usize].1).sum();
        #[expect(clippy::cast_precision_loss, reason = "a cluster has at most 20,000 nodes")]
        let left = heirs.iter().flatten().count() as f32 / heirs.len().max(1) as f32;
        (carried >= CARRIED_MIN * weight && left >= LEFT_MIN).then_some(heirs)
    }
}
