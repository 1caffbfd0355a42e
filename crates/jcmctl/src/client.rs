//! Requests to servers: failover between them, and one error for all that can go wrong.
//!
//! A write carries one idempotency key through all its attempts, so that a server which sees it a second time answers
//! with the first one's result. An attempt whose outcome nobody knows is remembered: unless a later attempt gets a
//! definite answer, the whole write ends as [`Error::OutcomeUnknown`], whatever the last attempt said.
//!
//! No proxy and no redirect is ever followed: the token goes to the servers that were named, and nowhere else.

mod attempt;
mod error;
mod request;

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use backon::BackoffBuilder as _;
use reqwest::Response;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use serde_json::Value;

pub(crate) use error::{Error, Problem, chain};
pub(crate) use request::{Call, Condition};

use crate::client::attempt::{ANSWER_BYTES_MAX, Attempt, Broken, Elsewhere, end, judge, read};
use crate::settings::{Server, Settings};

/// First pause between two rounds over all servers; the next ones double.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// What talks to the servers.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    servers: Vec<Server>,
    /// The server that answered last; it is asked first.
    preferred: AtomicUsize,
    token: Option<HeaderValue>,
    idempotency_key: String,
    /// Writes done so far: each needs a key of its own, and the same ones when the command is repeated.
    writes: AtomicUsize,
    attempt_timeout: Duration,
    /// No new round of attempts starts after this time.
    retry_for: Duration,
    verbose: bool,
}

/// A definite answer that is not a refusal.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The revision in the `ETag`.
    pub revision: Option<u64>,
    /// The JSON of the body; `Null` when there was none.
    pub body: Value,
}

impl Client {
    pub(crate) fn new(settings: &Settings, verbose: bool) -> Self {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.request_timeout.min(Duration::from_secs(2)))
            .user_agent(concat!("jcmctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .expect("a client without TLS always builds");
        let token = settings.token.as_deref().map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {token}"))
                .expect("settings let only visible ASCII through");
            value.set_sensitive(true);
            value
        });
        Self {
            http,
            servers: settings.servers.clone(),
            preferred: AtomicUsize::new(0),
            token,
            idempotency_key: settings
                .idempotency_key
                .clone()
                .unwrap_or_else(|| uuid::Uuid::new_v4().to_string()),
            writes: AtomicUsize::new(0),
            attempt_timeout: settings.request_timeout,
            retry_for: settings.retry_for,
            verbose,
        }
    }

    /// The servers, in the order they are tried.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &Server> {
        let first = self.preferred.load(Ordering::Relaxed);
        (0..self.servers.len()).map(move |i| &self.servers[(first + i) % self.servers.len()])
    }

    /// Sends a request to one server after another until one gives a definite answer.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Error> {
        let key = call.is_write().then(|| self.next_key());
        let started = Instant::now();
        let mut pauses = pauses();
        let mut unknown: Option<(Server, Elsewhere)> = None;
        loop {
            let mut round: Vec<(Server, Elsewhere)> = Vec::new();
            let first = self.preferred.load(Ordering::Relaxed);
            for i in 0..self.servers.len() {
                let index = (first + i) % self.servers.len();
                let server = &self.servers[index];
                match self.attempt(server, &call, key.as_deref()).await {
                    Attempt::Answered(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Attempt::Final(error) => return Err(error),
                    Attempt::Elsewhere(elsewhere) if elsewhere.unknown && call.is_write() => {
                        unknown = Some((server.clone(), elsewhere));
                    }
                    Attempt::Elsewhere(elsewhere) => round.push((server.clone(), elsewhere)),
                }
            }
            let worth_waiting = call.is_patient()
                && (unknown.is_some() || round.iter().any(|(_, elsewhere)| elsewhere.passing));
            let asked = round.iter().filter_map(|(_, elsewhere)| elsewhere.wait).max();
            let pause = pauses.next().map(|pause| asked.map_or(pause, |asked| asked.max(pause)));
            match pause {
                Some(pause) if worth_waiting && pause.saturating_add(started.elapsed()) < self.retry_for => {
                    self.note(|| format!("trying again in {} ms", pause.as_millis()));
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(end(unknown, round, &self.idempotency_key)),
            }
        }
    }

    /// Opens a stream at one server: the answer's head within the attempt's time, its body as long as it lasts.
    pub(crate) async fn open(&self, server: &Server, call: &Call) -> Result<Response, Error> {
        let request = self.request(server, call, None);
        let failed = |reason: String| Error::Unreachable { tried: vec![(server.to_string(), reason)] };
        let response = tokio::time::timeout(self.attempt_timeout, request.send())
            .await
            .map_err(|_| failed(format!("no answer within {} ms", self.attempt_timeout.as_millis())))?
            .map_err(|error| failed(error::chain(&error)))?;
        let status = response.status();
        self.note(|| format!("{} {} -> {status}", call.method(), call.url(server)));
        if status.is_success() {
            return Ok(response);
        }
        let body = tokio::time::timeout(self.attempt_timeout, read(response)).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(Error::Refused(Problem::new(server, status, &body)))
    }

    /// The bytes of the first server that has them.
    pub(crate) async fn fetch(&self, call: &Call) -> Result<Vec<u8>, Error> {
        let mut tried = Vec::new();
        for server in self.servers() {
            let response = match self.open(server, call).await {
                Ok(response) => response,
                Err(Error::Unreachable { tried: failed }) => {
                    tried.extend(failed);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match read(response).await {
                Ok(bytes) => return Ok(bytes),
                Err(broken) => tried.push((server.to_string(), broken.to_string())),
            }
        }
        Err(Error::Unreachable { tried })
    }

    async fn attempt(&self, server: &Server, call: &Call, key: Option<&str>) -> Attempt {
        let started = Instant::now();
        let timeout = self.attempt_timeout + call.wait();
        let answered = async {
            let response = self.request(server, call, key).send().await?;
            let (status, headers) = (response.status(), response.headers().clone());
            Ok::<_, Broken>((status, headers, read(response).await?))
        };
        let outcome = tokio::time::timeout(timeout, answered).await;
        self.note(|| {
            let what = match &outcome {
                Ok(Ok((status, ..))) => status.to_string(),
                Ok(Err(failed)) => failed.to_string(),
                Err(_) => "timed out".to_owned(),
            };
            let taken = started.elapsed().as_millis();
            format!("{} {} -> {what} ({taken} ms)", call.method(), call.url(server))
        });
        match outcome {
            Ok(Ok((status, headers, body))) => judge(server, status, &headers, &body),
            Ok(Err(Broken::TooLarge)) => Attempt::Final(Error::Malformed {
                server: server.to_string(),
                what: format!("it is larger than {ANSWER_BYTES_MAX} bytes"),
            }),
            Ok(Err(Broken::Transport(broken))) => Attempt::Elsewhere(Elsewhere {
                // A connection that was never there carried no request.
                unknown: !broken.is_connect(),
                passing: !broken.is_connect(),
                reason: error::chain(&broken),
                problem: None,
                wait: None,
            }),
            Err(_) => Attempt::Elsewhere(Elsewhere {
                unknown: true,
                passing: false,
                reason: format!("no answer within {} ms", timeout.as_millis()),
                problem: None,
                wait: None,
            }),
        }
    }

    fn request(&self, server: &Server, call: &Call, key: Option<&str>) -> reqwest::RequestBuilder {
        let mut request = self.http.request(call.method(), call.url(server));
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(id) = call.last_event_id() {
            request = request.header("last-event-id", id);
        }
        match call.condition() {
            Some(Condition::Revision(revision)) => {
                request = request.header(IF_MATCH, format!("\"{revision}\""));
            }
            Some(Condition::Absent) => request = request.header(IF_NONE_MATCH, "*"),
            None => {}
        }
        match (call.body(), call.bytes()) {
            (Some(body), _) => request.json(body),
            (None, Some(bytes)) => request.header(CONTENT_TYPE, "application/octet-stream").body(bytes),
            (None, None) => request,
        }
    }

    /// The key of the next write of this command: the first one's as given, then numbered, so that a repeated command
    /// names its writes alike.
    fn next_key(&self) -> String {
        match self.writes.fetch_add(1, Ordering::Relaxed) {
            0 => self.idempotency_key.clone(),
            n => format!("{}-{n}", self.idempotency_key),
        }
    }

    fn note(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            // Nowhere is left to report a standard error that is closed.
            let _ = writeln!(std::io::stderr(), "{}", crate::text::escaped(&line()));
        }
    }
}

/// Endless pauses between rounds over all servers: doubling up to a limit, with jitter, so that many clients do not come back as one.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .without_max_times()
        .with_jitter()
        .build()
}
