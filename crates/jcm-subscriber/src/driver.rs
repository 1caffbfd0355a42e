//! The one task of a subscriber: it owns the session, feeds it what happens, and carries out what it decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jcm_model::ClusterName;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::core::Core;
use crate::disk::Disk;
use crate::link::Link;
use crate::random::Random;
use crate::servers::Servers;
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
}

#[derive(Debug)]
pub(crate) struct Driver {
    session: Session,
    cores: HashMap<ClusterName, Arc<Core>>,
    links: HashMap<LinkId, Link>,
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
        let Command::Subscribe { cluster, saved, reply } = command;
        let core = match self.cores.get(&cluster) {
            Some(core) => Ok(Arc::clone(core)),
            None if self.cores.len() >= CLUSTERS_MAX => {
                Err(SubscribeError::TooMany { cluster: cluster.clone(), limit: CLUSTERS_MAX })
            }
            None => {
                let core = Arc::new(Core::new(cluster.clone(), Arc::clone(&self.judge), World::default()));
                self.cores.insert(cluster.clone(), Arc::clone(&core));
                self.apply(Event::Subscribe { cluster, saved });
                Ok(core)
            }
        };
        // A caller that is gone leaves a cluster without handles behind: the sweep finds it.
        let _ = reply.send(core);
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
        }
        None
    }

    fn publish(&self, cluster: &ClusterName, changed: bool) {
        let (Some(held), Some(core)) = (self.session.held(cluster), self.cores.get(cluster)) else {
            return;
        };
        let standing = self.session.standing(cluster);
        core.publish(changed.then(|| held.content()), standing, now());
        // Nothing is worth no file, and what was just read from disk would only look younger if it were written again.
        if let Some(disk) = &self.disk
            && changed
            && !matches!(standing, Standing::Unknown | Standing::Snapshot { .. })
        {
            disk.save(cluster, Saved { held: held.clone(), written: SystemTime::now() });
        }
    }

    fn tend(&self) {
        let now = now();
        self.cores.values().for_each(|core| core.tend(now));
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
