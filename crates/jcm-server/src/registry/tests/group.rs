//! Several servers on one store in one process, with every way between them and to the store breakable.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jcm_model::{
    Change, Cluster, ClusterName, ClusterSpec, Head, LeaseId, Mutation, OperationId, Precondition, ServerId,
    StoreId, TargetPolicy,
};
use jcm_proto::Transaction;
use jcm_storage::membership::Standing;
use jcm_storage::memory::Faults;
use jcm_storage::{
    ChangeFeed, CommitError, JoinError, LoadError, Member, Membership, MemoryStore, RestoreError, Roster,
    Snapshot, Store,
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::catalog::{Audience, Catalog};
use crate::leases::Leases;
use crate::pause::Pulse;
use crate::peers::PeerError;
use crate::registry::write::Answer;
use crate::registry::{Others, Parts, Patience, Registry, Wish, Write};
use crate::snapshot;
use crate::views::Views;

/// Servers on one store.
pub(super) struct Group {
    pub(super) servers: Vec<Server>,
    pub(super) store: Arc<MemoryStore>,
    pub(super) faults: Faults,
    pub(super) roster: watch::Sender<Arc<Roster>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) struct Server {
    pub(super) id: ServerId,
    pub(super) registry: Registry,
    pub(super) catalog: Arc<Catalog>,
    pub(super) way: Arc<Way>,
    pub(super) links: Arc<Links>,
    pub(super) pulse: Pulse,
    pub(super) leases: Leases,
}

impl Group {
    /// Servers `s0`, `s1` and so on; `s0` leads. Everybody reaches everybody.
    pub(super) async fn start(count: usize) -> Self {
        let store = Arc::new(MemoryStore::new());
        let id = |n: usize| ServerId::parse(&format!("s{n}")).unwrap();
        let member = |n: usize| Member {
            id: id(n),
            instance: uuid::Uuid::from_u128(n as u128),
            advertise: format!("{}:80", id(n)),
            zone: String::new(),
            version: String::new(),
        };
        let members = (0..count).map(member).collect();
        let roster = Roster { members, leader: Some(id(0)), epoch: 1, ..Roster::default() };
        let roster = watch::Sender::new(Arc::new(roster));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut servers = Vec::new();
        for n in 0..count {
            let way = Arc::new(Way::to(Arc::clone(&store)));
            let views = Arc::new(Views::new(n as u64));
            let seam: Arc<dyn Store> = Arc::clone(&way) as Arc<dyn Store>;
            let audience = Board(Arc::clone(&views));
            let (catalog, follower) = Catalog::load(Arc::clone(&seam), views, audience).await.unwrap();
            tasks.spawn(follower.run(stop.clone()));
            let (links, leases) = (Arc::new(Links::default()), Leases::new(id(n), Instant::now()));
            let (registry, writer) = Registry::new(Parts {
                catalog: Arc::clone(&catalog),
                store: seam,
                membership: Arc::new(Fixed { own: id(n), roster: roster.clone() }),
                targets: Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() }),
                others: Arc::clone(&links) as Arc<dyn Others>,
                leases: leases.clone(),
                pulse: Pulse::new(),
            });
            tasks.spawn(writer.run(stop.clone()));
            let pulse = registry.pulse();
            servers.push(Server { id: id(n), registry, catalog, way, links, pulse, leases });
        }
        for server in &servers {
            for other in servers.iter().filter(|other| other.id != server.id) {
                server.links.connect(&other.id, &other.registry);
            }
        }
        let faults = store.faults();
        Self { servers, store, faults, roster, stop, tasks }
    }

    pub(super) fn server(&self, n: usize) -> &Server {
        &self.servers[n]
    }

    /// How often the log holds each operation, as the store itself has it.
    pub(super) async fn log(&self) -> BTreeMap<OperationId, usize> {
        let mut counts = BTreeMap::new();
        for operation in self.store.load().await.unwrap().operations {
            *counts.entry(operation.id).or_default() += 1;
        }
        counts
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One server's way to the store.
#[derive(Debug)]
pub(super) struct Way {
    store: Arc<MemoryStore>,
    cut: AtomicBool,
    hangs: AtomicBool,
    stale_since: watch::Sender<Option<Instant>>,
    /// Commits that came this far.
    pub(super) commits: AtomicUsize,
    /// Heads that were settled.
    pub(super) settled: AtomicUsize,
    /// Entries of the largest transaction that is taken.
    pub(super) entries_max: AtomicUsize,
    /// How the next commit is refused.
    pub(super) refusal: Mutex<Option<CommitError>>,
    /// Called at each commit, before it is passed on.
    pub(super) at_commit: Hook,
}

/// Something to do at a moment.
#[derive(Default)]
pub(super) struct Hook(pub(super) Mutex<Option<Box<dyn FnMut() + Send>>>);

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hook")
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.id.fmt(f)
    }
}

impl Way {
    fn to(store: Arc<MemoryStore>) -> Self {
        Self {
            store,
            cut: AtomicBool::default(),
            hangs: AtomicBool::default(),
            stale_since: watch::Sender::default(),
            commits: AtomicUsize::default(),
            settled: AtomicUsize::default(),
            entries_max: AtomicUsize::new(usize::MAX),
            refusal: Mutex::default(),
            at_commit: Hook::default(),
        }
    }

    /// The store refuses this server at once, and the server knows since when.
    pub(super) fn cut(&self, since: Option<Instant>) {
        self.cut.store(since.is_some(), Ordering::SeqCst);
        self.stale_since.send_replace(since);
    }

    /// The store refuses this server, which has not noticed yet.
    pub(super) fn cut_unnoticed(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }

    /// What is submitted gets no answer, and does not arrive.
    pub(super) fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

#[tonic::async_trait]
impl Store for Way {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn id(&self) -> StoreId {
        self.store.id()
    }

    fn replaced(&self) -> Vec<StoreId> {
        self.store.replaced()
    }

    async fn load(&self) -> Result<Snapshot, LoadError> {
        self.store.load().await
    }

    async fn commit(&self, transaction: Arc<Transaction>, expected: Head) -> Result<(), CommitError> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        if let Some(at_commit) = self.at_commit.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            at_commit();
        }
        if self.is_cut() {
            return Err(CommitError::Unavailable { reason: "cut".to_owned() });
        }
        if let Some(refusal) = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(refusal);
        }
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let limit_bytes = self.entries_max.load(Ordering::SeqCst);
        if transaction.entries.len() > limit_bytes {
            return Err(CommitError::TooLarge { size_bytes: transaction.entries.len(), limit_bytes });
        }
        // As a network would: others run before this has arrived.
        tokio::task::yield_now().await;
        self.store.commit(transaction, expected).await
    }

    async fn settle(&self, on: Head) -> Result<(), CommitError> {
        if self.is_cut() {
            return Err(CommitError::Unavailable { reason: "cut".to_owned() });
        }
        self.settled.fetch_add(1, Ordering::SeqCst);
        self.store.settle(on).await
    }

    async fn changes(&self, from: Head) -> Result<Box<dyn ChangeFeed>, LoadError> {
        self.store.changes(from).await
    }

    async fn head(&self) -> Result<Head, LoadError> {
        if self.is_cut() {
            return Err(LoadError::Unavailable { reason: "cut".to_owned() });
        }
        self.store.head().await
    }

    fn stale_since(&self) -> watch::Receiver<Option<Instant>> {
        self.stale_since.subscribe()
    }

    async fn restore(&self, _: Vec<Arc<Cluster>>, _: Vec<StoreId>) -> Result<StoreId, RestoreError> {
        Err(RestoreError::NotRestored { reason: "not here".to_owned() })
    }
}

/// How a server answers another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Well,
    /// What is asked never arrives, and nobody says so.
    Silent,
    /// What is asked is done, and the answer is lost.
    Mute,
    /// It is known at once that nothing was sent.
    Refusing,
}

/// One server's ways to the others.
#[derive(Debug, Default)]
pub(super) struct Links {
    others: Mutex<BTreeMap<ServerId, (Registry, Link)>>,
    /// Writes that were forwarded over these.
    pub(super) forwarded: AtomicUsize,
}

impl Links {
    fn connect(&self, id: &ServerId, registry: &Registry) {
        self.lock().insert(id.clone(), (registry.clone(), Link::Well));
    }

    pub(super) fn set(&self, id: &ServerId, link: Link) {
        self.lock().get_mut(id).unwrap().1 = link;
    }

    pub(super) fn disconnect(&self, id: &ServerId) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<ServerId, (Registry, Link)>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl Others for Links {
    fn connected(&self) -> Vec<ServerId> {
        self.lock().keys().cloned().collect()
    }

    async fn forward(&self, to: &ServerId, write: &Write, patience: Patience) -> Result<Answer, PeerError> {
        let other = self.lock().get(to).cloned();
        let Some((registry, link)) = other else {
            return Err(PeerError::NotConnected { server: to.clone() });
        };
        self.forwarded.fetch_add(1, Ordering::SeqCst);
        let Patience { without_a_sign: silence, in_all: within } = patience;
        let timed_out = Err(PeerError::TimedOut { server: to.clone(), within: silence });
        // As over the wire, so that nothing of a write or its answer is lost there.
        let write: Write = serde_json::from_slice(&serde_json::to_vec(write).unwrap()).unwrap();
        match link {
            Link::Refusing => Err(PeerError::NotSent { server: to.clone(), reason: "told so".to_owned() }),
            Link::Silent => {
                tokio::time::sleep(silence).await;
                timed_out
            }
            Link::Mute => {
                // It goes on after its asker has stopped waiting.
                let _ = tokio::time::timeout(silence, registry.carry_out(write, within)).await;
                timed_out
            }
            Link::Well => match tokio::time::timeout(within, registry.carry_out(write, within)).await {
                Ok(answer) => Ok(serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap()),
                Err(_) => timed_out,
            },
        }
    }
}

#[derive(Debug)]
struct Fixed {
    own: ServerId,
    roster: watch::Sender<Arc<Roster>>,
}

#[tonic::async_trait]
impl Membership for Fixed {
    fn announce(&self, _: Member) {}

    fn standing(&self) -> watch::Receiver<Standing> {
        watch::Sender::new(Standing::Known).subscribe()
    }

    async fn join(&self, _: Member) -> Result<(), JoinError> {
        Ok(())
    }

    fn resign(&self) {}

    async fn leave(&self) {}

    async fn share_checks(&self, _: bool) {}

    fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    fn leads(&self) -> bool {
        self.roster.borrow().leader.as_ref() == Some(&self.own)
    }
}

struct Board(Arc<Views>);

impl Audience for Board {
    async fn loaded(&mut self, snapshot: Arc<snapshot::Snapshot>) {
        self.0.load(snapshot);
    }

    async fn committed(
        &mut self,
        snapshot: Arc<snapshot::Snapshot>,
        changes: Vec<(Change, Option<Arc<Cluster>>)>,
    ) {
        let changes: Vec<Change> = changes.into_iter().map(|(change, _)| change).collect();
        self.0.apply(snapshot, &changes);
    }
}

pub(super) fn name(name: &str) -> ClusterName {
    ClusterName::parse(name).unwrap()
}

/// The cluster shall be this, with one property `n`.
pub(super) fn put(cluster: &str, n: usize, precondition: Precondition) -> Write {
    let spec = json!({ "properties": { "n": n.to_string() }, "nodes": [] });
    let spec: ClusterSpec = serde_json::from_value(spec).unwrap();
    one(cluster, Mutation::PutCluster(spec), precondition)
}

/// Node `n` shall be there.
pub(super) fn add(cluster: &str, n: usize) -> Write {
    let node = json!({ "address": "127.0.0.1", "ports": { "http": 1000 + n } });
    one(cluster, Mutation::PutNodes(vec![serde_json::from_value(node).unwrap()]), Precondition::default())
}

/// A program registers itself under this id, at these ports, with a lease that no other id has.
pub(super) fn register(cluster: &str, id: &str, ports: &[u16]) -> Write {
    let named: serde_json::Map<_, _> =
        ports.iter().map(|port| (format!("p{port}"), json!(1000 + port))).collect();
    let mut lease = [0; 16];
    lease[..id.len()].copy_from_slice(id.as_bytes());
    let lease = LeaseId::new(lease);
    let node = json!({
        "id": id, "address": "127.0.0.1", "ports": named, "lease": { "id": lease, "ttl": "10s" },
    });
    let precondition = Precondition { lease: Some(lease), ..Precondition::default() };
    one(cluster, Mutation::PutNodes(vec![serde_json::from_value(node).unwrap()]), precondition)
}

pub(super) fn one(cluster: &str, mutation: Mutation, precondition: Precondition) -> Write {
    Write::new("test", None, vec![Wish { cluster: name(cluster), mutation, precondition }], false)
}
