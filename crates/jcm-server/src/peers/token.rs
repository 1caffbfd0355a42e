//! The secret by which servers know each other.
//!
//! It is read from a file that nobody else can read, compared without telling how much of it was right, and appears in
//! no log line.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use subtle::ConstantTimeEq;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};
use tracing::warn;

/// Shortest token: what cannot be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// Longest token: what fits a header well.
const TOKEN_BYTES_MAX: usize = 1024;

/// A refusal is told once in this time.
const TELL_PAUSE: Duration = Duration::from_mins(1);

/// The secret by which servers know each other.
#[derive(Clone)]
pub(crate) struct Token(Arc<MetadataValue<Ascii>>);

/// Why a token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("server.peer_token_file = {path} cannot be read")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "server.peer_token_file = {path} can be read by others than its owner (mode {mode:03o}): `chmod 600` it, and change the token if others may have read it"
    )]
    Open { path: PathBuf, mode: u32 },
    #[error(
        "server.peer_token_file = {path} holds {found} bytes: a token has from {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX}, for example from `head -c 32 /dev/urandom | base64`"
    )]
    Length { path: PathBuf, found: usize },
    #[error("server.peer_token_file = {path} holds more than one line of printable characters")]
    NotText { path: PathBuf },
}

impl Token {
    /// The token in a file, without the white space around it.
    pub(crate) fn load(path: &Path) -> Result<Self, TokenError> {
        let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TokenError::Open { path: path.to_owned(), mode });
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let token = bytes.trim_ascii();
        if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(TokenError::Length { path: path.to_owned(), found: token.len() });
        }
        Self::parse(token).ok_or_else(|| TokenError::NotText { path: path.to_owned() })
    }

    pub(super) fn parse(token: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(token).ok()?;
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {text}").parse().ok()?;
        value.set_sensitive(true);
        Some(Self(Arc::new(value)))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Puts the token on calls to peers, where there is one.
#[derive(Debug, Clone)]
pub(super) struct Bearer(pub(super) Option<Token>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(Token(value)) = &self.0 {
            request.metadata_mut().insert("authorization", MetadataValue::clone(value));
        }
        Ok(request)
    }
}

/// Lets calls of peers in: all of them where there is no token, else those that carry it.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    token: Option<Token>,
    /// When a refusal was last told. A server with another token comes again every second.
    told: Arc<Mutex<Option<Instant>>>,
}

impl Guard {
    pub(super) fn new(token: Option<Token>) -> Self {
        Self { token, told: Arc::default() }
    }

    fn is_to_be_told(&self) -> bool {
        let now = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = told.is_none_or(|told| now.saturating_duration_since(told) >= TELL_PAUSE);
        if is_due {
            *told = Some(now);
        }
        is_due
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(Token(expected)) = &self.token else {
            return Ok(request);
        };
        let given = request.metadata().get("authorization");
        let is_right = given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(expected.as_bytes())));
        if is_right {
            return Ok(request);
        }
        let problem = if given.is_some() { "another peer token" } else { "no peer token" };
        if self.is_to_be_told() {
            let from = request.remote_addr().map(|address| address.to_string());
            warn!(from, problem, "a server was refused: it does not know the peer token");
        }
        metrics::counter!("jcm_peers_refused_total").increment(1);
        Err(Status::unauthenticated(format!(
            "{problem}: servers of one group have the same token in `server.peer_token_file`"
        )))
    }
}
