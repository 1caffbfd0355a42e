//! The engine with a few threads of its own, each a reactor with its connections, its timers and its buffers.
//!
//! The async runtime is not on this path: what a probe costs is what its system calls cost. A target belongs to one
//! thread for good, so threads share nothing but counters. Whatever has to do with time, admission and bytes is decided
//! in pure parts (`wheel`, `pauses`, `admission`, `exchange`); `machine` holds the sockets.

mod admission;
mod answer;
#[cfg(test)]
mod corpus;
mod exchange;
mod lost;
mod machine;
mod pauses;
mod talk;
#[cfg(test)]
mod tests;
mod wheel;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jcm_model::{Check, CheckKind, TargetPolicy};
use mio::{Poll, Token, Waker};
use tokio::sync::oneshot;
use tracing::warn;

use super::reports::ReportSender;
use super::schedule::scatter;
use super::{Engine, Stats, Target, TargetKey};
use crate::{Outcome, Phases, Trust};
use machine::Machine;

/// Connections that one thread opens at once.
///
/// It is for nodes that swallow SYNs: 5,000 of them, given 0.8 s each second, keep 4,000 sockets waiting. Beyond that,
/// more sockets would only take descriptors (a process may hold 20,000) away from everything else.
const OPENING_MAX: usize = 4_096;

/// Orders that may wait: all targets of a large fleet are set at once when a server starts. A thread takes them within a
/// tick, and never waits for whoever gives them.
const COMMANDS_MAX: usize = 16_384;

/// The token of wake-ups. No target has it: its lower half is no id.
const WAKER: Token = Token(usize::MAX);

/// What an engine may take of the machine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads, at least one.
    pub threads: usize,
    /// Connections that are kept open between checks, over all threads; beyond it each check opens one and closes it.
    pub kept_max: usize,
    /// Whose certificates are believed.
    pub trust: Trust,
}

/// What a single probe came to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Once {
    /// What came back.
    pub(crate) outcome: Outcome,
    /// From its first action to its result.
    pub(crate) latency: Duration,
    pub(crate) phases: Phases,
    /// This process was away for so long that the outcome says nothing.
    pub(crate) is_late: bool,
}

/// Probes targets in threads of its own.
#[derive(Debug)]
pub struct ReactorEngine {
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    commands: SyncSender<Command>,
    waker: Waker,
    shared: Arc<Shared>,
    ended: Mutex<Option<(JoinHandle<()>, oneshot::Receiver<()>)>>,
}

/// What a thread is told.
#[derive(Debug)]
enum Command {
    Set(Target),
    TakeOver(Target),
    Remove(TargetKey),
    Once {
        address: SocketAddr,
        check: Arc<Check>,
        answer: oneshot::Sender<Once>,
    },
    /// Stand still, as a process does that gets no processor.
    #[cfg(test)]
    Stall(Duration),
    Stop,
}

/// What a thread and its handle share.
#[derive(Debug)]
struct Shared {
    epoch: Instant,
    /// It was woken and has not looked yet.
    is_woken: AtomicBool,
    targets: AtomicUsize,
    in_flight: AtomicUsize,
    rounds: AtomicU64,
    late_rounds: AtomicU64,
    skipped_rounds: AtomicU64,
    overdue_rounds: AtomicU64,
    local_troubles: AtomicU64,
    unkept: AtomicU64,
}

/// What a thread may do.
#[derive(Debug, Clone)]
struct Limits {
    opening_max: usize,
    kept_max: usize,
    targets: Arc<TargetPolicy>,
    trust: Trust,
}

impl ReactorEngine {
    /// An engine without targets, which probes what `policy` permits and sends what it sees to `reports`. Give the
    /// channel a capacity of [`REPORT_QUEUE_MAX`](super::REPORT_QUEUE_MAX); while it is full, no probe begins.
    ///
    /// # Errors
    /// When this machine has no thread or no descriptor left.
    pub fn start(policy: &Arc<TargetPolicy>, reports: &ReportSender, options: Options) -> io::Result<Self> {
        let count = options.threads.max(1);
        let limits = Limits {
            opening_max: OPENING_MAX,
            kept_max: options.kept_max / count,
            targets: Arc::clone(policy),
            trust: options.trust,
        };
        let threads = (0..count)
            .map(|number| Thread::start(number, reports, limits.clone()))
            .collect::<io::Result<_>>()?;
        Ok(Self { threads })
    }

    /// Whether it can carry out checks of this kind.
    pub(crate) fn probes(kind: CheckKind) -> bool {
        matches!(kind, CheckKind::Tcp | CheckKind::Http | CheckKind::Https | CheckKind::Grpc)
    }

    /// Probes an address once, now. `None`: the engine was shut down.
    pub(crate) async fn once(&self, address: SocketAddr, check: Arc<Check>) -> Option<Once> {
        let (answer, result) = oneshot::channel();
        // Any thread can: the port spreads them.
        self.thread(TargetKey(u64::from(address.port()))).tell(Command::Once { address, check, answer });
        result.await.ok()
    }

    /// Stops all probes and waits until the threads are gone. Nothing that is set afterwards is probed.
    pub async fn shutdown(&self) {
        for thread in &self.threads {
            thread.tell(Command::Stop);
        }
        for thread in &self.threads {
            let ended = thread.ended.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some((handle, ended)) = ended {
                // The sender goes with the thread, so this ends either way.
                let _ = ended.await;
                if handle.join().is_err() {
                    warn!("a reactor ended by a panic");
                }
            }
        }
    }

    fn thread(&self, key: TargetKey) -> &Thread {
        let count = self.threads.len() as u64;
        let index = usize::try_from(scatter(key.0) % count).expect("less than the number of threads");
        &self.threads[index]
    }

    #[cfg(test)]
    fn stall(&self, time: Duration) {
        self.threads.iter().for_each(|thread| thread.tell(Command::Stall(time)));
    }
}

impl Drop for ReactorEngine {
    fn drop(&mut self) {
        // The threads end by themselves: nobody waits for them here.
        self.threads.iter().for_each(|thread| thread.tell(Command::Stop));
    }
}

impl Engine for ReactorEngine {
    fn set(&self, target: Target) {
        self.thread(target.key).tell(Command::Set(target));
    }

    fn take_over(&self, target: Target) {
        self.thread(target.key).tell(Command::TakeOver(target));
    }

    fn remove(&self, key: TargetKey) {
        self.thread(key).tell(Command::Remove(key));
    }

    fn stats(&self) -> Stats {
        self.threads.iter().fold(Stats::default(), |sum, Thread { shared, .. }| Stats {
            targets: sum.targets + shared.targets.load(Ordering::Relaxed),
            in_flight: sum.in_flight + shared.in_flight.load(Ordering::Relaxed),
            rounds: sum.rounds + shared.rounds.load(Ordering::Relaxed),
            late_rounds: sum.late_rounds + shared.late_rounds.load(Ordering::Relaxed),
            skipped_rounds: sum.skipped_rounds + shared.skipped_rounds.load(Ordering::Relaxed),
            overdue_rounds: sum.overdue_rounds + shared.overdue_rounds.load(Ordering::Relaxed),
            local_troubles: sum.local_troubles + shared.local_troubles.load(Ordering::Relaxed),
            unkept: sum.unkept + shared.unkept.load(Ordering::Relaxed),
        })
    }
}

impl Thread {
    fn start(number: usize, reports: &ReportSender, limits: Limits) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared {
            epoch: Instant::now(),
            is_woken: AtomicBool::new(false),
            targets: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            rounds: AtomicU64::new(0),
            late_rounds: AtomicU64::new(0),
            skipped_rounds: AtomicU64::new(0),
            overdue_rounds: AtomicU64::new(0),
            local_troubles: AtomicU64::new(0),
            unkept: AtomicU64::new(0),
        });
        let (commands, orders) = sync_channel(COMMANDS_MAX);
        let machine = Machine::new(Arc::clone(&shared), orders, reports.clone(), poll, limits);
        let (alive, ended) = oneshot::channel();
        let handle = std::thread::Builder::new().name(format!("jcm-checks-{number}")).spawn(move || {
            let _alive = alive;
            machine.run();
        })?;
        Ok(Self { commands, waker, shared, ended: Mutex::new(Some((handle, ended))) })
    }

    fn tell(&self, command: Command) {
        // A thread that has ended was told to.
        if self.commands.send(command).is_ok()
            && !self.shared.is_woken.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            // It looks by itself, a little later.
            warn!(%error, "a reactor could not be woken");
        }
    }
}

impl Shared {
    /// Called before the orders are read: whoever gives one afterwards wakes the thread again.
    fn woken(&self, _orders: &Receiver<Command>) {
        self.is_woken.store(false, Ordering::Release);
    }
}

/// Whether there is only nothing to read, or no room to write.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
