//! A program that registers itself at the place of a dead one has that place, in one write that takes the dead one's node away.
//! Pure: who is dead the leader's clearing has found (`leases/vacancy.rs`).
//!
//! The write stays the operation that its client asked for. What is added to it is for the leader of that epoch alone, and is
//! carried out only if the other node still is what was found.

use jcm_model::{ClusterName, Lapsed, Mutation, NodeId, Precondition, Refusal};

use super::Wish;
use super::write::{Answer, Write, WriteError};

/// Whose place a refused write asks for. Only a node that comes with a lease may have it, by a write of nothing else.
pub(super) fn wanted<'a>(write: &Write, answer: &'a Answer) -> Option<(&'a ClusterName, &'a NodeId)> {
    let Err(WriteError::Refused { refusal: Refusal::Clash { cluster, other, address, port, .. }, .. }) =
        answer
    else {
        return None;
    };
    let last = write.wishes.last()?;
    let is_of_one = write.wishes[..write.wishes.len() - 1].iter().all(|wish| is_clearing(&wish.mutation));
    // What is asked for on a revision would not find that after the other node has gone.
    let is_free = last.precondition.revision.is_none() && !last.precondition.absent;
    let Mutation::PutNodes(nodes) = &last.mutation else { return None };
    let is_there = |spec: &jcm_model::NodeSpec| {
        spec.address == *address && spec.ports.iter().any(|(_, own)| own.get() == *port)
    };
    let mut clashing = nodes.iter().filter(|spec| is_there(spec));
    let is_leased = clashing.next()?.attributes.lease().is_some() && clashing.next().is_none();
    // One that was to go and is there all the same is not what was found.
    let was_tried = write.wishes.iter().any(|wish| {
        matches!(&wish.mutation, Mutation::ClearAway(lapsed) if lapsed.iter().any(|lapsed| lapsed.node == *other))
    });
    (is_of_one && is_free && is_leased && !was_tried).then_some((cluster, other))
}

/// The same write in the place of that node.
pub(super) fn instead_of(write: &Write, lapsed: Lapsed, epoch: u64) -> Write {
    let mut write = write.clone();
    let cluster = write.wishes.last().expect("a write that was refused wishes something").cluster.clone();
    let mutation = Mutation::ClearAway(vec![lapsed]);
    write.wishes.insert(0, Wish { cluster, mutation, precondition: Precondition::default() });
    // Two may be in the way, and may have been found in two epochs: the earlier one is over first.
    write.epoch = Some(write.epoch.map_or(epoch, |other| other.min(epoch)));
    write
}

/// The answer without what was added to the write.
pub(super) fn as_asked(answer: Answer, added: usize) -> Answer {
    match answer {
        Ok(mut written) => {
            written.outcomes.drain(..added.min(written.outcomes.len()));
            Ok(written)
        }
        Err(WriteError::Refused { index, refusal }) => {
            Err(WriteError::Refused { index: index.saturating_sub(added), refusal })
        }
        other => other,
    }
}

fn is_clearing(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::ClearAway(_))
}
