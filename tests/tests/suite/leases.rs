//! Programs that register themselves: there while they renew, down when they stop, cleared away after that; and never on
//! suspicion.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jcm_proto::v1::WatchRequest;
use jcm_proto::v1::registry_client::RegistryClient;
use jcm_proto::v1::watch_request::{Held, Keep, Request};
use jcm_proto::v1::watch_response::lost_lease::Reason;
use jcm_proto::v1::watch_response::{Event, LostLease};
use jcm_proto::v1::write_options::Condition;
use jcm_proto::v1::{DeleteNodeRequest, PatchNodeRequest, WriteOptions};
use jcm_tests::server::start;
use jcm_tests::{Client, Ensemble, Group, Server, Target, binary, eventually, process, target};
use serde_json::{Value, json};

use crate::keeper::{Guard, Keeper, held, lease, node, nodes, open, register, verdicts};

/// A lapse, a clearing after it, and what a busy machine adds to both.
const DEADLINE: Duration = Duration::from_mins(1);

/// A cluster whose check is the lease, of these nodes.
async fn define(client: &Client, name: &str, numbers: impl IntoIterator<Item = u16>) -> u64 {
    let cluster = json!({ "check": { "kind": "lease" }, "nodes": nodes(numbers) });
    client.put_cluster(name, &cluster).await.revision()
}

/// Waits until these nodes, and no others, have these verdicts.
async fn shows(client: &Client, cluster: &str, expected: &[(u16, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(number, verdict)| (format!("n{number}"), (*verdict).to_owned())).collect();
    eventually(DEADLINE, &format!("{cluster} shows {expected:?}"), async || {
        let found = verdicts(client, cluster).await;
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn all(numbers: impl IntoIterator<Item = u16>, verdict: &str) -> Vec<(u16, &str)> {
    numbers.into_iter().map(|number| (number, verdict)).collect()
}

#[tokio::test]
async fn a_program_is_healthy_while_it_renews_down_when_it_stops_and_cleared_away_after_that() {
    let (server, client) = start().await;
    let revision = define(&client, "orders", 1..=3).await;
    let keeper = Keeper::start(vec![server.url()], "orders", 1..=3);
    shows(&client, "orders", &all(1..=3, "healthy")).await;
    let guard = Guard::start(client.clone(), "orders", 1..=2);
    keeper.forget([3]);
    shows(&client, "orders", &[(1, "healthy"), (2, "healthy"), (3, "down")]).await;
    let why = client.why("orders", "n3").await;
    assert_eq!(why.body["last_turn"]["because"], "nobody renewed its lease for 3s", "{why}");
    assert_eq!(why.body["lease"]["id"], lease(3), "{why}");
    assert_eq!(client.get_cluster("orders").await.etag(), revision, "no renewal is a write");
    shows(&client, "orders", &[(1, "healthy"), (2, "healthy")]).await;
    assert_eq!(client.get_cluster("orders").await.etag(), revision + 1, "clearing it away is one");
    let why = client.why("orders", "n1").await;
    assert!(why.body["lease"]["renewed"]["ms_ago"].as_f64().is_some_and(|ms| ms < 3_000.0), "{why}");
    assert_eq!(why.body["lease"]["renewed"]["through"], why.body["owner"], "{why}");
    assert_eq!(guard.stop(), [""; 0]);
    assert_eq!(keeper.lost(), []);
    // The command line shows it.
    let environment = [("JCM_SERVER", server.url())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let jcmctl = binary::program("jcmctl");
    let listed = process::run_with(&jcmctl, &["node", "list", "orders"], &environment, b"", DEADLINE).await;
    assert!(listed.expect_success().contains("LEASE"), "{listed:?}");
    let why = process::run_with(&jcmctl, &["why", "orders", "n1"], &environment, b"", DEADLINE).await;
    assert!(why.expect_success().contains(&format!("{}, 3s, renewed", lease(1))), "{why:?}");
}

#[tokio::test]
async fn one_that_comes_back_before_it_is_cleared_away_is_healthy_again() {
    let (server, client) = start().await;
    // Two of two are a mass, which stays.
    define(&client, "orders", 1..=2).await;
    shows(&client, "orders", &all(1..=2, "down")).await;
    let _keeper = Keeper::start(vec![server.url()], "orders", 1..=2);
    shows(&client, "orders", &all(1..=2, "healthy")).await;
}

/// What the server says to one message.
async fn told(server: &Server, held: Vec<Held>) -> Vec<LostLease> {
    let (mut stream, sender) = open(&server.url()).await.expect("the stream opens");
    let keep = Request::Keep(Keep { held });
    sender.send(WatchRequest { request: Some(keep) }).await.expect("the stream is open");
    let lost = tokio::time::timeout(DEADLINE, async {
        loop {
            let message = stream.message().await.expect("the stream goes on").expect("the stream goes on");
            if let Some(Event::Lost(lost)) = message.event {
                return lost.leases;
            }
        }
    });
    lost.await.expect("it is told")
}

#[tokio::test]
async fn a_program_is_told_what_it_has_lost_and_nothing_that_is_not_sure() {
    let (server, client) = start().await;
    let mut adopted = node(3);
    adopted.as_object_mut().expect("an object").remove("lease");
    let cluster = json!({ "nodes": [node(1), node(2), adopted] });
    let revision = client.put_cluster("orders", &cluster).await.revision();
    let written = registry(&server).await.patch_node(patch(1, &lease(1), "{\"weight\": 7}")).await;
    let store = written.expect("its own lease").into_inner().store;
    assert_eq!(store.len(), 16);
    let known = |held: Held| Held { store: store.clone(), revision, ..held };
    let of = |number: u16, other: u16| Held { node: format!("n{number}"), ..held("orders", other) };
    let ahead = Held { store: store.clone(), revision: revision + 100, ..of(2, 9) };
    let elsewhere = Held { store: vec![7; 16], revision, ..of(2, 9) };
    let lost = told(
        &server,
        vec![
            known(held("orders", 1)),
            known(of(2, 9)),
            known(held("orders", 3)),
            known(held("orders", 4)),
            known(held("nothing", 5)),
            ahead,
            elsewhere,
            of(2, 8),
        ],
    )
    .await;
    let lost: Vec<(String, Reason)> = lost.iter().map(|lost| (lost.node.clone(), lost.reason())).collect();
    let expected =
        [("n2", Reason::Taken), ("n3", Reason::Adopted), ("n4", Reason::Gone), ("n5", Reason::Gone)];
    assert_eq!(lost, expected.map(|(node, reason)| (node.to_owned(), reason)));
}

async fn registry(server: &Server) -> RegistryClient<tonic::transport::Channel> {
    RegistryClient::connect(server.url()).await.expect("the server is there")
}

fn on_lease(lease: &str) -> WriteOptions {
    let id = u128::from_str_radix(lease, 16).expect("hexadecimal digits").to_be_bytes().to_vec();
    WriteOptions { condition: Some(Condition::Lease(id)), ..WriteOptions::default() }
}

fn patch(number: u16, lease: &str, merge_patch: &str) -> PatchNodeRequest {
    PatchNodeRequest {
        cluster: "orders".to_owned(),
        node: format!("n{number}"),
        merge_patch: merge_patch.to_owned(),
        options: Some(on_lease(lease)),
    }
}

#[tokio::test]
async fn a_write_on_a_lease_touches_only_the_node_that_has_it() {
    let (server, client) = start().await;
    client.put_cluster("orders", &json!({ "nodes": nodes(1..=1) })).await.ok();
    let mut registry = registry(&server).await;
    let refused = registry.patch_node(patch(1, &lease(2), "{}")).await.expect_err("another's");
    assert_eq!(refused.code(), tonic::Code::Aborted, "{refused:?}");
    assert_eq!(refused.metadata().get("jcm-code").map(AsRef::as_ref), Some(b"LEASE".as_ref()), "{refused:?}");
    assert_eq!(refused.metadata().get("jcm-found").map(AsRef::as_ref), Some(lease(1).as_bytes()));
    let delete = |of: u16| DeleteNodeRequest {
        cluster: "orders".to_owned(),
        node: "n1".to_owned(),
        options: Some(on_lease(&lease(of))),
    };
    assert_eq!(registry.delete_node(delete(2)).await.expect_err("another's").code(), tonic::Code::Aborted);
    registry.delete_node(delete(1)).await.expect("its own");
    assert_eq!(verdicts(&client, "orders").await.len(), 0);
}

#[tokio::test]
async fn where_the_lease_is_the_check_a_node_without_one_is_refused() {
    let (_server, client) = start().await;
    define(&client, "orders", 1..=1).await;
    let plain = json!({ "address": "127.0.0.9", "ports": { "http": 9 } });
    let refused = client.post_nodes("orders", &plain).await;
    assert!(refused.expect_problem(400).contains("register itself"), "{refused}");
    assert_eq!(refused.body["field"], "lease", "{refused}");
    let got = client.get_cluster("orders").await;
    assert_eq!(got.body["check"], json!({ "kind": "lease" }), "{got}");
    assert_eq!(got.body["nodes"][0]["lease"], node(1)["lease"], "{got}");
    assert_eq!(client.put_cluster("orders", &got.body).await.revision(), got.etag(), "it is read as written");
    assert!(
        client.post(&format!("{}/check", jcm_tests::api::node_path("orders", "n1")), &json!({})).await.status
            == 400
    );
}

#[tokio::test]
async fn many_that_lapse_at_once_are_down_and_stay() {
    let (server, client) = start().await;
    define(&client, "mass", 1..=1000).await;
    define(&client, "lone", 1001..=1003).await;
    let keeper = Keeper::start(vec![server.url()], "mass", 1..=1000);
    let lone = Keeper::start(vec![server.url()], "lone", 1001..=1003);
    shows(&client, "mass", &all(1..=1000, "healthy")).await;
    shows(&client, "lone", &all(1001..=1003, "healthy")).await;
    keeper.forget(1..=300);
    let expected = [all(1..=300, "down"), all(301..=1000, "healthy")].concat();
    shows(&client, "mass", &expected).await;
    // One that lapses later, alone, is gone while all of them are there.
    lone.forget([1003]);
    shows(&client, "lone", &all(1001..=1002, "healthy")).await;
    shows(&client, "mass", &expected).await;
}

#[tokio::test]
async fn after_the_grace_time_many_go_too_but_not_below_the_protection() {
    let server = Server::serve("[lease]\ngrace = '1s'\n").start().await;
    let client = server.client();
    define(&client, "enough", 1..=10).await;
    define(&client, "few", 11..=20).await;
    let enough = Keeper::start(vec![server.url()], "enough", 1..=10);
    let few = Keeper::start(vec![server.url()], "few", 11..=20);
    shows(&client, "enough", &all(1..=10, "healthy")).await;
    shows(&client, "few", &all(11..=20, "healthy")).await;
    few.forget(11..=16);
    let expected = [all(11..=16, "down"), all(17..=20, "healthy")].concat();
    shows(&client, "few", &expected).await;
    enough.forget(1..=4);
    shows(&client, "enough", &all(5..=10, "healthy")).await;
    shows(&client, "few", &expected).await;
}

#[tokio::test]
async fn only_what_nobody_finds_fit_is_cleared_away_and_nothing_that_people_wrote() {
    let (_server, client) = start().await;
    let well = Target::start(1).await;
    let with_lease = |mut definition: Value, number: u16| {
        definition["lease"] = node(number)["lease"].clone();
        definition["id"] = json!(format!("n{number}"));
        definition
    };
    let plain = |number: u16| json!({ "id": format!("n{number}"), "address": "127.0.0.9", "ports": { "http": number } });
    let checked = json!({
        "check": { "kind": "http", "interval": "100ms", "fall": 1 },
        "nodes": [with_lease(target::definition(well.nodes()[0]), 1), plain(2), plain(3)],
    });
    client.put_cluster("checked", &checked).await.ok();
    shows(&client, "checked", &[(1, "healthy"), (2, "down"), (3, "down")]).await;
    // In a cluster that nobody checks, the lease alone decides.
    let unchecked = json!({ "nodes": [node(4), plain(5), plain(6)] });
    client.put_cluster("unchecked", &unchecked).await.ok();
    shows(&client, "unchecked", &all(5..=6, "unknown")).await;
    shows(&client, "checked", &[(1, "healthy"), (2, "down"), (3, "down")]).await;
    // The check judges it; then it goes as well.
    well.behave("refuse").await;
    shows(&client, "checked", &all(2..=3, "down")).await;
}

#[tokio::test]
async fn a_restart_takes_nobody_for_dead() {
    let (mut server, client) = start().await;
    define(&client, "orders", 1..=4).await;
    let _keeper = Keeper::start(vec![server.url()], "orders", 1..=4);
    shows(&client, "orders", &all(1..=4, "healthy")).await;
    let guard = Guard::start(client.clone(), "orders", 1..=4);
    server.kill_9().await;
    server.restart().await;
    // Its own word, not the one it remembers.
    eventually(DEADLINE, "renewed after the restart", async || {
        let why = client.why("orders", "n1").await;
        if why.body["lease"]["renewed"].is_object() { Ok(()) } else { Err(why) }
    })
    .await;
    // A time later a lone one that did not come back is gone, and the others are there.
    client.post_nodes("orders", &node(5)).await.ok();
    shows(&client, "orders", &[(1, "healthy"), (2, "healthy"), (3, "healthy"), (4, "healthy"), (5, "down")])
        .await;
    shows(&client, "orders", &all(1..=4, "healthy")).await;
    assert_eq!(guard.stop(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_server_takes_the_renewals_all_know_and_the_owner_judges() {
    let zookeeper = Ensemble::start(1).await;
    let group = Group::start(&zookeeper, 3).await;
    let clients = group.clients();
    define(&clients[0], "orders", []).await;
    let urls = group.urls();
    // Registered through one server and kept through another, which may hear of it later.
    let registered = register(&urls[2], "orders", 1..=12).await;
    let keeper = Keeper::start_registered(vec![urls[0].clone()], "orders", 1..=12, &registered);
    for client in &clients {
        shows(client, "orders", &all(1..=12, "healthy")).await;
    }
    let guard = Guard::start(clients[2].clone(), "orders", 1..=11);
    // A server that started just now takes its share a little later.
    eventually(DEADLINE, "all renewed through one server, and judged by all three", async || {
        let (mut owners, mut through) = (BTreeSet::new(), BTreeSet::new());
        for number in 1..=12 {
            let why = clients[2].why("orders", &format!("n{number}")).await.body;
            owners.insert(why["owner"].as_str().unwrap_or_default().to_owned());
            through.insert(why["lease"]["renewed"]["through"].as_str().unwrap_or_default().to_owned());
        }
        let is_so = owners.len() == 3 && through.iter().collect::<Vec<_>>() == ["s1"];
        if is_so { Ok(()) } else { Err(format!("owners {owners:?}, through {through:?}")) }
    })
    .await;
    // The program moves, and keeps what it has.
    keeper.go_to(vec![urls[1].clone()]);
    eventually(DEADLINE, "renewed through another server", async || {
        let why = clients[2].why("orders", "n1").await;
        if why.body["lease"]["renewed"]["through"] == "s2" { Ok(()) } else { Err(why) }
    })
    .await;
    keeper.forget([12]);
    for client in &clients {
        shows(client, "orders", &all(1..=11, "healthy")).await;
    }
    assert_eq!(guard.stop(), [""; 0]);
    assert_eq!(keeper.lost(), []);
}
