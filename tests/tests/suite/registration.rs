//! Programs register themselves and are nodes for as long as they live.

mod cleared;
mod moves;
mod restored;

use std::time::Duration;

use jcm_subscriber::{
    AllocError, Me, Policy, RegisterError, Registration, RegistrationBuilder, RegistrationStatus, Subscriber,
    blocking,
};
use jcm_tests::server::{self, start};
use jcm_tests::{Answer, Client, Server, eventually};
use serde_json::{Value, json};

/// A busy machine must not fail what works.
const DEADLINE: Duration = Duration::from_mins(1);
/// The shortest there is: what lapses, lapses soon.
const TTL: Duration = Duration::from_secs(2);
/// For what is not to lapse while this test or its server has no turn for a while.
const LONG_TTL: Duration = Duration::from_secs(30);

fn of_leases() -> Value {
    json!({ "check": { "kind": "lease" }, "nodes": [] })
}

async fn program(servers: &[String]) -> Subscriber {
    Subscriber::builder().servers(servers).build().await.expect("the addresses are good")
}

/// A registration of port 80 at some address.
fn me(jcm: &Subscriber, number: u16) -> RegistrationBuilder {
    jcm.register("orders", Me::new().port("http", 80)).address(address(number)).ttl(LONG_TTL)
}

fn address(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [10, 0, high, low]
}

fn id(number: u16) -> String {
    let [a, b, c, d] = address(number);
    format!("{a}.{b}.{c}.{d}:80")
}

async fn view(client: &Client) -> Result<Answer, Answer> {
    let view = client.view("orders").await;
    if view.status == 200 { Ok(view) } else { Err(view) }
}

/// Waits until the view shows this of the node.
async fn until_node(client: &Client, node: &str, field: &str, wanted: Value) -> Answer {
    eventually(DEADLINE, &format!("{field} of {node} is {wanted}"), async || {
        let view = view(client).await?;
        let shown = view.node_ids().iter().any(|id| id == node) && view.node(node)[field] == wanted;
        if shown { Ok(view) } else { Err(view) }
    })
    .await
}

/// Waits until so many nodes are there, and all of them are healthy.
async fn until_healthy(client: &Client, count: usize) -> Answer {
    eventually(DEADLINE, &format!("{count} nodes are healthy"), async || {
        let view = view(client).await?;
        let nodes = view.ok()["nodes"].as_array().expect("nodes");
        let healthy = nodes.iter().filter(|node| node["verdict"] == "healthy").count();
        if nodes.len() == count && healthy == count { Ok(view) } else { Err(view) }
    })
    .await
}

/// The lease of a node, as its definition has it.
async fn lease_of(client: &Client, node: &str) -> String {
    let cluster = client.get_cluster("orders").await;
    cluster.node(node)["lease"]["id"].as_str().unwrap_or_else(|| panic!("no lease: {cluster}")).to_owned()
}

fn is_online(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Registered { online: true, .. })
}

#[tokio::test]
async fn a_program_is_called_once_it_is_ready_and_not_any_more_once_it_leaves() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let callers = program(&[server.url()]).await;
    let orders = callers.cluster("orders").policy(Policy::p2c()).subscribe().await.expect("a good name");
    let jcm = program(&[server.url()]).await;
    let me = Me::new().port("http", 8080).zone("z1").weight(7).label("version", "3");
    let me = jcm.register("orders", me).ttl(LONG_TTL).start().await.expect("it is registered");
    // Nobody said where it is: this machine reaches a server on loopback from there.
    let id = me.registered().await.expect("it stands").to_string();
    assert_eq!(id, "127.0.0.1:8080");
    let shown = until_node(&client, &id, "verdict", json!("healthy")).await;
    assert_eq!(shown.node(&id)["admin"], "offline");
    assert!(matches!(orders.alloc(), Err(AllocError::NoNode { .. })), "nobody is called before it is ready");

    me.ready().await.expect("it is stored");
    until_node(&client, &id, "routable", json!(true)).await;
    eventually(DEADLINE, "callers come", async || orders.alloc().map(drop)).await;
    let defined = client.get_cluster("orders").await;
    let node = defined.node(&id);
    assert_eq!((&node["zone"], &node["weight"]), (&json!("z1"), &json!(7)), "{defined}");
    assert_eq!(node["labels"], json!({ "version": "3" }));
    assert_eq!(node["lease"], json!({ "id": me.lease().to_string(), "ttl": "30s" }));

    // Callers learn that it goes while it is still there.
    let leaving = tokio::spawn(me.leave(Duration::from_secs(3)));
    until_node(&client, &id, "admin", json!("draining")).await;
    eventually(DEADLINE, "nobody is called", async || match orders.alloc() {
        Err(AllocError::NoNode { .. }) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    leaving.await.expect("no panic").expect("it leaves");
    assert_eq!(view(&client).await.expect("it is served").node_ids(), Vec::<String>::new());
}

#[tokio::test]
async fn keeping_a_node_writes_nothing_and_leaves_what_people_say_of_it() {
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[server.url()]).await;
    let me = me(&jcm, 1).ttl(TTL).ready_at_once().start().await.expect("it is registered");
    until_healthy(&client, 1).await;
    let change = json!({ "weight": 5, "online": false });
    let written = client.patch_node("orders", &id(1), &change).await.revision();
    // Longer than it would last without a word.
    tokio::time::sleep(TTL * 2).await;
    let defined = client.get_cluster("orders").await;
    assert_eq!(defined.etag(), written);
    assert_eq!(
        (&defined.node(&id(1))["weight"], &defined.node(&id(1))["online"]),
        (&json!(5), &json!(false))
    );
    assert_eq!(view(&client).await.expect("it is served").node(&id(1))["verdict"], "healthy");
    me.leave(Duration::ZERO).await.expect("it leaves");
}

#[tokio::test]
async fn a_cluster_that_is_not_there_is_an_error_that_says_what_to_do_or_is_waited_for() {
    let (server, client) = start().await;
    let jcm = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::from_secs(10));
    let jcm = jcm.build().await.expect("a good address");
    let error = me(&jcm, 1).start().await.expect_err("there is none");
    assert!(matches!(error, RegisterError::NoCluster { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("no cluster `orders`") && text.contains("create it"), "{text}");

    let jcm = Subscriber::builder().servers([server.url()]).ready_timeout(Duration::from_millis(200));
    let jcm = jcm.build().await.expect("a good address");
    let me = me(&jcm, 1).wait_for_cluster().start().await.expect("it is tried");
    eventually(DEADLINE, "it says what it waits for", async || match me.status() {
        RegistrationStatus::Trying { reason: Some(reason) } if reason.contains("no cluster `orders`") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    client.put_cluster("orders", &of_leases()).await.ok();
    tokio::time::timeout(DEADLINE, me.ready()).await.expect("in time").expect("it stands");
    until_healthy(&client, 1).await;
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_the_reason() {
    let (server, client) = start().await;
    let kept_by_people = json!({ "address": "10.0.0.9", "ports": { "http": 80 } });
    client.put_cluster("orders", &json!({ "nodes": [kept_by_people] })).await.ok();
    let jcm = program(&[server.url()]).await;
    let refused = async |registration: RegistrationBuilder| {
        let error = registration.start().await.expect_err("it is refused");
        let source =
            std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        format!("{error}{source}")
    };
    for (registration, part) in [
        (jcm.register("orders", Me::new()), "ports: 0 ports"),
        (jcm.register("or ders", Me::new().port("http", 80)), "`or ders`"),
        (me(&jcm, 1).ttl(Duration::from_secs(1)), "ttl: 1s is out of range: from 2s to 3600s"),
        (me(&jcm, 9), "without a lease, so people keep it"),
    ] {
        let text = refused(registration).await;
        assert!(text.contains(part), "{text}");
    }
    let defined = client.get_cluster("orders").await;
    assert_eq!(defined.node_ids(), [id(9)]);
    assert_eq!(defined.node(&id(9))["lease"], Value::Null, "it is still kept by people");
}

#[test]
fn a_program_without_a_runtime_registers_too() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (server, client): (Server, Client) = runtime.block_on(server::start());
    runtime.block_on(client.put_cluster("orders", &of_leases())).ok();
    let jcm = blocking::Subscriber::builder().servers([server.url()]).build().expect("good input");
    let me = Me::new().port("http", 80).address(address(1));
    let me = jcm.register("orders", me).ttl(LONG_TTL).start().expect("it is registered");
    assert_eq!(me.registered(DEADLINE).expect("it stands").expect("in time").as_str(), id(1));
    assert!(me.ready(DEADLINE).expect("it stands"));
    assert!(is_online(&me.status()));
    runtime.block_on(until_healthy(&client, 1));
    assert_eq!(me.ended(Duration::ZERO), None);
    me.leave(Duration::ZERO).expect("it leaves");
    assert!(runtime.block_on(client.get_cluster("orders")).node_ids().is_empty());
    jcm.shutdown();
    runtime.block_on(async { drop(server) });
}

/// Mass arrival and departure of the nodes of one program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_nodes_of_one_program_come_stay_and_go() {
    const COUNT: u16 = 1_000;
    let (server, client) = start().await;
    client.put_cluster("orders", &of_leases()).await.ok();
    let jcm = program(&[server.url()]).await;
    let starts = (0..COUNT).map(|number| tokio::spawn(me(&jcm, number).ready_at_once().start()));
    let mut registered: Vec<Registration> = Vec::new();
    for start in starts.collect::<Vec<_>>() {
        registered.push(start.await.expect("no panic").expect("it is registered"));
    }
    for me in &registered {
        tokio::time::timeout(DEADLINE, me.registered()).await.expect("in time").expect("it stands");
    }
    let revision = until_healthy(&client, COUNT.into()).await.ok()["revision"].clone();
    // Several rounds of keeping them.
    tokio::time::sleep(LONG_TTL / 2).await;
    let view = until_healthy(&client, COUNT.into()).await;
    assert_eq!(view.ok()["revision"], revision, "they are kept without a write");
    assert!(registered.iter().all(|me| is_online(&me.status())));

    let leaves = registered.into_iter().map(|me| tokio::spawn(me.leave(Duration::from_secs(1))));
    for leave in leaves.collect::<Vec<_>>() {
        leave.await.expect("no panic").expect("it leaves");
    }
    assert!(client.get_cluster("orders").await.node_ids().is_empty());
}
