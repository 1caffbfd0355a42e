//! What the handles of one cluster share with the task that keeps it up to date.

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use jcm_model::ClusterName;
use tokio::sync::{Notify, watch};

use crate::balancer::Balancer;
use crate::outlier::{INTERVAL, Outliers};
use crate::plan::Alarm;
use crate::plan::hashed::{Draft, Hashed};
use crate::policy::Policy;
use crate::status::Standing;
use crate::view::{Content, Seat, View};
use crate::world::World;

/// One cluster. The driver writes, everybody reads.
#[derive(Debug)]
pub(crate) struct Core {
    view: ArcSwap<View>,
    published: watch::Sender<Published>,
    tended: Mutex<Tended>,
    /// Told when a node failed so often in a row that [`Self::tend`] is not to wait.
    judge: Arc<Notify>,
    world: World,
}

/// What follows the view, and how it is judged. Its lock makes writers take turns; who picks never meets it.
#[derive(Debug)]
struct Tended {
    followers: Vec<Follower>,
    outliers: Outliers,
    /// When success rates are compared next.
    interval_ends: Instant,
    /// How often a node was ejected.
    ejections: u64,
    /// Reports on nodes that are not there any more, as succeeded and as failed.
    gone: (u64, u64),
}

/// A way of picking that follows the view.
#[derive(Debug)]
struct Follower {
    balancer: Weak<Balancer>,
    /// There while a table for it is being made, however that ends. One at a time: the next is for the nodes of then.
    in_making: Weak<Making>,
}

/// A table is being made.
#[derive(Debug)]
struct Making;

impl Follower {
    fn draft(&mut self) -> Option<Work> {
        if self.in_making.strong_count() > 0 {
            return None;
        }
        let draft = self.balancer.upgrade()?.plan().draft()?;
        let making = Arc::new(Making);
        self.in_making = Arc::downgrade(&making);
        Some(Work { balancer: Weak::clone(&self.balancer), draft, making })
    }
}

/// A table to be made for one way of picking, which goes on with the former one meanwhile.
#[derive(Debug)]
pub(crate) struct Work {
    balancer: Weak<Balancer>,
    draft: Draft,
    making: Arc<Making>,
}

impl Work {
    /// Makes the table, and further ones until it is the latest. It takes up to a tenth of a second each time, so it is no work
    /// for a task.
    pub(crate) fn carry_out(self, core: &Weak<Core>) {
        let mut next = Some(self);
        while let Some(Self { balancer, draft, making }) = next {
            let table = Arc::new(draft.make());
            next = core.upgrade().and_then(|core| core.take_table(&balancer, &table, making));
        }
    }
}

/// What is held at one moment, and how far it can be relied on.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) view: Arc<View>,
    pub(crate) standing: Standing,
}

impl Published {
    /// Whether a server or the disk said anything.
    pub(crate) fn is_known(&self) -> bool {
        self.standing != Standing::Unknown
    }
}

impl Tended {
    fn balancers(&self) -> impl Iterator<Item = Arc<Balancer>> {
        self.followers.iter().filter_map(|follower| follower.balancer.upgrade())
    }
}

impl Core {
    pub(crate) fn new(name: ClusterName, judge: Arc<Notify>, world: World) -> Self {
        let view = Arc::new(View::empty(name));
        Self {
            view: ArcSwap::new(Arc::clone(&view)),
            published: watch::Sender::new(Published { view, standing: Standing::Unknown }),
            tended: Mutex::new(Tended {
                followers: Vec::new(),
                outliers: Outliers::default(),
                interval_ends: world.now() + INTERVAL,
                ejections: 0,
                gone: (0, 0),
            }),
            judge,
            world,
        }
    }

    /// Adds a way of picking, which follows the view from now on while it lives. Given `outliers` hold for all of the cluster.
    pub(crate) fn balance(&self, policy: Policy, outliers: Option<Outliers>) -> Arc<Balancer> {
        // A first table is made before the lock is taken: whoever publishes waits for that.
        let (view, alarm) = (self.view(), self.alarm(&self.tended()));
        let urgent_at = alarm.failures;
        let balancer = Arc::new(Balancer::new(policy, &view, alarm, self.world.clone()));
        let mut tended = self.tended();
        tended.followers.push(Follower { balancer: Arc::downgrade(&balancer), in_making: Weak::new() });
        let now = self.world.now();
        if let Some(outliers) = outliers {
            tended.outliers = outliers;
            self.follow(&mut tended, &self.view(), now);
        } else if !Arc::ptr_eq(&view, &self.view()) || tended.outliers.urgent_at() != urgent_at {
            balancer.follow(&self.view(), self.alarm(&tended), now);
        }
        balancer
    }

    /// Replaces what is held in one step. `None` keeps the view and changes the standing alone.
    pub(crate) fn publish(&self, content: Option<Content>, standing: Standing, now: Instant) {
        let mut tended = self.tended();
        let view = match content {
            None => self.view(),
            Some(content) => {
                let held = self.view.load();
                let next = Arc::new(held.next(content, now));
                // Nodes that stay keep their counts, so what is missing is of those that went.
                let (before, after) = (held.reports(), next.reports());
                tended.gone.0 += before.0.saturating_sub(after.0);
                tended.gone.1 += before.1.saturating_sub(after.1);
                self.view.store(Arc::clone(&next));
                self.follow(&mut tended, &next, now);
                next
            }
        };
        self.published.send_replace(Published { view, standing });
    }

    /// Judges what calls of this program came to, and moves on what changes with time. To be called each second, and when
    /// it is told to.
    pub(crate) fn tend(&self, now: Instant) {
        let mut tended = self.tended();
        let interval_over = now >= tended.interval_ends;
        if interval_over {
            tended.interval_ends = now + INTERVAL;
        }
        let held = self.view.load();
        if let Some((next, changed)) = held.judged(&tended.outliers, interval_over, now) {
            let newly = |(next, held): &(&Seat, &Seat)| next.ejected().is_some() && held.ejected().is_none();
            tended.ejections += next.seats().iter().zip(held.seats()).filter(newly).count() as u64;
            let next = Arc::new(next);
            self.view.store(Arc::clone(&next));
            if changed {
                self.follow(&mut tended, &next, now);
            }
            // Where only what is remembered of nodes changed, nobody is told.
            self.published.send_if_modified(|published| {
                published.view = next;
                changed
            });
        }
        for balancer in tended.balancers() {
            if balancer.plan().ramping {
                balancer.follow(&self.view(), self.alarm(&tended), now);
            }
        }
    }

    /// The tables that are wanted now and not in the making. To be asked for after whatever changes plans.
    pub(crate) fn work(&self) -> Vec<Work> {
        self.tended().followers.iter_mut().filter_map(Follower::draft).collect()
    }

    /// A table was made. Answers with what is wanted by now instead.
    fn take_table(
        &self,
        balancer: &Weak<Balancer>,
        table: &Arc<Hashed>,
        making: Arc<Making>,
    ) -> Option<Work> {
        let mut tended = self.tended();
        let mut followers = tended.followers.iter_mut();
        let follower = followers.find(|follower| follower.balancer.ptr_eq(balancer))?;
        drop(making);
        balancer.upgrade()?.take_table(table);
        follower.draft()
    }

    fn follow(&self, tended: &mut Tended, view: &Arc<View>, now: Instant) {
        tended.followers.retain(|follower| follower.balancer.strong_count() > 0);
        for balancer in tended.balancers() {
            balancer.follow(view, self.alarm(tended), now);
        }
    }

    fn alarm(&self, tended: &Tended) -> Alarm {
        Alarm { failures: tended.outliers.urgent_at(), judge: Arc::clone(&self.judge) }
    }

    fn tended(&self) -> MutexGuard<'_, Tended> {
        self.tended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Reports of this program as succeeded and as failed, and how often a node was ejected, from the beginning on.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let tended = self.tended();
        let (successes, failures) = self.view.load().reports();
        (tended.gone.0 + successes, tended.gone.1 + failures, tended.ejections)
    }

    pub(crate) fn standing(&self) -> Standing {
        self.published.borrow().standing
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.subscribe()
    }
}
