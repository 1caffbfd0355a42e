//! The engine with one tokio task for each target.
//!
//! Simple and fair enough for thousands of targets: each task owns its prober and its connection, sleeps until its
//! slot, probes, reports. Probes of one target never overlap: what outlasts its interval skips the slots it missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jcm_model::TargetPolicy;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::schedule::Schedule;
use super::{Engine, Report, Stats, Target, TargetKey};
use crate::probe::{Dialer, OPENING_MAX, Prober, Stopwatch};

/// Probes each target in a task of its own.
#[derive(Debug)]
pub struct TaskEngine {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: TaskTracker,
    /// `None` once the engine was shut down.
    running: Mutex<Option<HashMap<TargetKey, Running>>>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    dialer: Dialer,
    reports: mpsc::Sender<Report>,
    rounds: AtomicU64,
    late_rounds: AtomicU64,
    overdue_rounds: AtomicU64,
    local_troubles: AtomicU64,
}

#[derive(Debug)]
struct Running {
    target: Target,
    task: AbortHandle,
}

impl TaskEngine {
    /// An engine without targets, which probes what `policy` permits and sends what it sees to `reports`. Give the
    /// channel a capacity of [`REPORT_QUEUE_MAX`](super::REPORT_QUEUE_MAX); while it is full, probing waits.
    ///
    /// # Panics
    /// Outside a tokio runtime, which it remembers to run its tasks on.
    pub fn new(policy: Arc<TargetPolicy>, reports: mpsc::Sender<Report>) -> Self {
        let shared = Shared {
            epoch: Instant::now(),
            dialer: Dialer::new(policy, OPENING_MAX),
            reports,
            rounds: AtomicU64::new(0),
            late_rounds: AtomicU64::new(0),
            overdue_rounds: AtomicU64::new(0),
            local_troubles: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            runtime: Handle::current(),
            tasks: TaskTracker::new(),
            running: Mutex::new(Some(HashMap::new())),
        }
    }

    /// Stops all probes and waits until their tasks are gone. Nothing that is set afterwards is probed.
    ///
    /// A task is stopped at its next wait, and no task works for long without one, so this needs no deadline.
    pub async fn shutdown(&self) {
        self.stop_all();
        self.tasks.wait().await;
    }

    fn stop_all(&self) {
        let stopped = self.running().take();
        stopped.into_iter().flatten().for_each(|(_, running)| running.task.abort());
        self.tasks.close();
    }

    fn running(&self) -> MutexGuard<'_, Option<HashMap<TargetKey, Running>>> {
        // Every change of the map is one call, so a panic elsewhere leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TaskEngine {
    fn drop(&mut self) {
        self.stop_all();
    }
}

impl Engine for TaskEngine {
    fn set(&self, target: Target) {
        let mut guard = self.running();
        let Some(running) = guard.as_mut() else { return };
        if running
            .get(&target.key)
            .is_some_and(|current| current.target == target && !current.task.is_finished())
        {
            return;
        }
        let replaced = if let Some(prober) = Prober::new(target.address, Arc::clone(&target.check)) {
            let task =
                self.tasks.spawn_on(run(target.clone(), prober, Arc::clone(&self.shared)), &self.runtime);
            running.insert(target.key, Running { task: task.abort_handle(), target })
        } else {
            warn!(address = %target.address, kind = target.check.kind.as_str(), "nothing probes this kind of check");
            running.remove(&target.key)
        };
        if let Some(replaced) = replaced {
            replaced.task.abort();
        }
    }

    fn remove(&self, key: TargetKey) {
        if let Some(removed) = self.running().as_mut().and_then(|running| running.remove(&key)) {
            removed.task.abort();
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            targets: self.running().as_ref().map_or(0, HashMap::len),
            rounds: self.shared.rounds.load(Relaxed),
            late_rounds: self.shared.late_rounds.load(Relaxed),
            overdue_rounds: self.shared.overdue_rounds.load(Relaxed),
            local_troubles: self.shared.local_troubles.load(Relaxed),
        }
    }
}

/// Probes one target until the task is aborted or nobody listens to its reports.
async fn run(target: Target, mut prober: Prober, shared: Arc<Shared>) {
    let schedule = Schedule::new(shared.epoch, target.key, target.check.interval);
    let mut slot = schedule.first(Instant::now());
    loop {
        sleep_until(slot).await;
        let late = slot.elapsed();
        if late <= schedule.late_max() {
            let mut watch = Stopwatch::start(target.check.timeout, schedule.late_max());
            let outcome = prober.probe(&shared.dialer, &mut watch).await;
            let (at, latency) = (Instant::now().into_std(), watch.elapsed());
            if watch.is_late() {
                shared.count_late(&target);
            } else {
                shared.rounds.fetch_add(1, Relaxed);
                shared.local_troubles.fetch_add(u64::from(outcome.is_local_trouble()), Relaxed);
                let report = Report { key: target.key, generation: target.generation, at, latency, outcome };
                if shared.reports.send(report).await.is_err() {
                    return;
                }
            }
        } else {
            shared.count_late(&target);
            shared.overdue_rounds.fetch_add(u64::from(late > target.check.interval), Relaxed);
        }
        slot = schedule.after(Instant::now());
    }
}

impl Shared {
    fn count_late(&self, target: &Target) {
        self.late_rounds.fetch_add(1, Relaxed);
        debug!(address = %target.address, "late round thrown away");
    }
}
