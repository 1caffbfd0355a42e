//! Who holds a revision: counted from what subscribers say, and told by name where they lag.

use std::time::Duration;

use jcm_proto::v1::discovery_client::DiscoveryClient;
use jcm_proto::v1::watch_request::{Acknowledge, Hello, Request, Subscribe};
use jcm_proto::v1::{WatchRequest, WatchResponse};
use jcm_subscriber::Subscriber;
use jcm_tests::server::start;
use jcm_tests::{Client, Ensemble, Events, Group, Server, binary, eventually, process};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::fixtures::{cluster, id};

const DEADLINE: Duration = Duration::from_secs(20);

/// A stream by hand, which says only what it is told to say.
struct Raw {
    sender: mpsc::Sender<WatchRequest>,
    _messages: Streaming<WatchResponse>,
}

impl Raw {
    async fn open(server: &Server, acknowledges: bool) -> Self {
        let (sender, requests) = mpsc::channel(8);
        let hello = Hello { protocol: 1, client: "by hand".to_owned(), acknowledges, ..Hello::default() };
        let subscribe = Subscribe { cluster: "orders".to_owned(), ..Subscribe::default() };
        let raw = async {
            let mut client = DiscoveryClient::connect(server.url()).await?;
            let messages = client.watch(ReceiverStream::new(requests)).await?.into_inner();
            Ok::<_, Box<dyn std::error::Error>>(messages)
        };
        for request in [Request::Hello(hello), Request::Subscribe(subscribe)] {
            sender.try_send(WatchRequest { request: Some(request) }).expect("room for two");
        }
        Self { _messages: raw.await.expect("the stream opens"), sender }
    }

    async fn acknowledge(&self, revision: u64) {
        let acknowledge = Acknowledge { cluster: "orders".to_owned(), revision, ..Acknowledge::default() };
        let request = WatchRequest { request: Some(Request::Acknowledge(acknowledge)) };
        self.sender.send(request).await.expect("the stream is open");
    }
}

async fn asked(client: &Client, query: &str) -> Value {
    let answer = client.get(&format!("/v1/convergence/orders{query}")).await;
    assert_eq!(answer.status, 200, "{answer}");
    answer.body
}

async fn converge(server: &Server, arguments: &[&str]) -> process::Exit {
    let arguments = [&["converge", "orders"], arguments].concat();
    let environment = [("JCM_SERVER", server.url())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    process::run_with(&binary::program("jcmctl"), &arguments, &environment, b"", DEADLINE).await
}

#[tokio::test]
async fn programs_say_what_they_hold_and_are_counted() {
    let (server, client) = start().await;
    client.put_cluster("orders", &cluster([1, 2])).await.revision();
    let mut programs = Vec::new();
    for _ in 0..3 {
        let jcm = Subscriber::builder().servers([server.url()]).build().await.expect("a good address");
        let orders = jcm.cluster("orders").subscribe().await.expect("a good name");
        programs.push((jcm, orders));
    }
    let mut events = Events::open(&client, "orders", None).await;
    events.next(DEADLINE).await;
    let revision = client.patch_node("orders", &id(2), &json!({ "weight": 7 })).await.revision();
    let found = eventually(DEADLINE, "all programs hold it", async || {
        let found = asked(&client, &format!("?revision={revision}")).await;
        if found["reached"] == 3 { Ok(found) } else { Err(found.to_string()) }
    })
    .await;
    assert_eq!(found["subscribers"], 4, "{found}");
    assert_eq!(found["unacknowledged"], 1, "server-sent events cannot say what they hold: {found}");
    assert_eq!((&found["lagging"], &found["servers_missing"]), (&json!([]), &json!([])), "{found}");
    assert_eq!(found["revision"], revision);
    let later = asked(&client, &format!("?revision={}", revision + 1000)).await;
    assert_eq!(later["revision"], revision, "nobody can hold more than there is: {later}");
    converge(&server, &["--revision", &revision.to_string()]).await.expect_code(0);
}

#[tokio::test]
async fn who_lags_is_named_until_it_has_come() {
    let (server, client) = start().await;
    let first = client.put_cluster("orders", &cluster([1])).await.revision();
    let (tells, silent) = (Raw::open(&server, true).await, Raw::open(&server, false).await);
    tells.acknowledge(first).await;
    let second = client.put_cluster("orders", &cluster([1, 2])).await.revision();
    let found = eventually(DEADLINE, "both are counted, and the first revision is held", async || {
        let found = asked(&client, "").await;
        if found["subscribers"] == 2 && found["lagging"][0]["revision"] == first {
            Ok(found)
        } else {
            Err(found.to_string())
        }
    })
    .await;
    assert_eq!((&found["reached"], &found["unacknowledged"]), (&json!(0), &json!(1)), "{found}");
    let peer = found["lagging"][0]["peer"].as_str().expect("a name");
    assert!(peer.contains("by hand") && peer.contains("127."), "{peer}");
    let exit = converge(&server, &["--wait", "300ms"]).await;
    exit.expect_code(4);
    assert!(exit.stderr.contains("1 subscriber of 2"), "{exit:#?}");
    assert_eq!(asked(&client, &format!("?revision={first}")).await["reached"], 1);
    tells.acknowledge(second).await;
    converge(&server, &["--wait", "10s"]).await.expect_code(0);
    drop(silent);
    eventually(DEADLINE, "who has gone is not counted", async || {
        let found = asked(&client, "").await;
        if found["subscribers"] == 1 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn subscribers_of_all_servers_are_summed_up_and_a_missing_server_is_named() {
    let ensemble = Ensemble::start(1).await;
    let mut group = Group::of(&ensemble, 2).session_timeout(Duration::from_secs(6)).start().await;
    let client = group.client(0);
    client.put_cluster("orders", &cluster([1])).await.revision();
    let mut programs = Vec::new();
    for url in group.urls() {
        let jcm = Subscriber::builder().servers([url]).build().await.expect("a good address");
        programs.push((jcm.cluster("orders").subscribe().await.expect("a good name"), jcm));
    }
    let found = eventually(DEADLINE, "both are counted", async || {
        let found = asked(&client, "").await;
        if found["reached"] == 2 { Ok(found) } else { Err(found.to_string()) }
    })
    .await;
    assert_eq!(found["servers_missing"], json!([]), "{found}");
    assert_eq!(found["servers"].as_array().map(Vec::len), Some(2), "{found}");
    group.server_mut(1).kill_9().await;
    let found = eventually(DEADLINE, "the other server is missing", async || {
        let found = asked(&client, "").await;
        if found["servers_missing"] == json!([Group::id(1)]) { Ok(found) } else { Err(found.to_string()) }
    })
    .await;
    assert_eq!(found["servers"].as_array().map(Vec::len), Some(1), "{found}");
    let exit = converge(group.server(0), &[]).await;
    exit.expect_code(4);
    assert!(exit.stderr.contains(&Group::id(1)), "{exit:#?}");
}

#[tokio::test]
async fn convergence_of_nothing_is_not_found() {
    let (server, client) = start().await;
    let answer = client.get("/v1/convergence/nothing").await;
    assert_eq!(answer.status, 404, "{answer}");
    let answer = client.get("/v1/convergence/nothing?revision=x").await;
    assert_eq!(answer.status, 400, "{answer}");
    converge(&server, &[]).await.expect_code(3);
}
