//! How one of the nodes that may be called is chosen.

use std::sync::Arc;
use std::time::Duration;

use jcm_model::Invalid;

/// Longest slow start: a node that needs longer than this to warm up is not warming up.
const SLOW_START_MAX: Duration = Duration::from_hours(1);
/// What share of their weight a group of nodes must have fit to carry all of the group's traffic, unless set. It is the
/// inverse of Envoy's overprovisioning factor of 1.4, to two digits.
const SPILL_BELOW_DEFAULT: f64 = 0.7;

/// How [`Cluster::alloc`](crate::Cluster::alloc) chooses among the nodes that may be called.
///
/// ```
/// # use jcm_subscriber::Policy;
/// # use std::time::Duration;
/// let policy = Policy::peak_ewma().prefer_zone("z1").spill_below(0.7).slow_start(Duration::from_secs(30));
/// ```
///
/// Every policy but [`primary`](Self::primary) chooses only among nodes of the lowest priority number that has any, and
/// every policy gives nodes traffic in proportion to their effective weight: a degraded node has a quarter of its weight.
/// Whatever the policy, no node is chosen that is not routable, except under [protection](Self::panic_threshold).
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(crate) choice: Choice,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) spill_below: f64,
    /// `None` leaves it to the cluster's definition.
    pub(crate) panic_threshold: Option<f64>,
    pub(crate) slow_start: Duration,
    pub(crate) subset: Option<Subset>,
}

/// Private, so that a policy can gain parameters without breaking programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Turns,
    Random,
    P2c,
    PeakEwma,
    LeastInFlight,
    RingHash,
    Maglev,
    Primary,
}

/// Some of the nodes, alike at every look of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subset {
    pub(crate) nodes: usize,
    /// `None` is this process, under a number of its own.
    pub(crate) client: Option<u64>,
}

impl Choice {
    /// Whether calls in flight are counted for it.
    #[inline]
    pub(crate) fn counts(self) -> bool {
        !matches!(self, Self::Turns | Self::Random | Self::Maglev)
    }

    /// Whether it looks keys up in a table of hashes, which takes long to make.
    pub(crate) fn hashes(self) -> bool {
        matches!(self, Self::RingHash | Self::Maglev)
    }

    /// Whether it needs to know how long calls take.
    #[inline]
    pub(crate) fn times(self) -> bool {
        self == Self::PeakEwma
    }
}

impl Policy {
    fn new(choice: Choice) -> Self {
        Self {
            choice,
            zone: None,
            spill_below: SPILL_BELOW_DEFAULT,
            panic_threshold: None,
            slow_start: Duration::ZERO,
            subset: None,
        }
    }

    /// Every node in turn; a node of twice the weight has twice the turns, spread evenly. Each thread keeps its own turn
    /// and starts at a random place, so that threads share nothing.
    pub fn round_robin() -> Self {
        Self::new(Choice::Turns)
    }

    /// Smooth weighted round robin: turns by weight, spread as evenly as can be. It is [`round_robin`](Self::round_robin)
    /// under the name by which people look for it.
    ///
    /// From the first turn on no node is ever a whole turn ahead of or behind its ideal share, and over a full round each
    /// has exactly its share: the turns are laid out by earliest deadline first over windows of a proportionate-fair
    /// schedule (Baruah, Cohen, Plaxton, Varvel, "Proportionate Progress: A Notion of Fairness in Resource Allocation",
    /// 1996). A stretch that begins elsewhere in the round is less than two turns off. The lag of nginx's smooth weighted
    /// round robin has no such bound.
    pub fn weighted() -> Self {
        Self::new(Choice::Turns)
    }

    /// Any node, with a probability in proportion to its weight, by Vose's alias method ("A Linear Algorithm for
    /// Generating Random Numbers with a Given Distribution", 1991).
    pub fn random() -> Self {
        Self::new(Choice::Random)
    }

    /// Two nodes at random, of which the one with fewer calls in flight for its weight is taken.
    ///
    /// After Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
    pub fn p2c() -> Self {
        Self::new(Choice::P2c)
    }

    /// Two nodes at random, of which the one is taken where a call is expected to be over sooner: its recent latency ×
    /// (calls in flight + 1) ÷ weight. The latency is a moving average that jumps up to every slow call at once and comes
    /// down over 10 s, so a node that slows is left after one call and tried again later.
    ///
    /// It learns from [`Picked::report`](crate::Picked::report), and from a call that fails or is dropped only that it took
    /// at least so long: a node that refuses quickly does not look fast. It reads the clock twice a call.
    ///
    /// After Finagle's `PeakEwma` load metric (`com.twitter.finagle.loadbalancer`, Twitter).
    pub fn peak_ewma() -> Self {
        Self::new(Choice::PeakEwma)
    }

    /// The node with the fewest calls of this program in flight for its weight; among equals any, by weight.
    ///
    /// Of 32 nodes or fewer it is the least loaded one; in a larger cluster it is the least of 32 that stand side by side
    /// from a random place on, so that a pick costs the same whatever the size. Envoy's `LEAST_REQUEST` is the like, with
    /// 2 choices or a scan of all.
    pub fn least_inflight() -> Self {
        Self::new(Choice::LeastInFlight)
    }

    /// A key always comes to the same node, by consistent hashing on a ring: see
    /// [`Cluster::alloc_for`](crate::Cluster::alloc_for). When a node joins or leaves, only its own keys move. No node has
    /// more than 1.25 times its fair share of the calls in flight: a key whose node is full goes to the next on the ring.
    ///
    /// After Karger et al., "Consistent Hashing and Random Trees" (1997), and Mirrokni, Thorup, Zadimoghaddam, "Consistent
    /// Hashing with Bounded Loads" (2016).
    pub fn ring_hash() -> Self {
        Self::new(Choice::RingHash)
    }

    /// A key always comes to the same node: see [`Cluster::alloc_for`](crate::Cluster::alloc_for). Shares are more even than
    /// on a ring and a look-up is one read of a table; when a node leaves, a few keys of other nodes move too, and loads are
    /// not bounded.
    ///
    /// After Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (2016), section 3.4, with tables
    /// of 65,537 places, or 655,373 for more than 650 nodes; weights as Envoy does them.
    pub fn maglev() -> Self {
        Self::new(Choice::Maglev)
    }

    /// The nodes of the lowest priority number, and the next ones only as far as those cannot carry it.
    ///
    /// A priority of which at least [`spill_below`](Self::spill_below) of the weight is fit carries everything; one with
    /// less carries fit ÷ `spill_below`, and what is left goes to the next. Where all together do not reach the whole they
    /// share it in the same proportions. Within a priority, two random choices by calls in flight.
    ///
    /// After Envoy's priority levels, whose overprovisioning factor 1.4 is the inverse of `spill_below`.
    pub fn primary() -> Self {
        Self::new(Choice::Primary)
    }

    /// Nodes of this zone first. They get all of the traffic while at least [`spill_below`](Self::spill_below) of their
    /// weight is fit, and fit ÷ `spill_below` of it below that; the rest goes to the nodes of all other zones. A zone without
    /// nodes gets nothing.
    ///
    /// A client cannot see how the traffic is spread over zones: where most clients stand in one zone and few nodes do, that
    /// zone's nodes get more than others.
    #[must_use]
    pub fn prefer_zone(mut self, zone: impl AsRef<str>) -> Self {
        self.zone = Some(Arc::from(zone.as_ref()));
        self
    }

    /// Which share of its weight a preferred zone, or a priority of [`primary`](Self::primary), must have fit to carry all
    /// of its traffic: above 0, up to 1; 0.7 unless set. A degraded node counts a quarter, one that this client ejected
    /// counts nothing.
    #[must_use]
    pub fn spill_below(mut self, share: f64) -> Self {
        self.spill_below = share;
        self
    }

    /// Below which share of fit nodes, of all that people have online, traffic goes to every online node: from 0 (never) to
    /// 1; what the cluster's definition says (`protection.panic_below`) unless set. Under protection neither zone, priority
    /// nor subset counts. Nodes that this client ejected are taken back first, before any node that checks found down.
    #[must_use]
    pub fn panic_threshold(mut self, share: f64) -> Self {
        self.panic_threshold = Some(share);
        self
    }

    /// How long a node that becomes routable takes from a tenth of its weight up to all of it, in even steps; at most an
    /// hour. Not at all unless set. Nodes that are there when the program starts are not held back.
    ///
    /// As Envoy's slow start with aggression 1 and `min_weight_percent` 10.
    #[must_use]
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = window;
        self
    }

    /// Only this many nodes of each priority and zone: for many clients of many nodes, where each connection costs. The
    /// choice is random by process and stays while the process lives; a node that fails is replaced by one other, and a node
    /// that joins replaces at most one.
    ///
    /// By rendezvous hashing (Thaler, Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998), as gRPC's
    /// proposal A68. Nodes are spread over clients as evenly as random choice does it; the subsetting of Google's "Site
    /// Reliability Engineering", chapter 20, is more even but moves nearly everything when one node comes or goes.
    #[must_use]
    pub fn subset(mut self, nodes: usize) -> Self {
        self.subset = Some(Subset { nodes, client: None });
        self
    }

    /// As [`subset`](Self::subset), the same at each start of a client: each needs a number of its own.
    #[must_use]
    pub fn subset_of_client(mut self, nodes: usize, client: u64) -> Self {
        self.subset = Some(Subset { nodes, client: Some(client) });
        self
    }

    /// Refuses what makes no sense, naming it.
    pub(crate) fn check(&self) -> Result<(), Invalid> {
        if !(self.spill_below > 0.0 && self.spill_below <= 1.0) {
            let reason = format!("{} is out of range: above 0, up to 1", self.spill_below);
            return Err(Invalid::at("spill_below", reason));
        }
        if let Some(share) = self.panic_threshold
            && !(0.0..=1.0).contains(&share)
        {
            return Err(Invalid::at("panic_threshold", format!("{share} is out of range: from 0 to 1")));
        }
        if self.slow_start > SLOW_START_MAX {
            let reason = format!("{:?} is too long: at most {SLOW_START_MAX:?}", self.slow_start);
            return Err(Invalid::at("slow_start", reason));
        }
        match self.subset {
            Some(Subset { nodes: 0, .. }) => Err(Invalid::at("subset", "0 nodes is refused: at least 1")),
            _ => Ok(()),
        }
    }
}

impl Default for Policy {
    /// [`Policy::p2c`]: it needs no tuning and steers away from a node that hangs before its checks notice.
    fn default() -> Self {
        Self::p2c()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refusal = |policy: Policy| policy.check().unwrap_err().to_string();
        assert_eq!(
            refusal(Policy::p2c().spill_below(0.0)),
            "spill_below: 0 is out of range: above 0, up to 1"
        );
        assert!(refusal(Policy::p2c().spill_below(f64::NAN)).starts_with("spill_below: NaN"));
        assert!(refusal(Policy::p2c().panic_threshold(1.5)).starts_with("panic_threshold: 1.5"));
        assert!(
            refusal(Policy::p2c().slow_start(Duration::from_secs(3601))).starts_with("slow_start: 3601s")
        );
        assert_eq!(refusal(Policy::p2c().subset(0)), "subset: 0 nodes is refused: at least 1");
        assert_eq!(Policy::primary().prefer_zone("z1").panic_threshold(0.0).subset(1).check(), Ok(()));
    }
}
