//! A server's life: the numbered steps of its start and of its stop.
//!
//! A panic in any task ends the process: half a server that looks alive is worse than none.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jcm_health::engine::REPORT_QUEUE_MAX;
use jcm_health::{Engine, TaskEngine};
use jcm_model::{ServerId, TargetPolicy};
use jcm_storage::{EmbeddedStore, Member, Membership, Solo, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::App;
use crate::catalog::Catalog;
use crate::checker::{Checker, Judging, Surroundings};
use crate::cli::{Cli, Command, ConfigCommand, Dev, Serve};
use crate::config::{self, Config, Setting};
use crate::data_dir::DataDir;
use crate::measure::Metrics;
use crate::peers::{Heard, Keeper, Peers, Token};
use crate::registry::{self, Registry};
use crate::views::Views;
use crate::{demo, doors, listen, verdicts};

/// How long readers get between "go elsewhere" and the end of their connections.
const GO_AWAY_GRACE: Duration = Duration::from_millis(200);

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
            let (_temporary, settings) = settings(&dev)?;
            serve(&settings)
        }
        Command::Serve(flags) => {
            let insecure = flags.insecure;
            let config = config::load(flags.config.as_deref(), std::env::vars(), overrides(&flags))?;
            serve(&Settings { config, insecure, demo: false, hints: false })
        }
    }
}

struct Settings {
    config: Config,
    insecure: bool,
    demo: bool,
    /// Whether to print what to try next.
    hints: bool,
}

fn settings(dev: &Dev) -> Result<(Option<tempfile::TempDir>, Settings)> {
    if !dev.listen.ip().is_loopback() {
        bail!("`dev` listens on loopback only, and {} is not: use `jcm-server serve`", dev.listen.ip());
    }
    let temporary = match dev.data {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("jcm-dev-")
                .tempdir()
                .context("no temporary directory for the data")?,
        ),
    };
    let data =
        dev.data.clone().or_else(|| temporary.as_ref().map(|dir| dir.path().to_owned())).unwrap_or_default();
    let mut config = Config::default();
    config.server.listen = dev.listen;
    config.server.data = data;
    Ok((temporary, Settings { config, insecure: false, demo: !dev.no_demo, hints: true }))
}

fn overrides(flags: &Serve) -> Vec<Setting> {
    [
        ("--listen", "server.listen", &flags.listen),
        ("--advertise", "server.advertise", &flags.advertise),
        ("--id", "server.id", &flags.id),
        ("--zone", "server.zone", &flags.zone),
        ("--data", "server.data", &flags.data),
    ]
    .into_iter()
    .filter_map(|(flag, key, value)| Some(Setting::flag(flag, key, value.as_ref()?.as_str())))
    .collect()
}

fn serve(settings: &Settings) -> Result<()> {
    let listen = settings.config.server.listen;
    if !listen.ip().is_loopback() && !settings.insecure {
        bail!(
            "server.listen = {listen} is reachable from other machines, and this version has neither tokens nor TLS: \
             listen on loopback, or accept that whoever reaches the port may change everything with `--insecure`"
        );
    }
    start_logging();
    end_process_on_panic();
    listen::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let result = runtime.block_on(life(settings));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

#[expect(clippy::too_many_lines, reason = "one numbered list of steps, in their order")]
async fn life(settings: &Settings) -> Result<()> {
    let config = &settings.config;
    // 1. The signals: from here on a stop is a drain.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;

    // 2. The data directory: who this server is, and that nobody else is it.
    let mut data_dir = DataDir::open(&config.server.data, config.server.id.as_ref())?;
    let store_file = data_dir.file("definitions.redb");
    data_dir.refuse_if_store_is_missing(&store_file)?;
    let store: Arc<dyn Store> =
        Arc::new(EmbeddedStore::open(&store_file).with_context(|| format!("{}", store_file.display()))?);
    data_dir.bind(store.id())?;

    // 3. The port is taken early, so that a clash is told before anything else is done; it is served from last.
    let listener = TcpListener::bind(config.server.listen).await;
    let listener = listener
        .with_context(|| format!("server.listen = {} cannot be listened on", config.server.listen))?;
    let bound = listener.local_addr().context("the port that was bound is not known")?;
    let advertise = config.server.advertise.clone().unwrap_or_else(|| bound.to_string());
    if !bound.ip().is_loopback() {
        warn!(listen = %bound, "INSECURE: no tokens and no TLS, whoever reaches this port may change everything");
    }

    // 4. The members: this server alone.
    let membership: Arc<dyn Membership> = Arc::new(Solo::default());
    let member = Member {
        id: data_dir.server().clone(),
        instance: data_dir.instance(),
        advertise: advertise.clone(),
        zone: config.server.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    membership.join(member).await?;

    // 5. Checks: the engine, and the task that judges.
    let own = std::iter::once(bound).chain(advertise.parse::<SocketAddr>()).collect();
    let targets = Arc::new(TargetPolicy { loopback_allowed: bound.ip().is_loopback(), own });
    let (report_sender, reports) = mpsc::channel(REPORT_QUEUE_MAX);
    let engine = Arc::new(TaskEngine::new(Arc::clone(&targets), report_sender));
    let metrics = Arc::new(Metrics::start(Arc::clone(&engine))?);
    let views = Arc::new(Views::new(uuid::Uuid::new_v4().as_u64_pair().0));
    let judging = Judging { server: data_dir.server().clone(), incarnation: data_dir.incarnation() };
    let verdicts_file = data_dir.file("verdicts.snapshot");
    let remembered = verdicts::load(&verdicts_file, store.id());
    let (peers, keeper, heard) =
        introduce(config, data_dir.server(), store.as_ref(), &views, membership.as_ref())?;
    let seam: Arc<dyn Engine> = Arc::clone(&engine) as Arc<dyn Engine>;
    let around = Surroundings::new(&peers, heard, &membership, &targets);
    let (checker, definitions, asker) =
        Checker::new(judging, seam, reports, Arc::clone(&views), remembered, around);
    let checking = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(checker.run(checking.clone()));
    if let Some(keeper) = keeper {
        tasks.spawn(keeper.run(checking.clone()));
    }

    // 6. Definitions: everything is loaded before anybody is answered.
    let (catalog, follower) = Catalog::load(Arc::clone(&store), Arc::clone(&views), definitions).await?;
    let (following, writing) = (CancellationToken::new(), CancellationToken::new());
    tasks.spawn(follower.run(following.clone()));
    let (registry, writer) = Registry::new(registry::Parts {
        catalog: Arc::clone(&catalog),
        store: Arc::clone(&store),
        membership: Arc::clone(&membership),
        targets,
        others: Arc::new(peers.clone()),
    });
    tasks.spawn(writer.run(writing.clone()));
    tasks.spawn(registry.pulse().run(checking.clone()));
    tasks.spawn(ripen(Arc::clone(&views), checking.clone()));
    tasks.spawn(Arc::clone(&metrics).upkeep(checking.clone()));
    tasks.spawn(verdicts::keep(verdicts_file, Arc::clone(&views), checking.clone()));

    // 7. The demo, where asked for.
    let demo = if settings.demo { Some(demo::start(&registry).await?) } else { None };

    // 8. The doors.
    let app = App {
        server: data_dir.server().clone(),
        catalog,
        registry: registry.clone(),
        views,
        asker,
        peers: peers.clone(),
        store,
        membership: Arc::clone(&membership),
        subscribers: Arc::default(),
        metrics: Arc::clone(&metrics),
        draining: CancellationToken::new(),
    };
    let (draining, closing) = (app.draining.clone(), CancellationToken::new());
    let serving =
        tokio::spawn(listen::serve(listener, doors::router(app), registry.pulse(), closing.clone()));
    info!(server = %data_dir.server(), incarnation = data_dir.incarnation(), listen = %bound, advertise, "serving");
    announce(bound, settings.hints, demo.as_ref())?;

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("interrupted: draining"),
        Some(ended) = tasks.join_next() => bail!("a task that runs for good has ended: {ended:?}"),
    }

    // The stop, in the order in which nobody waits for what is gone already:
    // 1. readers are told to go elsewhere; 2. no new connections, those under way finish what they asked for;
    peers.drain();
    draining.cancel();
    tokio::time::sleep(GO_AWAY_GRACE).await;
    peers.hang_up();
    closing.cancel();
    serving.await.context("the listener failed")?;
    // 3. writes that were accepted are committed; 4. checks stop; 5. the memory stops last, because writes wait for it.
    registry.finished().await;
    writing.cancel();
    checking.cancel();
    engine.shutdown().await;
    membership.leave().await;
    let ended = tokio::time::timeout(TASKS_DEADLINE, end(tasks, following)).await;
    ended.context("the tasks did not end in time")?;
    if let Some(demo) = demo {
        demo.stop().await;
    }
    info!("stopped");
    Ok(())
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
) -> Result<(Peers, Option<Keeper>, mpsc::Receiver<Heard>)> {
    if store.kind() == "embedded" {
        let (_, heard) = mpsc::channel(1);
        return Ok((Peers::nobody(server.clone()), None, heard));
    }
    let token = config.server.peer_token_file.as_deref().map(Token::load).transpose()?;
    if token.is_none() && !config.server.listen.ip().is_loopback() {
        warn!("INSECURE: no server.peer_token_file, whoever reaches this port may speak as a server");
    }
    let (peers, keeper, heard) = Peers::new(server.clone(), token, Arc::clone(views), membership.roster());
    Ok((peers, Some(keeper), heard))
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

fn announce(bound: SocketAddr, hints: bool, demo: Option<&demo::Demo>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut write = || {
        writeln!(out, "listening on http://{bound}")?;
        if hints {
            writeln!(out, "\nTry next:\n  curl -s http://{bound}/v1/clusters")?;
            if let Some(demo) = demo {
                writeln!(out, "  curl -s http://{bound}/v1/clusters/demo/view")?;
                writeln!(out, "  curl -s http://{bound}/v1/resolve/demo")?;
                writeln!(out, "\nThe demo cluster's nodes die and live as told:")?;
                for address in demo.addresses() {
                    writeln!(
                        out,
                        "  curl -X POST http://{address}/die     curl -X POST http://{address}/live"
                    )?;
                }
            }
        }
        out.flush()
    };
    write().context("standard output cannot be written")
}

fn start_logging() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("JCM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let is_json = std::env::var("JCM_LOG_FORMAT").is_ok_and(|format| format == "json");
    if is_json {
        builder.json().init();
    } else {
        builder
            .with_ansi(
                std::io::IsTerminal::is_terminal(&std::io::stderr())
                    && std::env::var_os("NO_COLOR").is_none(),
            )
            .init();
    }
}

fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(101);
    }));
}
