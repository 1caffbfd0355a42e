//! A server's life: the numbered steps of its start and of its stop.
//!
//! A panic in any task ends the process: half a server that looks alive is worse than none.

mod backend;
mod ground;
mod process;
mod settings;
mod stop;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jcm_health::engine::{REPORT_QUEUE_MAX, reports};
use jcm_health::{Engine, Options, ReactorEngine, Trust};
use jcm_model::{ServerId, TargetPolicy};
use jcm_storage::{JoinError, Membership, Standing, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::App;
use crate::catalog::Catalog;
use crate::checker::{self, Checker, Judging, Surroundings};
use crate::cli::{Cli, Command, ConfigCommand};
use crate::config::{self, Config};
use crate::damping::{self, Runs};
use crate::data_dir::DataDir;
use crate::measure::Metrics;
use crate::pause::Pulse;
use crate::peers::{Heard, Keeper, Peers, Token};
use crate::registry::{self, Registry};
use crate::staleness::{self, Staleness};
use crate::views::Views;
use crate::{clearing, demo, doors, http, listen, saved, subscribers, verdicts};
use backend::Backend;
use ground::Ground;
use settings::Settings;
use stop::{Signals, Stop};

/// Descriptors that checks leave for everything else: clients, peers, the store, and connections that are being opened.
const DESCRIPTORS_RESERVED: usize = 1_500;

/// How long the tasks may take to end once everything else has.
const TASKS_DEADLINE: Duration = Duration::from_secs(3);

/// Runs what the command line asks for.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Config(ConfigCommand::Defaults) => {
            print!("{}", config::defaults());
            Ok(())
        }
        Command::Config(ConfigCommand::Check { config: file }) => {
            config::load(Some(&file), std::env::vars(), Vec::new())?;
            println!("{} is valid", file.display());
            Ok(())
        }
        Command::Dev(dev) => {
            let (_temporary, settings) = settings::for_dev(&dev)?;
            serve(&settings)
        }
        Command::Serve(flags) => {
            let insecure = flags.insecure;
            let config =
                config::load(flags.config.as_deref(), std::env::vars(), settings::overrides(&flags))?;
            serve(&Settings { config, insecure, demo: false, hints: false })
        }
    }
}

fn serve(settings: &Settings) -> Result<()> {
    let listen = settings.config.server.listen;
    if !listen.ip().is_loopback() && !settings.insecure {
        bail!(
            "server.listen = {listen} is reachable from other machines, and this version has neither tokens nor TLS: \
             listen on loopback, or accept that whoever reaches the port may change everything with `--insecure`"
        );
    }
    process::start_logging();
    process::end_process_on_panic();
    listen::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let result = runtime.block_on(life(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn life(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    // 1. The signals: from here on a stop is a drain.
    let mut signals = Signals::listen()?;

    // 2. to 5. The ground it stands on: its directory, its port, its store, its place among the others; see there.
    let ground = tokio::select! {
        ground = Ground::take(config) => ground?,
        () = signals.stop() => return Ok(()),
    };
    let Ground { data_dir, listener, bound, member, backend } = ground;
    let (store, membership) = (Arc::clone(&backend.store), Arc::clone(&backend.membership));

    // 6. Checks: the engine, and the task that judges.
    let own = std::iter::once(bound).chain(member.advertise.parse::<SocketAddr>()).collect();
    let targets = Arc::new(TargetPolicy { loopback_allowed: bound.ip().is_loopback(), own });
    let (report_sender, reports) = reports::channel(REPORT_QUEUE_MAX);
    let options = Options {
        threads: config.health.threads,
        kept_max: listen::descriptors_max().saturating_sub(DESCRIPTORS_RESERVED),
        trust: Trust::load(config.health.ca_file.as_deref()).context("health.ca_file cannot be used")?,
    };
    let engine =
        ReactorEngine::start(&targets, &report_sender, options).context("checks could not be started")?;
    let engine = Arc::new(engine);
    let metrics = Arc::new(Metrics::start(Arc::clone(&engine))?);
    let views = Arc::new(Views::new(uuid::Uuid::new_v4().as_u64_pair().0));
    let judging = Judging {
        server: data_dir.server().clone(),
        incarnation: data_dir.incarnation(),
        session_timeout: config.store.zookeeper.session_timeout,
    };
    let runs = Runs::begin(data_dir.file("runs.json"));
    let verdicts_file = data_dir.file("verdicts.snapshot");
    let remembered = data_dir.store().map(|store| verdicts::load(&verdicts_file, store)).unwrap_or_default();
    let pulse = Pulse::new();
    let (peers, keeper, heard) =
        introduce(config, data_dir.server(), store.as_ref(), &views, membership.as_ref(), &pulse)?;
    let seam: Arc<dyn Engine> = Arc::clone(&engine) as Arc<dyn Engine>;
    let around = Surroundings::new(&peers, heard, &membership, store.as_ref(), &engine);
    let (checker, definitions, asker) =
        Checker::new(judging, seam, reports, Arc::clone(&views), remembered, around);
    let checking = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(checker.run(checking.clone()));
    if let Some(keeper) = keeper {
        tasks.spawn(keeper.run(checking.clone()));
    }

    // 7. Definitions: everything is loaded before anybody is answered, from the store or from this server's disk.
    let incarnation = data_dir.incarnation();
    let (following, writing) = (CancellationToken::new(), CancellationToken::new());
    let remembering = Remembering { checking: checking.clone(), following: following.clone() };
    let (catalog, staleness) = tokio::select! {
        begun = remembering.begin(&backend, data_dir, &views, definitions, &mut tasks) => begun?,
        () = signals.stop() => return Ok(()),
    };
    let (registry, writer) = Registry::new(registry::Parts {
        catalog: Arc::clone(&catalog),
        store: Arc::clone(&store),
        membership: Arc::clone(&membership),
        targets,
        others: Arc::new(peers.clone()),
        leases: peers.leases().clone(),
        pulse: pulse.clone(),
    });
    tasks.spawn(writer.run(writing.clone()));
    tasks.spawn(pulse.run(checking.clone()));
    tasks.spawn(ripen(Arc::clone(&views), checking.clone()));
    tasks.spawn(Arc::clone(&metrics).upkeep(checking.clone()));
    tasks.spawn(verdicts::keep(verdicts_file, Arc::clone(&views), asker.clone(), checking.clone()));

    // 8. The demo, where asked for.
    let demo = if settings.demo { Some(demo::start(&registry).await?) } else { None };

    // 9. The doors.
    let app = App {
        server: member.id.clone(),
        catalog,
        registry: registry.clone(),
        views,
        asker,
        peers: peers.clone(),
        store,
        membership: Arc::clone(&membership),
        staleness,
        subscribers: Arc::default(),
        metrics: Arc::clone(&metrics),
        probing: Arc::new(Semaphore::new(http::PROBES_MAX)),
        stopping: CancellationToken::new(),
        draining: CancellationToken::new(),
        cut: CancellationToken::new(),
    };
    look_after(&app, config.lease.grace, &checking, &mut tasks);
    let closing = CancellationToken::new();
    let stop = Stop::new(&app, peers, closing.clone());
    let serving = tokio::spawn(listen::serve(listener, doors::router(app), registry.pulse(), closing));
    info!(server = %member.id, incarnation, listen = %bound, advertise = member.advertise, "serving");
    process::announce(bound, settings.hints, demo.as_ref())?;

    // 10. A share of the checks, now that it knows what to check.
    let sharing = CancellationToken::new();
    tasks.spawn(damping::share(runs, Arc::clone(&membership), sharing.clone()));

    tokio::select! {
        () = signals.stop() => info!("draining; a second signal ends this server at once"),
        advertise = taken(membership.as_ref()) => bail!(JoinError::Taken { id: member.id, advertise }),
        Some(ended) = tasks.join_next() => bail!("a task that runs for good has ended: {ended:?}"),
    }
    signals.end_process_at_the_next();
    sharing.cancel();
    let running = Running { serving, registry, tasks, writing, checking, following, engine, backend, demo };
    running.end(stop).await
}

/// What has to end, and be joined.
struct Running {
    serving: JoinHandle<()>,
    registry: Registry,
    tasks: JoinSet<()>,
    writing: CancellationToken,
    checking: CancellationToken,
    following: CancellationToken,
    engine: Arc<ReactorEngine>,
    backend: Backend,
    demo: Option<demo::Demo>,
}

impl Running {
    /// The stop, in the order in which nobody waits for what is gone already.
    async fn end(self, stop: Stop) -> Result<()> {
        // 1. to 4. Others take over what this server does, and no new connections are taken; see there.
        stop.hand_over().await;
        self.serving.await.context("the listener failed")?;
        stop.join_streams().await;
        // 5. Writes that were accepted are committed; 6. checks stop; 7. the memory stops last, because writes wait for it.
        self.registry.finished().await;
        self.writing.cancel();
        self.checking.cancel();
        self.engine.shutdown().await;
        tokio::time::timeout(TASKS_DEADLINE, end(self.tasks, self.following))
            .await
            .context("the tasks did not end in time")?;
        // 8. Nobody needs to find out that this server is gone.
        self.backend.membership.leave().await;
        self.backend.close().await;
        if let Some(demo) = self.demo {
            demo.stop().await;
        }
        info!("stopped");
        Ok(())
    }
}

/// The memory of definitions, what keeps it, and when that ends.
struct Remembering {
    checking: CancellationToken,
    following: CancellationToken,
}

impl Remembering {
    async fn begin(
        self,
        backend: &Backend,
        data_dir: DataDir,
        views: &Arc<Views>,
        definitions: checker::Definitions,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Arc<Catalog>, Staleness)> {
        let (store, binding) = (Arc::clone(&backend.store), Arc::new(Mutex::new(data_dir)));
        let (snapshot, followed) = backend.definitions().await?;
        let staleness = Staleness::new(followed.is_err().then(std::time::Instant::now));
        views.set_stale(followed.is_err());
        let stale_since = store.stale_since();
        let (catalog, follower) =
            Catalog::begin(store, binding, Arc::clone(views), definitions, snapshot, followed).await;
        tasks.spawn(follower.run(self.following));
        let behind_since = catalog.behind_since();
        let views = Arc::clone(views);
        if let Some(files) = backend.files.clone() {
            tasks.spawn(saved::keep(files, Arc::clone(&views), self.checking.clone()));
        }
        tasks.spawn(staleness::keep(staleness.clone(), stale_since, behind_since, views, self.checking));
        Ok((catalog, staleness))
    }
}

/// Waits until it is known that another server has this one's id, before this one was known once. Later that is a
/// matter for an operator, and no reason to stop serving.
async fn taken(membership: &dyn Membership) -> String {
    let mut standing = membership.standing();
    let mut was_known = false;
    loop {
        match standing.borrow_and_update().clone() {
            Standing::Known => was_known = true,
            Standing::Taken { advertise } if !was_known => return advertise,
            Standing::Taken { advertise } => {
                error!(
                    advertise,
                    "another server has taken this one's id: the others do not know this one any more"
                );
            }
            Standing::Absent => {}
        }
        if standing.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Joins the tasks. The follower goes on until the writer has its answers.
async fn end(mut tasks: JoinSet<()>, following: CancellationToken) {
    while tasks.len() > 1 {
        tasks.join_next().await;
    }
    following.cancel();
    while tasks.join_next().await.is_some() {}
}

/// The other servers, the task that keeps the connections to them, and what they say. A store of its own makes a server
/// the only one.
fn introduce(
    config: &Config,
    server: &ServerId,
    store: &dyn Store,
    views: &Arc<Views>,
    membership: &dyn Membership,
    pulse: &Pulse,
) -> Result<(Peers, Option<Keeper>, mpsc::Receiver<Heard>)> {
    if store.kind() == "embedded" {
        let (_, heard) = mpsc::channel(1);
        return Ok((Peers::nobody(server.clone()), None, heard));
    }
    let token = config.server.peer_token_file.as_deref().map(Token::load).transpose()?;
    if token.is_none() && !config.server.listen.ip().is_loopback() {
        warn!("INSECURE: no server.peer_token_file, whoever reaches this port may speak as a server");
    }
    let (peers, keeper, heard) =
        Peers::new(server.clone(), token, Arc::clone(views), membership.roster(), pulse.clone());
    Ok((peers, Some(keeper), heard))
}

/// What goes on for as long as there are clients: who reads slowly is cut, and nodes that nobody keeps are cleared away.
fn look_after(app: &App, grace: Duration, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
    tasks.spawn(subscribers::keep(app.clone(), stop.clone()));
    let parts = clearing::Parts {
        server: app.server.clone(),
        views: Arc::clone(&app.views),
        leases: app.peers.leases(),
        vacancies: app.peers.leases().vacancies(),
        peers: app.peers.clone(),
        membership: Arc::clone(&app.membership),
        registry: app.registry.clone(),
        grace,
    };
    tasks.spawn(clearing::run(parts, stop.clone()));
}

/// Wakes readers of clusters whose nodes have had their time to be judged.
async fn ripen(views: Arc<Views>, stop: CancellationToken) {
    while let Some(at) = views.ripen(std::time::Instant::now()) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(at.into()) => {}
        }
    }
    stop.cancelled().await;
}
