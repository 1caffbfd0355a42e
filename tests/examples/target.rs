//! Nodes for checks: an HTTP server of our own that answers well, or badly in the way it is told.
//!
//! Written on bare TCP, because no HTTP library would send what some of these behaviours send.
//! It ends by itself after `--for` seconds, and when its standard input closes: nothing outlives a test.
//!
//! ```text
//! target --listen 127.0.0.5:0 [--listen …] [--behaviour ok] [--control 127.0.0.1:0] [--for 600]
//! ```
//! prints one line `{"listening":["127.0.0.5:41237"],"control":"127.0.0.1:34567"}`. On the control address:
//! `POST /behaviour?is=hang[&at=127.0.0.5:41237]`, `GET /count`, and `GET /gaps`: the milliseconds between requests, newest first.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Enough for some minutes of one check a second.
const GAPS_MAX: usize = 256;
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A port that was closed on purpose may be slow to be free again.
const REBIND_PAUSE: Duration = Duration::from_millis(20);
/// Between two bytes of `slow-bytes`: any sensible timeout is over long before the head is complete.
const SLOW_BYTE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    /// 200, the connection stays open.
    Ok,
    /// 500, the connection stays open.
    Error500,
    /// Two answers of five are 500, never three in a row.
    Flaky,
    /// The request is read and never answered.
    Hang,
    /// A correct answer, one byte a second.
    SlowBytes,
    /// Nobody listens.
    Refuse,
    /// The connection is closed instead of an answer.
    Close,
    /// The first request of a connection is answered, the second one finds it closed.
    CloseReused,
    /// Bytes that are not HTTP.
    Garbage,
    /// 302 to the first of the addresses.
    Redirect,
    /// 302 to where clouds hand out credentials.
    RedirectToMetadata,
    /// A correct answer of version 1.0, ended by the end of the connection.
    Http10,
    /// No reason phrase.
    NoReason,
    /// Header names in lower case.
    LowerCase,
    /// 204 without a body.
    NoContent,
    Chunked,
    /// 100 and 103 before the final 200.
    Informational,
    /// A body without an end.
    EndlessBody,
    /// Headers without an end.
    EndlessHeaders,
    /// A packed body without an end, whose first bytes would unpack to a thousand times as many.
    Compressed,
    /// TLS that never comes to an end: a message of 16 MiB before anything is agreed on.
    TlsFlood,
    /// HTTP/2 that never comes to an end: headers, pings that want an answer, frames that nobody knows.
    Http2Headers,
    Http2Pings,
    Http2Unknown,
}

const BEHAVIOURS: [(&str, Behaviour); 24] = [
    ("ok", Behaviour::Ok),
    ("error500", Behaviour::Error500),
    ("flaky", Behaviour::Flaky),
    ("hang", Behaviour::Hang),
    ("slow-bytes", Behaviour::SlowBytes),
    ("refuse", Behaviour::Refuse),
    ("close", Behaviour::Close),
    ("close-reused", Behaviour::CloseReused),
    ("garbage", Behaviour::Garbage),
    ("redirect", Behaviour::Redirect),
    ("http10", Behaviour::Http10),
    ("noreason", Behaviour::NoReason),
    ("lowercase", Behaviour::LowerCase),
    ("no-content", Behaviour::NoContent),
    ("chunked", Behaviour::Chunked),
    ("informational", Behaviour::Informational),
    ("endless-body", Behaviour::EndlessBody),
    ("endless-headers", Behaviour::EndlessHeaders),
    ("redirect-to-metadata", Behaviour::RedirectToMetadata),
    ("compressed", Behaviour::Compressed),
    ("tls-flood", Behaviour::TlsFlood),
    ("http2-headers", Behaviour::Http2Headers),
    ("http2-pings", Behaviour::Http2Pings),
    ("http2-unknown", Behaviour::Http2Unknown),
];

impl Behaviour {
    /// What comes whatever the other side says: first, and then again and again.
    fn unasked(self) -> Option<(&'static [u8], &'static [u8])> {
        match self {
            Self::TlsFlood => Some(TLS_FLOOD),
            Self::Http2Headers => Some(HTTP2_HEADERS),
            Self::Http2Pings => Some((HTTP2_SETTINGS, b"\0\0\x08\x06\0\0\0\0\0pingping")),
            Self::Http2Unknown => {
                Some((HTTP2_SETTINGS, b"\0\0\x20\xee\0\0\0\0\0abcdefghijklmnopqrstuvwxyz012345"))
            }
            _ => None,
        }
    }
}

/// One listening address.
struct Place {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    /// Whether the port is held.
    listening: watch::Sender<bool>,
    /// Where `redirect` points.
    elsewhere: SocketAddr,
    requests: AtomicU64,
    connections: AtomicU64,
    /// When the last request came, and the milliseconds between the last ones.
    gaps: Mutex<(Option<Instant>, VecDeque<u32>)>,
    /// The head of the last request.
    last: Mutex<String>,
}

impl Place {
    /// Waits until a port that is to be given up is: who was told of it is refused from then on.
    async fn refuses_if_it_should(&self) {
        let (mut behaviour, mut listening) = (self.behaviour.subscribe(), self.listening.subscribe());
        tokio::select! {
            _ = behaviour.wait_for(|behaviour| *behaviour != Behaviour::Refuse) => {}
            _ = listening.wait_for(|listening| !listening) => {}
        }
    }

    fn note_gap(&self, now: Instant) {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = gaps.0.replace(now) {
            gaps.1.truncate(GAPS_MAX - 1);
            gaps.1.push_front(u32::try_from((now - last).as_millis()).unwrap_or(u32::MAX));
        }
    }
}

struct Arguments {
    listen: Vec<SocketAddr>,
    control: Option<SocketAddr>,
    behaviour: Behaviour,
    life: Duration,
}

fn main() -> io::Result<()> {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("target: {message}");
            std::process::exit(2);
        }
    };
    end_with_standard_input();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> io::Result<()> {
    let mut places = BTreeMap::new();
    let mut elsewhere = None;
    for listen in arguments.listen {
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|error| io::Error::other(format!("listen on {listen}: {error}")))?;
        let address = listener.local_addr()?;
        let place = Arc::new(Place {
            address,
            behaviour: watch::Sender::new(arguments.behaviour),
            listening: watch::Sender::new(true),
            elsewhere: *elsewhere.get_or_insert(address),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            gaps: Mutex::default(),
            last: Mutex::default(),
        });
        tokio::spawn(listen_at(listener, Arc::clone(&place)));
        places.insert(place.address, place);
    }
    let control = match arguments.control {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let control_address = control.as_ref().map(TcpListener::local_addr).transpose()?;
    let listening: Vec<_> = places.keys().map(SocketAddr::to_string).collect();
    let ready =
        json!({ "listening": listening, "control": control_address.map(|address| address.to_string()) });
    println!("{ready}");
    io::stdout().flush()?;
    if let Some(control) = control {
        tokio::spawn(serve_control(control, Arc::new(places)));
    }
    tokio::time::sleep(arguments.life).await;
    Ok(())
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            listen: Vec::new(),
            control: None,
            behaviour: Behaviour::Ok,
            life: Duration::from_mins(10),
        };
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let bad = |what: &str| format!("{flag} {value}: {what}");
            match flag.as_str() {
                "--listen" => arguments.listen.push(value.parse().map_err(|_| bad("not ADDR:PORT"))?),
                "--control" => arguments.control = Some(value.parse().map_err(|_| bad("not ADDR:PORT"))?),
                "--behaviour" => {
                    arguments.behaviour = parse_behaviour(&value).ok_or_else(|| bad("unknown"))?;
                }
                "--for" => {
                    arguments.life =
                        value.parse().map(Duration::from_secs).map_err(|_| bad("not seconds"))?;
                }
                _ => return Err(format!("unknown flag {flag}")),
            }
        }
        if arguments.listen.is_empty() {
            return Err("at least one --listen ADDR:PORT is needed".to_owned());
        }
        Ok(arguments)
    }
}

fn parse_behaviour(name: &str) -> Option<Behaviour> {
    BEHAVIOURS.iter().find(|(known, _)| *known == name).map(|(_, behaviour)| *behaviour)
}

fn end_with_standard_input() {
    std::thread::spawn(|| {
        let mut input = io::stdin().lock();
        let mut byte = [0];
        while matches!(input.read(&mut byte), Ok(1..)) {}
        std::process::exit(0);
    });
}

/// Accepts while the behaviour lets it; gives the port up while it is `refuse`.
async fn listen_at(listener: TcpListener, place: Arc<Place>) {
    let mut listener = Some(listener);
    let mut behaviour = place.behaviour.subscribe();
    loop {
        if *behaviour.borrow_and_update() == Behaviour::Refuse {
            listener = None;
            place.listening.send_replace(false);
            if behaviour.changed().await.is_err() {
                return;
            }
            continue;
        }
        let Some(open) = &listener else {
            listener = TcpListener::bind(place.address).await.ok();
            place.listening.send_replace(listener.is_some());
            if listener.is_none() {
                tokio::time::sleep(REBIND_PAUSE).await;
            }
            continue;
        };
        tokio::select! {
            accepted = open.accept() => if let Ok((stream, _)) = accepted {
                place.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(stream, Arc::clone(&place)));
            },
            changed = behaviour.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// One connection, until it ends or the node stops listening.
async fn serve(stream: TcpStream, place: Arc<Place>) {
    let mut behaviour = place.behaviour.subscribe();
    tokio::select! {
        _ = serve_requests(stream, &place) => {}
        _ = behaviour.wait_for(|behaviour| *behaviour == Behaviour::Refuse) => {}
    }
}

async fn serve_requests(mut stream: TcpStream, place: &Place) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let unasked = place.behaviour.borrow().unasked();
    if let Some(flood) = unasked {
        place.requests.fetch_add(1, Ordering::Relaxed);
        return write_without_end(&mut stream, flood).await;
    }
    let mut answered = 0_u64;
    while let Some(head) = read_head(&mut stream).await? {
        *place.last.lock().unwrap_or_else(PoisonError::into_inner) = head;
        let request = place.requests.fetch_add(1, Ordering::Relaxed);
        place.note_gap(Instant::now());
        let behaviour = *place.behaviour.borrow();
        if behaviour == Behaviour::CloseReused && answered > 0 {
            return Ok(());
        }
        match behaviour {
            Behaviour::Ok | Behaviour::CloseReused => stream.write_all(OK).await?,
            Behaviour::Flaky if request % 5 >= 2 => stream.write_all(OK).await?,
            Behaviour::Flaky | Behaviour::Error500 => stream.write_all(ERROR).await?,
            Behaviour::Hang => std::future::pending::<()>().await,
            Behaviour::SlowBytes => return write_slowly(&mut stream).await,
            // What speaks something else begins with the next connection.
            Behaviour::Refuse
            | Behaviour::Close
            | Behaviour::TlsFlood
            | Behaviour::Http2Headers
            | Behaviour::Http2Pings
            | Behaviour::Http2Unknown => return Ok(()),
            Behaviour::Garbage => return stream.write_all(b"\x00\x01SSH-2.0-nothing HTTP\n\n").await,
            Behaviour::Redirect => {
                let location = format!("Location: http://{}/elsewhere\r\n", place.elsewhere);
                let answer = format!("HTTP/1.1 302 Found\r\n{location}Content-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await?;
            }
            Behaviour::RedirectToMetadata => stream.write_all(METADATA).await?,
            Behaviour::Compressed => return write_without_end(&mut stream, COMPRESSED).await,
            Behaviour::Http10 => {
                return stream.write_all(b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\nfine").await;
            }
            Behaviour::NoReason => {
                stream.write_all(b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok").await?;
            }
            Behaviour::LowerCase => {
                stream.write_all(b"HTTP/1.1 200 ok\r\ncontent-length: 2\r\nx-odd:\tvalue \r\n\r\nok").await?;
            }
            Behaviour::NoContent => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?,
            Behaviour::Chunked => stream.write_all(CHUNKED).await?,
            Behaviour::Informational => stream.write_all(INFORMATIONAL).await?,
            Behaviour::EndlessBody => return write_without_end(&mut stream, ENDLESS_BODY).await,
            Behaviour::EndlessHeaders => return write_without_end(&mut stream, ENDLESS_HEADERS).await,
        }
        answered += 1;
    }
    Ok(())
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ERROR: &[u8] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 6\r\n\r\nbroken";
const CHUNKED: &[u8] =
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;note=first\r\nfine\r\n2\r\n!!\r\n0\r\nX-Trailer: t\r\n\r\n";
const INFORMATIONAL: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n\
    HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
    HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const METADATA: &[u8] =
    b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest/meta-data/\r\nContent-Length: 0\r\n\r\n";
/// What comes first, and what is repeated after it.
const ENDLESS_BODY: (&[u8], &[u8]) =
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"20\r\nabcdefghijklmnopqrstuvwxyz012345\r\n");
const ENDLESS_HEADERS: (&[u8], &[u8]) = (b"HTTP/1.1 200 OK\r\n", b"X-Filler: abcdefghijklmnopqrstuvwxyz\r\n");

/// A handshake message that says that it has 16 MiB, in records of 32 bytes.
const TLS_FLOOD: (&[u8], &[u8]) =
    (b"\x16\x03\x03\0\x04\x02\xff\xff\xff", b"\x16\x03\x03\0\x20abcdefghijklmnopqrstuvwxyz012345");
const HTTP2_SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";
/// The beginning of an answer (status 200), and headers of 35 bytes each that go on without an end.
const HTTP2_HEADERS: (&[u8], &[u8]) = (
    b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x88",
    b"\0\0\x23\x09\0\0\0\0\x01\0\x01x\x1fabcdefghijklmnopqrstuvwxyz01234\0",
);

/// Blocks of zeros as deflate packs them; a reader that unpacks gets a thousand bytes for each.
const COMPRESSED: (&[u8], &[u8]) = (
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000000\r\n\r\n\x1f\x8b\x08\0\0\0\0\0\0\xff",
    b"\xec\xc1\x01\x01\0\0\0\x80\x90\xfe\xaf\xee\x08\n\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
);

async fn write_slowly(stream: &mut TcpStream) -> io::Result<()> {
    for byte in OK {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(SLOW_BYTE_PAUSE).await;
    }
    Ok(())
}

/// Until the other side has had enough and closes.
async fn write_without_end(stream: &mut TcpStream, (first, repeated): (&[u8], &[u8])) -> io::Result<()> {
    stream.write_all(first).await?;
    let block = repeated.repeat(64);
    loop {
        stream.write_all(&block).await?;
    }
}

/// Reads one request without a body, up to its empty line. `None` when the connection ends before.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    let mut byte = [0_u8; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let count = stream.read(&mut byte).await?;
        if count == 0 || head.len() > HEAD_BYTES_MAX {
            return Ok(None);
        }
        head.extend_from_slice(&byte[..count]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

type Places = BTreeMap<SocketAddr, Arc<Place>>;

async fn serve_control(listener: TcpListener, places: Arc<Places>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let places = Arc::clone(&places);
        tokio::spawn(async move {
            let Ok(Some(head)) = read_head(&mut stream).await else {
                return;
            };
            let line = head.lines().next().unwrap_or_default();
            let (status, body) = match control(line, &places) {
                Ok(body) => ("200 OK", body),
                Err(message) => ("400 Bad Request", message),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            for place in places.values() {
                place.refuses_if_it_should().await;
            }
            // A tester that went away has its reasons.
            let _ = stream.write_all(answer.as_bytes()).await;
        });
    }
}

fn control(line: &str, places: &Places) -> Result<String, String> {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    match (method, path) {
        ("GET", "/count") => {
            let counts = places.values().map(|place| {
                let requests = place.requests.load(Ordering::Relaxed);
                let connections = place.connections.load(Ordering::Relaxed);
                let last = place.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let counts = json!({ "requests": requests, "connections": connections, "last": last });
                (place.address.to_string(), counts)
            });
            Ok(serde_json::Value::Object(counts.collect()).to_string())
        }
        ("GET", "/gaps") => {
            let gaps = places.values().map(|place| {
                let gaps = place.gaps.lock().unwrap_or_else(PoisonError::into_inner);
                (place.address.to_string(), json!(gaps.1))
            });
            Ok(serde_json::Value::Object(gaps.collect()).to_string())
        }
        ("POST", "/behaviour") => {
            let name = parameter("is").unwrap_or_default();
            let behaviour = parse_behaviour(name).ok_or_else(|| format!("unknown behaviour {name:?}"))?;
            let chosen: Vec<_> = match parameter("at") {
                None => places.values().collect(),
                Some(address) => {
                    let place = address.parse().ok().and_then(|address: SocketAddr| places.get(&address));
                    vec![place.ok_or_else(|| format!("not listening at {address}"))?]
                }
            };
            for place in chosen {
                place.behaviour.send_replace(behaviour);
            }
            Ok(json!({ "is": name }).to_string())
        }
        _ => Err(format!("unknown request {line:?}")),
    }
}
