//! The HTTP check: a GET, and a status that the policy expects.
//!
//! The status decides, once the answer is there: a short body whose end the head announces belongs to it, and a node
//! that does not deliver it in time has not answered. A long body, or one that ends only with the connection, is not
//! waited for. What is read of a body is dropped unseen.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use jcm_model::Check;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::answer::{self, BODY_BYTES_MAX, Body, HEAD_BYTES_MAX, Head, Progress, Rest};
use super::{Dialer, Stopwatch};
use crate::outcome::{Outcome, Phase};

/// A connection that was idle for longer is not used again: firewalls forget such connections without a word, and the
/// next probe would time out on a healthy node.
const IDLE_MAX: Duration = Duration::from_mins(1);

/// First size of the buffer for an answer: most fit.
const BUFFER_BYTES: usize = 1_024;

#[derive(Debug)]
pub(crate) struct HttpProber {
    address: SocketAddr,
    check: Arc<Check>,
    request: Box<[u8]>,
    connection: Connection,
}

/// What the prober holds between two steps.
#[derive(Debug)]
enum Connection {
    None,
    /// Open, and no answer is outstanding on it.
    Idle {
        stream: TcpStream,
        since: Instant,
    },
    /// The head was read; the rest was not looked at yet.
    Answering {
        stream: TcpStream,
        head: Head,
        answer: BytesMut,
    },
}

/// Why an exchange has no head of an answer.
enum Failure {
    /// The connection ended before one byte of an answer.
    Unanswered(Outcome),
    Other(Outcome),
}

impl HttpProber {
    pub(crate) fn new(address: SocketAddr, check: Arc<Check>) -> Self {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: jcm/{version}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n",
            path = check.path,
            version = env!("CARGO_PKG_VERSION"),
            // Said even where it is the default: servers that speak HTTP/1.0 keep a connection only when asked.
            connection = if check.fresh { "close" } else { "keep-alive" },
        );
        Self { address, check, request: request.into_bytes().into(), connection: Connection::None }
    }

    pub(crate) async fn probe(&mut self, dialer: &Dialer, watch: &mut Stopwatch) -> Result<Outcome, Outcome> {
        let outcome = self.ask(dialer, watch).await?;
        match self.finish(watch).await {
            // A status that is not expected says more than an answer that is cut short.
            Err(cut) if outcome.is_success() => Err(cut),
            _ => Ok(outcome),
        }
    }

    async fn ask(&mut self, dialer: &Dialer, watch: &mut Stopwatch) -> Result<Outcome, Outcome> {
        if let Some(kept) = self.take_idle() {
            match self.exchange(kept, watch).await {
                Ok(outcome) => return Ok(outcome),
                // Servers close idle connections whenever they like, also while a request is on its way: no sign of
                // trouble, so a fresh connection decides, within what is left of the same deadline.
                Err(Failure::Unanswered(_)) => {}
                Err(Failure::Other(outcome)) => return Err(outcome),
            }
        }
        let fresh = dialer.connect(self.address, watch).await?;
        self.exchange(fresh, watch).await.map_err(|failure| match failure {
            Failure::Unanswered(outcome) | Failure::Other(outcome) => outcome,
        })
    }

    /// Reads the rest of the answer where it is short and announced, and keeps the connection where the node does.
    async fn finish(&mut self, watch: &mut Stopwatch) -> Result<(), Outcome> {
        let Connection::Answering { stream, head, mut answer } =
            std::mem::replace(&mut self.connection, Connection::None)
        else {
            return Ok(());
        };
        loop {
            match head.body.rest(&answer[head.length..]) {
                Rest::Complete => {
                    if head.persistent && !self.check.fresh {
                        self.connection = Connection::Idle { stream, since: Instant::now() };
                    }
                    return Ok(());
                }
                Rest::Unwanted => return Ok(()),
                Rest::Missing => {
                    // One byte more than is wanted tells a body that is too long from one that ends just there.
                    let more = read(&stream, &mut answer, head.length + BODY_BYTES_MAX + 1);
                    let cut = match watch.within(Phase::Reading, more).await {
                        Ok(Ok(1..)) => continue,
                        Ok(Ok(0)) => Outcome::Closed,
                        Ok(Err(error)) => Outcome::from_io(&error, Phase::Reading),
                        Err(outcome) => outcome,
                    };
                    // No end was announced, so none is missed; it was read only to let the node finish its page.
                    return if head.body == Body::UntilClose { Ok(()) } else { Err(cut) };
                }
            }
        }
    }

    /// The kept connection, unless there are signs that it is of no use.
    fn take_idle(&mut self) -> Option<TcpStream> {
        let Connection::Idle { stream, since } = std::mem::replace(&mut self.connection, Connection::None)
        else {
            return None;
        };
        // Something to read before a question was asked is the end of the stream, a farewell such as 408, or garbage.
        // The byte in the socket's buffer is not an answer to what is asked next.
        let silent =
            matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        (silent && since.elapsed() <= IDLE_MAX).then_some(stream)
    }

    async fn exchange(&mut self, mut stream: TcpStream, watch: &mut Stopwatch) -> Result<Outcome, Failure> {
        let failed = |error: io::Error, phase| Failure::Unanswered(Outcome::from_io(&error, phase));
        watch
            .within(Phase::Writing, stream.write_all(&self.request))
            .await
            .map_err(Failure::Other)?
            .map_err(|error| failed(error, Phase::Writing))?;
        let mut answer = BytesMut::new();
        let head = loop {
            let before = answer.len();
            let phase = if before == 0 { Phase::Waiting } else { Phase::Reading };
            let more = read(&stream, &mut answer, HEAD_BYTES_MAX + 1);
            let ended = match watch.within(phase, more).await.map_err(Failure::Other)? {
                Ok(0) => Outcome::Closed,
                Ok(_) if !worth_parsing(&answer, before) => continue,
                Ok(_) => match answer::parse(&answer) {
                    Progress::Partial => continue,
                    Progress::Complete(head) => break head,
                    Progress::TooLarge => return Err(Failure::Other(Outcome::HeadTooLarge)),
                    Progress::Broken(what) => return Err(Failure::Other(Outcome::NotHttp(what))),
                },
                Err(error) => Outcome::from_io(&error, phase),
            };
            return Err(if before == 0 { Failure::Unanswered(ended) } else { Failure::Other(ended) });
        };
        self.connection = Connection::Answering { stream, head, answer };
        let expected = self.check.expect.accepts(head.status);
        Ok(if expected { Outcome::Answered(head.status) } else { Outcome::UnexpectedStatus(head.status) })
    }
}

/// Whether new bytes can have changed what the parser says. Parsing starts from the front each time, so a node that
/// sends its head byte by byte must not have it parsed as often.
fn worth_parsing(answer: &[u8], before: usize) -> bool {
    const STATUS_LINE_BYTES: usize = 16;
    before < STATUS_LINE_BYTES || answer.len() > HEAD_BYTES_MAX || answer[before..].contains(&b'\n')
}

/// Reads what is there, up to `length_max` bytes in all; 0 is the end of the stream. The buffer grows only once there is
/// something to read: thousands of probes that wait hold no memory for it.
async fn read(stream: &TcpStream, answer: &mut BytesMut, length_max: usize) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        let room = length_max.saturating_sub(answer.len());
        if answer.len() == answer.capacity() {
            answer.reserve(answer.len().max(BUFFER_BYTES).min(room));
        }
        match stream.try_read_buf(&mut (&mut *answer).limit(room)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use jcm_model::CheckSpec;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_idle_for_long_is_not_used_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut prober = HttpProber::new(address, Arc::new(CheckSpec::default().effective()));
        for (idle, used) in [(IDLE_MAX / 2, true), (IDLE_MAX + Duration::from_secs(1), false)] {
            let stream = TcpStream::connect(address).await.unwrap();
            let since = Instant::now().checked_sub(idle).expect("the machine runs for longer than that");
            prober.connection = Connection::Idle { stream, since };
            assert_eq!(prober.take_idle().is_some(), used, "idle for {idle:?}");
        }
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets() {
        let check = Arc::new(CheckSpec::default().effective());
        let prober = HttpProber::new("[2001:db8::1]:8080".parse().unwrap(), check);
        let request = std::str::from_utf8(&prober.request).unwrap();
        assert!(request.starts_with("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n"), "{request}");
    }

    #[test]
    fn a_head_in_single_bytes_is_not_parsed_for_each() {
        let mut head = b"HTTP/1.1 200 OK\r\nX-Padding: ".to_vec();
        head.resize(HEAD_BYTES_MAX, b'x');
        let parsed = (0..head.len()).filter(|before| worth_parsing(&head[..=*before], *before)).count();
        assert!(parsed < 20, "{parsed} times");
        assert!(worth_parsing(&[head, vec![b'x']].concat(), HEAD_BYTES_MAX), "the bound itself is noticed");
    }
}
