//! The store is out of reach, gone, or another: what was known goes on being served, and nobody loses a node.

use std::time::Duration;

use jcm_subscriber::{Policy, Status, Subscriber};
use jcm_tests::{Client, Ensemble, Events, Server, binary, eventually, process};
use serde_json::json;
use tempfile::TempDir;

use crate::lifecycle::check_refused;

const DEADLINE: Duration = Duration::from_mins(1);
const PROGRAM_DEADLINE: Duration = Duration::from_secs(45);

fn on(ensemble: &Ensemble, id: &str) -> String {
    let hosts = ensemble.hosts();
    format!(
        "id = '{id}'\n[store]\nkind = 'zookeeper'\n[store.zookeeper]\nhosts = '{hosts}'\nsession_timeout = '2s'\n"
    )
}

async fn put(client: &Client, name: &str) -> u64 {
    let nodes = json!([{ "address": "127.0.0.1", "ports": { "http": 18080 } }]);
    eventually(DEADLINE, "a write is taken", async || {
        let answer = client.put_cluster(name, &json!({ "nodes": nodes })).await;
        if answer.status < 300 { Ok(answer.revision()) } else { Err(answer) }
    })
    .await
}

async fn until_stale(client: &Client, wanted: bool) {
    eventually(DEADLINE, &format!("stale is {wanted}"), async || {
        let (view, status) = (client.view("orders").await, client.get("/v1/status").await);
        let state = if wanted { "unavailable" } else { "ok" };
        let told = view.body["stale"] == wanted && status.body["store"]["state"] == state;
        if told { Ok(()) } else { Err(format!("{view}\n{status}")) }
    })
    .await;
}

async fn jcmctl(client_url: &str, arguments: &[&str]) -> process::Exit {
    let environment = [("JCM_SERVER", client_url)];
    process::run_with(&binary::program("jcmctl"), arguments, &environment, b"", PROGRAM_DEADLINE).await
}

#[tokio::test]
async fn a_lost_store_is_told_and_reads_and_pushes_go_on() {
    let ensemble = Ensemble::start(1).await;
    let server = Server::serve(&on(&ensemble, "s1")).start().await;
    let client = server.client();
    put(&client, "orders").await;
    let jcm = Subscriber::builder().servers([server.url()]).build().await.unwrap();
    let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe().await.unwrap();
    let mut events = Events::open(&client, "orders", None).await;
    until_stale(&client, false).await;

    ensemble.stop_all().await;
    until_stale(&client, true).await;
    let told = events.until(DEADLINE, "the stream says it", |event| event.kind == "store").await;
    assert_eq!(told.data, json!({ "state": "unavailable", "stale": true }));
    eventually(DEADLINE, "the program is told", async || match orders.status() {
        Status::Stale { .. } => Ok(()),
        other => Err(other),
    })
    .await;
    assert!(orders.alloc().is_ok(), "what is stale can be picked from");
    client.get("/readyz").await.expect_status(200);
    let status = client.get("/v1/status").await;
    assert!(status.ok()["store"]["stale_for_ms"].as_u64() > Some(0), "{status}");
    client.put_cluster("other", &json!({ "nodes": [] })).await.expect_problem(503);

    ensemble.start_all().await;
    until_stale(&client, false).await;
    let told = events.until(DEADLINE, "the stream says it", |event| event.kind == "store").await;
    assert_eq!(told.data["stale"], false);
    put(&client, "other").await;
    eventually(DEADLINE, "the program is told", async || match orders.status() {
        Status::Live { .. } => Ok(()),
        other => Err(other),
    })
    .await;
}

#[tokio::test]
async fn a_server_starts_from_its_disk_while_the_store_is_gone_and_follows_it_when_it_is_back() {
    let ensemble = Ensemble::start(1).await;
    let mut server = Server::serve(&on(&ensemble, "s1")).start().await;
    let client = server.client();
    let revision = put(&client, "orders").await;
    assert!(server.terminate().await.success(), "{}", server.log());
    ensemble.stop_all().await;

    server.restart().await;
    let view = client.view("orders").await;
    assert_eq!((view.revision(), &view.body["stale"]), (revision, &json!(true)), "{view}");
    client.get("/readyz").await.expect_status(200);
    client.put_cluster("other", &json!({ "nodes": [] })).await.expect_problem(503);
    client.view("missing").await.expect_problem(404);

    ensemble.start_all().await;
    until_stale(&client, false).await;
    assert!(put(&client, "other").await > revision);
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_for_the_one_before_it() {
    let ensemble = Ensemble::start(1).await;
    let mut server = Server::serve(&on(&ensemble, "s1")).start().await;
    let client = server.client();
    put(&client, "orders").await;
    let latest = server.data().join("definitions.snapshot");
    let previous = server.data().join("definitions.snapshot.previous");
    eventually(DEADLINE, "definitions are on disk", async || latest.exists().then_some(()).ok_or("not yet"))
        .await;
    put(&client, "other").await;
    // The former latest is renamed before the new one is in its place.
    let both = async || (previous.exists() && latest.exists()).then_some(()).ok_or("not yet");
    eventually(DEADLINE, "a second file", both).await;
    server.kill_9().await;
    ensemble.stop_all().await;
    let whole = std::fs::read(&latest).unwrap();
    std::fs::write(&latest, &whole[..whole.len() / 2]).unwrap();
    server.restart().await;
    assert_eq!(client.view("orders").await.ok()["stale"], true);
    assert!(server.log().contains("damaged"), "{}", server.log());
    ensemble.start_all().await;
    until_stale(&client, false).await;
}

#[tokio::test]
async fn a_wiped_ensemble_is_refused_and_a_server_s_memory_seeds_it_again() {
    let ensemble = Ensemble::start(1).await;
    let mut server = Server::serve(&on(&ensemble, "s1")).start().await;
    let client = server.client();
    put(&client, "orders").await;
    let store = client.get("/v1/status").await.ok()["store"]["id"].clone();
    let jcm = Subscriber::builder().servers([server.url()]).build().await.unwrap();
    let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe().await.unwrap();

    ensemble.stop_all().await;
    ensemble.wipe().await;
    ensemble.start_all().await;
    until_stale(&client, true).await;
    client.put_cluster("other", &json!({ "nodes": [] })).await.expect_problem(503);
    assert_eq!(client.view("orders").await.node_ids().len(), 1, "the last good is served");

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("jcm.snapshot").display().to_string();
    jcmctl(&server.url(), &["snapshot", "save", &file]).await.expect_success();
    let restored = jcmctl(&server.url(), &["snapshot", "restore", &file, "--yes"]).await;
    assert!(restored.expect_success().contains("1 cluster"), "{restored:#?}");
    until_stale(&client, false).await;
    let after = client.get("/v1/status").await;
    assert_ne!(after.ok()["store"]["id"], store, "{after}");
    put(&client, "other").await;
    assert!(orders.alloc().is_ok());
    eventually(DEADLINE, "the program follows", async || match orders.status() {
        Status::Live { .. } => Ok(()),
        other => Err(other),
    })
    .await;
    // The directory belongs to the new store from now on.
    server.restart().await;
    assert_eq!(client.get("/v1/status").await.ok()["store"]["id"], after.body["store"]["id"]);
}

#[tokio::test]
async fn a_server_refuses_a_store_that_is_not_its_own_and_names_both() {
    let ensemble = Ensemble::start(1).await;
    let mut server = Server::serve(&on(&ensemble, "s1")).start().await;
    put(&server.client(), "orders").await;
    let store = server.client().get("/v1/status").await.ok()["store"]["id"].as_str().unwrap().to_owned();
    assert!(server.terminate().await.success());
    ensemble.stop_all().await;
    ensemble.wipe().await;
    ensemble.start_all().await;
    // One that belongs to no store begins a new one there.
    let mut other = Server::serve(&on(&ensemble, "s2")).start().await;
    let alien = other.client().get("/v1/status").await.ok()["store"]["id"].as_str().unwrap().to_owned();
    assert_ne!(alien, store);
    let exit = Server::serve(&on(&ensemble, "s1")).data(&server.data()).try_start().await;
    check_refused(&exit.expect_err("it must refuse"), &[&store, &alien]);
    assert!(other.terminate().await.success());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_named() {
    let config = "[store]\nkind = 'zookeeper'\n[store.zookeeper]\nhosts = 'no-such-host.invalid:2181'\n";
    let exit = Server::serve(config).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &["no-such-host.invalid:2181", "store.zookeeper.hosts"]);
    let exit = Server::serve("[store]\nkind = 'zookeeper'\n").try_start().await.expect_err("it must refuse");
    check_refused(&exit, &["store.zookeeper.hosts", "jcm.toml"]);
}

#[tokio::test]
async fn a_restored_store_loses_nobody_a_node() {
    let server = Server::dev().start().await;
    let client = server.client();
    put(&client, "orders").await;
    let jcm = Subscriber::builder().servers([server.url()]).build().await.unwrap();
    let orders = jcm.cluster("orders").policy(Policy::p2c()).subscribe().await.unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("jcm.snapshot").display().to_string();
    let url = server.url();
    let saved = jcmctl(&url, &["snapshot", "save", &file]).await;
    assert!(saved.expect_success().contains("1 cluster with 1 node"), "{saved:#?}");
    jcmctl(&url, &["snapshot", "save", &file]).await.expect_code(4);
    jcmctl(&url, &["snapshot", "save", &file, "--force"]).await.expect_success();
    client.patch_cluster("orders", &json!({ "properties": { "a": "1" } })).await.ok();

    let picking = {
        let orders = orders.clone();
        tokio::spawn(async move {
            for _ in 0..2_000 {
                drop(orders.alloc().expect("there is always a node"));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    jcmctl(&url, &["snapshot", "restore", &file, "--yes"]).await.expect_success();
    eventually(DEADLINE, "the program follows", async || {
        let properties = orders.properties();
        if properties.get("a").is_none() { Ok(()) } else { Err("the old properties") }
    })
    .await;
    picking.await.unwrap();
    assert!(matches!(orders.status(), Status::Live { .. }), "{}", orders.status());
    put(&client, "other").await;

    // Another store than the one that is meant, and what is no snapshot, are refused.
    let other = "/v1/snapshot?replaces=00000000-0000-0000-0000-000000000000";
    client.post(other, &json!({})).await.expect_problem(412);
    let held = client.get("/v1/status").await.ok()["store"]["id"].as_str().unwrap().to_owned();
    client.post(&format!("/v1/snapshot?replaces={held}"), &json!({})).await.expect_problem(400);
    std::fs::write(&file, b"damaged").unwrap();
    jcmctl(&url, &["snapshot", "restore", &file, "--yes"]).await.expect_code(2);
}
