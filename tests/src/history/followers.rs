//! What a subscriber held, one state after another, whichever servers told it.
//!
//! Its revision never goes back, and what it holds is emptied only by a message that says so.

use std::time::Duration;

use super::Violation;

/// One state that a subscriber came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The cluster at this revision, with so many nodes.
    View { revision: u64, nodes: usize },
    /// The difference from one revision to another, after which it holds so many nodes.
    Delta { from: u64, to: u64, nodes: usize },
    /// It was said that the cluster is not there at this revision.
    Removed { revision: u64 },
}

/// The states of one subscriber and one cluster, in the order in which they came.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub states: Vec<(Duration, Held)>,
    /// Whether somebody emptied the cluster on purpose.
    pub may_be_empty: bool,
}

impl History {
    pub fn violations(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let mut held = 0;
        for (at, state) in &self.states {
            match *state {
                Held::View { revision, .. } if revision < held => {
                    found.push(Violation::new("went-back", format!("at {at:.1?} from {held} to {revision}")));
                }
                Held::Delta { from, to, .. } if from != held || to < from => {
                    let text = format!("at {at:.1?} a delta from {from} to {to} came to who held {held}");
                    found.push(Violation::new("gap", text));
                }
                Held::Removed { revision } if revision < held => {
                    let text = format!("at {at:.1?} it was removed at {revision}, {held} was held");
                    found.push(Violation::new("went-back", text));
                }
                _ => {}
            }
            match *state {
                Held::View { nodes: 0, revision } | Held::Delta { nodes: 0, to: revision, .. }
                    if !self.may_be_empty =>
                {
                    found.push(Violation::new("emptied", format!("at {at:.1?}, revision {revision}")));
                }
                _ => {}
            }
            held = match *state {
                Held::View { revision, .. }
                | Held::Delta { to: revision, .. }
                | Held::Removed { revision } => revision,
            };
        }
        found
    }

    /// When it first held at least this revision.
    pub fn reached(&self, wanted: u64) -> Option<Duration> {
        self.states.iter().find_map(|(at, state)| match *state {
            Held::View { revision, .. } | Held::Delta { to: revision, .. } if revision >= wanted => Some(*at),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::assert_keys;
    use super::*;

    #[track_caller]
    fn check(states: &[Held], keys: &[&str]) {
        let states = states.iter().cloned().map(|state| (Duration::ZERO, state)).collect();
        assert_keys(&History { states, may_be_empty: false }.violations(), keys);
    }

    fn view(revision: u64) -> Held {
        Held::View { revision, nodes: 3 }
    }

    #[test]
    fn forward_is_fine_and_so_is_what_was_said() {
        check(
            &[
                view(1),
                view(1),
                view(4),
                Held::Delta { from: 4, to: 6, nodes: 2 },
                Held::Removed { revision: 7 },
            ],
            &[],
        );
    }

    #[test]
    fn backward_is_found() {
        check(&[view(4), view(3)], &["went-back"]);
        check(&[view(4), Held::Removed { revision: 3 }], &["went-back"]);
    }

    #[test]
    fn a_delta_that_does_not_fit_is_found() {
        check(&[view(4), Held::Delta { from: 5, to: 6, nodes: 2 }], &["gap"]);
    }

    #[test]
    fn an_empty_list_by_surprise_is_found() {
        check(&[view(4), Held::View { revision: 5, nodes: 0 }], &["emptied"]);
        check(&[view(4), Held::Delta { from: 4, to: 5, nodes: 0 }], &["emptied"]);
    }
}
