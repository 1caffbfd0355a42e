//! The answer to one question, as far as it has come. Pure: bytes in, outcome out.
//!
//! The status decides, once the answer is there: a short body whose end the head announces belongs to it, and a node
//! that does not deliver it in time has not answered. A long body, or one that ends only with the connection, is not
//! waited for. Nothing is kept of an answer that comes in one piece, which nearly all do.

use std::net::SocketAddr;

use jcm_model::Check;

use super::answer::{self, BODY_BYTES_MAX, Body, HEAD_BYTES_MAX, Head, Progress, Rest};
use crate::outcome::Outcome;

/// The answer to one question, as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    kept: Vec<u8>,
    head: Option<Head>,
}

/// Where the exchange stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// More must come.
    Waiting,
    /// This is what it came to, and whether the connection may serve again.
    Done { outcome: Outcome, reusable: bool },
    /// The connection ended before one byte of an answer.
    Unanswered(Outcome),
}

/// Puts the request of a check together.
pub(super) fn write_request(request: &mut Vec<u8>, address: SocketAddr, check: &Check) {
    use std::io::Write;
    request.clear();
    // Said even where it is the default: servers that speak HTTP/1.0 keep a connection only when asked.
    let connection = if check.fresh { "close" } else { "keep-alive" };
    write!(
        request,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: jcm/{version}\r\nAccept: */*\r\nConnection: {connection}\r\n\r\n",
        path = check.path,
        version = env!("CARGO_PKG_VERSION"),
    )
    .expect("writing into memory");
}

impl Exchange {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.head.is_none()
    }

    /// How many bytes may be read next: one more than is wanted tells what is too long from what ends just there.
    pub(super) fn room(&self) -> usize {
        let most = self.head.map_or(HEAD_BYTES_MAX, |head| head.length + BODY_BYTES_MAX);
        most + 1 - self.kept.len().min(most)
    }

    /// Takes what came.
    pub(super) fn take(&mut self, bytes: &[u8], check: &Check) -> Step {
        let before = self.kept.len();
        if before > 0 {
            self.kept.extend_from_slice(bytes);
        }
        let answer: &[u8] = if before > 0 { &self.kept } else { bytes };
        let head = match self.head {
            Some(head) => head,
            None if !worth_parsing(answer, before) => return Step::Waiting,
            None => match answer::parse(answer) {
                Progress::Partial => {
                    if before == 0 {
                        self.kept.extend_from_slice(bytes);
                    }
                    return Step::Waiting;
                }
                Progress::Complete(head) => head,
                Progress::TooLarge => return done(Outcome::HeadTooLarge, false),
                Progress::Broken(what) => return done(Outcome::NotHttp(what), false),
            },
        };
        let rest = head.body.rest(&answer[head.length..]);
        self.head = Some(head);
        match rest {
            Rest::Complete => done(said(head, check), head.persistent && !check.fresh),
            Rest::Unwanted => done(said(head, check), false),
            Rest::Missing => {
                if before == 0 {
                    self.kept.extend_from_slice(bytes);
                }
                Step::Waiting
            }
        }
    }

    /// The connection ended, or the time is over.
    pub(super) fn end(&self, with: Outcome, check: &Check) -> Step {
        match self.head {
            None if self.kept.is_empty() => Step::Unanswered(with),
            None => done(with, false),
            // No end was announced, so none is missed; it was read only to let the node finish its page.
            Some(head) if head.body == Body::UntilClose => done(said(head, check), false),
            Some(head) => match said(head, check) {
                // A status that is not expected says more than an answer that is cut short.
                outcome if outcome.is_success() => done(with, false),
                outcome => done(outcome, false),
            },
        }
    }
}

fn done(outcome: Outcome, reusable: bool) -> Step {
    Step::Done { outcome, reusable }
}

fn said(head: Head, check: &Check) -> Outcome {
    if check.expect.accepts(head.status) {
        Outcome::Answered(head.status)
    } else {
        Outcome::UnexpectedStatus(head.status)
    }
}

/// Whether new bytes can have changed what the parser says. Parsing starts from the front each time, so a node that
/// sends its head byte by byte must not have it parsed as often.
fn worth_parsing(answer: &[u8], before: usize) -> bool {
    const STATUS_LINE_BYTES: usize = 16;
    before < STATUS_LINE_BYTES || answer.len() > HEAD_BYTES_MAX || answer[before..].contains(&b'\n')
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jcm_model::CheckSpec;
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Phase;

    fn check() -> Arc<Check> {
        Arc::new(CheckSpec::default().effective())
    }

    fn whole(answer: &[u8]) -> Step {
        Exchange::default().take(answer, &check())
    }

    #[test]
    fn an_ipv6_host_stands_in_brackets() {
        let mut request = Vec::new();
        write_request(&mut request, "[2001:db8::1]:8080".parse().unwrap(), &check());
        let request = std::str::from_utf8(&request).unwrap();
        assert!(request.starts_with("GET / HTTP/1.1\r\nHost: [2001:db8::1]:8080\r\n"), "{request}");
    }

    #[test]
    fn an_answer_that_is_cut_short_is_none_unless_it_says_no_already() {
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Outcome::Closed),
            ("HTTP/1.1 503 Busy\r\nContent-Length: 5\r\n\r\nab", Outcome::UnexpectedStatus(503)),
            ("HTTP/1.1 200 OK\r\n\r\nab", Outcome::Answered(200)),
            ("HTTP/1.1 200", Outcome::Closed),
        ] {
            let mut exchange = Exchange::default();
            assert_eq!(exchange.take(answer.as_bytes(), &check()), Step::Waiting, "{answer}");
            assert_eq!(exchange.end(Outcome::Closed, &check()), done(expected, false), "{answer}");
        }
        let timed_out = Outcome::TimedOut(Phase::Waiting);
        assert_eq!(Exchange::default().end(timed_out, &check()), Step::Unanswered(timed_out));
    }

    #[test]
    fn a_head_in_single_bytes_is_not_parsed_for_each() {
        let mut head = b"HTTP/1.1 200 OK\r\nX-Padding: ".to_vec();
        head.resize(HEAD_BYTES_MAX, b'x');
        let parsed = (0..head.len()).filter(|before| worth_parsing(&head[..=*before], *before)).count();
        assert!(parsed < 20, "{parsed} times");
        assert!(worth_parsing(&[head, vec![b'x']].concat(), HEAD_BYTES_MAX), "the bound itself is noticed");
    }

    proptest! {
        #[test]
        fn an_answer_in_pieces_is_the_same_answer(
            body in proptest::collection::vec(any::<u8>(), 0..40),
            cuts in proptest::collection::vec(1..20_usize, 1..40),
            chunked: bool,
        ) {
            let mut answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n".to_vec();
            if chunked {
                answer.extend_from_slice(format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).as_bytes());
                if !body.is_empty() {
                    answer.extend_from_slice(&body);
                    answer.extend_from_slice(b"\r\n0\r\n");
                }
                answer.extend_from_slice(b"\r\n");
            } else {
                answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                answer.extend_from_slice(&body);
            }
            let expected = done(Outcome::Answered(200), true);
            prop_assert_eq!(whole(&answer), expected);
            let (mut exchange, mut left, mut cuts) = (Exchange::default(), answer.as_slice(), cuts.into_iter().cycle());
            let mut step = Step::Waiting;
            while !left.is_empty() {
                prop_assert_eq!(step, Step::Waiting);
                let (piece, rest) = left.split_at(cuts.next().unwrap().min(left.len()));
                step = exchange.take(piece, &check());
                left = rest;
            }
            prop_assert_eq!(step, expected);
        }

        #[test]
        fn whatever_a_node_says_is_read_within_bounds(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..4_000), 1..12)) {
            let mut exchange = Exchange::default();
            for piece in pieces {
                let room = exchange.room();
                prop_assert!(room > 0 && room <= HEAD_BYTES_MAX + BODY_BYTES_MAX + 1);
                if exchange.take(&piece[..piece.len().min(room)], &check()) != Step::Waiting {
                    break;
                }
            }
            prop_assert!(exchange.kept.len() <= HEAD_BYTES_MAX + BODY_BYTES_MAX + 1);
        }
    }
}
