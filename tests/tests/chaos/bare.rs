//! A bare ZooKeeper client beside the servers: what a fault costs with nothing of JCM in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jcm_tests::Ensemble;
use tokio::task::JoinHandle;
use zookeeper_client as zk;

/// As often as all writers of a load together write.
const PACE: Duration = Duration::from_millis(20);

/// After this an operation is repeated on a new connection.
const OPERATION_DEADLINE: Duration = Duration::from_secs(2);

const PATH: &str = "/bare";

/// A client that sets one znode again and again. Ends with [`Self::stop`].
#[derive(Debug)]
pub(crate) struct Bare {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Vec<Instant>>,
}

impl Bare {
    pub(crate) async fn start(ensemble: &Ensemble, session_timeout: Duration) -> Self {
        let hosts = ensemble.hosts();
        let client = connect(&hosts, session_timeout).await.expect("ZooKeeper is there");
        let mode = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
        client.create(PATH, &[], &mode).await.expect("nobody else has this znode");
        let is_over = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(write(hosts, session_timeout, client, Arc::clone(&is_over)));
        Self { is_over, task }
    }

    /// When each of its writes was acknowledged.
    pub(crate) async fn stop(self) -> Vec<Instant> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("the bare client panicked")
    }
}

async fn connect(hosts: &str, session_timeout: Duration) -> Option<zk::Client> {
    let connector = zk::Client::connector().with_session_timeout(session_timeout);
    let connected = tokio::time::timeout(OPERATION_DEADLINE, connector.connect(hosts)).await;
    connected.ok()?.ok()
}

async fn write(
    hosts: String,
    session_timeout: Duration,
    client: zk::Client,
    is_over: Arc<AtomicBool>,
) -> Vec<Instant> {
    let mut acknowledged = Vec::new();
    let mut client = Some(client);
    while !is_over.load(Ordering::Relaxed) {
        tokio::time::sleep(PACE).await;
        let Some(connected) = &client else {
            client = connect(&hosts, session_timeout).await;
            continue;
        };
        match tokio::time::timeout(OPERATION_DEADLINE, connected.set_data(PATH, b"bare", None)).await {
            Ok(Ok(_)) => acknowledged.push(Instant::now()),
            // Its own session finds another member by itself; one that is lost does not.
            Ok(Err(zk::Error::SessionExpired | zk::Error::ClientClosed)) => client = None,
            Ok(Err(_)) | Err(_) => {}
        }
    }
    acknowledged
}
