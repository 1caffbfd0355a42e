//! The one task that keeps the connections: it follows the roster, owns who is heard, and arranges who relays whom.
//!
//! The store is not on this path: while it is gone the roster stays as it was, and so do the connections. A server that
//! the roster lost is kept for as long as it is heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::ServerId;
use jcm_storage::Roster;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::stock::Stock;
use super::token::Token;
use super::{Heard, Liveness, Shared, Standing, relay};
use crate::pause::Pulse;

/// How often who is heard is worked out anew, and told.
const TICK: Duration = Duration::from_millis(250);

/// Words of other servers that may wait: each is taken in microseconds.
const WORDS_QUEUE_MAX: usize = 256;

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Word {
    /// The server said something.
    Heard(ServerId),
    /// The server said how it stands, and how long ago it heard others.
    Told { server: ServerId, standing: Standing, hears: Vec<(ServerId, Duration)> },
}

/// Keeps one connection to every other server.
#[derive(Debug)]
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    stock: Arc<Stock>,
    token: Option<Token>,
    roster: watch::Receiver<Arc<Roster>>,
    liveness: Liveness,
    connections: BTreeMap<ServerId, Kept>,
    /// Who is not heard here, and by way of whom it is followed.
    relays: BTreeMap<ServerId, ServerId>,
    checker: mpsc::Sender<Heard>,
    pulse: Pulse,
    sender: mpsc::Sender<Word>,
    words: mpsc::Receiver<Word>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Kept {
    address: watch::Sender<String>,
    relayed: watch::Sender<BTreeSet<ServerId>>,
    stop: CancellationToken,
}

impl Keeper {
    pub(super) fn new(
        shared: Arc<Shared>,
        stock: Arc<Stock>,
        token: Option<Token>,
        roster: watch::Receiver<Arc<Roster>>,
        checker: mpsc::Sender<Heard>,
        pulse: Pulse,
    ) -> Self {
        let liveness = Liveness::new(shared.server.clone(), Instant::now());
        let (sender, words) = mpsc::channel(WORDS_QUEUE_MAX);
        Self {
            shared,
            stock,
            token,
            roster,
            liveness,
            connections: BTreeMap::new(),
            relays: BTreeMap::new(),
            checker,
            pulse,
            sender,
            words,
            tasks: JoinSet::new(),
        }
    }

    /// Keeps the connections until told to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.roster.mark_changed();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    self.liveness.tick(Instant::now());
                    self.publish();
                    self.measure();
                }
                Ok(()) = self.roster.changed() => {
                    self.take_roster();
                    self.publish();
                }
                Some(word) = self.words.recv() => {
                    if self.hear(word) {
                        self.publish();
                    }
                }
                Some(_) = self.tasks.join_next() => {}
            }
        }
        for kept in self.connections.values() {
            kept.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    fn hear(&mut self, word: Word) -> bool {
        let now = Instant::now();
        match word {
            Word::Heard(server) => self.liveness.heard(&server, now),
            Word::Told { server, standing, hears } => self.liveness.told(&server, standing, &hears, now),
        }
    }

    fn take_roster(&mut self) {
        let roster = Arc::clone(&self.roster.borrow_and_update());
        let others = roster.members.iter().filter(|member| member.id != self.shared.server);
        let addresses: BTreeMap<ServerId, String> =
            others.map(|member| (member.id.clone(), member.advertise.clone())).collect();
        let members = addresses.keys().cloned().collect();
        self.liveness.follow(&members, Instant::now());
        for (server, address) in addresses {
            if let Some(kept) = self.connections.get(&server) {
                kept.address.send_if_modified(|known| {
                    let moved = *known != address;
                    *known = address;
                    moved
                });
            } else {
                let kept = self.connect(server.clone(), address);
                self.connections.insert(server, kept);
            }
        }
    }

    fn connect(&mut self, server: ServerId, address: String) -> Kept {
        let kept = Kept {
            address: watch::Sender::new(address),
            relayed: watch::Sender::default(),
            stop: CancellationToken::new(),
        };
        let connection = Connection {
            shared: Arc::clone(&self.shared),
            stock: Arc::clone(&self.stock),
            token: self.token.clone(),
            server,
            address: kept.address.subscribe(),
            relayed: kept.relayed.subscribe(),
            words: self.sender.clone(),
            checker: self.checker.clone(),
            pulse: self.pulse.clone(),
        };
        self.tasks.spawn(connection.run(kept.stop.clone()));
        kept
    }

    /// Who is heard now, for all who want to know; and what follows from it for the connections.
    fn publish(&mut self) {
        let known: BTreeSet<&ServerId> = self.liveness.others().collect();
        self.connections.retain(|server, kept| {
            let stays = known.contains(server);
            if !stays {
                metrics::gauge!("jcm_peer_silence_seconds", "server" => server.to_string()).set(0.0);
                kept.stop.cancel();
            }
            stays
        });
        self.relays = relay::arrange(&self.liveness, &self.relays);
        for (server, kept) in &self.connections {
            let relayed = self.relays.iter().filter(|(_, via)| *via == server).map(|(cut, _)| cut.clone());
            let relayed: BTreeSet<ServerId> = relayed.collect();
            kept.relayed.send_if_modified(|before| {
                let changed = *before != relayed;
                *before = relayed;
                changed
            });
        }
        self.shared.liveness.send_replace(Arc::new(self.liveness.clone()));
    }

    fn measure(&self) {
        let connected = u32::try_from(self.shared.lines.load().len()).unwrap_or(u32::MAX);
        metrics::gauge!("jcm_peers_connected").set(connected);
        metrics::gauge!("jcm_peers_relayed").set(u32::try_from(self.relays.len()).unwrap_or(u32::MAX));
        for server in self.liveness.others() {
            let silence = self.liveness.silence(server).as_secs_f64();
            metrics::gauge!("jcm_peer_silence_seconds", "server" => server.to_string()).set(silence);
        }
    }
}
