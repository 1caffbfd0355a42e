//! The checker's task with a real engine and real sockets, among servers that say what the test tells them to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use jcm_health::engine::{REPORT_QUEUE_MAX, reports};
use jcm_health::{Options, ReactorEngine, Trust};
use jcm_model::{
    Cluster, ClusterName, Judged, Mutation, NodeId, Precondition, Revision, StoreId, TargetPolicy, Verdict,
};
use jcm_storage::{MemoryStore, Solo};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::catalog::Audience;
use crate::checker::{Asker, Checker, Judging, Surroundings};
use crate::snapshot::Snapshot;
use crate::verdicts::Remembered;
use crate::views::Views;

/// No test waits longer than this for anything.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the other servers are and do.
#[derive(Default)]
struct Told {
    well: Vec<ServerId>,
    says: BTreeMap<ServerId, Said>,
    asked: usize,
    suspended: bool,
    shares: Vec<bool>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Told>>);

impl Fake {
    fn with(says: &[(&str, Said)]) -> Self {
        let fake = Self::default();
        let says: BTreeMap<_, _> =
            says.iter().map(|(id, said)| (ServerId::parse(id).unwrap(), *said)).collect();
        fake.see(|told| {
            told.well = says.keys().cloned().collect();
            told.says = says;
        });
        fake
    }

    fn see<T>(&self, look: impl FnOnce(&mut Told) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl Vantages for Fake {
    fn around(&self) -> Around {
        let well = self.see(|told| told.well.clone());
        Around { members: well.clone(), sharing: well.len(), well, doubting: Vec::new() }
    }

    fn probe(
        &self,
        to: ServerId,
        asked: Vec<Question>,
        _within: Duration,
    ) -> BoxFuture<'static, Option<Vec<Answer>>> {
        let said = self.see(|told| {
            told.asked += asked.len();
            told.says.get(&to).copied()
        });
        let answer = |said| Answer {
            said,
            suspended: false,
            latency: Duration::from_millis(1),
            phases: jcm_health::Phases::default(),
            outcome: "as told".to_owned(),
        };
        let answers = said.map(|said| vec![answer(said); asked.len()]);
        Box::pin(std::future::ready(answers))
    }

    fn suspend(&self, suspended: bool) {
        self.see(|told| told.suspended = suspended);
    }

    fn share(&self, wanted: bool) -> BoxFuture<'static, ()> {
        self.see(|told| told.shares.push(wanted));
        Box::pin(std::future::ready(()))
    }
}

struct Running {
    views: Arc<Views>,
    asker: Asker,
    engine: Arc<ReactorEngine>,
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Checks these clusters, each with a node at each of the addresses, among these servers.
    async fn start(fake: &Fake, clusters: &[&str], nodes: &[SocketAddr]) -> Self {
        let targets = Arc::new(TargetPolicy { loopback_allowed: true, own: Vec::new() });
        let (sender, reports) = reports::channel(REPORT_QUEUE_MAX);
        let options = Options { threads: 1, kept_max: 100, trust: Trust::default() };
        let engine = Arc::new(ReactorEngine::start(&targets, &sender, options).unwrap());
        let views = Arc::new(Views::new(1));
        let server = ServerId::parse("s1").unwrap();
        let (_, heard) = mpsc::channel(1);
        let peers = Peers::nobody(server.clone());
        let membership: Arc<dyn Membership> = Arc::new(Solo::default());
        let surroundings = Surroundings::new(&peers, heard, &membership, &MemoryStore::new(), &engine);
        let seam: Arc<dyn jcm_health::Engine> = Arc::clone(&engine) as Arc<dyn jcm_health::Engine>;
        let judging = Judging { server, incarnation: 1, session_timeout: Duration::from_secs(6) };
        let (mut checker, mut definitions, _) =
            Checker::new(judging, seam, reports, Arc::clone(&views), Remembered::default(), surroundings);
        let asker = checker.among(Box::new(fake.clone()), Arc::clone(&engine));
        let clusters = clusters.iter().map(|name| cluster(name, nodes));
        definitions.loaded(snapshot(clusters)).await;
        let stop = CancellationToken::new();
        let task = tokio::spawn(checker.run(stop.clone()));
        // The audience is kept by whoever follows the store: without it the checker has heard everything.
        drop(definitions);
        Self { views, asker, engine, task, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.expect("the task ends").unwrap();
        timeout(DEADLINE, self.engine.shutdown()).await.expect("every probe ended");
    }

    fn judged(&self, cluster: &str, node: SocketAddr) -> Option<Judged> {
        self.views.judged(&ClusterName::parse(cluster).unwrap(), &id(node))
    }

    fn verdict(&self, cluster: &str, node: SocketAddr) -> Verdict {
        self.judged(cluster, node).map_or(Verdict::Unknown, |judged| judged.verdict)
    }
}

fn id(node: SocketAddr) -> NodeId {
    NodeId::parse(&node.to_string()).unwrap()
}

fn cluster(name: &str, nodes: &[SocketAddr]) -> Arc<Cluster> {
    let nodes: Vec<_> =
        nodes.iter().map(|node| json!({ "address": node.ip(), "ports": { "tcp": node.port() } })).collect();
    let check = json!({ "kind": "tcp", "interval": "100ms", "timeout": "90ms" });
    let spec = serde_json::from_value(json!({ "check": check, "nodes": nodes })).unwrap();
    let targets = TargetPolicy { loopback_allowed: true, own: Vec::new() };
    let change = Mutation::PutCluster(spec)
        .change(&ClusterName::parse(name).unwrap(), None, Precondition::default(), Revision(1), &targets)
        .unwrap()
        .unwrap();
    change.apply(None).unwrap()
}

fn snapshot(clusters: impl Iterator<Item = Arc<Cluster>>) -> Arc<Snapshot> {
    let clusters = clusters.map(|cluster| (cluster.name.clone(), cluster)).collect();
    let store = StoreId(uuid::Uuid::from_u128(1));
    Arc::new(Snapshot { store, revision: Revision(1), clusters, quarantined: imbl::OrdMap::new() })
}

/// An address that is taken and where nobody listens.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A listener whose queue is full: the kernel drops every further SYN without a word.
async fn swallowing() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(stream.unwrap());
    }
    (listener, queued, address)
}

async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    timeout(DEADLINE, async {
        while !is_so() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{what}, in {DEADLINE:?}"));
}

#[tokio::test]
async fn a_dead_node_is_down_when_another_server_finds_the_same_and_why_shows_both() {
    let (_taken, dead) = refusing();
    let fake = Fake::with(&[("s2", Said::Failed), ("s3", Said::Nothing)]);
    let running = Running::start(&fake, &["orders"], &[dead]).await;
    eventually("down", || running.verdict("orders", dead) == Verdict::Down).await;
    assert!(!running.judged("orders", dead).unwrap().single_vantage);
    let name = ClusterName::parse("orders").unwrap();
    let findings = running.asker.findings(&name, &id(dead)).await.unwrap();
    let because = findings.last_turn.unwrap().because;
    assert!(because.ends_with("failures in a row (fall 3), agreed by s2"), "{because}");
    let vantages: Vec<_> = findings.vantages.iter().map(|vantage| vantage.server.as_str()).collect();
    assert_eq!(vantages, ["s1", "s2", "s3"]);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_another_server_reaches_is_not_called_down() {
    let (_taken, dead) = refusing();
    let fake = Fake::with(&[("s2", Said::Failed), ("s3", Said::Reached)]);
    let running = Running::start(&fake, &["orders"], &[dead]).await;
    eventually("asked each interval", || fake.see(|told| told.asked) > 20).await;
    assert_eq!(running.verdict("orders", dead), Verdict::Healthy);
    // Once nobody reaches it any more it is down, and not before `fall` rounds of both.
    fake.see(|told| told.says.values_mut().for_each(|said| *said = Said::Failed));
    eventually("down", || running.verdict("orders", dead) == Verdict::Down).await;
    running.stop().await;
}

#[tokio::test]
async fn a_failure_that_nobody_else_looks_at_stands_flagged_until_somebody_does() {
    let (_taken, dead) = refusing();
    let fake = Fake::with(&[]);
    let (_listener, well) = listening().await;
    let running = Running::start(&fake, &["orders"], &[dead, well]).await;
    eventually("down", || running.verdict("orders", dead) == Verdict::Down).await;
    assert!(running.judged("orders", dead).unwrap().single_vantage);
    fake.see(|told| {
        let other = ServerId::parse("s2").unwrap();
        told.well.push(other.clone());
        told.says.insert(other, Said::Failed);
    });
    eventually("agreed", || !running.judged("orders", dead).unwrap().single_vantage).await;
    assert_eq!(running.verdict("orders", dead), Verdict::Down);
    running.stop().await;
}

async fn listening() -> (JoinHandle<()>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    (task, address)
}

#[tokio::test]
async fn a_checker_that_alone_lost_the_way_says_so_gives_its_share_up_and_calls_nothing_down() {
    let (_listener, _queued, silent) = swallowing().await;
    let fake = Fake::with(&[("s2", Said::Reached), ("s3", Said::Reached)]);
    let names = ["a", "b", "c", "d", "e", "f"];
    let running = Running::start(&fake, &names, &[silent]).await;
    eventually("its share given up", || fake.see(|told| told.shares == [false])).await;
    assert!(fake.see(|told| told.suspended));
    assert!(running.asker.suspended().is_some());
    assert!(names.iter().all(|name| running.verdict(name, silent) != Verdict::Down));
    // The others are gone: checks by a server that doubts itself are better than none.
    fake.see(|told| told.well.clear());
    eventually("its share taken again", || fake.see(|told| told.shares == [false, true])).await;
    running.stop().await;
}

#[tokio::test]
async fn what_nobody_reaches_stands() {
    let (_listener, _queued, silent) = swallowing().await;
    let fake = Fake::with(&[("s2", Said::Failed)]);
    let names = ["a", "b", "c", "d", "e", "f"];
    let running = Running::start(&fake, &names, &[silent]).await;
    eventually("all down", || names.iter().all(|name| running.verdict(name, silent) == Verdict::Down)).await;
    eventually("trusted again", || !fake.see(|told| told.suspended)).await;
    assert!(fake.see(|told| told.shares.is_empty()));
    running.stop().await;
}

#[tokio::test]
async fn a_peer_is_answered_by_a_fresh_probe_of_what_is_held_here_and_of_nothing_else() {
    let (_taken, dead) = refusing();
    let (_listener, well) = listening().await;
    let running = Running::start(&Fake::with(&[]), &["orders"], &[dead, well]).await;
    let question = |node, birth| Question {
        cluster: ClusterName::parse("orders").unwrap(),
        node: id(node),
        birth: Revision(birth),
    };
    let asked = vec![question(dead, 1), question(well, 1), question(well, 2)];
    let answers = running.asker.probe(asked, DEADLINE).await;
    let said: Vec<_> = answers.iter().map(|answer| (answer.said, answer.outcome.as_str())).collect();
    assert_eq!(said[..2], [(Said::Failed, "connection refused"), (Said::Reached, "connected")]);
    assert_eq!(said[2].0, Said::Nothing);
    let too_many = vec![question(well, 1); super::super::opinions::CALL_QUESTIONS_MAX + 1];
    let answers = running.asker.probe(too_many, DEADLINE).await;
    assert!(answers.iter().all(|answer| answer.said == Said::Nothing));
    running.stop().await;
}
