//! A real ZooKeeper for tests: `JCM_TEST_ZOOKEEPER` names one, or each test starts its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use uuid::Uuid;
use zookeeper_client as zk;

use super::Config;

/// A ZooKeeper, and a place in it that is nobody else's.
pub(super) struct Ensemble {
    pub(super) hosts: String,
    root: String,
    /// Where it was started for this test.
    started: Option<(tempfile::TempDir, u16)>,
}

impl Ensemble {
    pub(super) fn new() -> Self {
        let root = format!("/jcm-test-{}", Uuid::new_v4());
        if let Ok(hosts) = std::env::var("JCM_TEST_ZOOKEEPER") {
            return Self { hosts, root, started: None };
        }
        let directory = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        script("start", directory.path(), port);
        Self { hosts: format!("127.0.0.1:{port}"), root, started: Some((directory, port)) }
    }

    pub(super) fn config(&self, hosts: &str, session_timeout: Duration) -> Config {
        Config { hosts: hosts.to_owned(), root: self.root.clone(), session_timeout, digest: None }
    }

    /// A client beside the servers, below the root.
    pub(super) async fn client(&self, session_timeout: Duration) -> zk::Client {
        let connector = zk::Client::connector().with_session_timeout(session_timeout);
        let client = connector.connect(&self.hosts).await.unwrap();
        client.mkdir(&self.root, &persistent()).await.unwrap();
        client.chroot(self.root.as_str()).unwrap()
    }
}

impl Drop for Ensemble {
    fn drop(&mut self) {
        if let Some((directory, port)) = &self.started {
            script("stop", directory.path(), *port);
        }
    }
}

fn script(verb: &str, directory: &Path, port: u16) {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/zookeeper");
    let mut command = Command::new(script);
    command.arg(verb).arg("--dir").arg(directory).args(["--port", &port.to_string()]);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub(super) fn persistent() -> zk::CreateOptions<'static> {
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all())
}
