//! What a commit costs in ZooKeeper, beside the bare request of the same bytes by the same client.
//!
//! `cargo run --release -p jcm-storage --example bench_zookeeper -- 127.0.0.1:2181`. What is committed is worked out
//! beforehand. Then each commit takes turns with the bare request that carries as many bytes to as many znodes: a check,
//! a head, the definitions that are rewritten, a record. Each of the rounds begins with an empty cluster; it writes below
//! `/bench/<uuid>` and leaves it there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{
    Cluster, ClusterName, Head, Mutation, NodeSpec, OperationId, Precondition, Revision, TargetPolicy,
};
use jcm_proto::{Entry, Transaction, record, v1};
use jcm_storage::zookeeper::Config;
use jcm_storage::{Store, ZooKeeper, ZooKeeperStore};
use xxhash_rust::xxh3::xxh3_64;
use zookeeper_client as zk;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 5;
const SINGLES: u32 = 200;
const GROUP: u32 = 512;
const GROUPS: u32 = 20;
/// As the store lays clusters out: up to so many nodes with their cluster, else in so many chunks.
const NODES_INLINE_MAX: usize = 128;
const CHUNKS: usize = 64;

/// A cluster that is written to.
struct Bench {
    store: Arc<ZooKeeperStore>,
    raw: zk::Client,
    name: ClusterName,
    cluster: Option<Arc<Cluster>>,
    head: Revision,
    noise: Vec<u8>,
    /// Bare requests so far.
    bare: u32,
}

/// A commit with what its bare counterpart writes.
struct Planned {
    transaction: Arc<Transaction>,
    writes: Vec<usize>,
    record_bytes: usize,
}

/// What one measurement took, the store's part and the bare requests'.
#[derive(Clone, Copy)]
struct Took {
    store: Duration,
    bare: Duration,
}

impl Bench {
    /// A transaction of mutations, worked out on what is there.
    fn plan(&mut self, mutations: Vec<Mutation>) -> Result<Planned, Fault> {
        let mut entries = Vec::new();
        for mutation in mutations {
            let change = mutation
                .change(
                    &self.name,
                    self.cluster.as_ref(),
                    Precondition::default(),
                    self.head.next(),
                    &TargetPolicy::default(),
                )
                .map_err(|error| format!("{error:?}"))?
                .ok_or("the mutation changes nothing")?;
            self.head = change.revision;
            self.cluster = change.apply(self.cluster.as_ref());
            entries.push(Entry {
                operation: OperationId(uuid::Uuid::new_v4()),
                fingerprint: self.head.0,
                principal: "bench".to_owned(),
                created: true,
                change,
            });
        }
        let transaction = Arc::new(Transaction { epoch: 1, entries });
        let record_bytes = record::encode(&v1::Transaction::from(transaction.as_ref())).len();
        let writes = self.cluster.as_ref().map_or_else(Vec::new, |cluster| writes(cluster, &transaction));
        Ok(Planned { transaction, writes, record_bytes })
    }

    /// Registrations of these nodes, so many in each transaction.
    fn plan_all(&mut self, numbers: &[u32], group: usize) -> Result<Vec<Planned>, Fault> {
        let groups = numbers.chunks(group);
        groups
            .map(|group| self.plan(group.iter().copied().map(register).collect::<Result<_, _>>()?))
            .collect()
    }

    /// Commits each, in turns with its bare counterpart.
    async fn measure(&mut self, planned: Vec<Planned>) -> Result<Took, Fault> {
        let mut took = Took { store: Duration::ZERO, bare: Duration::ZERO };
        for planned in planned {
            let begun = Instant::now();
            let revision = Revision(planned.transaction.first().0 - 1);
            let expected = Head { store: self.store.id(), revision };
            self.store.commit(Arc::clone(&planned.transaction), expected).await?;
            took.store += begun.elapsed();
            let begun = Instant::now();
            self.request(&planned).await?;
            took.bare += begun.elapsed();
        }
        Ok(took)
    }

    /// The bare request: a check, a head, these writes, a record.
    async fn request(&mut self, planned: &Planned) -> Result<(), Fault> {
        let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        let mut writer = self.raw.new_multi_writer();
        writer.add_check_version("/identity", 0)?;
        writer.add_set_data("/bare/head", &self.noise[..200], Some(i32::try_from(self.bare)?))?;
        for (at, bytes) in planned.writes.iter().enumerate() {
            writer.add_set_data(&format!("/bare/{at}"), &self.noise[..*bytes], None)?;
        }
        let path = format!("/bare/records/{}", self.bare);
        writer.add_create(&path, &self.noise[..planned.record_bytes], &options)?;
        writer.commit().await?;
        self.bare += 1;
        Ok(())
    }

    async fn start_over(&mut self) -> Result<(), Fault> {
        let empty = serde_json::from_value::<jcm_model::ClusterSpec>(serde_json::json!({}))?;
        let mut mutations = vec![Mutation::PutCluster(empty)];
        if self.cluster.is_some() {
            mutations.insert(0, Mutation::DeleteCluster);
        }
        let head = Head { store: self.store.id(), revision: self.head };
        let planned = self.plan(mutations)?;
        Ok(self.store.commit(planned.transaction, head).await?)
    }
}

/// The sizes of the znodes below `clusters` that a transaction rewrites.
fn writes(after: &Cluster, transaction: &Transaction) -> Vec<usize> {
    let is_whole = after.nodes.len() <= NODES_INLINE_MAX;
    let bare = after.without_nodes();
    let cluster = Some(v1::Cluster::from(if is_whole { after } else { &bare }));
    let chunks = if is_whole { 0 } else { u32::try_from(CHUNKS).unwrap_or(0) };
    let mut writes = vec![record::encode(&v1::StoredCluster { cluster, chunks }).len()];
    if is_whole {
        return writes;
    }
    let mut nodes: Vec<Vec<v1::Node>> = vec![Vec::new(); CHUNKS];
    let mut is_touched = [false; CHUNKS];
    let chunk_of = |node: &jcm_model::Node| {
        usize::try_from(xxh3_64(node.id.as_str().as_bytes()) % CHUNKS as u64).unwrap_or(0)
    };
    for node in &after.nodes {
        nodes[chunk_of(node)].push(node.as_ref().into());
    }
    for entry in &transaction.entries {
        if let jcm_model::Effect::Updated { put, .. } = &entry.change.effect {
            for node in put {
                is_touched[chunk_of(node)] = true;
            }
        }
    }
    for (chunk, nodes) in nodes.into_iter().enumerate() {
        if is_touched[chunk] {
            let chunk = u32::try_from(chunk).unwrap_or(0);
            let chunk = v1::StoredChunk { cluster: after.name.to_string(), chunk, nodes };
            writes.push(record::encode(&chunk).len());
        }
    }
    writes
}

fn register(number: u32) -> Result<Mutation, Fault> {
    let [_, a, b, c] = number.to_be_bytes();
    let spec = serde_json::json!({
        "id": format!("n{number:06}"), "address": format!("10.{a}.{b}.{c}"), "ports": { "http": 8080 },
    });
    Ok(Mutation::PutNodes(vec![serde_json::from_value::<NodeSpec>(spec)?]))
}

/// One line: both rates of the median round by ratio, and the ratios of all rounds.
fn report(what: &str, commits: u32, rounds: &[Took]) {
    let mut rounds = rounds.to_vec();
    let ratio = |took: &Took| took.bare.as_secs_f64() / took.store.as_secs_f64();
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let (Some(first), Some(last)) = (rounds.first(), rounds.last()) else { return };
    let median = rounds[rounds.len() / 2];
    let rate = |took: Duration| f64::from(commits) / took.as_secs_f64();
    println!(
        "{what:<48} {:>8.1}/s bare {:>8.1}/s ratio {:.2} ({:.2}-{:.2})",
        rate(median.store),
        rate(median.bare),
        ratio(&median),
        ratio(first),
        ratio(last),
    );
}

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let hosts = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2181".to_owned());
    let root = format!("/bench/{}", uuid::Uuid::new_v4());
    let config = Config {
        hosts: hosts.clone(),
        root: root.clone(),
        session_timeout: Duration::from_secs(6),
        digest: None,
    };
    let zookeeper = ZooKeeper::connect(config)?;
    let store = zookeeper.store();
    store.open(None).await?;
    store.load().await?;
    let raw = zk::Client::connect(&hosts).await?.chroot(root.as_str()).map_err(|_| "the root is no path")?;
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    raw.create("/bare", &[], &options).await?;
    raw.create("/bare/records", &[], &options).await?;
    raw.create("/bare/head", &[], &options).await?;
    for write in 0..=CHUNKS {
        raw.create(&format!("/bare/{write}"), &[], &options).await?;
    }

    let mut bench = Bench {
        store: Arc::clone(&store),
        raw,
        name: "bench".parse()?,
        cluster: None,
        head: Revision::ZERO,
        noise: (0..1_000_000).map(|_| fastrand::u8(..)).collect(),
        bare: 0,
    };
    let (mut small, mut groups, mut large) = (Vec::new(), Vec::new(), Vec::new());
    let numbers = |from: u32, count: u32| (from..from + count).collect::<Vec<_>>();
    for _ in 0..ROUNDS {
        bench.start_over().await?;
        let planned = bench.plan_all(&numbers(0, SINGLES), 1)?;
        small.push(bench.measure(planned).await?);
        bench.start_over().await?;
        let planned = bench.plan_all(&numbers(0, GROUP * GROUPS), GROUP as usize)?;
        groups.push(bench.measure(planned).await?);
        let planned = bench.plan_all(&numbers(GROUP * GROUPS, SINGLES), 1)?;
        large.push(bench.measure(planned).await?);
    }
    report("single registrations into up to 200 nodes", SINGLES, &small);
    report("groups of 512 into up to 10,240 nodes: groups", GROUPS, &groups);
    report("the same: nodes", GROUPS * GROUP, &groups);
    report("single registrations into 10,240 nodes", SINGLES, &large);

    let begun = Instant::now();
    let snapshot = store.load().await?;
    let took = begun.elapsed();
    println!(
        "load: {} clusters, {} operations in {} ms",
        snapshot.clusters.len(),
        snapshot.operations.len(),
        took.as_millis()
    );
    zookeeper.shutdown().await;
    Ok(())
}
