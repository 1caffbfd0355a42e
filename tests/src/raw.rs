//! HTTP by hand, for requests that no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::Answer;

const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// Sends these bytes, then reads the answer until the server closes. `None`: it closed without one of HTTP/1.
///
/// The request should say `Connection: close`.
pub async fn send(server: SocketAddr, request: &[u8]) -> Option<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.expect("the server accepts connections");
        let (mut reader, mut writer) = stream.split();
        let mut bytes = Vec::new();
        // A server may answer and close before it has read all of a request that it refuses.
        let (_, _) = tokio::join!(writer.write_all(request), reader.read_to_end(&mut bytes));
        bytes
    };
    let bytes = tokio::time::timeout(ANSWER_DEADLINE, exchange).await.unwrap_or_else(|_| {
        panic!("no end of the answer within {ANSWER_DEADLINE:?} to {:?}", first_line(request));
    });
    parse(first_line(request), &bytes)
}

/// A request without a body, with this path exactly as it is.
pub async fn get(server: SocketAddr, path: &str) -> Option<Answer> {
    send(server, format!("GET {path} HTTP/1.1\r\nHost: jcm\r\nConnection: close\r\n\r\n").as_bytes()).await
}

/// A request with a JSON body, with this path exactly as it is.
pub async fn with_json(server: SocketAddr, method: &str, path: &str, body: &[u8]) -> Option<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: jcm\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    send(server, &[head.as_bytes(), body].concat()).await
}

fn first_line(request: &[u8]) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned()
}

fn parse(asked: String, bytes: &[u8]) -> Option<Answer> {
    // Frames of HTTP/2 are the answer to its preface; that is no answer to what was sent after it.
    if !bytes.starts_with(b"HTTP/1.") {
        return None;
    }
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no end of the head: {text}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .filter_map(|(name, value)| Some((name.parse().ok()?, value.trim().parse().ok()?)))
        .collect();
    Some(Answer {
        asked,
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        headers,
        text: body.to_owned(),
        body: serde_json::from_str(body).unwrap_or(Value::Null),
    })
}
