//! What other servers' own probes say of nodes that fail here: whom to ask, in which calls, and what is known.
//!
//! A node is asked about in rounds. A round goes to all servers that can be asked, a few at once and the rest in turn, and
//! is open until one of them reaches the node or all of them answered or had their time: that nobody reaches it is
//! nothing that a part of them can tell. What was asked before a pause, of another form of the node, or too long ago is
//! not known.
//!
//! Pure: time is an argument, calls are values that somebody else carries out. What follows for the verdict is the
//! judge's business.

mod queue;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use jcm_health::{Opinion, TargetKey};
use jcm_model::{Check, ClusterName, NodeId, Revision, ServerId, Timestamp};

use super::records::KeyMap;
use crate::peers::{Answer, Question, Said};
use queue::{Queue, Queued};

/// Servers that are asked about a node at once: with up to nine servers that is everybody else, so that a dead node is
/// down in time. The others of a larger group are asked when these do not reach it.
const SERVERS_MAX: usize = 8;

/// Rounds that are tried when nobody answers, before that counts as "nobody can be asked": a call may be lost with the
/// connection of a server that is there again a moment later.
const ROUNDS_MAX: u8 = 2;

/// Beyond the policy's timeout, an answer has this long: there and back, and a place among the other's probes.
pub(super) const GRACE: Duration = Duration::from_millis(200);

/// Questions in one call: some 20 KB.
pub(super) const CALL_QUESTIONS_MAX: usize = 256;

/// Questions under way to one server: as many as it probes at once.
pub(super) const UNDER_WAY_MAX: usize = 1_024;

/// A question that waited for its turn for longer is not asked any more: with this and the longest usual timeout a
/// verdict is out within the five seconds that a mass of failures may take.
const WAIT_MAX: Duration = Duration::from_secs(4);

/// Answers that are kept for each node, for people.
const KEPT_MAX: usize = 4;

/// What is known, and who is being asked.
#[derive(Debug, Default)]
pub(super) struct Opinions {
    rounds: KeyMap<Round>,
    servers: BTreeMap<ServerId, Line>,
    under_way: BTreeMap<u64, Sent>,
    last_number: u64,
    kept: KeyMap<VecDeque<Vouched>>,
}

/// The node that is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) key: TargetKey,
    pub(super) cluster: &'a ClusterName,
    pub(super) node: &'a NodeId,
    pub(super) birth: Revision,
    pub(super) check: &'a Check,
}

/// What is known of other servers' probes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// Nobody was asked lately.
    Unasked,
    /// Some answer is still due.
    Pending,
    /// Nobody answered in time, and asking again may help.
    Silent,
    /// Nobody answered in time, again.
    SilentAgain,
    /// This server's probe failed too, and nobody's who answered succeeded.
    Failed(&'a ServerId),
    /// This server reaches the node.
    Reached(&'a ServerId),
}

/// Questions to be sent to one server now.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) to: ServerId,
    pub(super) questions: Vec<Question>,
    pub(super) within: Duration,
}

/// What another server's probe found, for people.
#[derive(Debug, Clone)]
pub(super) struct Vouched {
    pub(super) server: ServerId,
    pub(super) at: Timestamp,
    pub(super) said: Said,
    pub(super) latency: Duration,
    pub(super) outcome: String,
}

#[derive(Debug)]
struct Round {
    number: u64,
    birth: Revision,
    /// When the last of the questions was sent, or made.
    asked: Instant,
    /// How many rounds in a row nobody answered, before this one.
    silent_before: u8,
    /// Who may still answer.
    due: Vec<ServerId>,
    /// Who is asked when those do not reach the node.
    rest: Option<Box<Rest>>,
    reached: Option<ServerId>,
    failed: Option<ServerId>,
}

/// Servers that were not asked yet, the best last, and the question.
#[derive(Debug)]
struct Rest {
    servers: Vec<ServerId>,
    question: Question,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct Line {
    queue: Queue,
    under_way: usize,
    /// Its last call had no answer.
    mute: bool,
}

#[derive(Debug)]
struct Sent {
    to: ServerId,
    nodes: Vec<(TargetKey, u64)>,
    due: Instant,
}

impl Opinions {
    /// Begins a round about the node, unless one is open. `servers` are those that can be asked, the best first.
    pub(super) fn ask(&mut self, subject: Subject<'_>, servers: &[ServerId], now: Instant) {
        let before = self.rounds.get(&subject.key).filter(|round| round.birth == subject.birth);
        if servers.is_empty() || before.is_some_and(|round| !round.due.is_empty()) {
            return;
        }
        let silent_before = before.map_or(0, |round| match round.known() {
            Known::Silent | Known::SilentAgain => round.silent_before.saturating_add(1),
            _ => 0,
        });
        self.last_number += 1;
        let rest = Rest {
            servers: servers.iter().rev().cloned().collect(),
            question: Question {
                cluster: subject.cluster.clone(),
                node: subject.node.clone(),
                birth: subject.birth,
            },
            timeout: subject.check.timeout,
        };
        let round = Round {
            number: self.last_number,
            birth: subject.birth,
            asked: now,
            silent_before,
            due: Vec::new(),
            rest: Some(Box::new(rest)),
            reached: None,
            failed: None,
        };
        self.rounds.insert(subject.key, round);
        self.go_on(subject.key, now);
    }

    /// What is known of the node in this form now. What is older than two intervals and the time of an answer is not.
    pub(super) fn known(&self, subject: Subject<'_>, now: Instant) -> Known<'_> {
        let Some(round) = self.rounds.get(&subject.key).filter(|round| round.birth == subject.birth) else {
            return Known::Unasked;
        };
        let fresh = 2 * subject.check.interval + subject.check.timeout + GRACE;
        match round.known() {
            Known::Pending => Known::Pending,
            _ if now.saturating_duration_since(round.asked) > fresh => Known::Unasked,
            known => known,
        }
    }

    /// The calls that are to be made now.
    pub(super) fn calls(&mut self, now: Instant) -> Vec<Call> {
        let mut calls = Vec::new();
        for (server, line) in &mut self.servers {
            while line.under_way < UNDER_WAY_MAX {
                let open = |queued: &Queued| {
                    self.rounds.get(&queued.key).is_some_and(|round| round.number == queued.round)
                };
                let room = CALL_QUESTIONS_MAX.min(UNDER_WAY_MAX - line.under_way);
                let Some((timeout, taken)) = line.queue.take(room, open) else { break };
                self.last_number += 1;
                let within = timeout + GRACE;
                let nodes: Vec<_> = taken.iter().map(|queued| (queued.key, queued.round)).collect();
                line.under_way += nodes.len();
                for (key, _) in &nodes {
                    self.rounds.entry(*key).and_modify(|round| round.asked = now);
                }
                self.under_way
                    .insert(self.last_number, Sent { to: server.clone(), nodes, due: now + within });
                calls.push(Call {
                    number: self.last_number,
                    to: server.clone(),
                    questions: taken.into_iter().map(|queued| queued.question).collect(),
                    within,
                });
            }
        }
        calls
    }

    /// A call has ended: with one answer for each question, or without any. Answers the nodes of which more is known.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answers: Option<Vec<Answer>>,
        now: Instant,
        at: Timestamp,
    ) -> Vec<TargetKey> {
        // One that had its time was given up already.
        let Some(sent) = self.under_way.remove(&number) else { return Vec::new() };
        let answers = answers.filter(|answers| answers.len() == sent.nodes.len() && now <= sent.due);
        let Some(answers) = answers else { return self.unanswered(sent, now) };
        if let Some(line) = self.servers.get_mut(&sent.to) {
            line.under_way = line.under_way.saturating_sub(sent.nodes.len());
            line.mute = false;
        }
        let mut known = Vec::new();
        for ((key, round), answer) in sent.nodes.into_iter().zip(answers) {
            let Some(round) = self.rounds.get_mut(&key).filter(|open| open.number == round) else { continue };
            round.due.retain(|server| *server != sent.to);
            match answer.said {
                Said::Reached => round.reached = Some(sent.to.clone()),
                Said::Failed if !answer.suspended => round.failed = Some(sent.to.clone()),
                Said::Failed | Said::Nothing => {}
            }
            let kept = self.kept.entry(key).or_default();
            kept.truncate(KEPT_MAX - 1);
            kept.push_front(Vouched {
                server: sent.to.clone(),
                at,
                said: answer.said,
                latency: answer.latency,
                outcome: answer.outcome,
            });
            known.extend(self.go_on(key, now));
        }
        known
    }

    /// Gives up what had its time. Answers the nodes of which no more answer is due.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<TargetKey> {
        let over = self.under_way.iter().filter(|(_, sent)| now > sent.due).map(|(number, _)| *number);
        let over: Vec<u64> = over.collect();
        let mut known = Vec::new();
        for number in over {
            if let Some(sent) = self.under_way.remove(&number) {
                known.extend(self.unanswered(sent, now));
            }
        }
        let mut waited = Vec::new();
        for (server, line) in &mut self.servers {
            let too_long = |since: Instant| now.saturating_duration_since(since) > WAIT_MAX;
            waited.extend(line.queue.expire(too_long).map(|queued| (server.clone(), queued)));
        }
        for (server, queued) in waited {
            known.extend(self.give_up(&server, queued.key, queued.round, now));
        }
        known
    }

    /// The node answers here: nothing that was said of its failures matters any longer.
    pub(super) fn settle(&mut self, key: TargetKey) {
        self.rounds.remove(&key);
    }

    /// This process was away: what was asked before says nothing about what comes after, and whether others answered in
    /// time cannot be told.
    pub(super) fn interrupt(&mut self) {
        self.rounds.clear();
        self.under_way.clear();
        self.servers.clear();
    }

    /// Keeps only what is about nodes that are still checked here, and servers that are still members.
    pub(super) fn retain(
        &mut self,
        is_checked: impl Fn(TargetKey) -> bool,
        is_member: impl Fn(&ServerId) -> bool,
    ) {
        self.rounds.retain(|key, _| is_checked(*key));
        self.kept.retain(|key, _| is_checked(*key));
        self.servers.retain(|server, line| line.under_way > 0 || !line.queue.is_empty() || is_member(server));
    }

    /// Whether the server's last call had no answer.
    pub(super) fn is_mute(&self, server: &ServerId) -> bool {
        self.servers.get(server).is_some_and(|line| line.mute)
    }

    /// Whether anything is asked or waits to be.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.servers.values().all(|line| line.queue.is_empty())
    }

    /// What other servers' probes of the node found lately, newest first.
    pub(super) fn kept(&self, key: TargetKey) -> impl Iterator<Item = &Vouched> {
        self.kept.get(&key).into_iter().flatten()
    }

    fn unanswered(&mut self, sent: Sent, now: Instant) -> Vec<TargetKey> {
        if let Some(line) = self.servers.get_mut(&sent.to) {
            line.under_way = line.under_way.saturating_sub(sent.nodes.len());
            line.mute = true;
        }
        let nodes = sent.nodes.into_iter();
        nodes.filter_map(|(key, round)| self.give_up(&sent.to, key, round, now)).collect()
    }

    fn give_up(&mut self, server: &ServerId, key: TargetKey, round: u64, now: Instant) -> Option<TargetKey> {
        let round = self.rounds.get_mut(&key).filter(|open| open.number == round)?;
        round.due.retain(|due| due != server);
        self.go_on(key, now)
    }

    /// Asks the next of those who were not asked yet, where nobody so far reaches the node. Answers the node when its round
    /// is over.
    fn go_on(&mut self, key: TargetKey, now: Instant) -> Option<TargetKey> {
        let round = self.rounds.get_mut(&key)?;
        if round.reached.is_some() {
            return Some(key);
        }
        if !round.due.is_empty() {
            return None;
        }
        let Some(rest) = &mut round.rest else { return Some(key) };
        let left = rest.servers.len().saturating_sub(SERVERS_MAX);
        round.due = rest.servers.split_off(left);
        for server in round.due.iter().rev() {
            let queued = Queued { key, round: round.number, since: now, question: rest.question.clone() };
            self.servers.entry(server.clone()).or_default().queue.push(rest.timeout, queued);
        }
        if left == 0 {
            round.rest = None;
        }
        None
    }
}

impl Known<'_> {
    /// What it means for the judge; `somebody` tells whether there is anybody to ask now.
    pub(super) fn opinion(self, somebody: bool) -> Opinion {
        match self {
            Self::Pending => Opinion::Pending,
            Self::Unasked | Self::Silent if somebody => Opinion::Pending,
            Self::Unasked | Self::Silent | Self::SilentAgain => Opinion::NobodyToAsk,
            Self::Failed(_) => Opinion::Agrees,
            Self::Reached(_) => Opinion::Reaches,
        }
    }
}

impl Round {
    fn known(&self) -> Known<'_> {
        match (&self.reached, &self.failed) {
            (Some(server), _) => Known::Reached(server),
            (None, _) if !self.due.is_empty() => Known::Pending,
            (None, Some(server)) => Known::Failed(server),
            (None, None) if self.silent_before + 1 < ROUNDS_MAX => Known::Silent,
            (None, None) => Known::SilentAgain,
        }
    }
}

#[cfg(test)]
mod tests;
