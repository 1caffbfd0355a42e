//! What a commit costs in ZooKeeper, beside the bare request of the same size by the same client.
//!
//! `cargo run --release -p jcm-storage --example bench_zookeeper -- 127.0.0.1:2181`. Each line is one measurement; it
//! writes below `/bench/<uuid>` and leaves it there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jcm_model::{
    Cluster, ClusterName, Mutation, NodeSpec, OperationId, Precondition, Revision, TargetPolicy,
};
use jcm_proto::{Entry, Transaction, record, v1};
use jcm_storage::zookeeper::Config;
use jcm_storage::{Store, ZooKeeper, ZooKeeperStore};
use zookeeper_client as zk;

type Fault = Box<dyn std::error::Error + Send + Sync>;

const SINGLES: u32 = 1_000;
const GROUP: u32 = 512;
const GROUPS: u32 = 20;

/// A cluster that is written to.
struct Bench {
    store: Arc<ZooKeeperStore>,
    name: ClusterName,
    cluster: Option<Arc<Cluster>>,
    head: Revision,
}

impl Bench {
    /// A transaction of mutations, worked out on what is there.
    fn transaction(&mut self, mutations: Vec<Mutation>) -> Result<Arc<Transaction>, Fault> {
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
        Ok(Arc::new(Transaction { epoch: 1, entries }))
    }

    async fn commit(&mut self, mutations: Vec<Mutation>) -> Result<(), Fault> {
        let head = self.head;
        let transaction = self.transaction(mutations)?;
        Ok(self.store.commit(transaction, head).await?)
    }
}

fn register(number: u32) -> Result<Mutation, Fault> {
    let [_, a, b, c] = number.to_be_bytes();
    let spec = serde_json::json!({
        "id": format!("n{number:06}"), "address": format!("10.{a}.{b}.{c}"), "ports": { "http": 8080 },
    });
    Ok(Mutation::PutNodes(vec![serde_json::from_value::<NodeSpec>(spec)?]))
}

fn report(what: &str, count: u32, took: Duration) {
    let rate = f64::from(count) / took.as_secs_f64();
    println!("{what:<58} {count:>6} in {:>6.2} s = {rate:>9.1}/s", took.as_secs_f64());
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

    let mut bench =
        Bench { store: Arc::clone(&store), name: "bench".parse()?, cluster: None, head: Revision::ZERO };
    let empty = serde_json::from_value::<jcm_model::ClusterSpec>(serde_json::json!({}))?;
    bench.commit(vec![Mutation::PutCluster(empty)]).await?;

    let begun = Instant::now();
    for number in 0..SINGLES {
        bench.commit(vec![register(number % 100 + number / 100 * 1_000_000)?]).await?;
    }
    report("single commits, a cluster that grows to 1,000 nodes", SINGLES, begun.elapsed());
    bare(&raw, "one", SINGLES, &[300, 3_000], 150).await?;

    bench.commit(vec![Mutation::DeleteCluster]).await?;
    let empty = serde_json::from_value::<jcm_model::ClusterSpec>(serde_json::json!({}))?;
    bench.commit(vec![Mutation::PutCluster(empty)]).await?;
    let begun = Instant::now();
    let mut transactions = 0;
    let mut record_bytes = 0;
    for group in 0..GROUPS {
        let numbers = group * GROUP..((group + 1) * GROUP).min(10_000);
        let mutations = numbers.map(register).collect::<Result<_, _>>()?;
        let head = bench.head;
        let transaction = bench.transaction(mutations)?;
        record_bytes = record_bytes.max(record::encode(&v1::Transaction::from(transaction.as_ref())).len());
        store.commit(transaction, head).await?;
        transactions += 1;
    }
    report("10,000 registrations in groups of 512: registrations", 10_000, begun.elapsed());
    report("10,000 registrations in groups of 512: transactions", transactions, begun.elapsed());
    let whole = bench
        .cluster
        .as_ref()
        .map_or(0, |cluster| record::encode(&v1::Cluster::from(cluster.as_ref())).len());
    println!("a record of 512 takes {record_bytes} bytes, the cluster of 10,000 nodes {whole}");
    // On average half of the cluster is rewritten, in its 64 chunks.
    bare(&raw, "group", GROUPS, &[whole / 2 / 64; 64], record_bytes).await?;

    let begun = Instant::now();
    for number in 20_000..20_000 + SINGLES {
        bench.commit(vec![register(number)?]).await?;
    }
    report("single commits into a cluster of 10,000 nodes", SINGLES, begun.elapsed());
    bare(&raw, "whole", 200, &[whole], 150).await?;

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

/// The bare request: a check, a head, these writes, a record.
async fn bare(
    raw: &zk::Client,
    name: &str,
    count: u32,
    writes: &[usize],
    record_bytes: usize,
) -> Result<(), Fault> {
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    let noise: Vec<u8> = (0..1_000_000).map(|_| fastrand::u8(..)).collect();
    raw.create(&format!("/{name}"), &[], &options).await?;
    raw.create(&format!("/{name}/head"), &[], &options).await?;
    for write in 0..writes.len() {
        raw.create(&format!("/{name}/{write}"), &[], &options).await?;
    }
    let begun = Instant::now();
    for number in 0..count {
        let mut writer = raw.new_multi_writer();
        writer.add_check_version("/identity", 0)?;
        writer.add_set_data(&format!("/{name}/head"), &noise[..200], Some(i32::try_from(number)?))?;
        for (at, bytes) in writes.iter().enumerate() {
            writer.add_set_data(&format!("/{name}/{at}"), &noise[..*bytes], None)?;
        }
        writer.add_create(&format!("/{name}/record{number}"), &noise[..record_bytes], &options)?;
        writer.commit().await?;
    }
    report(&format!("  bare requests of the same size ({name})"), count, begun.elapsed());
    Ok(())
}
