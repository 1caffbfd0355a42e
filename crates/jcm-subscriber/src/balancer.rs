//! One way of picking from one cluster: a policy, and the plan that follows each view of the cluster.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::alloc::SlotNumber;
use crate::plan::hashed::Hashed;
use crate::plan::{Alarm, AllCalls, Ground, Plan};
use crate::policy::Policy;
use crate::retry::Spent;
use crate::view::View;
use crate::world::World;

/// What the handles from one subscription share. The core that it belongs to writes, everybody reads.
#[derive(Debug)]
pub(crate) struct Balancer {
    generation: Generation,
    plan: ArcSwap<Plan>,
    slot: SlotNumber,
    policy: Policy,
    all_calls: Arc<AllCalls>,
    /// What calls that are made again have used up. Its lock is for them alone: a pick does not meet it.
    spent: Mutex<Spent>,
    pub(crate) world: World,
}

/// The number of the current plan, on a cache line of its own: every pick reads it, and it is written once a plan.
#[derive(Debug)]
#[repr(align(64))]
struct Generation(AtomicU64);

impl Balancer {
    pub(crate) fn new(policy: Policy, view: &Arc<View>, alarm: Alarm, world: World) -> Self {
        let slot = SlotNumber::take();
        let all_calls = Arc::default();
        let now = world.now();
        let ground = ground(&policy, &all_calls, &world);
        let plan = Plan::new(&ground, None, view, alarm, now);
        Self {
            generation: Generation(AtomicU64::new(plan.generation)),
            plan: ArcSwap::from_pointee(plan),
            slot,
            policy,
            all_calls,
            spent: Mutex::new(Spent::new(now)),
            world,
        }
    }

    pub(crate) fn spent(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays the view out anew. One at a time, as for everything that replaces the plan: its core sees to that.
    pub(crate) fn follow(&self, view: &Arc<View>, alarm: Alarm, now: Instant) {
        let ground = ground(&self.policy, &self.all_calls, &self.world);
        self.replace(Plan::new(&ground, Some(&self.plan.load()), view, alarm, now));
    }

    /// Looks up in this table from now on, where the plan lacks its own. It is newer than the one before, though not always
    /// for the nodes of today.
    pub(crate) fn take_table(&self, table: &Arc<Hashed>) {
        if let Some(next) = self.plan.load().with_table(table) {
            self.replace(next);
        }
    }

    fn replace(&self, next: Plan) {
        let generation = next.generation;
        self.plan.store(Arc::new(next));
        // After the plan: a thread that sees this number finds a plan at least as new.
        self.generation.0.store(generation, Ordering::Release);
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.0.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn slot(&self) -> usize {
        self.slot.get()
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        self.plan.load_full()
    }
}

fn ground<'a>(policy: &'a Policy, all_calls: &'a Arc<AllCalls>, world: &World) -> Ground<'a> {
    let chance = world.chance();
    let client = if chance.is_some() { 0 } else { this_client() };
    Ground { policy, all_calls, client, chance, tables_later: !world.is_fake() }
}

/// A number that tells this process from others.
fn this_client() -> u64 {
    static CLIENT: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u8));
    *CLIENT
}
