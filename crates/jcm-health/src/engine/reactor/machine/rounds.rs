//! One round of a target: connect, ask, read, and what it came to.
//!
//! It follows no redirect, unpacks no body, stores nothing that a node says, and sends no header that a user chose but
//! a validated `Host`.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use jcm_model::CheckKind;
use mio::net::TcpStream;
use mio::{Interest, Token};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tracing::warn;

use super::super::Once;
use super::super::answer::HEAD_BYTES_MAX;
use super::super::exchange::{self, Exchange, Step};
use super::super::talk::Talk;
use super::super::would_block;
use super::Machine;
use super::slot::{Connection, Slot, State};
use crate::engine::{Report, Target};
use crate::outcome::{Outcome, Phase, Phases};

/// A connection that was idle for longer is not used again: firewalls forget such connections without a word, and the
/// next probe would time out on a healthy node.
const IDLE_MAX: Duration = Duration::from_mins(1);

impl Machine {
    pub(super) fn begin(&mut self, id: u32, now: Instant) {
        self.rounds_in_tick += 1;
        self.in_flight += 1;
        let slot = self.slot(id);
        // Its last use was a little later than that.
        let is_kept = now.saturating_duration_since(slot.started) <= IDLE_MAX;
        slot.started = now;
        slot.waited = Duration::ZERO;
        slot.phases = Phases::default();
        if slot.connection.is_some() && is_kept {
            let at = slot.deadline();
            self.arm(id, at);
            self.ask(id, true, now);
        } else {
            self.close(id);
            self.open(id, now);
        }
    }

    /// Opens a connection, as soon as there is leave.
    pub(super) fn open(&mut self, id: u32, now: Instant) {
        let slot = self.slot(id);
        let (group, address) = (slot.group(), slot.target.address);
        // The policy is asked again here, although nodes were checked when they were written: what was permitted then, on
        // another server, may be this server's own port now.
        if self.limits.targets.permit(address).is_err() {
            self.conclude(id, Outcome::Forbidden, now, false);
        } else if self.admission.ask(group, id, now < self.opens_until) {
            self.connect(id, now);
        } else {
            let slot = self.slot(id);
            slot.state = State::Queued { since: now };
            let at = now + slot.schedule().late_max();
            self.arm(id, at);
        }
    }

    /// Leave has come: the clock of the probe stood still meanwhile, because to queue for this machine's own limits must
    /// not eat the node's time.
    pub(super) fn connect_admitted(&mut self, id: u32, now: Instant) {
        let slot = self.slot(id);
        if let State::Queued { since } = slot.state {
            slot.stood(now.saturating_duration_since(since));
        }
        self.connect(id, now);
    }

    pub(super) fn connect(&mut self, id: u32, now: Instant) {
        self.slot(id).state = State::Connecting;
        match self.dial(id) {
            Ok(connection) => {
                let slot = self.slot(id);
                slot.connection = Some(connection);
                let at = slot.deadline();
                self.open += 1;
                self.arm(id, at);
            }
            Err(error) => self.conclude(id, Outcome::from_io(&error, Phase::Connecting), now, false),
        }
    }

    pub(super) fn dial(&mut self, id: u32) -> io::Result<Connection> {
        let Target { address, ref check, .. } = self.slot(id).target;
        let speaks = check.kind != CheckKind::Tcp;
        self.serial = self.serial.wrapping_add(1);
        let (token, interest) = (token(id, self.serial), Interest::READABLE | Interest::WRITABLE);
        let stream = if let Some(mut stream) = self.spares.take(address) {
            connect(&stream, address, speaks)?;
            self.poll.registry().reregister(&mut stream, token, interest)?;
            stream
        } else {
            let mut stream = socket(address)?;
            connect(&stream, address, speaks)?;
            self.poll.registry().register(&mut stream, token, interest)?;
            if self.open + self.spares.len() >= self.limits.kept_max {
                self.spares.close_one();
            }
            stream
        };
        Ok(Connection { stream, talk: None, serial: self.serial })
    }

    /// Something happened to a connection.
    pub(super) fn event(&mut self, event: &mio::event::Event, now: Instant) {
        let (id, serial) = split(event.token());
        let has_more = event.is_readable() || event.is_read_closed() || event.is_error();
        match self.state_of(id, serial) {
            Some(State::Resting) if has_more => self.overhear(id, event.is_read_closed() || event.is_error()),
            Some(State::Connecting) if event.is_writable() || event.is_error() || event.is_write_closed() => {
                self.connected(id, event.is_error() || event.is_write_closed(), now);
            }
            Some(State::Writing { sent, reused }) if event.is_writable() || event.is_error() => {
                self.write(id, sent, reused, now);
            }
            Some(State::Resting | State::Reading { .. }) if event.is_writable() => self.flush(id, now),
            _ => {}
        }
        // What came together with the leave to write is told only once.
        if has_more && let Some(State::Reading { reused }) = self.state_of(id, serial) {
            self.read(id, reused, event.is_read_closed() || event.is_error(), now);
        }
    }

    /// Where the target stands whose connection this is, unless that is of the past.
    fn state_of(&self, id: u32, serial: u32) -> Option<State> {
        let slot = self.slots.get(id as usize)?.as_ref()?;
        slot.connection.as_ref().filter(|connection| connection.serial == serial).map(|_| slot.state)
    }

    pub(super) fn connected(&mut self, id: u32, is_in_doubt: bool, now: Instant) {
        let ephemeral_from = self.ephemeral_from;
        let slot = self.slot(id);
        let (address, group, kind) = (slot.target.address, slot.group(), slot.target.check.kind);
        let stream = &slot.connection.as_ref().expect("an event came for it").stream;
        let error = if is_in_doubt { stream.take_error().unwrap_or_else(Some) } else { None };
        // Where nobody listens on a port of this machine's own ephemeral range, the kernel may pick just that port as the
        // source: TCP then connects to itself, and a dead node would seem to live.
        let is_own =
            address.port() >= ephemeral_from && stream.local_addr().is_ok_and(|local| local == address);
        if let Some(error) = error {
            self.conclude(id, Outcome::from_io(&error, Phase::Connecting), now, false);
        } else if is_own {
            self.conclude(id, Outcome::Refused, now, false);
        } else if kind == CheckKind::Tcp {
            let slot = self.slot(id);
            slot.phases.connected = Some(now.saturating_duration_since(slot.started));
            self.hang_up(id);
            self.conclude(id, Outcome::Connected, now, false);
        } else {
            self.admission.give_back(group);
            let trust = self.limits.trust.clone();
            let slot = self.slot(id);
            slot.phases.connected = Some(now.saturating_duration_since(slot.started));
            // Leave is given back already.
            slot.state = State::Reading { reused: false };
            match Talk::start(address, &slot.target.check, &trust) {
                Ok(talk) => {
                    slot.connection.as_mut().expect("it is open").talk = talk.map(Box::new);
                    self.ask(id, false, now);
                }
                Err(outcome) => self.conclude(id, outcome, now, false),
            }
        }
    }

    /// Asks, on a connection that is open.
    fn ask(&mut self, id: u32, reused: bool, now: Instant) {
        let Slot { connection, target, state, .. } = self.slot(id);
        match connection.as_mut().and_then(|connection| connection.talk.as_mut()) {
            Some(talk) => {
                let step = talk.ask(target.address, &target.check);
                *state = State::Reading { reused };
                self.settle(id, step, reused, false, now);
            }
            None => self.write(id, 0, reused, now),
        }
    }

    /// Sends what a protocol has to say, as far as the network takes it.
    fn flush(&mut self, id: u32, now: Instant) {
        let Slot { connection: Some(Connection { stream, talk: Some(talk), .. }), state, .. } = self.slot(id)
        else {
            return;
        };
        match (talk.flush(stream), *state) {
            (Ok(()), _) => {}
            (Err(error), State::Reading { reused }) => {
                self.unanswered(id, reused, Outcome::from_io(&error, Phase::Writing), now);
            }
            (Err(_), _) => self.close(id),
        }
    }

    /// Something came while nothing was asked. To HTTP/1 that is the end of the stream, a farewell such as 408, or garbage:
    /// none of it is an answer to what is asked next. Other protocols keep themselves going in this way.
    fn overhear(&mut self, id: u32, is_ending: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let is_of_use = match &mut self.slot(id).connection {
            Some(Connection { stream, talk: Some(talk), .. }) if !is_ending => loop {
                match stream.read(&mut buffer) {
                    Ok(0) => break false,
                    Ok(count) if !talk.idle(&buffer[..count]) => break false,
                    Ok(count) if count < buffer.len() => break talk.flush(stream).is_ok(),
                    Ok(_) => {}
                    Err(error) => break would_block(&error) && talk.flush(stream).is_ok(),
                }
            },
            _ => false,
        };
        self.buffer = buffer;
        if !is_of_use {
            self.close(id);
        }
    }

    pub(super) fn write(&mut self, id: u32, sent: usize, reused: bool, now: Instant) {
        let mut request = std::mem::take(&mut self.request);
        let slot = self.slot(id);
        exchange::write_request(&mut request, slot.target.address, &slot.target.check);
        let stream = &slot.connection.as_ref().expect("it was opened").stream;
        let written = send(stream, &request[sent..]);
        let outcome = match written {
            Ok(count) if sent + count == request.len() => {
                slot.state = State::Reading { reused };
                None
            }
            Ok(count) => {
                slot.state = State::Writing { sent: sent + count, reused };
                None
            }
            Err(error) if would_block(&error) => {
                slot.state = State::Writing { sent, reused };
                None
            }
            Err(error) => {
                slot.state = State::Writing { sent, reused };
                Some(Outcome::from_io(&error, Phase::Writing))
            }
        };
        self.request = request;
        if let Some(outcome) = outcome {
            self.unanswered(id, reused, outcome, now);
        }
    }

    pub(super) fn read(&mut self, id: u32, reused: bool, is_ending: bool, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let step = loop {
            let slot = self.slot(id);
            let connection = slot.connection.as_mut().expect("an event came for it");
            let room = match connection.talk {
                Some(_) => buffer.len(),
                None => slot.exchange.as_deref().map_or(HEAD_BYTES_MAX + 1, Exchange::room).min(buffer.len()),
            };
            match receive(&connection.stream, &mut buffer[..room]) {
                Ok(0) => break slot.end(Outcome::Closed),
                Ok(count) => {
                    let step = slot.take(&buffer[..count], now);
                    // Less than there was room for is all there was, unless the end has come with it: that is told only
                    // once.
                    if step != Step::Waiting || (count < room && !is_ending) {
                        break step;
                    }
                }
                Err(error) if would_block(&error) => break Step::Waiting,
                Err(error) => break slot.end(Outcome::from_io(&error, slot.phase())),
            }
        };
        self.buffer = buffer;
        self.settle(id, step, reused, is_ending, now);
    }

    /// Does what follows from how far an answer has come.
    fn settle(&mut self, id: u32, step: Step, reused: bool, is_ending: bool, now: Instant) {
        match step {
            Step::Waiting => self.flush(id, now),
            // A server that gives an idle connection up may still say so: that was no answer to this question.
            Step::Done { outcome: outcome @ Outcome::UnexpectedStatus(408), .. } if reused => {
                self.unanswered(id, reused, outcome, now);
            }
            Step::Done { outcome, reusable } => {
                self.slot(id).exchange = None;
                // The node has ended it already, and says so only once.
                if reusable && !is_ending {
                    self.keep(id);
                } else {
                    self.hang_up(id);
                }
                self.conclude_open(id, outcome, now);
            }
            Step::Unanswered(outcome) => self.unanswered(id, reused, outcome, now),
        }
    }

    /// Servers close idle connections whenever they like, also while a request is on its way: no sign of trouble, so a
    /// fresh connection decides, within what is left of the same deadline.
    pub(super) fn unanswered(&mut self, id: u32, reused: bool, outcome: Outcome, now: Instant) {
        if reused {
            self.close(id);
            let slot = self.slot(id);
            slot.exchange = None;
            slot.phases = Phases::default();
            self.open(id, now);
        } else {
            self.conclude(id, outcome, now, false);
        }
    }

    /// Keeps the connection for the next round, where there are not too many.
    pub(super) fn keep(&mut self, id: u32) {
        let Some(connection) = &mut self.slot(id).connection else { return };
        // A protocol may have a last word after the answer, without which the node would not go on.
        let is_well = connection.talk.as_mut().is_none_or(|talk| talk.flush(&mut connection.stream).is_ok());
        if !is_well {
            self.close(id);
        } else if self.open > self.limits.kept_max {
            self.hang_up(id);
            if self.shared.unkept.fetch_add(1, Relaxed) == 0 {
                warn!(
                    limit = self.limits.kept_max,
                    "no more connections are kept between checks: the limit on descriptors is near, the rest opens one for each"
                );
            }
        }
    }

    /// A round is over, and its connection is not used again.
    pub(super) fn conclude(&mut self, id: u32, outcome: Outcome, now: Instant, is_late: bool) {
        self.close(id);
        self.slot(id).exchange = None;
        self.finish(id, outcome, now, is_late);
    }

    /// A round is over, and its connection was dealt with.
    pub(super) fn conclude_open(&mut self, id: u32, outcome: Outcome, now: Instant) {
        self.finish(id, outcome, now, false);
    }

    pub(super) fn finish(&mut self, id: u32, outcome: Outcome, now: Instant, is_late: bool) {
        self.leave_state(id);
        let slot = self.slot(id);
        let (due, started, timeout) = (slot.due, slot.started, slot.target.check.timeout);
        let (key, generation) = (slot.target.key, slot.target.generation);
        let (latency, phases) = (now.saturating_duration_since(started), slot.phases);
        let once = slot.once.take();
        let is_late = is_late || self.pauses.spoiled(started, timeout);
        if let Some(answer) = once {
            // Whoever asked may have gone away.
            let _ = answer.send(Once { outcome, latency, phases, is_late });
            self.remove(id);
            return;
        }
        if is_late {
            self.count_late(id);
        } else {
            self.shared.rounds.fetch_add(1, Relaxed);
            if outcome.is_local_trouble() {
                self.shared.local_troubles.fetch_add(1, Relaxed);
            }
            let lateness = started.saturating_duration_since(due);
            self.keep_report(id, Report { key, generation, at: now, latency, phases, lateness, outcome });
        }
        self.rest(id, is_late, now);
    }

    /// Gives back what the state holds.
    pub(super) fn leave_state(&mut self, id: u32) {
        let slot = self.slot(id);
        let (state, group) = (slot.state, slot.group());
        slot.state = State::Resting;
        match state {
            State::Resting => return,
            State::Queued { .. } => self.admission.withdraw(group, id),
            State::Connecting => self.admission.give_back(group),
            State::Writing { .. } | State::Reading { .. } => {}
        }
        self.in_flight -= 1;
    }

    /// Ends a connection that was as it should be: its socket may serve another one.
    fn hang_up(&mut self, id: u32) {
        let slot = self.slot(id);
        let address = slot.target.address;
        if let Some(connection) = slot.connection.take() {
            self.open -= 1;
            self.spares.give(connection.stream, address, self.limits.kept_max.saturating_sub(self.open));
        }
    }

    pub(super) fn close(&mut self, id: u32) {
        if self.slot(id).connection.take().is_some() {
            self.open -= 1;
        }
    }
}

/// A socket for connections to such addresses.
fn socket(address: SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A checker that is done closes with a reset, as HAProxy's does. An ordinary close by the side that speaks last
    // leaves a minute of TIME_WAIT for every probe, here or on the node, and on a hung node a connection that nobody
    // ever takes down. Nothing is lost: whatever is unsent or unread by then is not wanted.
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO))?;
    Ok(TcpStream::from_std(socket.into()))
}

/// Begins to connect. `speaks`: whatever is asked comes as soon as it is open.
fn connect(stream: &TcpStream, address: SocketAddr, speaks: bool) -> io::Result<()> {
    if speaks {
        // The question acknowledges the connection as well, which spares both sides a packet. It holds for one connection.
        sockopt::set_tcp_quickack(stream, false)?;
    }
    match rustix::net::connect(stream, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Sends without blocking. The call itself, because what the C library puts around it, a point at which a thread may be
/// cancelled, costs as much as all that a round does in this file.
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?)
}

fn receive(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(stream, buffer, RecvFlags::empty())?.0)
}

/// A target and which of its connections: an event may be of one that was closed since.
fn token(id: u32, serial: u32) -> Token {
    Token(id as usize | ((serial as usize) << 32))
}

/// Whose event it is.
pub(super) fn target(token: Token) -> u32 {
    split(token).0
}

fn split(Token(token): Token) -> (u32, u32) {
    let half = |bits: usize| u32::try_from(bits & 0xFFFF_FFFF).expect("32 bits");
    (half(token), half(token >> 32))
}
