//! A server starts, tells its state, drains and ends.

use std::time::Duration;

use jcm_tests::process::Exit;
use jcm_tests::server::start;
use jcm_tests::{Client, Events, Server, eventually};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PROGRAM_DEADLINE: Duration = Duration::from_secs(20);

/// It ends with a failure whose message names every part, and without a panic.
#[track_caller]
pub(crate) fn check_refused(exit: &Exit, parts: &[&str]) {
    assert!(exit.code.is_some_and(|code| code != 0), "{exit:#?}");
    for part in parts {
        assert!(exit.stderr.contains(part), "its message must name {part:?}: {exit:#?}");
    }
    assert!(!exit.stderr.contains("panicked"), "{exit:#?}");
    assert!(!exit.stdout.contains("listening on"), "{exit:#?}");
}

#[tokio::test]
async fn it_says_once_where_it_listens() {
    let server = Server::dev().listen("127.0.0.1:0").start().await;
    let stdout = server.stdout();
    assert_eq!(stdout.matches("listening on").count(), 1, "{stdout}");
    assert_ne!(server.address().port(), 0);
    assert!(server.address().ip().is_loopback());
    server.client().get("/readyz").await.expect_status(200);
}

#[tokio::test]
async fn it_lives_is_ready_and_measures_itself() {
    let (_server, client) = start().await;
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    client.get("/livez").await.expect_status(200);
    client.get("/readyz").await.expect_status(200);
    let metrics = client.get("/metrics").await;
    metrics.expect_status(200);
    assert!(metrics.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{metrics}");
    let samples: Vec<_> = metrics.text.lines().filter(|line| line.starts_with("jcm_")).collect();
    assert!(!samples.is_empty(), "{metrics}");
    for sample in samples {
        let value = sample.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
        assert!(value.is_some(), "not a sample: {sample}");
    }
    assert!(metrics.text.contains("# TYPE jcm_"), "{metrics}");
}

#[tokio::test]
async fn it_tells_its_state() {
    let (_server, client) = start().await;
    let revision = client.put_cluster("orders", &json!({ "nodes": [] })).await.revision();
    let status = client.get("/v1/status").await;
    let store = &status.ok()["store"];
    assert_eq!((&store["kind"], &store["state"]), (&json!("embedded"), &json!("ok")), "{status}");
    assert_eq!(store["revision"], revision, "{status}");
    assert_eq!(status.body["role"], "leader", "alone it leads: {status}");
    assert_eq!(status.body["leader"], status.body["server"], "{status}");
    let servers = client.get("/v1/servers").await;
    let list = servers.ok()["servers"].as_array().expect("a list");
    assert_eq!(list.len(), 1, "{servers}");
    assert_eq!(list[0]["id"], status.body["server"], "{servers}");
    assert_eq!(list[0]["role"], "leader", "{servers}");
    for field in ["advertise", "zone", "version"] {
        assert!(list[0][field].is_string(), "{field}: {servers}");
    }
}

#[tokio::test]
async fn its_id_stays_the_same_over_a_restart() {
    let (mut server, client) = start().await;
    let before = client.get("/v1/status").await.ok()["server"].clone();
    server.restart().await;
    assert_eq!(client.get("/v1/status").await.ok()["server"], before);
}

#[tokio::test]
async fn a_terminated_server_ends_well_and_keeps_what_it_has() {
    for signal in ["TERM", "INT"] {
        let (mut server, client) = start().await;
        let revision = client.put_cluster("orders", &json!({ "properties": { "a": "1" } })).await.revision();
        if signal == "TERM" {
            assert!(server.terminate().await.success(), "{}", server.log());
        } else {
            server.signal(signal).await;
            eventually(PROGRAM_DEADLINE, "ended", async || {
                if server.is_running() { Err("still running") } else { Ok(()) }
            })
            .await;
        }
        server.restart().await;
        assert_eq!(client.get_cluster("orders").await.etag(), revision);
    }
}

#[tokio::test]
async fn open_streams_and_idle_connections_do_not_hold_up_its_end() {
    let (mut server, client) = start().await;
    client.put_cluster("orders", &json!({ "nodes": [] })).await.ok();
    let mut events = Events::open(&client, "orders", None).await;
    events.next(Duration::from_secs(10)).await;
    let view = client.view("orders").await;
    let token = jcm_tests::api::percent_encoded(view.ok()["token"].as_str().expect("a token"));
    let path = format!("/v1/clusters/orders/view?wait=60s&token={token}");
    let poll = client.clone();
    let polled = tokio::spawn(async move { poll.try_send(poll.request(Method::GET, &path)).await });
    let mut idle = TcpStream::connect(server.address()).await.unwrap();
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\nHost: ").await.unwrap();
    let status = server.terminate().await;
    assert!(status.success(), "{status}: {}", server.log());
    assert!(events.ends(Duration::from_secs(5)).await, "the stream is ended, not left open");
    if let Ok(answer) = polled.await.unwrap() {
        assert!(answer.status < 500 || answer.status == 503, "{answer}");
    }
    let mut byte = [0];
    for stream in [&mut idle, &mut slow] {
        assert!(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)), "closed");
    }
}

#[tokio::test]
async fn writes_under_way_at_its_end_are_answered_or_not_begun() {
    let (mut server, client) = start().await;
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut acknowledged = 0;
                for number in 1.. {
                    let body = json!({ "properties": { "number": number.to_string() } });
                    let request = client.request(Method::PUT, &format!("/v1/clusters/w{writer}")).json(&body);
                    match client.try_send(request).await {
                        Ok(answer) if answer.status < 300 => acknowledged = number,
                        Ok(answer) if answer.status == 503 => {}
                        Ok(answer) => panic!("{answer}"),
                        Err(error) if error.is_connect() => break,
                        // Cut in the middle: the drain is there to prevent just this.
                        Err(error) => return (acknowledged, number, Some(error)),
                    }
                }
                (acknowledged, 0, None)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.terminate().await.success(), "{}", server.log());
    let mut ends = Vec::new();
    for writer in writers {
        ends.push(writer.await.unwrap());
    }
    server.restart().await;
    for (writer, (acknowledged, cut, error)) in ends.into_iter().enumerate() {
        assert!(acknowledged > 0, "w{writer} wrote nothing");
        let held = client.get_cluster(&format!("w{writer}")).await;
        let number: i32 = held.ok()["properties"]["number"].as_str().unwrap().parse().unwrap();
        assert!(
            number == acknowledged || number == cut,
            "w{writer}: {acknowledged} or {cut} ({error:?}): {held}"
        );
    }
}

#[tokio::test]
async fn it_refuses_to_listen_beyond_loopback() {
    for (listen, address) in [("0.0.0.0:0", "0.0.0.0"), ("[::]:0", "::")] {
        let exit = Server::serve("").listen(listen).try_start().await.expect_err("it must refuse");
        check_refused(&exit, &["--insecure", address]);
        // `dev` is for one machine: it names what is for more.
        let exit = Server::dev().listen(listen).try_start().await.expect_err("it must refuse");
        check_refused(&exit, &["loopback", "serve", address]);
    }
}

#[tokio::test]
async fn insecure_listens_beyond_loopback_and_says_so() {
    let server = Server::serve("").listen("0.0.0.0:0").argument("--insecure").start().await;
    let client = Client::new(&format!("http://127.0.0.1:{}", server.address().port()));
    client.get("/livez").await.expect_status(200);
    assert!(server.log().to_lowercase().contains("insecure"), "{}", server.log());
    // A check of a loopback address would reach what only this machine should reach.
    let nodes = json!([{ "address": "127.0.0.9", "ports": { "http": 1 } }]);
    client.put_cluster("inner", &json!({ "nodes": nodes })).await.expect_problem(400);
}

#[tokio::test]
async fn an_address_in_use_is_refused_by_name() {
    let first = Server::dev().start().await;
    let address = first.address().to_string();
    let exit = Server::dev().listen(&address).try_start().await.expect_err("it must refuse");
    check_refused(&exit, &[&address]);
}

#[tokio::test]
async fn the_demo_shows_a_death_and_a_recovery() {
    let server = Server::demo().start().await;
    let client = server.client();
    let view = eventually(Duration::from_secs(30), "three healthy demo nodes", async || {
        let view = client.view("demo").await;
        if view.status != 200 {
            return Err(view);
        }
        let nodes = view.body["nodes"].as_array().expect("nodes").clone();
        let healthy = nodes.iter().filter(|node| node["verdict"] == "healthy").count();
        if healthy == 3 && nodes.len() == 3 { Ok(view) } else { Err(view) }
    })
    .await;
    let node = &view.body["nodes"][0];
    let port = node["ports"].as_object().and_then(|ports| ports.values().next()).expect("a port");
    let id = node["id"].as_str().expect("an id");
    let there = format!("http://{}:{port}", node["address"].as_str().expect("an address"));
    for (call, verdict) in [("die", "down"), ("live", "healthy")] {
        Client::new(&there).post(&format!("/{call}"), &json!({})).await.ok();
        eventually(Duration::from_secs(30), &format!("{id} is {verdict}"), async || {
            let view = client.view("demo").await;
            if view.node(id)["verdict"] == verdict { Ok(()) } else { Err(view) }
        })
        .await;
    }
    let said = server.stdout() + &server.log();
    assert!(said.contains("curl") && said.contains("/die"), "it prints what to try: {said}");
}
