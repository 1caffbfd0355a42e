//! The thread of a reactor: its targets, their connections, and what happens to them.
//!
//! Each turn of the loop takes what the network has to say, then what the clock has, then sleeps. What has happened is
//! always read before a time-out is declared, however much there is to read. While much is going on, the thread sleeps
//! in whole ticks and handles everything of a tick in one go, which halves the cost of a probe; while little is, it
//! wakes for each thing as it comes, and latencies are exact.

mod rounds;
mod slot;
mod spares;
mod timing;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use jcm_model::Check;
use mio::{Events, Poll};
use tracing::warn;

use super::admission::Admission;
use super::answer::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use super::lost::Lost;
use super::pauses::{Pauses, STEP};
use super::wheel::Wheel;
use super::{Command, Limits, Once, ReactorEngine, Shared, WAKER};
use crate::engine::reports::ReportSender;
use crate::engine::schedule::Schedule;
use crate::engine::{Report, Target, TargetKey};
use crate::outcome::Phases;
use slot::{Slot, State};
use spares::Spares;

/// The tick in which everything is handled in one go while much is going on.
const TICK: Duration = Duration::from_millis(10);

/// From so many rounds a tick on, ticks pay: five hundred probes a second.
const ROUNDS_A_TICK_MIN: u32 = 5;

/// Events taken at once. All that there are are taken before the clock is looked at.
const EVENTS_MAX: usize = 1_024;

/// For so long at most connections are opened in one turn. Where there are more to open than a thread can keep up with, they
/// wait, each cluster in a line of its own, and whatever has its connection already is asked in time.
const OPENING: Duration = TICK;

/// What is done between two looks at the clock: little enough that whatever happens has its time, and that a thread which
/// gets hardly any processor notices it.
const STRIDE: usize = 32;

/// How long a report that can turn nothing is kept while much is going on: to wake whoever takes them for each tick's worth
/// costs about a tenth of what the probes do.
const KEPT_FOR: Duration = Duration::from_millis(100);

/// How long to wait with a report that its receiver has no room for.
const RETRY_REPORT: Duration = Duration::from_millis(2);

/// The thread's state.
pub(super) struct Machine {
    shared: Arc<Shared>,
    limits: Limits,
    commands: Receiver<Command>,
    reports: ReportSender,
    poll: Poll,
    epoch: Instant,
    open: usize,
    spares: Spares,
    slots: Vec<Option<Slot>>,
    free: Vec<u32>,
    by_key: HashMap<TargetKey, u32>,
    wheel: Wheel,
    admission: Admission,
    pauses: Pauses,
    lost: Lost,
    /// Reports of this turn, and those that their receiver had no room for.
    unsent: VecDeque<Report>,
    /// Until when those may wait that nobody waits for, and whether there are others.
    kept_until: Instant,
    has_news: bool,
    /// It had none for the last ones: until it has, no round begins.
    is_full: bool,
    /// Targets whose round waits for that.
    held_back: Vec<u32>,
    /// Until then connections are opened in this turn.
    opens_until: Instant,
    serial: u32,
    rounds_in_tick: u32,
    in_flight: usize,
    ephemeral_from: u16,
    buffer: Box<[u8]>,
    request: Vec<u8>,
}

impl Machine {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: Receiver<Command>,
        reports: ReportSender,
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
            spares: Spares::default(),
            slots: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            wheel: Wheel::new(),
            pauses: Pauses::new(Instant::now()),
            lost: Lost::default(),
            unsent: VecDeque::new(),
            kept_until: epoch,
            has_news: false,
            is_full: false,
            held_back: Vec::new(),
            opens_until: epoch,
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
            let mut now;
            loop {
                now = self.wake();
                for (count, event) in events.iter().enumerate() {
                    if count % STRIDE == 0 {
                        self.fetch(
                            events.iter().skip(count).take(STRIDE).map(|event| rounds::target(event.token())),
                        );
                        now = self.wake();
                    }
                    if event.token() != WAKER {
                        self.event(event, now);
                    }
                }
                if events.iter().count() < EVENTS_MAX || !self.take_more(&mut events) {
                    break;
                }
            }
            if !self.obey() || self.is_full && !self.send() {
                return;
            }
            now = self.wake();
            self.opens_until = now + OPENING;
            self.wheel.expire(self.tick(now), &mut expired);
            if !self.is_full {
                // Those that waited longest come first.
                self.held_back.append(&mut expired);
                std::mem::swap(&mut self.held_back, &mut expired);
            }
            for ids in expired.chunks(STRIDE) {
                self.fetch(ids.iter().copied());
                for id in ids {
                    self.timer(*id, now);
                }
                now = self.wake();
            }
            expired.clear();
            for count in 1.. {
                let id = if now < self.opens_until { self.admission.next() } else { None };
                let Some(id) = id else { break };
                if count % STRIDE == 0 {
                    now = self.wake();
                }
                self.connect_admitted(id, now);
            }
            self.shared.in_flight.store(self.in_flight, Relaxed);
            if now >= tick_ends {
                is_busy = self.rounds_in_tick >= ROUNDS_A_TICK_MIN;
                self.rounds_in_tick = 0;
                tick_ends = now + TICK;
                self.tell_what_is_lost(now);
            }
            if (self.has_news || !is_busy || now >= self.kept_until) && !self.send() {
                return;
            }
        }
    }

    /// Has the processor fetch what is about to be needed of these targets: to wait for one after the other costs a twentieth
    /// of a probe, and here they come all at once.
    fn fetch(&self, ids: impl Iterator<Item = u32>) {
        let parts = ids.filter_map(|id| self.slots.get(id as usize)?.as_ref()).map(|slot| {
            u64::from(slot.restless)
                ^ u64::from(slot.waited.is_zero())
                ^ slot.target.generation
                ^ u64::from(slot.exchange.is_some())
        });
        std::hint::black_box(parts.fold(0, |sum, part| sum ^ part));
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
        if self.is_full {
            until = Some(until.map_or(now + RETRY_REPORT, |until| until.min(now + RETRY_REPORT)));
        }
        let mut wait = until.map(|until| until.saturating_duration_since(now));
        if self.admission.has_next() {
            // The last turn had not the time for all that is to be opened.
            self.pauses.sleep(now);
            wait = Some(Duration::ZERO);
        } else if is_busy {
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
                Ok(Command::Set(target)) => self.set(target, Schedule::first),
                Ok(Command::TakeOver(target)) => self.set(target, Schedule::soon),
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
        if !self.unsent.is_empty() && self.reports.send(&mut self.unsent).is_err() {
            return false;
        }
        self.is_full = !self.unsent.is_empty();
        self.has_news = self.is_full;
        true
    }

    /// Keeps a report until it is handed over. A success is news as long as it may turn a verdict.
    fn keep_report(&mut self, id: u32, report: Report) {
        let slot = self.slot(id);
        let is_success = report.outcome.is_success();
        let is_news = !is_success || slot.restless > 0;
        slot.restless = if is_success {
            slot.restless.saturating_sub(1)
        } else {
            slot.target.check.rise.max(slot.target.check.window)
        };
        if self.unsent.is_empty() {
            self.kept_until = report.at + KEPT_FOR;
        }
        self.has_news |= is_news;
        self.unsent.push_back(report);
    }

    fn set(&mut self, target: Target, first: fn(&Schedule, TargetKey, Instant) -> Instant) {
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
        let due = first(&schedule, key, now);
        let id = self.add(target, schedule.origin(), due, None);
        self.by_key.insert(key, id);
        self.arm(id, due);
    }

    fn once(&mut self, address: SocketAddr, check: Arc<Check>, answer: tokio::sync::oneshot::Sender<Once>) {
        let now = Instant::now();
        let target = Target { key: TargetKey(0), address, check, generation: 0 };
        let id = self.add(target, now, now, Some(answer));
        self.begin(id, now);
    }

    fn add(
        &mut self,
        target: Target,
        origin: Instant,
        due: Instant,
        once: Option<tokio::sync::oneshot::Sender<Once>>,
    ) -> u32 {
        let slot = Slot {
            state: State::Resting,
            connection: None,
            restless: target.check.rise,
            origin,
            due,
            owed: due,
            started: due,
            waited: Duration::ZERO,
            target,
            once,
            phases: Phases::default(),
            exchange: None,
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
}

/// The first port that this machine picks for outgoing connections.
fn ephemeral_from() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    // Where it cannot be read, every port may be.
    range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(0)
}
