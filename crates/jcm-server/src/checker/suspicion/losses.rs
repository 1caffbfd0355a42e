//! The nodes to which the way is lost: since when, of which clusters, and whether that is a mass.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use jcm_health::TargetKey;
use jcm_model::{Check, ClusterName};

use super::super::records::KeyMap;
use super::{Others, Reason, SAMPLE_MAX};

/// The part of a checker's nodes that makes a mass, in percent.
const MASS_PERCENT: usize = 30;

/// A mass of failures is of so many clusters at least: one cluster that fails as a whole has a reason of its own.
const MASS_CLUSTERS_MIN: usize = 3;

/// Nodes that a mass has at least: each has its second opinion, and few of them need no more.
const MASS_NODES_MIN: usize = 5;

/// The nodes to which the way is lost.
#[derive(Debug, Default)]
pub(super) struct Losses(KeyMap<Lost>);

#[derive(Debug, Clone)]
struct Lost {
    at: Instant,
    cluster: ClusterName,
    interval: Duration,
    timeout: Duration,
    fall: u32,
    /// Its loss was believed.
    settled: bool,
}

impl Losses {
    /// A probe did not get through. Answers whether those before it did.
    pub(super) fn lose(
        &mut self,
        key: TargetKey,
        cluster: &ClusterName,
        check: &Check,
        now: Instant,
    ) -> bool {
        if let Some(lost) = self.0.get_mut(&key) {
            (lost.interval, lost.timeout, lost.fall) = (check.interval, check.timeout, check.fall.max(1));
            return false;
        }
        let lost = Lost {
            at: now,
            cluster: cluster.clone(),
            interval: check.interval,
            timeout: check.timeout,
            fall: check.fall.max(1),
            settled: false,
        };
        self.0.insert(key, lost);
        true
    }

    /// A probe got through.
    pub(super) fn find(&mut self, key: TargetKey) {
        self.0.remove(&key);
    }

    /// The loss of the node is no sign of anything else any more.
    pub(super) fn settle(&mut self, key: TargetKey) {
        if let Some(lost) = self.0.get_mut(&key) {
            lost.settled = true;
        }
    }

    pub(super) fn settle_all(&mut self) {
        self.0.values_mut().for_each(|lost| lost.settled = true);
    }

    /// Forgets those that nothing followed from yet.
    pub(super) fn forget_open(&mut self) {
        self.0.retain(|_, lost| lost.settled);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn retain(&mut self, is_checked: impl Fn(TargetKey) -> bool) {
        self.0.retain(|key, _| is_checked(*key));
    }

    pub(super) fn open_count(&self) -> usize {
        self.open().count()
    }

    /// Those that nothing followed from yet, and when each has failed for two fall periods.
    pub(super) fn due(&self) -> impl Iterator<Item = (TargetKey, Instant)> {
        self.open().map(|(key, lost)| (key, lost.at + lost.interval * lost.fall * 2 + lost.timeout))
    }

    /// Whether so many of the nodes that are checked here were lost at once that the fault is rather this server's own. All
    /// that was lost after `since` counts as lost at once.
    pub(super) fn mass(
        &self,
        now: Instant,
        of: usize,
        others: Others,
        since: Option<Instant>,
    ) -> Option<Reason> {
        let settled = self.0.values().filter(|lost| lost.settled).count();
        let is_mass = |lost: usize| lost * 100 >= of.saturating_sub(settled) * MASS_PERCENT;
        let open = || self.open().map(|(_, lost)| lost);
        let at_once: Vec<&Lost> = open().filter(|lost| lost.is_recent(now, since)).collect();
        let clusters: BTreeSet<&ClusterName> = at_once.iter().map(|lost| &lost.cluster).collect();
        let clusters = clusters.len();
        if at_once.len() >= MASS_NODES_MIN && clusters >= MASS_CLUSTERS_MIN && is_mass(at_once.len()) {
            return Some(Reason::Mass { lost: at_once.len(), of, clusters });
        }
        // With nobody heard and much lost it is one and the same cut, however few the clusters. Silence is noticed later
        // than failures are, so this looks further back.
        let lost = open().count();
        (others.exist && others.cut_off && lost > 0 && is_mass(lost)).then_some(Reason::CutOff { lost, of })
    }

    /// Lost nodes to ask about: of as many clusters as possible.
    pub(super) fn sample(&self) -> Vec<TargetKey> {
        let mut by_cluster: HashMap<&ClusterName, Vec<(Duration, TargetKey)>> = HashMap::new();
        for (key, lost) in self.open() {
            by_cluster.entry(&lost.cluster).or_default().push((lost.timeout, key));
        }
        let mut lanes: Vec<Vec<(Duration, TargetKey)>> = by_cluster.into_values().collect();
        // The fastest to answer first, and whatever the order of the map: the same nodes.
        for lane in &mut lanes {
            lane.sort_unstable_by(|a, b| b.cmp(a));
        }
        lanes.sort_unstable_by(|a, b| a.last().cmp(&b.last()));
        let mut sample = Vec::new();
        while sample.len() < SAMPLE_MAX && lanes.iter().any(|lane| !lane.is_empty()) {
            let room = SAMPLE_MAX - sample.len();
            sample.extend(lanes.iter_mut().filter_map(Vec::pop).take(room).map(|(_, key)| key));
        }
        sample
    }

    /// How long the slowest probe of these nodes may take.
    pub(super) fn slowest(&self, sample: &[TargetKey]) -> Duration {
        let timeouts = sample.iter().filter_map(|key| self.0.get(key)).map(|lost| lost.timeout);
        timeouts.max().unwrap_or_default()
    }

    fn open(&self) -> impl Iterator<Item = (TargetKey, &Lost)> {
        self.0.iter().filter(|(_, lost)| !lost.settled).map(|(key, lost)| (*key, lost))
    }
}

impl Lost {
    /// Within two intervals. A probe that times out is noticed by its timeout later.
    fn is_recent(&self, now: Instant, since: Option<Instant>) -> bool {
        now.saturating_duration_since(self.at) <= 2 * self.interval
            || since.is_some_and(|since| self.at + 2 * self.interval >= since)
    }
}
