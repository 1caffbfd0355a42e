//! The one task of a subscriber: it owns the session, feeds it what happens, and carries out what it decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jcm_model::{ClusterName, LeaseId};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::core::Core;
use crate::disk::Disk;
use crate::link::{self, Link};
use crate::random::Random;
use crate::registration::{RegisterError, RegistrationStatus};
use crate::registry::{self, Outcome, Write};
use crate::servers::Servers;
use crate::session::leases::{LeaseEvent, REGISTRATIONS_MAX, Wanted};
use crate::session::{CLUSTERS_MAX, Effect, Event, LinkId, Session};
use crate::snapshot::Saved;
use crate::status::Standing;
use crate::subscriber::SubscribeError;
use crate::world::World;

/// Messages of links that wait to be applied. Beyond it a link stops reading, and the server sends the latest later.
const MESSAGES_MAX: usize = 64;
/// How often clusters are looked for that no handle holds any more, and what changes with time is moved on: slow starts,
/// and nodes that were ejected. A step of a slow start is as long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a handle asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// Follow a cluster, from what was on disk if nothing newer is held.
    Subscribe {
        cluster: ClusterName,
        saved: Option<Saved>,
        reply: oneshot::Sender<Result<Arc<Core>, SubscribeError>>,
    },
    /// Keep the program registered while somebody looks at how that stands.
    Register {
        wanted: Wanted,
        reply: oneshot::Sender<Result<watch::Receiver<RegistrationStatus>, RegisterError>>,
    },
    /// Something about a registration.
    Lease(LeaseEvent),
}

#[derive(Debug)]
pub(crate) struct Driver {
    session: Session,
    cores: HashMap<ClusterName, Arc<Core>>,
    links: HashMap<LinkId, Link>,
    /// How registrations stand, for those who hold them.
    registrations: HashMap<LeaseId, watch::Sender<RegistrationStatus>>,
    /// What links hear comes in here.
    inbox: mpsc::Receiver<Event>,
    inbox_sender: mpsc::Sender<Event>,
    disk: Option<Disk>,
    tasks: TaskTracker,
    stopped: CancellationToken,
    /// Told by reports that a node fails.
    judge: Arc<Notify>,
    /// Whatever must outlive this task is told that it ended.
    _ended: DropGuard,
}

impl Driver {
    pub(crate) fn new(
        client: String,
        servers: Servers,
        disk: Option<Disk>,
        tasks: TaskTracker,
        stopped: CancellationToken,
        ended: DropGuard,
    ) -> Self {
        let (inbox_sender, inbox) = mpsc::channel(MESSAGES_MAX);
        Self {
            session: Session::new(client, servers, Random::from_entropy(), now()),
            cores: HashMap::new(),
            links: HashMap::new(),
            registrations: HashMap::new(),
            inbox,
            inbox_sender,
            disk,
            tasks,
            stopped,
            judge: Arc::new(Notify::new()),
            _ended: ended,
        }
    }

    /// Runs until it is told to stop. Links end with it: their handles are dropped.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.apply(Event::Tick);
        loop {
            let deadline = self.session.deadline();
            tokio::select! {
                biased;
                () = self.stopped.cancelled() => break,
                Some(command) = commands.recv() => self.carry_out(command),
                Some(event) = self.inbox.recv() => self.apply(event),
                () = sleep_until(deadline) => self.apply(Event::Tick),
                () = self.judge.notified() => self.tend(),
                _ = sweep.tick() => {
                    self.sweep();
                    self.tend();
                }
            }
        }
        // Whoever asks from now on learns that nobody keeps this up to date any more.
        self.apply(Event::Stop);
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Subscribe { cluster, saved, reply } => {
                // A caller that is gone leaves a cluster without handles behind: the sweep finds it.
                let _ = reply.send(self.subscribe(cluster, saved));
            }
            Command::Register { wanted, reply } => {
                let _ = reply.send(self.register(wanted));
            }
            Command::Lease(event) => self.apply(Event::Lease(event)),
        }
    }

    fn subscribe(&mut self, cluster: ClusterName, saved: Option<Saved>) -> Result<Arc<Core>, SubscribeError> {
        if let Some(core) = self.cores.get(&cluster) {
            return Ok(Arc::clone(core));
        }
        if self.cores.len() >= CLUSTERS_MAX {
            return Err(SubscribeError::TooMany { cluster, limit: CLUSTERS_MAX });
        }
        let core = Arc::new(Core::new(cluster.clone(), Arc::clone(&self.judge), World::default()));
        self.cores.insert(cluster.clone(), Arc::clone(&core));
        self.apply(Event::Subscribe { cluster, saved });
        Ok(core)
    }

    fn register(&mut self, wanted: Wanted) -> Result<watch::Receiver<RegistrationStatus>, RegisterError> {
        if self.registrations.len() >= REGISTRATIONS_MAX {
            return Err(RegisterError::TooMany { cluster: wanted.cluster, limit: REGISTRATIONS_MAX });
        }
        let (sender, status) = watch::channel(RegistrationStatus::Trying { reason: None });
        self.registrations.insert(wanted.lease.id(), sender);
        self.apply(Event::Lease(LeaseEvent::Register(wanted)));
        Ok(status)
    }

    fn apply(&mut self, event: Event) {
        if let Event::Closed { link, .. } = &event {
            self.links.remove(link);
        }
        let mut effects = self.session.apply(event, now());
        while !effects.is_empty() {
            let mut failed = Vec::new();
            for effect in effects {
                failed.extend(self.take_effect(effect));
            }
            effects = failed.into_iter().flat_map(|event| self.session.apply(event, now())).collect();
        }
    }

    /// Answers with what went wrong, as an event.
    fn take_effect(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Connect { link, server } => {
                let (handle, task) = Link::new(link, server, self.inbox_sender.clone());
                self.links.insert(link, handle);
                self.tasks.spawn(task);
            }
            Effect::Send { link, request } => {
                if let Some(handle) = self.links.get(&link)
                    && handle.send(request).is_err()
                {
                    self.links.remove(&link);
                    return Some(Event::Closed {
                        link,
                        reason: "it does not read what it is sent".to_owned(),
                    });
                }
            }
            Effect::Close { link } => {
                self.links.remove(&link);
            }
            Effect::Publish { cluster, changed } => self.publish(&cluster, changed),
            Effect::Write { link, lease, write } => self.write(link, lease, *write),
            Effect::FindAddress { link } => self.find_address(link),
            Effect::Tell { lease, status } => self.tell(lease, status),
        }
        None
    }

    fn publish(&self, cluster: &ClusterName, changed: bool) {
        let (Some(held), Some(core)) = (self.session.held(cluster), self.cores.get(cluster)) else {
            return;
        };
        let standing = self.session.standing(cluster);
        core.publish(changed.then(|| held.content()), standing, now());
        self.make_tables(core);
        // Nothing is worth no file, and what was just read from disk would only look younger if it were written again.
        if let Some(disk) = &self.disk
            && changed
            && !matches!(standing, Standing::Unknown | Standing::Snapshot { .. })
        {
            disk.save(cluster, Saved { held: held.clone(), written: SystemTime::now() });
        }
    }

    /// A write in a task of its own, of which this one is told.
    fn write(&self, link: LinkId, lease: LeaseId, write: Write) {
        let channel = self.links.get(&link).and_then(Link::channel);
        self.report(async move {
            let outcome = match channel {
                Some(channel) => {
                    let (cluster, node) = (&write.cluster, &write.node);
                    let span = tracing::debug_span!("register", %cluster, %node);
                    registry::carry_out(channel, write.clone()).instrument(span).await
                }
                None => Outcome::Again { after: Duration::ZERO, reason: "the connection is gone".to_owned() },
            };
            Event::Lease(LeaseEvent::Written { lease, outcome })
        });
    }

    fn find_address(&self, link: LinkId) {
        let server = self.links.get(&link).map(|link| link.server().clone());
        self.report(async move {
            let found = match server {
                Some(server) => link::own_address(server).await,
                None => Err("the connection is gone".to_owned()),
            };
            Event::Lease(LeaseEvent::Address { link, found })
        });
    }

    /// Does something beside this task, and has it told what came of it. It is dropped when everything stops.
    fn report(&self, work: impl Future<Output = Event> + Send + 'static) {
        let inbox = self.inbox_sender.clone();
        let work = async move {
            let event = work.await;
            let _ = inbox.send(event).await;
        };
        let until_stopped = self.stopped.clone().run_until_cancelled_owned(work);
        self.tasks.spawn(async move {
            until_stopped.await;
        });
    }

    fn tell(&mut self, lease: LeaseId, status: RegistrationStatus) {
        let over = matches!(status, RegistrationStatus::Ended(_));
        if let Some(sender) = self.registrations.get(&lease) {
            sender.send_replace(status);
        }
        if over {
            self.registrations.remove(&lease);
        }
    }

    fn tend(&self) {
        let now = now();
        for core in self.cores.values() {
            core.tend(now);
            self.make_tables(core);
        }
    }

    /// Has tables that take long made beside this task, which has heartbeats to send and other clusters to follow.
    fn make_tables(&self, core: &Arc<Core>) {
        for work in core.work() {
            let core = Arc::downgrade(core);
            self.tasks.spawn_blocking(move || work.carry_out(&core));
        }
    }

    fn sweep(&mut self) {
        let unheld = |(cluster, core): (&ClusterName, &Arc<Core>)| {
            // Handles are made by this task alone, so a count of 1 stays 1.
            (Arc::strong_count(core) == 1).then(|| cluster.clone())
        };
        for cluster in self.cores.iter().filter_map(unheld).collect::<Vec<_>>() {
            self.cores.remove(&cluster);
            self.apply(Event::Unsubscribe { cluster });
        }
        let abandoned = self.registrations.extract_if(|_, sender| sender.is_closed());
        for lease in abandoned.map(|(lease, _)| lease).collect::<Vec<_>>() {
            self.apply(Event::Lease(LeaseEvent::Abandon { lease }));
        }
    }
}

/// The runtime's clock, so that tests can pause it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
