//! Streams whose readers stall, vanish without a word, or all come at once.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jcm_proto::v1::discovery_client::DiscoveryClient;
use jcm_proto::v1::watch_request::{Hello, Request, Subscribe};
use jcm_proto::v1::watch_response::Event;
use jcm_proto::v1::{WatchRequest, WatchResponse};
use jcm_subscriber::Status;
use jcm_tests::{Client, Proxy, Server, binary, eventually, server};
use prost::Message;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::programs::Programs;
use crate::row::Row;
use crate::scene::{PATIENCE, is_short};

/// What the server promises about a stream that is not read, and the time between two looks.
const UNREAD_MAX: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);
/// Bytes of each change, so that few of them fill what a client takes without reading.
const MARK_BYTES: usize = 4000;

/// One raw stream, which reads only when it is told to.
struct Raw {
    messages: Streaming<WatchResponse>,
    _requests: mpsc::Sender<WatchRequest>,
}

impl Raw {
    async fn open(url: &str, token: Vec<u8>) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).expect("a good address");
        // As small as HTTP/2 allows at first: what is not read is soon not sent either.
        let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
        let channel = endpoint.connect().await.expect("the server is there");
        let (sender, requests) = mpsc::channel(4);
        for request in requests_of("followed", token) {
            sender.try_send(request).expect("room for two");
        }
        let call = DiscoveryClient::new(channel).watch(ReceiverStream::new(requests)).await;
        Self { messages: call.expect("the stream opens").into_inner(), _requests: sender }
    }

    /// Reads until the last mark comes or the stream ends. Answers how many messages with it, and how it ended.
    async fn read_to(&mut self, last: &str) -> (usize, bool) {
        let mut count = 0;
        while let Ok(Ok(Some(message))) = tokio::time::timeout(PATIENCE, self.messages.message()).await {
            let header = match message.event {
                Some(Event::View(view)) => view.cluster.and_then(|cluster| cluster.header),
                Some(Event::Delta(delta)) => delta.header,
                _ => continue,
            };
            count += 1;
            let mark = header.and_then(|header| header.properties.get("mark").cloned());
            if mark.is_some_and(|mark| mark.starts_with(last)) {
                return (count, true);
            }
        }
        (count, false)
    }
}

fn requests_of(cluster: &str, token: Vec<u8>) -> [WatchRequest; 2] {
    let hello = Hello { protocol: 1, client: "chaos".to_owned(), ..Hello::default() };
    let subscribe = Subscribe { cluster: cluster.to_owned(), token, ..Subscribe::default() };
    [Request::Hello(hello), Request::Subscribe(subscribe)]
        .map(|request| WatchRequest { request: Some(request) })
}

/// A property of some bytes, beginning with a number. Answers the revision.
async fn mark(client: &Client, number: usize) -> u64 {
    let value = format!("{number} {}", "x".repeat(MARK_BYTES));
    client.patch_cluster("followed", &json!({ "properties": { "mark": value } })).await.revision()
}

async fn subscribers(client: &Client) -> u64 {
    client.get("/v1/status").await.body["subscribers"].as_u64().unwrap_or(0)
}

/// A field of `/proc/PID/status`, in MiB.
fn memory_mb(server: &Server, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("such a field");
    let kilobytes: u64 =
        line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse().expect("a number");
    kilobytes / 1024
}

async fn followed(nodes: usize) -> (Server, Client) {
    followed_on(Server::dev(), nodes).await
}

async fn followed_on(server: server::Starter, nodes: usize) -> (Server, Client) {
    let server = server.in_memory().start().await;
    let client = server.client();
    let nodes: Vec<Value> = (0..nodes)
        .map(|n| json!({ "address": format!("127.1.{}.{}", n / 250, n % 250 + 1), "ports": { "http": 80 } }))
        .collect();
    client.put_cluster("followed", &json!({ "nodes": nodes })).await.ok();
    (server, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_07_slow_subscribers_under_a_memory_cap() {
    const CAP_MB: u64 = 256;
    let mut row = Row::begin(
        "07",
        "a server with 256 MiB, and 300 subscribers that stop reading while 200 changes come",
        "the server lives; who does not read is cut; who comes back has the latest view",
    );
    let (server, client) = followed(500).await;
    let limit = format!("--data={}", CAP_MB * 1024 * 1024);
    let limited = Command::new("prlimit").args(["--pid", &server.pid().to_string(), &limit]).status();
    assert!(limited.is_ok_and(|status| status.success()), "prlimit limits the server's memory");
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(Raw::open(&server.url(), Vec::new()).await);
    }
    eventually(PATIENCE, "all are counted", async || match subscribers(&client).await {
        300 => Ok(()),
        count => Err(format!("{count} are")),
    })
    .await;
    let before = memory_mb(&server, "VmRSS");
    for number in 1..=200 {
        mark(&client, number).await;
    }
    let begun = Instant::now();
    row.figure("memory_before_mb", before);
    let cut =
        eventually(PATIENCE, "those who do not read are cut", async || match subscribers(&client).await {
            0 => Ok(begun.elapsed()),
            count => Err(format!("{count} are left")),
        })
        .await;
    row.time_within("cut_s", cut, UNREAD_MAX + Duration::from_secs(5));
    let peak = memory_mb(&server, "VmHWM");
    row.figure("memory_peak_mb", peak);
    row.require("memory", peak < CAP_MB, format!("{peak} MiB, promised less than {CAP_MB}"));
    let mut told = 0;
    for mut stream in silent {
        told += stream.read_to("200 ").await.0;
    }
    row.traffic("changes_not_sent_to_them", (300 * 201_usize).saturating_sub(told), 300 * 100);
    let mut back = Raw::open(&server.url(), Vec::new()).await;
    row.require(
        "latest",
        back.read_to("200 ").await == (1, true),
        "who comes back is not sent the latest view first",
    );
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_39_subscriber_that_never_reads() {
    let mut row = Row::begin(
        "39",
        "50 subscribers never read, one does only after 10 s, and 20 programs go on",
        "latest wins; cut at 30 s; memory stays",
    );
    let (server, client) = followed(3).await;
    let programs = Programs::start(20, &[server.url()], "followed").await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Raw::open(&server.url(), Vec::new()).await);
    }
    let mut late = Raw::open(&server.url(), Vec::new()).await;
    eventually(PATIENCE, "all are counted", async || match subscribers(&client).await {
        71 => Ok(()),
        count => Err(format!("{count} are")),
    })
    .await;
    let before = memory_mb(&server, "VmRSS");
    let mut revision = 0;
    for number in 1..=200 {
        revision = mark(&client, number).await;
        if number % 5 == 0 {
            // Those that come at once are told together, and might all fit into what a client takes without reading.
            programs.reached(revision).await;
        }
    }
    let begun = Instant::now();
    programs.reached(revision).await;
    row.time("programs_reached_s", begun.elapsed());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (told, is_latest) = late.read_to("200 ").await;
    row.require("latest", is_latest, "who reads late does not come to the latest state");
    row.traffic("changes_it_was_not_told_one_by_one", 201_usize.saturating_sub(told), 100);
    let cut = eventually(PATIENCE, "those who never read are cut", async || {
        tokio::time::sleep(LOOK).await;
        match subscribers(&client).await {
            21 => Ok(begun.elapsed()),
            count => Err(format!("{count} are left")),
        }
    })
    .await;
    row.time_within("cut_s", cut, UNREAD_MAX + Duration::from_secs(5));
    let grown = memory_mb(&server, "VmHWM").saturating_sub(before);
    row.figure("memory_grown_mb", grown);
    row.require("memory", grown <= 32, format!("{grown} MiB more, promised at most 32"));
    row.violations("subscribers_wrong", &programs.stop().await);
    drop(silent);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_28_half_open() {
    const PROMISED: Duration = Duration::from_secs(15);
    let mut row = Row::begin(
        "28",
        "connections of 20 programs stay open and carry nothing any more",
        "noticed <= 15 s on both sides",
    );
    // Reached through the proxy alone: programs learn where servers are, and would go round it.
    let proxy = Proxy::unconnected().await;
    let (server, client) =
        followed_on(Server::serve(&format!("advertise = '{}'\n", proxy.address())), 3).await;
    proxy.connect(server.address());
    let programs = Programs::start(20, &[format!("http://{}", proxy.address())], "followed").await;
    eventually(PATIENCE, "all are counted", async || match subscribers(&client).await {
        20 => Ok(()),
        count => Err(format!("{count} are")),
    })
    .await;
    proxy.hold();
    let begun = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // A connection that was closed would have been noticed by now: what is tried here is silence.
    let left = subscribers(&client).await;
    row.traffic("streams_that_seem_well", usize::try_from(left).unwrap_or(0), 20);
    let noticed = eventually(PATIENCE, "the programs notice", async || {
        let live =
            programs.clusters().filter(|cluster| matches!(cluster.status(), Status::Live { .. })).count();
        if live == 0 { Ok(begun.elapsed()) } else { Err(format!("{live} do not")) }
    })
    .await;
    row.time_within("programs_noticed_s", noticed, PROMISED);
    let noticed = eventually(PATIENCE, "the server notices", async || match subscribers(&client).await {
        0 => Ok(begun.elapsed()),
        count => Err(format!("{count} are left")),
    })
    .await;
    row.time_within("server_noticed_s", noticed, PROMISED + Duration::from_secs(1));
    proxy.heal();
    let healed = Instant::now();
    let revision = mark(&client, 1).await;
    programs.reached(revision).await;
    row.time_within("converged_s", healed.elapsed(), Duration::from_secs(10));
    row.violations("subscribers_wrong", &programs.stop().await);
    row.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_38_all_reconnect_at_once() {
    let count = if is_short() { 2_000 } else { 10_000 };
    let mut row = Row::begin(
        "38",
        "10,000 subscribers (short: 2,000) come back at once, each with what it held",
        "let in at a bounded rate, resumed by delta; 99 % <= 60 s",
    );
    let (server, client) = followed(1_000).await;
    // What one of them held: all hold the same.
    let mut first = Raw::open(&server.url(), Vec::new()).await;
    let token = loop {
        let message = first.messages.message().await.expect("a message").expect("another one");
        if let Some(Event::View(view)) = message.event {
            break view.token;
        }
    };
    drop(first);
    mark(&client, 1).await;
    let before = memory_mb(&server, "VmRSS");
    let requests = requests_of("followed", token);
    let requests: Vec<String> = requests.iter().map(|request| hex(&request.encode_to_vec())).collect();
    // A view, tag 0x12, would not count: only a delta, tag 0x1a, is what they wait for.
    let mut reader = Command::new(binary::example("bench_push"))
        .args(["read", &server.address().to_string(), &count.to_string(), "1", "26", "0"])
        .args([&count.to_string(), "/jcm.v1.Discovery/Watch"])
        .args(&requests)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the reader");
    let stdout = reader.stdout.take().expect("it is piped");
    let line = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).map(|_| line)
    });
    let line = tokio::time::timeout(Duration::from_mins(3), line).await;
    let line = line.expect("they come back").expect("a thread").expect("a line");
    let said: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
    let after = |field: &str| Duration::from_millis(said[field].as_u64().unwrap_or(u64::MAX / 2));
    row.time_within("back_99_percent_s", after("ready_p99_ms"), Duration::from_mins(1));
    row.time("back_all_s", after("ready_ms"));
    row.traffic("subscribers", usize::try_from(subscribers(&client).await).unwrap_or(0), count);
    row.figure("memory_before_mb", before);
    row.figure("memory_peak_mb", memory_mb(&server, "VmHWM"));
    // It ends by itself when its standard input does.
    drop(reader.stdin.take());
    let _ = reader.wait();
    row.end();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}
