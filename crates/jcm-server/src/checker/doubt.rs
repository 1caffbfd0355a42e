//! Carries out what [`Opinions`] and [`Suspicion`] want: asks peers, tells them, leaves the ring and comes back.
//!
//! The checker owns it and tells it of every report and of every tick; it answers whose verdicts can be decided now.
//! Nothing is decided here but whom the order of servers begins with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jcm_health::{Opinion, Outcome, Step, TargetKey};
use jcm_model::{ServerId, Timestamp, Verdict};
use jcm_storage::Membership;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::opinions::{Call, GRACE, Known, Opinions, Subject, Vouched};
use super::record::Record;
use super::records::Records;
use super::suspicion::{Found, Others, Settled, Suspicion};
use super::vouch::Vouch;
use crate::peers::{Answer, Peers, Question, Said};

/// How often everything is looked at: what expires is noticed by so much later.
const TICK: Duration = Duration::from_millis(100);

/// How often nodes that are gone are forgotten, and how often a server that is apart probes its sample.
const SWEEP: Duration = Duration::from_secs(1);

/// The longest time of one of those probes.
const OWN_PROBE_MAX: Duration = Duration::from_secs(10);

/// The other servers, as places from which a node can be probed.
pub(super) trait Vantages: Send + Sync + 'static {
    /// Who they are now.
    fn around(&self) -> Around;
    /// What the probes of that server find; `None` when it did not answer.
    fn probe(
        &self,
        to: ServerId,
        asked: Vec<Question>,
        within: Duration,
    ) -> BoxFuture<'static, Option<Vec<Answer>>>;
    /// Tells all of them whether this server suspects itself.
    fn suspend(&self, suspended: bool);
    /// Shares in the checks, or no longer.
    fn share(&self, wanted: bool) -> BoxFuture<'static, ()>;
}

/// The other servers at one moment.
#[derive(Debug, Default, Clone)]
pub(super) struct Around {
    /// All members.
    pub(super) members: Vec<ServerId>,
    /// Those that are heard and stay, and trust themselves.
    pub(super) well: Vec<ServerId>,
    /// Those that are heard and stay, and suspect themselves: their successes count.
    pub(super) doubting: Vec<ServerId>,
    /// Those of the well ones that share the checks, and can take over more: the store tells them who leaves.
    pub(super) sharing: usize,
}

/// The real ones.
pub(super) struct Company {
    pub(super) peers: Peers,
    pub(super) membership: Arc<dyn Membership>,
    /// Set while the store is out of reach.
    pub(super) store_stale_since: watch::Receiver<Option<Instant>>,
}

/// Why this server suspects itself, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspended {
    pub(crate) reason: String,
    /// For how long it has.
    pub(crate) since_ms: u64,
}

/// Whether this server suspects itself, as a level: why, and since when.
pub(super) type Stance = Option<(String, Instant)>;

pub(super) struct Doubt {
    vantages: Box<dyn Vantages>,
    vouch: Vouch,
    opinions: Opinions,
    suspicion: Suspicion,
    around: Around,
    tasks: JoinSet<Done>,
    tick: Interval,
    swept: Instant,
    stance: watch::Sender<Stance>,
    shares: bool,
    /// The nodes of the last sample, as they are probed by a server that is apart.
    sample: Vec<Question>,
}

/// What a task came to.
pub(super) enum Done {
    Answered { number: u64, answers: Option<Vec<Answer>> },
    Probed { reached: usize, of: usize },
    Shared,
}

/// What the checker has to look at.
pub(super) enum Event {
    Done(Done),
    Tick,
}

/// Whose verdicts can be decided.
pub(super) struct Decide {
    pub(super) settled: Settled,
    pub(super) nodes: Vec<TargetKey>,
}

impl Doubt {
    pub(super) fn new(vantages: Box<dyn Vantages>, vouch: Vouch) -> Self {
        let now = Instant::now();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            around: vantages.around(),
            vantages,
            vouch,
            opinions: Opinions::default(),
            suspicion: Suspicion::new(now),
            tasks: JoinSet::new(),
            tick,
            swept: now,
            stance: watch::Sender::default(),
            shares: true,
            sample: Vec::new(),
        }
    }

    /// Whether this server suspects itself, as a level.
    pub(super) fn stance(&self) -> watch::Receiver<Stance> {
        self.stance.subscribe()
    }

    /// Waits for what is to be looked at next. Nothing is lost when it is not waited for to the end.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            tokio::select! {
                // A task that panicked has ended the process.
                Some(done) = self.tasks.join_next() => if let Ok(done) = done {
                    return Event::Done(done);
                },
                _ = self.tick.tick() => return Event::Tick,
            }
        }
    }

    /// To be called before anything else that happens: notices that this process was away.
    pub(super) fn look(&mut self, now: Instant) {
        if self.suspicion.look(now) {
            warn!("this process did not run for a while: what it asked and saw before is forgotten");
            self.opinions.interrupt();
        }
    }

    /// What the judge is to be told of the others' view of a node that has just been probed.
    pub(super) fn opinion(&mut self, record: &Record, outcome: Outcome, now: Instant) -> Opinion {
        if !outcome.is_local_trouble() && outcome != Outcome::Forbidden {
            self.suspicion.saw(record.key, &record.cluster, &record.check, outcome.reached(), now);
        }
        self.known(record, now)
    }

    /// What the judge is to be told of the others' view of a node.
    pub(super) fn known(&self, record: &Record, now: Instant) -> Opinion {
        if is_planted() {
            return Opinion::NobodyToAsk;
        }
        let somebody = !(self.around.well.is_empty() && self.around.doubting.is_empty());
        let known = self.opinions.known(subject(record), now);
        self.suspicion.weigh(record.key, known.opinion(somebody))
    }

    /// The node was judged: asks about it where that is wanted.
    pub(super) fn judged(&mut self, record: &Record, outcome: Outcome, step: &Step, now: Instant) {
        if step.ask_peer {
            self.ask(record, now);
        } else if outcome.is_success() && !self.suspicion.sample().contains(&record.key) {
            self.opinions.settle(record.key);
        }
        self.believed(record);
    }

    /// What is down is down, and no loss that could be this server's own.
    pub(super) fn believed(&mut self, record: &Record) {
        if record.judge.verdict() == Verdict::Down {
            self.suspicion.believed(record.key);
        }
    }

    /// Asks once more where nobody answered.
    pub(super) fn insist(&mut self, record: &Record, now: Instant) {
        if self.opinions.known(subject(record), now) == Known::Silent {
            self.ask(record, now);
        }
    }

    /// Who agrees that the node is down.
    pub(super) fn agreed_by(&self, record: &Record, now: Instant) -> Option<ServerId> {
        match self.opinions.known(subject(record), now) {
            Known::Failed(server) => Some(server.clone()),
            _ => None,
        }
    }

    /// What other servers' probes of the node found lately, newest first.
    pub(super) fn vouched(&self, key: TargetKey) -> impl Iterator<Item = &Vouched> {
        self.opinions.kept(key)
    }

    /// Why this server suspects itself, if it does.
    pub(super) fn suspended(&self) -> Option<Suspended> {
        Suspended::of(&self.stance.borrow())
    }

    /// Takes what has happened into account, and answers what can be decided now.
    pub(super) fn handle(&mut self, event: Event, records: &Records, overdue: u64, now: Instant) -> Decide {
        let nodes = match event {
            Event::Done(Done::Answered { number, answers }) => {
                self.opinions.answered(number, answers, now, Timestamp::now())
            }
            Event::Done(Done::Probed { reached, of }) => {
                self.suspicion.probed_itself(reached, of);
                Vec::new()
            }
            Event::Done(Done::Shared) => Vec::new(),
            Event::Tick => {
                self.around = self.vantages.around();
                self.sweep(records, now);
                self.opinions.expire(now)
            }
        };
        // Before anything is decided: what was not answered may be a sign that this server is cut off.
        let settled = self.suspect(records, overdue, now);
        self.send(now);
        Decide { settled, nodes }
    }

    /// Makes the calls that are due.
    pub(super) fn send(&mut self, now: Instant) {
        for Call { number, to, questions, within } in self.opinions.calls(now) {
            let count = u64::try_from(questions.len()).unwrap_or(u64::MAX);
            metrics::counter!("jcm_opinions_asked_total").increment(count);
            let asking = self.vantages.probe(to, questions, within);
            self.tasks.spawn(async move { Done::Answered { number, answers: asking.await } });
        }
    }

    fn suspect(&mut self, records: &Records, overdue: u64, now: Instant) -> Settled {
        let before = self.suspicion.suspended().map(|(reason, _)| reason);
        let mute = |server: &ServerId| self.opinions.is_mute(server);
        let others = Others {
            exist: !self.around.members.is_empty(),
            can_be_asked: self.around.well.iter().any(|server| !mute(server)),
            cut_off: self.around.well.iter().chain(&self.around.doubting).all(mute),
            share: self.around.sharing > 0,
        };
        let opinions = &self.opinions;
        let found = |key| match records.by_key(key).map(|record| opinions.known(subject(record), now)) {
            Some(Known::Pending | Known::Silent) => Found::Pending,
            Some(Known::Reached(_)) => Found::Reached,
            Some(Known::Failed(_)) => Found::Failed,
            Some(Known::Unasked | Known::SilentAgain) | None => Found::Nothing,
        };
        let any = || records.keys().take(super::suspicion::SAMPLE_MAX).collect();
        let settled = self.suspicion.judge(now, records.len(), overdue, others, found, any);
        self.ask_sample(records, now);
        self.tell(before);
        settled
    }

    fn ask_sample(&mut self, records: &Records, now: Instant) {
        let sample: Vec<TargetKey> = self.suspicion.sample().to_vec();
        if sample.is_empty() {
            return;
        }
        self.sample.clear();
        for key in sample {
            let Some(record) = records.by_key(key) else { continue };
            let question =
                Question { cluster: record.cluster.clone(), node: record.node.clone(), birth: record.birth };
            self.sample.push(question);
            if matches!(self.opinions.known(subject(record), now), Known::Unasked | Known::Silent) {
                self.ask(record, now);
            }
        }
    }

    /// Brings the levels about, and says what changed.
    fn tell(&mut self, before: Option<super::suspicion::Reason>) {
        let suspended = self.suspicion.suspended();
        let after = suspended.map(|(reason, _)| reason);
        if before != after {
            if let Some(reason) = after {
                warn!(%reason, "this server suspects itself: bad verdicts are held");
                metrics::counter!("jcm_suspicions_total", "reason" => reason.as_str()).increment(1);
            } else {
                info!("this server trusts itself again");
            }
            self.vantages.suspend(after.is_some());
            metrics::gauge!("jcm_suspended").set(if after.is_some() { 1.0 } else { 0.0 });
            self.stance.send_replace(suspended.map(|(reason, since)| (reason.to_string(), since)));
        }
        let wanted = self.suspicion.wants_share();
        if wanted != self.shares {
            self.shares = wanted;
            info!(wanted, "this server's share of the checks is given up, or taken again");
            let share = self.vantages.share(wanted);
            self.tasks.spawn(async move {
                share.await;
                Done::Shared
            });
        }
    }

    fn sweep(&mut self, records: &Records, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let members = &self.around.members;
        self.opinions.retain(|key| records.by_key(key).is_some(), |server| members.contains(server));
        self.suspicion.retain(|key| records.by_key(key).is_some());
        if !self.shares {
            let (vouch, sample) = (self.vouch.clone(), self.sample.clone());
            self.tasks.spawn(async move {
                let answers = vouch.probe(&sample, OWN_PROBE_MAX).await;
                let count = |said| answers.iter().filter(|answer| answer.said == said).count();
                let reached = count(Said::Reached);
                Done::Probed { reached, of: reached + count(Said::Failed) }
            });
        }
    }

    fn ask(&mut self, record: &Record, now: Instant) {
        let Around { well, doubting, .. } = &self.around;
        // Each node begins with another one of the servers, so that all of them have their part.
        let first = usize::try_from(record.key.0).unwrap_or_default() % well.len().max(1);
        let (before, after) = well.split_at(first.min(well.len()));
        let servers: Vec<ServerId> = after.iter().chain(before).chain(doubting).cloned().collect();
        self.opinions.ask(subject(record), &servers, now);
    }
}

fn subject(record: &Record) -> Subject<'_> {
    Subject {
        key: record.key,
        cluster: &record.cluster,
        node: &record.node,
        birth: record.birth,
        check: &record.check,
    }
}

/// Whether this build was asked to call nodes down without asking anybody.
fn is_planted() -> bool {
    #[cfg(feature = "planted")]
    return jcm_storage::planted::is_planted("no-second-opinion");
    #[cfg(not(feature = "planted"))]
    false
}

impl Suspended {
    pub(super) fn of(stance: &Stance) -> Option<Self> {
        let (reason, since) = stance.as_ref()?;
        let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(Self { reason: reason.clone(), since_ms })
    }
}

impl Vantages for Company {
    fn around(&self) -> Around {
        let liveness = Arc::clone(&self.peers.liveness().borrow());
        let members: Vec<ServerId> = liveness.others().cloned().collect();
        let well: Vec<ServerId> = liveness.well().cloned().collect();
        let doubts = |server: &&ServerId| {
            let standing = liveness.standing(server);
            liveness.is_heard(server) && standing.suspended && !standing.draining
        };
        let doubting = members.iter().filter(doubts).cloned().collect();
        let roster = Arc::clone(&self.membership.roster().borrow());
        let takes_over = |server: &&ServerId| roster.ring.servers.contains(server);
        let store_is_there = self.store_stale_since.borrow().is_none();
        let sharing = if store_is_there { well.iter().filter(takes_over).count() } else { 0 };
        Around { members, well, doubting, sharing }
    }

    fn probe(
        &self,
        to: ServerId,
        asked: Vec<Question>,
        within: Duration,
    ) -> BoxFuture<'static, Option<Vec<Answer>>> {
        let peers = self.peers.clone();
        Box::pin(async move {
            // Whatever the reason: no answer in time is no opinion.
            let answers = tokio::time::timeout(within + GRACE, peers.probe(&to, asked, within)).await;
            answers.ok()?.inspect_err(|error| tracing::debug!(%error, "no second opinion")).ok()
        })
    }

    fn suspend(&self, suspended: bool) {
        self.peers.suspend(suspended);
    }

    fn share(&self, wanted: bool) -> BoxFuture<'static, ()> {
        let membership = Arc::clone(&self.membership);
        // A server that is about to stop does not come back into the ring.
        let wanted = wanted && !self.peers.standing().draining;
        Box::pin(async move { membership.share_checks(wanted).await })
    }
}

#[cfg(test)]
mod tests;
