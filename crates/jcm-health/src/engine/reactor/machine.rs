//! The thread of a reactor: its targets, their connections, and what happens to them.
//!
//! Each turn of the loop takes what the network has to say, then what the clock has, then sleeps. What has happened is
//! always read before a time-out is declared, however much there is to read. While much is going on, the thread sleeps
//! in whole ticks and handles everything of a tick in one go, which halves the cost of a probe; while little is, it
//! wakes for each thing as it comes, and latencies are exact.

mod rounds;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use jcm_model::Check;
use mio::net::TcpStream;
use mio::{Events, Poll};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;
use tracing::warn;

use super::admission::{Admission, Group};
use super::answer::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use super::exchange::{Exchange, Step};
use super::pauses::{Pauses, STEP};
use super::talk::Talk;
use super::wheel::Wheel;
use super::{Command, Limits, Once, ReactorEngine, Shared, WAKER};
use crate::engine::schedule::Schedule;
use crate::engine::{Report, Target, TargetKey};
use crate::outcome::{LocalTrouble, Outcome, Phase, Phases};

/// The tick in which everything is handled in one go while much is going on.
const TICK: Duration = Duration::from_millis(10);

/// From so many rounds a tick on, ticks pay: five hundred probes a second.
const ROUNDS_A_TICK_MIN: u32 = 5;

/// Events taken at once. All that there are are taken before the clock is looked at.
const EVENTS_MAX: usize = 1_024;

/// How long to wait with a report that its receiver has no room for.
const RETRY_REPORT: Duration = Duration::from_millis(2);

/// The thread's state.
pub(super) struct Machine {
    shared: Arc<Shared>,
    limits: Limits,
    commands: Receiver<Command>,
    reports: Sender<Report>,
    poll: Poll,
    epoch: Instant,
    open: usize,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_key: HashMap<TargetKey, u32>,
    wheel: Wheel,
    admission: Admission,
    pauses: Pauses,
    /// Reports that their receiver had no room for. While there are any, no round begins.
    unsent: VecDeque<Report>,
    /// Targets whose round waits for that.
    held_back: Vec<u32>,
    serial: u32,
    rounds_in_tick: u32,
    in_flight: usize,
    ephemeral_from: u16,
    buffer: Box<[u8]>,
    request: Vec<u8>,
}

/// One target.
struct Slot {
    target: Target,
    group: Group,
    schedule: Schedule,
    /// When the round that is awaited is to begin.
    due: Instant,
    state: State,
    connection: Option<Connection>,
    started: Instant,
    deadline: Instant,
    phases: Phases,
    exchange: Exchange,
    /// Asked once, by somebody who waits.
    once: Option<tokio::sync::oneshot::Sender<Once>>,
}

impl Slot {
    fn talk(&self) -> Option<&Talk> {
        self.connection.as_ref()?.talk.as_deref()
    }

    /// How far the answer is.
    fn phase(&self) -> Phase {
        match self.talk() {
            Some(talk) => talk.phase(),
            None if self.exchange.is_empty() => Phase::Waiting,
            None => Phase::Reading,
        }
    }

    /// Takes a part of the answer.
    fn take(&mut self, bytes: &[u8], now: Instant) -> Step {
        let since = now.saturating_duration_since(self.started);
        let Some(talk) = self.connection.as_mut().and_then(|connection| connection.talk.as_mut()) else {
            self.phases.answering.get_or_insert(since);
            return self.exchange.take(bytes, &self.target.check);
        };
        let was_securing = talk.phase() == Phase::Securing;
        let step = talk.take(bytes, &mut self.exchange, &self.target.check);
        let phase = talk.phase();
        if was_securing && phase != Phase::Securing {
            self.phases.secured = Some(since);
        }
        if phase == Phase::Reading {
            self.phases.answering.get_or_insert(since);
        }
        step
    }

    /// No more of the answer comes.
    fn end(&self, with: Outcome) -> Step {
        match self.talk() {
            Some(talk) => talk.end(with, &self.exchange, &self.target.check),
            None => self.exchange.end(with, &self.target.check),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Between rounds.
    Resting,
    /// A round waits for leave to open a connection, since then.
    Queued {
        since: Instant,
    },
    Connecting,
    /// So much of the request was taken.
    Writing {
        sent: usize,
        reused: bool,
    },
    Reading {
        reused: bool,
    },
}

struct Connection {
    stream: TcpStream,
    /// What is spoken on it, where that is more than HTTP/1.
    talk: Option<Box<Talk>>,
    /// Tells events of this connection from those of an earlier one.
    serial: u32,
    idle_since: Instant,
}

impl Machine {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        reports: Sender<Report>,
        poll: Poll,
        limits: Limits,
    ) -> Self {
        let epoch = shared.epoch;
        Self {
            shared,
            admission: Admission::new(limits.opening_max),
            limits,
            commands,
            reports,
            poll,
            epoch,
            open: 0,
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            wheel: Wheel::new(),
            pauses: Pauses::new(Instant::now()),
            unsent: VecDeque::new(),
            held_back: Vec::new(),
            serial: 0,
            rounds_in_tick: 0,
            in_flight: 0,
            ephemeral_from: ephemeral_from(),
            buffer: vec![0; HEAD_BYTES_MAX + BODY_BYTES_MAX + 1].into(),
            request: Vec::new(),
        }
    }

    /// Works until told to stop, or until nobody listens to reports.
    pub(super) fn run(mut self) {
        self.work();
        self.shared.targets.store(0, Relaxed);
    }

    fn work(&mut self) {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut expired = Vec::new();
        let mut is_busy = false;
        let mut tick_ends = self.epoch;
        loop {
            self.sleep(&mut events, is_busy);
            loop {
                let now = self.wake();
                for event in &events {
                    if event.token() != WAKER {
                        self.event(event, now);
                    }
                }
                if events.iter().count() < EVENTS_MAX || !self.take_more(&mut events) {
                    break;
                }
            }
            if !self.obey() || !self.send() {
                return;
            }
            let now = self.wake();
            self.wheel.expire(self.tick(now), &mut expired);
            for id in expired.drain(..) {
                self.timer(id, now);
            }
            while let Some(id) = self.admission.next() {
                self.connect_admitted(id, now);
            }
            if !self.send() {
                return;
            }
            self.shared.in_flight.store(self.in_flight, Relaxed);
            if now >= tick_ends {
                is_busy = self.rounds_in_tick >= ROUNDS_A_TICK_MIN;
                self.rounds_in_tick = 0;
                tick_ends = now + TICK;
            }
        }
    }

    fn wake(&mut self) -> Instant {
        let now = Instant::now();
        self.pauses.wake(now);
        now
    }

    /// Sleeps until something may have happened, and takes what has.
    fn sleep(&mut self, events: &mut Events, is_busy: bool) {
        let now = Instant::now();
        let mut until = self.wheel.next().map(|tick| self.epoch + Duration::from_millis(tick));
        if self.in_flight > 0 {
            until = Some(until.map_or(now + STEP, |until| until.min(now + STEP)));
        }
        if !self.unsent.is_empty() {
            until = Some(until.map_or(now + RETRY_REPORT, |until| until.min(now + RETRY_REPORT)));
        }
        let mut wait = until.map(|until| until.saturating_duration_since(now));
        if is_busy {
            let into = now.saturating_duration_since(self.epoch).as_nanos() % TICK.as_nanos();
            let rest =
                TICK.saturating_sub(Duration::from_nanos(u64::try_from(into).expect("less than a tick")));
            self.pauses.sleep(now + rest);
            std::thread::sleep(rest);
            wait = Some(Duration::ZERO);
        } else {
            // Nothing is under way: however long it sleeps, nothing can be missed.
            self.pauses.sleep(now + wait.unwrap_or(Duration::from_hours(24)));
        }
        self.poll(events, wait);
    }

    fn take_more(&mut self, events: &mut Events) -> bool {
        self.poll(events, Some(Duration::ZERO));
        !events.is_empty()
    }

    fn poll(&mut self, events: &mut Events, wait: Option<Duration>) {
        events.clear();
        if let Err(error) = self.poll.poll(events, wait)
            && error.kind() != io::ErrorKind::Interrupted
        {
            // Only a descriptor that is not one leads here.
            warn!(%error, "the reactor cannot wait for the network");
            std::thread::sleep(TICK);
        }
    }

    /// Carries out what the engine was told. Answers whether to go on.
    fn obey(&mut self) -> bool {
        self.shared.woken(&self.commands);
        loop {
            match self.commands.try_recv() {
                Ok(Command::Set(target)) => self.set(target),
                Ok(Command::Remove(key)) => {
                    if let Some(id) = self.by_key.remove(&key) {
                        self.remove(id);
                    }
                }
                Ok(Command::Once { address, check, answer }) => self.once(address, check, answer),
                #[cfg(test)]
                Ok(Command::Stall(time)) => std::thread::sleep(time),
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => {
                    self.shared.targets.store(self.by_key.len(), Relaxed);
                    return true;
                }
            }
        }
    }

    /// Hands reports over as far as there is room. Answers whether anybody listens.
    fn send(&mut self) -> bool {
        while let Some(report) = self.unsent.pop_front() {
            match self.reports.try_send(report) {
                Ok(()) => {}
                Err(TrySendError::Full(report)) => {
                    self.unsent.push_front(report);
                    return true;
                }
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        let now = Instant::now();
        for id in std::mem::take(&mut self.held_back) {
            self.timer(id, now);
        }
        true
    }

    fn set(&mut self, target: Target) {
        if let Some(id) = self.by_key.get(&target.key).copied() {
            if self.slots[id as usize].as_ref().is_some_and(|slot| slot.target == target) {
                return;
            }
            self.remove(id);
            self.by_key.remove(&target.key);
        }
        if !ReactorEngine::probes(target.check.kind) {
            warn!(address = %target.address, kind = target.check.kind.as_str(), "nothing probes this kind of check");
            return;
        }
        let (key, now) = (target.key, Instant::now());
        let schedule = Schedule::new(self.epoch, key, target.check.interval);
        let due = schedule.first(now);
        let id = self.add(target, schedule, due, None);
        self.by_key.insert(key, id);
        self.arm(id, due);
    }

    fn once(&mut self, address: SocketAddr, check: Arc<Check>, answer: tokio::sync::oneshot::Sender<Once>) {
        let now = Instant::now();
        let target = Target { key: TargetKey(0), address, check, generation: 0 };
        let schedule = Schedule::new(now, target.key, target.check.interval);
        let id = self.add(target, schedule, now, Some(answer));
        self.begin(id, now);
    }

    fn add(
        &mut self,
        target: Target,
        schedule: Schedule,
        due: Instant,
        once: Option<tokio::sync::oneshot::Sender<Once>>,
    ) -> u32 {
        let slot = Slot {
            group: Arc::as_ptr(&target.check).addr(),
            target,
            schedule,
            due,
            state: State::Resting,
            connection: None,
            started: due,
            deadline: due,
            phases: Phases::default(),
            exchange: Exchange::default(),
            once,
        };
        if let Some(id) = self.free.pop() {
            self.slots[id as usize] = Some(slot);
            return id;
        }
        self.slots.push(Some(slot));
        u32::try_from(self.slots.len() - 1).expect("fewer targets than numbers")
    }

    fn remove(&mut self, id: u32) {
        self.close(id);
        self.leave_state(id);
        self.wheel.cancel(id);
        self.held_back.retain(|held| *held != id);
        self.slots[id as usize] = None;
        self.free.push(id);
    }

    fn slot(&mut self, id: u32) -> &mut Slot {
        self.slots[id as usize].as_mut().expect("whoever has an id has a target")
    }

    /// The time of a target has come: for its round, or for the end of it.
    fn timer(&mut self, id: u32, now: Instant) {
        let is_held_back = !self.unsent.is_empty();
        let slot = self.slot(id);
        match slot.state {
            State::Resting => {
                if is_held_back {
                    self.held_back.push(id);
                } else if now.saturating_duration_since(slot.due) > slot.schedule.late_max() {
                    let is_overdue = now.saturating_duration_since(slot.due) > slot.target.check.interval;
                    self.shared.overdue_rounds.fetch_add(u64::from(is_overdue), Relaxed);
                    self.count_late(id);
                    self.rest(id, now);
                } else {
                    self.begin(id, now);
                }
            }
            State::Queued { since } => {
                let late_max = slot.schedule.late_max();
                if now.saturating_duration_since(since) >= late_max {
                    self.conclude(id, Outcome::Local(LocalTrouble::Crowded), now, true);
                } else {
                    self.arm(id, since + late_max);
                }
            }
            _ if now < slot.deadline => {
                let at = slot.deadline;
                self.arm(id, at);
            }
            State::Connecting => self.conclude(id, Outcome::TimedOut(Phase::Connecting), now, false),
            State::Writing { .. } => self.conclude(id, Outcome::TimedOut(Phase::Writing), now, false),
            State::Reading { .. } => {
                let with = Outcome::TimedOut(slot.phase());
                match slot.end(with) {
                    Step::Done { outcome, .. } | Step::Unanswered(outcome) => {
                        self.conclude(id, outcome, now, false);
                    }
                    Step::Waiting => unreachable!("an end is an end"),
                }
            }
        }
    }

    fn tick(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Comes back to the target at the first tick at which the instant is over.
    fn arm(&mut self, id: u32, at: Instant) {
        let nanos = at.saturating_duration_since(self.epoch).as_nanos();
        self.wheel.set(id, u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX - 1));
    }
}

/// The first port that this machine picks for outgoing connections.
fn ephemeral_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    // Where it cannot be read, every port may be.
    range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(0)
}
