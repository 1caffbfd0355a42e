//! The front door: a subscriber, built once a program, from which clusters are subscribed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{ClusterName, Invalid};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::balancer::Balancer;
use crate::cluster::Cluster;
use crate::core::{Core, Published};
use crate::disk::{self, Disk};
use crate::driver::{Command, Driver};
use crate::me::Me;
use crate::outlier::Outliers;
use crate::policy::Policy;
use crate::registration::{RegisterError, RegistrationBuilder, RegistrationStatus};
use crate::servers::{self, Server, Servers};
use crate::session::leases::{LeaseEvent, Wanted};
#[cfg(feature = "testing")]
use crate::world::World;

/// How long [`ClusterBuilder::subscribe`] waits for an answer before it goes on with nothing.
const READY_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);
/// How long [`Subscriber::shutdown`] waits for its tasks: for a last write to disk, and for callbacks of the program.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// Commands that wait for the driver. It handles one at a time at once; a caller that finds no room waits.
const COMMANDS_MAX: usize = 64;

/// A connection to JCM for all clusters of a program. Clones are cheap and share everything; the background tasks stop
/// with [`shutdown`](Self::shutdown), or when the last handle, those of clusters included, is dropped.
#[derive(Debug, Clone)]
pub struct Subscriber {
    shared: Arc<Shared>,
}

/// What keeps the background tasks alive: every handle holds it, no task does.
#[derive(Debug)]
pub(crate) struct Shared {
    source: Source,
    tasks: TaskTracker,
    /// Tells the driver to stop.
    stopped: CancellationToken,
    /// Cancelled by the driver when it has.
    ended: CancellationToken,
    snapshot_dir: Option<PathBuf>,
    ready_timeout: Duration,
}

/// Where clusters come from.
#[derive(Debug)]
enum Source {
    /// The task that follows servers.
    Driver(mpsc::Sender<Command>),
    /// A test.
    #[cfg(feature = "testing")]
    Fakes {
        cores: std::collections::HashMap<ClusterName, Arc<Core>>,
        registrations: crate::testing::Registrations,
    },
}

impl Source {
    async fn core(
        &self,
        cluster: &ClusterName,
        snapshot_dir: Option<&PathBuf>,
    ) -> Result<Arc<Core>, SubscribeError> {
        let stopped = || SubscribeError::Stopped { cluster: cluster.clone() };
        let commands = match self {
            Self::Driver(commands) => commands,
            #[cfg(feature = "testing")]
            Self::Fakes { cores, .. } => {
                let unknown = || Arc::new(Core::new(cluster.clone(), Arc::default(), World::fake()));
                return Ok(cores.get(cluster).cloned().unwrap_or_else(unknown));
            }
        };
        let saved = match snapshot_dir {
            Some(directory) => disk::load(directory.clone(), cluster.clone()).await,
            None => None,
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Subscribe { cluster: cluster.clone(), saved, reply };
        commands.send(command).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Shared {
    /// What the handles of clusters that a test tells everything hold.
    #[cfg(feature = "testing")]
    pub(crate) fn of_fakes(cores: impl IntoIterator<Item = Arc<Core>>) -> Arc<Self> {
        let stopped = CancellationToken::new();
        let named = |core: Arc<Core>| (core.view().name.clone(), core);
        Arc::new(Self {
            source: Source::Fakes {
                cores: cores.into_iter().map(named).collect(),
                registrations: crate::testing::Registrations::default(),
            },
            tasks: TaskTracker::new(),
            ended: stopped.clone(),
            stopped,
            snapshot_dir: None,
            ready_timeout: Duration::ZERO,
        })
    }

    pub(crate) fn ready_timeout(&self) -> Duration {
        self.ready_timeout
    }

    /// Keeps the program registered as long as the receiver lives.
    pub(crate) async fn register(
        &self,
        wanted: Wanted,
    ) -> Result<watch::Receiver<RegistrationStatus>, RegisterError> {
        match &self.source {
            Source::Driver(commands) => {
                let stopped = RegisterError::Stopped { cluster: wanted.cluster.clone() };
                let (reply, answer) = oneshot::channel();
                if commands.send(Command::Register { wanted, reply }).await.is_err() {
                    return Err(stopped);
                }
                answer.await.unwrap_or(Err(stopped))
            }
            #[cfg(feature = "testing")]
            Source::Fakes { registrations, .. } => Ok(registrations.register(&wanted)),
        }
    }

    /// Says something of a registration. Whoever waits for what comes of it learns that everything has stopped.
    pub(crate) async fn tell_leases(&self, event: LeaseEvent) {
        match &self.source {
            Source::Driver(commands) => {
                let _ = commands.send(Command::Lease(event)).await;
            }
            #[cfg(feature = "testing")]
            Source::Fakes { registrations, .. } => registrations.take(&event),
        }
    }

    /// Whether nothing is published any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Cancelled when nothing is published any more.
    pub(crate) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Waits for what is published of a cluster. Answers `false` when the subscriber was shut down before.
    pub(crate) async fn until(&self, core: &Core, reached: impl FnMut(&Published) -> bool) -> bool {
        let mut published = core.subscribe();
        matches!(self.ended.clone().run_until_cancelled(published.wait_for(reached)).await, Some(Ok(_)))
    }

    /// Starts a task that [`Subscriber::shutdown`] joins. It must end when `ended` is cancelled.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stopped.cancel();
    }
}

/// What a subscriber is built from.
#[derive(Debug, Clone, Default)]
#[must_use = "a builder does nothing until `build` is awaited"]
pub struct Builder {
    servers: Vec<String>,
    snapshot_dir: Option<PathBuf>,
    ready_timeout: Option<Duration>,
    client_name: Option<String>,
}

/// A builder was given something that cannot work. Servers that cannot be reached are no such thing.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// There is nobody to ask.
    #[error("no servers are given: `servers` needs at least one address like `http://127.0.0.1:8080`")]
    NoServers,
    /// That is no server's address.
    #[error("server address `{given}` is refused: {reason}")]
    Server {
        /// As given.
        given: String,
        /// Why.
        reason: String,
    },
    /// The name cannot be shown to operators.
    #[error("client name is refused")]
    ClientName(#[source] Invalid),
    /// Snapshots could not be written.
    #[error("snapshot directory `{}` cannot be used", .path.display())]
    SnapshotDir {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// A cluster was not subscribed.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// That is no cluster's name.
    #[error("the cluster cannot be subscribed")]
    Name(#[from] Invalid),
    /// The policy makes no sense.
    #[error("the policy is refused")]
    Policy(#[source] Invalid),
    /// The rules for ejecting nodes make no sense.
    #[error("the outliers are refused")]
    Outliers(#[source] Invalid),
    /// One subscriber follows no more clusters than one stream carries.
    #[error("cluster `{cluster}` cannot be subscribed: one subscriber follows at most {limit} clusters")]
    TooMany {
        /// Which.
        cluster: ClusterName,
        /// How many are allowed.
        limit: usize,
    },
    /// The subscriber was shut down.
    #[error("cluster `{cluster}` cannot be subscribed: the subscriber was shut down")]
    Stopped {
        /// Which.
        cluster: ClusterName,
    },
}

impl Subscriber {
    #[cfg(feature = "testing")]
    pub(crate) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Starts describing a subscriber.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What is done once its last handle is gone or it was shut down, and its tasks have ended. It holds no handle.
    #[cfg(feature = "blocking")]
    pub(crate) fn over(&self) -> impl Future<Output = ()> + use<> {
        let (stopped, tasks) = (self.shared.stopped.clone(), self.shared.tasks.clone());
        async move {
            stopped.cancelled().await;
            tasks.close();
            if tokio::time::timeout(SHUTDOWN_TIMEOUT, tasks.wait()).await.is_err() {
                tracing::warn!(tasks = tasks.len(), "background tasks did not end in time");
            }
        }
    }

    /// Starts describing the subscription of a cluster.
    pub fn cluster(&self, name: impl Into<String>) -> ClusterBuilder {
        ClusterBuilder {
            shared: Arc::clone(&self.shared),
            name: name.into(),
            policy: Policy::default(),
            outliers: None,
        }
    }

    /// Starts describing a registration of this program as a node of a cluster.
    ///
    /// ```no_run
    /// # async fn run(jcm: jcm_subscriber::Subscriber) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use jcm_subscriber::Me;
    ///
    /// let me = jcm.register("orders", Me::new().port("http", 8080)).start().await?;
    /// // … bind, warm up …
    /// me.ready().await?;
    /// // … serve …
    /// me.leave(Duration::from_secs(5)).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn register(&self, cluster: impl Into<String>, me: Me) -> RegistrationBuilder {
        RegistrationBuilder::new(Arc::clone(&self.shared), cluster.into(), me)
    }

    /// Stops the background tasks and waits until they are gone and the last views are on disk, at most 5 seconds.
    /// Handles of clusters can still be picked from; they stay what they are. Registrations that were not left lapse.
    pub async fn shutdown(self) {
        self.shared.stopped.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.shared.tasks.len(), "background tasks did not end in time");
        }
    }
}

impl Builder {
    /// The servers to begin with, as `http://host:port` or `host:port`. Names are resolved again for every connection.
    /// One is enough: it tells of the others. All of these are kept for when none of the others answers.
    pub fn servers<S: Into<String>>(mut self, servers: impl IntoIterator<Item = S>) -> Self {
        self.servers.extend(servers.into_iter().map(Into::into));
        self
    }

    /// Where to keep the last view of every cluster, so that the program starts while no server is reachable. It is
    /// created if need be, and belongs to one process.
    pub fn snapshot_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.snapshot_dir = Some(directory.into());
        self
    }

    /// How long `subscribe` waits for a first view: 3 seconds unless set.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = Some(timeout);
        self
    }

    /// What operators see this program as: the name of its executable unless set.
    pub fn client_name(mut self, name: impl Into<String>) -> Self {
        self.client_name = Some(name.into());
        self
    }

    /// Starts the background tasks. It fails for bad input alone, never for servers that cannot be reached.
    pub async fn build(self) -> Result<Subscriber, BuildError> {
        let seeds = self
            .servers
            .iter()
            .map(|given| {
                Server::parse(given)
                    .map_err(|reason| BuildError::Server { given: servers::shown(given), reason })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if seeds.is_empty() {
            return Err(BuildError::NoServers);
        }
        let client_name = self.client_name.unwrap_or_else(executable_name);
        jcm_model::text::refuse_unless_text(&client_name, "name").map_err(BuildError::ClientName)?;
        if let Some(path) = &self.snapshot_dir {
            disk::prepare(path.clone())
                .await
                .map_err(|source| BuildError::SnapshotDir { path: path.clone(), source })?;
        }

        let stopped = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let ended = CancellationToken::new();
        let disk = self.snapshot_dir.clone().map(|directory| {
            let disk = Disk::new(directory);
            tasks.spawn(disk.clone().run(ended.clone()));
            disk
        });
        let driver = Driver::new(
            client_name,
            Servers::new(seeds),
            disk,
            tasks.clone(),
            stopped.clone(),
            ended.clone().drop_guard(),
        );
        tasks.spawn(driver.run(inbox));
        let shared = Shared {
            source: Source::Driver(commands),
            tasks,
            stopped,
            ended,
            snapshot_dir: self.snapshot_dir,
            ready_timeout: self.ready_timeout.unwrap_or(READY_TIMEOUT_DEFAULT),
        };
        Ok(Subscriber { shared: Arc::new(shared) })
    }
}

fn executable_name() -> String {
    std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| jcm_model::text::refuse_unless_text(name, "name").is_ok())
        .unwrap_or_else(|| "jcm-subscriber".to_owned())
}

/// How a cluster is to be subscribed.
#[derive(Debug, Clone)]
#[must_use = "nothing is subscribed until `subscribe` is awaited"]
pub struct ClusterBuilder {
    shared: Arc<Shared>,
    name: String,
    policy: Policy,
    outliers: Option<Outliers>,
}

impl ClusterBuilder {
    #[cfg(feature = "blocking")]
    pub(crate) fn name(&self) -> Result<ClusterName, Invalid> {
        ClusterName::parse(&self.name)
    }

    /// How nodes are chosen: [`Policy::p2c`] unless set. Each handle has its own.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// When nodes to which this program's calls fail are left alone: [`Outliers::default`] unless set. It holds for all
    /// handles of the cluster, and what is set last wins.
    pub fn outliers(mut self, outliers: Outliers) -> Self {
        self.outliers = Some(outliers);
        self
    }

    /// Follows the cluster from now on. It returns with the first of: an answer of a server, the snapshot on disk, and
    /// the end of the ready timeout; after that the handle is there, its status unknown until a server answers.
    pub async fn subscribe(self) -> Result<Cluster, SubscribeError> {
        let cluster = ClusterName::parse(&self.name)?;
        self.policy.check().map_err(SubscribeError::Policy)?;
        self.outliers.as_ref().map_or(Ok(()), Outliers::check).map_err(SubscribeError::Outliers)?;
        let deadline = Instant::now() + self.shared.ready_timeout;
        let core = self.shared.source.core(&cluster, self.shared.snapshot_dir.as_ref()).await?;
        // Where nothing is known in time, the status says so.
        let _ = tokio::time::timeout_at(deadline.into(), self.shared.until(&core, Published::is_known)).await;
        // Only now, so that the task that follows all clusters does not lay out a large one for the first time.
        let balancer = balance(Arc::clone(&core), self.policy, self.outliers).await;
        let balancer = balancer.ok_or(SubscribeError::Stopped { cluster })?;
        Ok(Cluster::new(core, balancer, self.shared))
    }
}

/// Lays a cluster out for a policy for the first time; `None` when the runtime is shutting down.
async fn balance(core: Arc<Core>, policy: Policy, outliers: Option<Outliers>) -> Option<Arc<Balancer>> {
    if !policy.choice.hashes() {
        return Some(core.balance(policy, outliers));
    }
    // The table of a large cluster takes up to a tenth of a second: too long for whatever else this thread has to do.
    tokio::task::spawn_blocking(move || core.balance(policy, outliers)).await.ok()
}
