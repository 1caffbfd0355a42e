//! A store that is put back to before the program began.

use std::time::Duration;

use jcm_subscriber::{Registration, RegistrationEnd, Subscriber};
use jcm_tests::server::start;
use jcm_tests::{Client, Server, binary, eventually, process};
use tempfile::TempDir;

use super::{DEADLINE, TTL, id, is_online, lease_of, me, of_leases, program, until_healthy};

/// So long after its last renewal the lease of before may be kept, as far as servers know: longer than it takes to say something
/// right after a restore.
const KEPT_TTL: Duration = Duration::from_secs(6);

/// A node that has the lease of a process which is over, while the one that took its place lives.
struct Restored {
    client: Client,
    latter: Registration,
    _server: Server,
    _programs: [Subscriber; 2],
}

impl Restored {
    async fn start(ttl: Duration, ready: bool) -> Self {
        let (server, client) = start().await;
        client.put_cluster("orders", &of_leases()).await.ok();
        let before = program(&[server.url()]).await;
        let former = me(&before, 1).ttl(ttl).ready_at_once().start().await.expect("it is registered");
        until_healthy(&client, 1).await;
        let directory = TempDir::new().expect("a temporary directory");
        let file = directory.path().join("jcm.snapshot").display().to_string();
        let jcmctl = async |arguments: &[&str]| {
            let (program, url) = (binary::program("jcmctl"), server.url());
            let exit = process::run_with(&program, arguments, &[("JCM_SERVER", &url)], b"", DEADLINE).await;
            exit.expect_success();
        };
        jcmctl(&["snapshot", "save", &file]).await;

        // The same node in another process, as after a deploy.
        let jcm = program(&[server.url()]).await;
        let latter = me(&jcm, 1).ttl(ttl);
        let latter = if ready { latter.ready_at_once() } else { latter };
        let latter = latter.start().await.expect("it takes the place");
        assert_eq!(former.ended().await, RegistrationEnd::Taken);
        assert_eq!(lease_of(&client, &id(1)).await, latter.lease().to_string());
        jcmctl(&["snapshot", "restore", &file, "--yes"]).await;
        Self { client, latter, _server: server, _programs: [before, jcm] }
    }
}

#[tokio::test]
async fn a_program_that_began_after_the_backup_takes_its_place_back() {
    let Restored { client, latter, .. } = &Restored::start(TTL, true).await;
    eventually(DEADLINE, "the node has the lease of the program that lives", async || {
        // On a busy machine it may have been cleared away before: then it is registered again.
        let cluster = client.get_cluster("orders").await;
        let lease = &cluster.ok()["nodes"][0]["lease"]["id"];
        if *lease == latter.lease().to_string() { Ok(()) } else { Err(lease.to_string()) }
    })
    .await;
    until_healthy(client, 1).await;
    assert!(is_online(&latter.status()), "{:?}", latter.status());
}

#[tokio::test]
async fn a_program_that_becomes_ready_right_after_a_restore_is_ready() {
    let Restored { client, latter, .. } = &Restored::start(KEPT_TTL, false).await;
    tokio::time::timeout(DEADLINE, latter.ready()).await.expect("in time").expect("it is ready");
    assert_eq!(lease_of(client, &id(1)).await, latter.lease().to_string());
    assert!(is_online(&latter.status()), "{:?}", latter.status());
    until_healthy(client, 1).await;
}

#[tokio::test]
async fn a_program_that_leaves_right_after_a_restore_leaves_no_node_behind() {
    for drain in [Duration::ZERO, Duration::from_secs(1)] {
        let Restored { client, latter, _server, _programs } = Restored::start(KEPT_TTL, true).await;
        latter.leave(drain).await.expect("it leaves");
        assert!(client.get_cluster("orders").await.node_ids().is_empty());
    }
}
