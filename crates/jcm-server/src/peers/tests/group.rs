//! Servers on one runtime, with real sockets between them and rosters that a test writes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jcm_health::{Options, ReactorEngine, Trust};
use jcm_model::{
    ClusterName, Head, Judged, Mutation, NodeId, OperationId, Precondition, Revision, ServerId, Stamp,
    TargetPolicy, Timestamp, Verdict,
};
use jcm_proto::{Entry, Transaction};
use jcm_storage::{Member, Membership, MemoryStore, Roster, Solo, Store};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::{Heard, Liveness, Peers, Token, routes};
use crate::catalog::Catalog;
use crate::checker::{Checker, Judging, Surroundings};
use crate::listen;
use crate::pause::Pulse;
use crate::registry::{self, Registry};
use crate::verdicts::Remembered;
use crate::views::{Answer, Verdicts, Views};

/// A wait that takes as long hangs.
pub(super) const HANG: Duration = Duration::from_mins(1);

pub(super) const DIGESTS_PAUSE: Duration = Duration::from_millis(200);

pub(super) fn id(name: &str) -> ServerId {
    ServerId::parse(name).unwrap()
}

pub(super) fn cluster(n: u16) -> ClusterName {
    ClusterName::parse(&format!("orders-{n}")).unwrap()
}

pub(super) fn node(n: u16) -> NodeId {
    NodeId::parse(&format!("127.0.0.1:{}", 10_000 + n)).unwrap()
}

/// A store with clusters of as many nodes each. Their checks are so rare that none comes within a test.
pub(super) async fn store(clusters: u16, nodes: u16) -> Arc<MemoryStore> {
    let store = Arc::new(MemoryStore::new());
    let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
    for n in 0..clusters {
        let nodes: Vec<Value> =
            (0..nodes).map(|n| json!({ "address": "127.0.0.1", "ports": { "http": 10_000 + n } })).collect();
        let check = json!({ "kind": "http", "path": "/", "interval": "3600s" });
        let spec = serde_json::from_value(json!({ "check": check, "nodes": nodes })).unwrap();
        let head = Revision(u64::from(n));
        let mutation = Mutation::PutCluster(spec);
        let change = mutation.change(&cluster(n), None, Precondition::default(), head.next(), &targets);
        let entry = Entry {
            operation: OperationId(uuid::Uuid::new_v4()),
            fingerprint: 0,
            principal: "test".to_owned(),
            change: change.unwrap().unwrap(),
            created: true,
        };
        store
            .commit(
                Arc::new(Transaction { epoch: 1, entries: vec![entry] }),
                Head { store: store.id(), revision: head },
            )
            .await
            .unwrap();
    }
    store
}

pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) address: SocketAddr,
    pub(super) peers: Peers,
    pub(super) views: Arc<Views>,
    pub(super) roster: watch::Sender<Arc<Roster>>,
    pub(super) registry: Registry,
    sequence: AtomicU64,
    keeping: CancellationToken,
    /// Ends with the server.
    _tasks: JoinSet<()>,
}

impl Server {
    pub(super) async fn start(name: &str, store: &Arc<MemoryStore>) -> Self {
        Self::with_token(name, store, None).await
    }

    pub(super) async fn with_token(name: &str, store: &Arc<MemoryStore>, token: Option<&str>) -> Self {
        let token = token.map(|token| Token::parse(token.as_bytes()).unwrap());
        let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
        let views = Arc::new(Views::new(fastrand::u64(..)));
        let roster = watch::Sender::new(Arc::new(Roster::default()));
        let (peers, keeper, heard) = Peers::with_digests_every(
            DIGESTS_PAUSE,
            id(name),
            token,
            Arc::clone(&views),
            roster.subscribe(),
            Pulse::new(),
        );
        let targets = Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() });
        let (report_sender, reports) = jcm_health::engine::reports::channel(1);
        let options = Options { threads: 1, kept_max: 100, trust: Trust::default() };
        let engine = Arc::new(ReactorEngine::start(&targets, &report_sender, options).unwrap());
        let judging = Judging { server: id(name), incarnation: 1, session_timeout: Duration::from_secs(6) };
        let (_, nothing) = mpsc::channel(1);
        // Nothing is checked here: what is found, the test says.
        let membership: Arc<dyn Membership> = Arc::new(Solo::default());
        let around = Surroundings::new(&peers, nothing, &membership, store.as_ref(), &engine);
        let (_, definitions, asker) =
            Checker::new(judging, engine, reports, Arc::clone(&views), Remembered::default(), around);
        let (catalog, follower) =
            Catalog::load(Arc::clone(&store), Arc::clone(&views), definitions).await.unwrap();
        let (registry, writer) = Registry::new(registry::Parts {
            catalog,
            store,
            membership,
            targets,
            others: Arc::new(peers.clone()),
            leases: peers.leases().clone(),
            pulse: Pulse::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = routes(&peers, &asker, &registry);
        let keeping = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(follower.run(CancellationToken::new()));
        tasks.spawn(writer.run(CancellationToken::new()));
        tasks.spawn(keeper.run(keeping.clone()));
        tasks.spawn(registry.pulse().run(CancellationToken::new()));
        tasks.spawn(listen::serve(listener, router, registry.pulse(), CancellationToken::new()));
        tasks.spawn(learn(heard, Arc::clone(&views), peers.clone()));
        let sequence = AtomicU64::new(0);
        Self { id: id(name), address, peers, views, roster, registry, sequence, keeping, _tasks: tasks }
    }

    /// Tells it who the members are, and where.
    pub(super) fn introduce(&self, members: &[(&str, SocketAddr)]) {
        let member = |(name, address): &(&str, SocketAddr)| Member {
            id: id(name),
            instance: uuid::Uuid::nil(),
            advertise: address.to_string(),
            zone: String::new(),
            version: String::new(),
        };
        let members = members.iter().map(member).collect();
        self.roster.send_replace(Arc::new(Roster { members, ..Roster::default() }));
    }

    /// A verdict of this server, as its checker would publish it. Answers its sequence.
    pub(super) fn turn(&self, nodes: &[u16], verdict: Verdict) -> u64 {
        let verdicts = self.judge(nodes, verdict);
        let store = self.views.snapshot().store;
        self.peers.turned().publish(store, Arc::new([(cluster(0), verdicts)].into()));
        self.sequence.load(Ordering::Relaxed)
    }

    /// The same on the board alone: nobody is told.
    pub(super) fn judge(&self, nodes: &[u16], verdict: Verdict) -> Vec<(NodeId, Judged)> {
        let verdicts: Vec<_> = nodes.iter().map(|n| (node(*n), self.judged(0, *n, verdict))).collect();
        self.views.judge([(cluster(0), verdicts.clone())].into());
        verdicts
    }

    /// A verdict with its next stamp.
    pub(super) fn judged(&self, of: u16, n: u16, verdict: Verdict) -> Judged {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let snapshot = self.views.snapshot();
        let cluster = &snapshot.clusters[&cluster(of)];
        Judged {
            verdict,
            birth: cluster.birth(cluster.node(&node(n)).unwrap()),
            stamp: Stamp { ring_epoch: 0, term: 0, server: self.id.clone(), incarnation: 1, sequence },
            since: Timestamp::UNIX_EPOCH,
            single_vantage: false,
            stale_since: None,
        }
    }

    /// What its board holds of every judged node of one cluster.
    pub(super) fn board(&self, of: u16) -> BTreeMap<NodeId, Judged> {
        let Answer::Published(published) = self.views.get(&cluster(of)) else {
            // Its nodes were not all judged yet.
            return self
                .views
                .verdicts(|name, verdicts| (name.clone(), owned(verdicts)))
                .into_iter()
                .find(|(name, _)| *name == cluster(of))
                .map(|(_, verdicts)| verdicts)
                .unwrap_or_default();
        };
        owned(&mut published.state.nodes().filter_map(|(node, judged)| Some((&node.id, judged?))))
    }

    pub(super) fn liveness(&self) -> Arc<Liveness> {
        Arc::clone(&self.peers.liveness().borrow())
    }

    /// Stops following, and hangs up on all who follow.
    pub(super) fn stop(&self) {
        self.keeping.cancel();
        self.peers.hang_up();
    }
}

fn owned(verdicts: &mut dyn Iterator<Item = (&NodeId, &Judged)>) -> BTreeMap<NodeId, Judged> {
    verdicts.map(|(id, judged)| (id.clone(), judged.clone())).collect()
}

/// Takes over what others say, as the checker does.
async fn learn(mut heard: mpsc::Receiver<Heard>, views: Arc<Views>, peers: Peers) {
    while let Some(Heard::Verdicts { store, verdicts, .. }) = heard.recv().await {
        if store == views.snapshot().store {
            views.judge(Verdicts::clone(&verdicts));
            peers.turned().publish(store, Arc::new(verdicts));
        }
    }
}

/// Everybody knows everybody, without detours.
pub(super) fn introduce_all(servers: &[&Server]) {
    let members: Vec<_> = servers.iter().map(|server| (server.id.as_str(), server.address)).collect();
    for server in servers {
        server.introduce(&members);
    }
}

/// Waits until it holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let poll = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(HANG, poll).await.is_ok(), "it never came to this: {what}");
}

/// A way to a server that can be cut: nothing gets through then, and nobody is told.
pub(super) struct Detour {
    pub(super) address: SocketAddr,
    cut: watch::Sender<bool>,
    _task: JoinSet<()>,
}

impl Detour {
    pub(super) async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut pairs = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let mut is_cut = is_cut.clone();
                pairs.spawn(async move {
                    is_cut.wait_for(|cut| !cut).await.unwrap();
                    let Ok(far) = TcpStream::connect(target).await else { return };
                    let (near_read, near_write) = near.into_split();
                    let (far_read, far_write) = far.into_split();
                    tokio::join!(
                        pump(near_read, far_write, is_cut.clone()),
                        pump(far_read, near_write, is_cut)
                    );
                });
            }
        });
        Self { address, cut, _task: task }
    }

    pub(super) fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub(super) fn mend(&self) {
        self.cut.send_replace(false);
    }
}

async fn pump(
    from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut is_cut: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if from.readable().await.is_err() || is_cut.wait_for(|cut| !cut).await.is_err() {
            return;
        }
        match from.try_read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
