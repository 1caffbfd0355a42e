//! Which versions of a protocol two sides speak, so that a newer one and an older one understand each other while a group
//! is upgraded one by one.

/// The versions of a protocol that one side speaks: all from the oldest to the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    oldest: u32,
    newest: u32,
}

impl Protocols {
    pub(crate) const fn new(oldest: u32, newest: u32) -> Self {
        assert!(0 < oldest && oldest <= newest, "versions are counted from 1");
        Self { oldest, newest }
    }

    /// What a `Hello` says: the oldest version, and the newest. Before there were ranges it said one version, and that is
    /// read as a range of one. `None`: it says nothing that makes sense.
    pub fn said(oldest: u32, newest: u32) -> Option<Self> {
        let newest = if newest == 0 { oldest } else { newest };
        (0 < oldest && oldest <= newest).then_some(Self { oldest, newest })
    }

    /// The oldest version.
    pub fn oldest(self) -> u32 {
        self.oldest
    }

    /// The newest version.
    pub fn newest(self) -> u32 {
        self.newest
    }

    /// Whether this version is spoken.
    pub fn speaks(self, version: u32) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }

    /// The newest version that both sides speak.
    pub fn highest_common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl std::fmt::Display for Protocols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.newest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_spoken_or_none() {
        for (one, other, common) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 2), (1, 1), Some(1)),
            ((1, 2), (2, 3), Some(2)),
            ((1, 5), (2, 3), Some(3)),
            ((3, 4), (1, 2), None),
        ] {
            let (one, other) = (Protocols::new(one.0, one.1), Protocols::new(other.0, other.1));
            assert_eq!(one.highest_common(other), common, "{one} and {other}");
            assert_eq!(other.highest_common(one), common, "{other} and {one}");
        }
    }

    #[test]
    fn one_number_is_a_range_of_one_and_nonsense_is_none() {
        assert_eq!(Protocols::said(1, 0), Some(Protocols::new(1, 1)));
        assert_eq!(Protocols::said(1, 7), Some(Protocols::new(1, 7)));
        for (oldest, newest) in [(0, 0), (0, 3), (3, 2)] {
            assert_eq!(Protocols::said(oldest, newest), None, "{oldest} to {newest}");
        }
    }
}
