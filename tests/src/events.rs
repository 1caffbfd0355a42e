//! A reader of server-sent events: what `GET /v1/watch` streams.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use reqwest::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::api::Client;

#[derive(Debug, Clone)]
pub struct Event {
    /// `view`, `delta`, `removed`, `unknown`.
    pub kind: String,
    /// Resumes the stream after this event, as `Last-Event-ID`.
    pub id: String,
    pub data: Value,
}

/// An open stream. Comments (heartbeats) are counted and skipped.
pub struct Events {
    bytes: Pin<Box<dyn Stream<Item = Result<Vec<u8>, reqwest::Error>> + Send>>,
    buffer: Vec<u8>,
    pub heartbeats: usize,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("heartbeats", &self.heartbeats).finish_non_exhaustive()
    }
}

impl Events {
    /// Opens `/v1/watch`, resuming after an event when its id is given.
    pub async fn open(client: &Client, clusters: &str, resume: Option<&str>) -> Self {
        Self::try_open(client, clusters, resume).await.expect("the watch is answered")
    }

    /// The same at a server that may not be there.
    pub async fn try_open(
        client: &Client,
        clusters: &str,
        resume: Option<&str>,
    ) -> Result<Self, reqwest::Error> {
        let mut request = client.request(Method::GET, &format!("/v1/watch?clusters={clusters}"));
        if let Some(id) = resume {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await?;
        assert_eq!(response.status(), 200, "watch of {clusters}");
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok());
        assert!(kind.is_some_and(|kind| kind.starts_with("text/event-stream")), "content type {kind:?}");
        let bytes = response.bytes_stream().map(|chunk| chunk.map(|bytes| bytes.to_vec()));
        Ok(Self { bytes: Box::pin(bytes), buffer: Vec::new(), heartbeats: 0 })
    }

    /// The next event; a stream that ends or stays silent fails the test.
    pub async fn next(&mut self, deadline: Duration) -> Event {
        match self.try_next(deadline).await {
            Some(event) => event,
            None => panic!("no event within {deadline:?}"),
        }
    }

    /// The first event from here on for which `wanted` holds.
    pub async fn until(&mut self, deadline: Duration, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + deadline;
        let mut seen = Vec::new();
        while let Some(event) = self.try_next(end.saturating_duration_since(Instant::now())).await {
            if wanted(&event) {
                return event;
            }
            seen.push(event);
        }
        panic!("not within {deadline:?}: {what}\nseen instead: {seen:#?}");
    }

    /// `None` when nothing came in time or the stream ended.
    pub async fn try_next(&mut self, deadline: Duration) -> Option<Event> {
        let end = Instant::now() + deadline;
        loop {
            while let Some(block) = self.take_block() {
                match parse(&block) {
                    Some(event) => return Some(event),
                    None => self.heartbeats += 1,
                }
            }
            let chunk = tokio::time::timeout_at(end, self.bytes.next()).await.ok()??;
            self.buffer.extend(chunk.ok()?);
        }
    }

    /// Whether the server has ended the stream by the deadline; events before the end are skipped.
    pub async fn ends(&mut self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            match tokio::time::timeout_at(end, self.bytes.next()).await {
                Ok(None | Some(Err(_))) => return true,
                Ok(Some(Ok(_))) => {}
                Err(_) => return false,
            }
        }
    }

    fn take_block(&mut self) -> Option<String> {
        let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
        let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
        Some(String::from_utf8(block).expect("events are UTF-8"))
    }
}

/// `None` for a block of comments only.
fn parse(block: &str) -> Option<Event> {
    let (mut kind, mut id, mut data) = (None, String::new(), None);
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => kind = Some(value.to_owned()),
            "id" => value.clone_into(&mut id),
            "data" => {
                assert!(data.is_none(), "data is one line: {block}");
                data = Some(serde_json::from_str(value).unwrap_or_else(|error| panic!("{error} in {block}")));
            }
            "" | "retry" => {}
            other => panic!("unknown field {other:?} in {block}"),
        }
    }
    let kind = kind?;
    Some(Event { kind, id, data: data.unwrap_or(Value::Null) })
}
