//! Why a server suspects itself.

use std::time::Duration;

/// Why a server suspects itself. `Display` is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The way to many nodes was lost at once.
    Mass {
        /// How many nodes.
        lost: usize,
        /// How many are checked here.
        of: usize,
        /// Of how many clusters they are.
        clusters: usize,
    },
    /// The same, while no other server is heard.
    CutOff {
        /// How many nodes.
        lost: usize,
        /// How many are checked here.
        of: usize,
    },
    /// Rounds of checks begin later than by their interval.
    Late,
    /// The process did not run for a while.
    Paused {
        /// For how long.
        away: Duration,
    },
}

impl Reason {
    /// Whether it is about this process' own time rather than about the network.
    pub(super) fn is_about_time(self) -> bool {
        matches!(self, Self::Late | Self::Paused { .. })
    }

    /// One stable word, for metric labels.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Mass { .. } => "mass",
            Self::CutOff { .. } => "cut_off",
            Self::Late => "late",
            Self::Paused { .. } => "paused",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mass { lost, of, clusters } => {
                write!(f, "{lost} of {of} nodes in {clusters} clusters became unreachable at once")
            }
            Self::CutOff { lost, of } => {
                write!(f, "{lost} of {of} nodes are unreachable, and so is every other server")
            }
            Self::Late => f.write_str("rounds of checks begin later than by their interval"),
            Self::Paused { away } => write!(f, "this process did not run for {:.1} s", away.as_secs_f64()),
        }
    }
}
