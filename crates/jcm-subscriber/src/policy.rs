//! How one of the routable nodes is chosen.

/// How [`Cluster::alloc`](crate::Cluster::alloc) chooses among the nodes that may be called.
///
/// All policies choose only among nodes of the lowest priority number that has any, and give a node traffic in
/// proportion to its effective weight: a degraded node gets a quarter of its weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy(pub(crate) Choice);

/// Private, so that a policy can gain parameters without breaking programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    RoundRobin,
    P2c,
}

impl Policy {
    /// Every node in turn. Each thread keeps its own turn and starts at a random place, so that threads share nothing.
    pub fn round_robin() -> Self {
        Self(Choice::RoundRobin)
    }

    /// Two nodes at random, of which the one with fewer calls in flight for its weight is taken.
    ///
    /// After Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    pub fn p2c() -> Self {
        Self(Choice::P2c)
    }
}

impl Default for Policy {
    /// [`Policy::p2c`]: it needs no tuning and steers away from a node that hangs before its checks notice.
    fn default() -> Self {
        Self::p2c()
    }
}
