//! What it takes for a verdict to turn: where a node stands, in words for people.

use std::fmt;

use jcm_model::{Check, Verdict};

use super::{Judge, window_size};

/// One way in which the verdict can turn. `Display` is a sentence's worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A first success makes it healthy.
    FirstSuccess,
    /// So many more successes in a row bring it back.
    Successes(u32),
    /// So many more failures in a row make it down, unless another server reaches it.
    Failures(u32),
    /// The rate of failures makes it degraded.
    Degraded {
        /// From so many failures on.
        failed_at: u32,
        /// Among so many results.
        of: u32,
        /// So many there are.
        failed: u32,
        /// Among so many that the window holds.
        filled: u32,
    },
    /// The rate of failures leaves it degraded.
    Healthy {
        /// With fewer failures than this.
        failed_at: u32,
        /// Among so many results.
        of: u32,
        /// So many there are.
        failed: u32,
        /// Among so many that the window holds.
        filled: u32,
    },
}

impl Judge {
    /// What it takes for the verdict to turn, each way. Whether the node is [held](Judge::held_until) besides is another
    /// question.
    pub fn needs(&self, check: &Check) -> Vec<Need> {
        let down = Need::Failures(check.fall.max(1).saturating_sub(self.failures_in_a_row()));
        let (failed, filled) = self.window();
        let of = u32::from(window_size(check));
        let is_degraded = |failed: &u32| f64::from(*failed) / f64::from(of) >= check.degraded_at;
        let failed_at = (1..=of).find(is_degraded).unwrap_or(of);
        match self.verdict() {
            Verdict::Unknown => vec![Need::FirstSuccess, down],
            Verdict::Healthy => vec![down, Need::Degraded { failed_at, of, failed, filled }],
            Verdict::Degraded => vec![Need::Healthy { failed_at, of, failed, filled }, down],
            Verdict::Down => {
                vec![Need::Successes(check.rise.max(1).saturating_sub(self.successes_in_a_row()))]
            }
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::FirstSuccess => f.write_str("healthy at its first success"),
            Self::Successes(0) => f.write_str("healthy as soon as it may turn"),
            Self::Successes(1) => f.write_str("healthy after 1 more success"),
            Self::Successes(count) => write!(f, "healthy after {count} more successes in a row"),
            Self::Failures(0) => f.write_str("down unless another server reaches it"),
            Self::Failures(1) => f.write_str("down after 1 more failure, unless another server reaches it"),
            Self::Failures(count) => {
                write!(f, "down after {count} more failures in a row, unless another server reaches it")
            }
            Self::Degraded { failed_at, of, failed, filled } => {
                write!(f, "degraded from {failed_at} failures of {of} results on ({failed} of {filled} now)")
            }
            Self::Healthy { failed_at, of, failed, filled } => {
                write!(f, "healthy below {failed_at} failures of {of} results ({failed} of {filled} now)")
            }
        }
    }
}
