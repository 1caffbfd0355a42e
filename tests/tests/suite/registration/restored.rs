//! A store that is put back to before the program began.

use jcm_subscriber::RegistrationEnd;
use jcm_tests::server::start;
use jcm_tests::{binary, eventually, process};
use tempfile::TempDir;

use super::{DEADLINE, TTL, id, is_online, lease_of, me, of_leases, program, until_healthy};

#[tokio::test]
async fn a_program_that_began_after_the_backup_takes_its_place_back() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let before = program(&[server.url()]).await;
    let former = me(&before, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
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
    let latter = me(&jcm, 1).ttl(TTL).ready_at_once().start().await.expect("it takes the place");
    assert_eq!(former.ended().await, RegistrationEnd::Taken);
    assert_eq!(lease_of(&client, &id(1)).await, latter.lease().to_string());

    jcmctl(&["snapshot", "restore", &file, "--yes"]).await;
    eventually(DEADLINE, "the node has the lease of the program that lives", async || {
        // On a busy machine it may have been cleared away before: then it is registered again.
        let cluster = client.get_cluster("orders").await;
        let lease = &cluster.ok()["nodes"][0]["lease"]["id"];
        if *lease == latter.lease().to_string() { Ok(()) } else { Err(lease.to_string()) }
    })
    .await;
    until_healthy(&client, 1).await;
    assert!(is_online(&latter.status()), "{:?}", latter.status());
}
