//! What peers found of a sample of nodes.

use jcm_health::TargetKey;

/// What peers found of a node of the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Found {
    Pending,
    Reached,
    Failed,
    Nothing,
}

/// What peers found of the sample.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) pending: usize,
    reached: usize,
    failed: usize,
}

impl Tally {
    pub(super) fn new(sample: &[TargetKey], found: impl Fn(TargetKey) -> Found) -> Self {
        let mut tally = Self::default();
        for key in sample {
            match found(*key) {
                Found::Pending => tally.pending += 1,
                Found::Reached => tally.reached += 1,
                Found::Failed => tally.failed += 1,
                Found::Nothing => {}
            }
        }
        tally
    }

    pub(super) fn answered(self) -> usize {
        self.reached + self.failed
    }

    pub(super) fn are_reached(self) -> bool {
        self.reached * 2 > self.answered()
    }
}
