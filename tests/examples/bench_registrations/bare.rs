//! What the servers stand beside: bare requests to the same ZooKeeper, and bare answers over HTTP.

use std::process::Stdio;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::post;
use futures_util::{StreamExt, TryStreamExt, stream};
use jcm_tests::Client;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use zookeeper_client as zk;

use crate::{Fault, NODES, node};

/// The argument by which this program becomes the process that only answers.
pub(crate) const ANSWERS: &str = "answers";

/// Requests that the servers have under way at ZooKeeper: their leader commits one transaction after the other.
const IN_FLIGHT: usize = 1;

/// This process is too busy in a burst to keep a short session.
const SESSION_TIMEOUT: Duration = Duration::from_mins(1);

/// Bare requests to ZooKeeper.
pub(crate) struct Bare {
    client: zk::Client,
    rounds: usize,
}

impl Bare {
    pub(crate) async fn connect(hosts: &str) -> Result<Self, Fault> {
        let connector = zk::Client::connector().with_session_timeout(SESSION_TIMEOUT);
        let client = connector.connect(hosts).await?;
        for path in ["/bare", "/bare/one"] {
            client.create(path, &[], &options()).await?;
        }
        Ok(Self { client, rounds: 0 })
    }

    /// All nodes registered as one would without JCM: a znode with the node's bytes for each, so many of them in one
    /// request as the servers' transactions had.
    pub(crate) async fn register(&mut self, transactions: u64) -> Result<Duration, Fault> {
        let size = NODES.div_ceil(usize::try_from(transactions)?);
        let root = self.root().await?;
        let (client, root) = (&self.client, root.as_str());
        let numbers: Vec<usize> = (0..NODES).collect();
        let begun = Instant::now();
        let requests = numbers.chunks(size).map(|numbers| async move {
            let mut writer = client.new_multi_writer();
            for number in numbers {
                let data = serde_json::to_vec(&node(*number))?;
                writer.add_create(&format!("{root}/n{number:06}"), &data, &options())?;
            }
            writer.commit().await?;
            Ok::<(), Fault>(())
        });
        stream::iter(requests).buffer_unordered(IN_FLIGHT).try_collect::<Vec<()>>().await?;
        Ok(begun.elapsed())
    }

    /// As many requests as there were transactions, one after the other, with the bytes of ours: a head, what of the
    /// cluster was rewritten at its mean size, and a record. The floor of the layout as it is.
    pub(crate) async fn repeat(&mut self, cluster: &str, transactions: u64) -> Result<Duration, Fault> {
        let (chunks, records) = self.stored(cluster).await?;
        let count = usize::try_from(transactions)?;
        let record_bytes = records / count;
        // A transaction of few nodes rewrites few chunks.
        let touched = chunks.len().min(NODES.div_ceil(count));
        let root = self.root().await?;
        for name in ["head", "header"] {
            self.client.create(&format!("{root}/{name}"), &[], &options()).await?;
        }
        for number in 0..chunks.len() {
            self.client.create(&format!("{root}/{number}"), &[], &options()).await?;
        }
        let noise = noise(1_000_000);
        let begun = Instant::now();
        for number in 0..count {
            let mut writer = self.client.new_multi_writer();
            writer.add_check_version("/jcm/identity", 0)?;
            writer.add_set_data(&format!("{root}/head"), &noise[..200], Some(i32::try_from(number)?))?;
            writer.add_set_data(&format!("{root}/header"), &noise[..100], None)?;
            for turn in 0..touched {
                let at = (number * touched + turn) % chunks.len();
                let bytes = chunks[at] * (number + 1) / count;
                writer.add_set_data(&format!("{root}/{at}"), &noise[..bytes], None)?;
            }
            writer.add_create(&format!("{root}/record{number}"), &noise[..record_bytes], &options())?;
            writer.commit().await?;
        }
        Ok(begun.elapsed())
    }

    /// One small write.
    pub(crate) async fn one(&self) -> Result<Duration, Fault> {
        let begun = Instant::now();
        self.client.set_data("/bare/one", &noise(500), None).await?;
        Ok(begun.elapsed())
    }

    async fn root(&mut self) -> Result<String, Fault> {
        self.rounds += 1;
        let root = format!("/bare/{}", self.rounds);
        self.client.create(&root, &[], &options()).await?;
        Ok(root)
    }

    /// The sizes of the cluster's chunks, and of all records of the change log since the last round.
    async fn stored(&self, cluster: &str) -> Result<(Vec<usize>, usize), Fault> {
        let mut chunks = Vec::new();
        let stores = self.client.list_children("/jcm/stores").await?;
        let store = format!("/jcm/stores/{}", stores.first().ok_or("there is no store")?);
        for bucket in self.client.list_children(&format!("{store}/clusters")).await? {
            let path = format!("{store}/clusters/{bucket}/{cluster}");
            if self.client.check_stat(&path).await?.is_none() {
                continue;
            }
            for chunk in self.client.list_children(&path).await? {
                let stat = self.client.check_stat(&format!("{path}/{chunk}")).await?;
                chunks.push(stat.map_or(0, |stat| usize::try_from(stat.data_length).unwrap_or(0)));
            }
        }
        // 10,000 revisions are 10 blocks of the log, and a piece of one.
        let mut blocks = self.client.list_children(&format!("{store}/changes")).await?;
        blocks.sort();
        let mut records = 0;
        for block in blocks.iter().rev().take(10) {
            for record in self.client.list_children(&format!("{store}/changes/{block}")).await? {
                let stat = self.client.check_stat(&format!("{store}/changes/{block}/{record}")).await?;
                records += stat.map_or(0, |stat| usize::try_from(stat.data_length).unwrap_or(0));
            }
        }
        Ok((chunks, records))
    }
}

/// A process that reads a body and answers at once: what the requests cost without any work behind them.
pub(crate) struct Answers {
    child: Child,
    url: String,
}

impl Answers {
    pub(crate) async fn start() -> Result<Self, Fault> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.arg(ANSWERS).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or("its standard output is piped")?;
        let url = BufReader::new(stdout).lines().next_line().await?.ok_or("it did not start")?;
        Ok(Self { child, url })
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// As many clients as there are servers, so that as many connections are kept.
    pub(crate) fn clients(&self, count: usize) -> Vec<Client> {
        std::iter::repeat_with(|| Client::new(&self.url)).take(count).collect()
    }
}

/// The process that answers, until its standard input ends.
pub(crate) async fn answer() -> Result<(), Fault> {
    let created = async |_: Bytes| {
        let body = r#"{"revision":123456,"operation":"01234567-89ab-cdef-0123-456789abcdef","created":true}"#;
        (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], body)
    };
    let router = Router::new().route("/{*path}", post(created));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    Ok(axum::serve(listener, router).await?)
}

fn options() -> zk::CreateOptions<'static> {
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all())
}

/// Bytes that do not compress, from a fixed seed.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(count).collect()
}
