//! The answer to one question, as far as it has come. Pure: bytes in, outcome out.
//!
//! The status decides, once the answer is there: a short body whose end the head announces belongs to it, and a node
//! that does not deliver it in time has not answered. A long body, or one that ends only with the connection, is not
//! waited for. Nothing is kept of an answer that comes in one piece, which nearly all do.

use std::io::Write;
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

/// Puts the request of a check together. Once for each probe, so without the machinery of formatting as far as can be.
pub(super) fn write_request(request: &mut Vec<u8>, address: SocketAddr, check: &Check) {
    const OWN_HEADERS: &str =
        concat!("\r\nUser-Agent: jcm/", env!("CARGO_PKG_VERSION"), "\r\nAccept: */*\r\nConnection: ");
    // Said even where it is the default: servers that speak HTTP/1.0 keep a connection only when asked.
    let connection = if check.fresh { "close\r\n\r\n" } else { "keep-alive\r\n\r\n" };
    request.clear();
    for part in [check.method.as_str(), " ", &check.path, " HTTP/1.1\r\nHost: "] {
        request.extend_from_slice(part.as_bytes());
    }
    match &check.host {
        Some(host) => request.extend_from_slice(host.as_str().as_bytes()),
        None => write_address(request, address),
    }
    for part in [OWN_HEADERS, connection] {
        request.extend_from_slice(part.as_bytes());
    }
}

fn write_address(request: &mut Vec<u8>, address: SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        return write!(request, "{address}").expect("writing into memory");
    };
    for (count, part) in v4.ip().octets().into_iter().enumerate() {
        if count > 0 {
            request.push(b'.');
        }
        write_decimal(request, part.into());
    }
    request.push(b':');
    write_decimal(request, v4.port());
}

fn write_decimal(request: &mut Vec<u8>, mut number: u16) {
    let (mut digits, mut from) = ([0; 5], 5);
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return request.extend_from_slice(&digits[from..]);
        }
    }
}

impl Exchange {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.head.is_none()
    }

    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.kept.len()
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
            None => match answer::parse(answer, check.method) {
                Progress::Partial => return self.wait(before, bytes),
                Progress::Complete(head) => head,
                Progress::TooLarge => return done(Outcome::HeadTooLarge, false),
                Progress::Broken(what) => return done(Outcome::NotHttp(what), false),
            },
        };
        let body = &answer[head.length..];
        let (rest, looked) = (head.body.rest(body), look(head, body, check));
        self.head = Some(head);
        let outcome = match looked {
            Looked::Found => said(head, check),
            // It is not over as long as the text may still come.
            Looked::NotYet if rest != Rest::Complete => return self.wait(before, bytes),
            Looked::Missing | Looked::NotYet => Outcome::TextMissing(head.status),
        };
        match rest {
            Rest::Complete => done(outcome, head.persistent && !check.fresh),
            Rest::Unwanted => done(outcome, false),
            // Nobody would say when it is over, and what is looked for is there.
            Rest::Missing if head.body == Body::UntilClose && looks(head, check) => done(outcome, false),
            Rest::Missing => self.wait(before, bytes),
        }
    }

    fn wait(&mut self, before: usize, bytes: &[u8]) -> Step {
        if before == 0 {
            self.kept.extend_from_slice(bytes);
        }
        Step::Waiting
    }

    /// The connection ended, or the time is over.
    pub(super) fn end(&self, with: Outcome, check: &Check) -> Step {
        match self.head {
            None if self.kept.is_empty() => Step::Unanswered(with),
            // Not every piece was looked at when it came.
            None => match answer::parse(&self.kept, check.method) {
                Progress::Broken(what) => done(Outcome::NotHttp(what), false),
                Progress::Partial | Progress::Complete(_) | Progress::TooLarge => done(with, false),
            },
            // The text was looked for in all that there is now, and is in none of it.
            Some(head) if head.body == Body::UntilClose && with == Outcome::Closed && looks(head, check) => {
                done(Outcome::TextMissing(head.status), false)
            }
            Some(head) if head.body == Body::UntilClose && looks(head, check) => done(with, false),
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

/// Whether the text that a policy wants is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// It is, or none is wanted.
    Found,
    /// It is not, in all that is read of a body.
    Missing,
    /// It may still come.
    NotYet,
}

/// Whether the answer depends on a text: one with an unexpected status has failed whatever it says.
fn looks(head: Head, check: &Check) -> bool {
    check.body_contains.is_some() && check.expect.accepts(head.status)
}

fn look(head: Head, body: &[u8], check: &Check) -> Looked {
    let Some(wanted) = check.body_contains.as_ref().filter(|_| looks(head, check)) else {
        return Looked::Found;
    };
    let text = head.body.text(body);
    if memchr::memmem::find(&text.bytes, wanted.as_bytes()).is_some() {
        Looked::Found
    } else if text.may_go_on {
        Looked::NotYet
    } else {
        Looked::Missing
    }
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
    use jcm_model::check::{Host, Method};
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
    fn a_text_is_looked_for_in_all_that_is_read_of_a_body_and_nowhere_else() {
        let check = Check { body_contains: Some("up and well".into()), ..Check::clone(&check()) };
        let head = |headers: &str| format!("HTTP/1.1 200 up and well\r\nX: up and well\r\n{headers}\r\n\r\n");
        let (found, missing) = (Outcome::Answered(200), Outcome::TextMissing(200));
        let late = " ".repeat(BODY_BYTES_MAX - 5);
        for (answer, expected) in [
            (format!("{}up and well", head("Content-Length: 11")), done(found, true)),
            (format!("{}up and ill!", head("Content-Length: 11")), done(missing, true)),
            (head("Content-Length: 0"), done(missing, true)),
            (format!("{}up and", head("Content-Length: 11")), Step::Waiting),
            (format!("{}it is up and well", head("Content-Length: 100000")), done(found, false)),
            (format!("{}it is up and", head("Content-Length: 100000")), Step::Waiting),
            (format!("{}{late}up and well", head("Content-Length: 100000")), done(missing, false)),
            // Cut by the framing, not by the text: it is found all the same.
            (
                format!("{}6\r\nup and\r\n5\r\n well\r\n0\r\n\r\n", head("Transfer-Encoding: chunked")),
                done(found, true),
            ),
            (
                format!("{}6\r\nup and\r\n5\r\n ill!\r\n0\r\n\r\n", head("Transfer-Encoding: chunked")),
                done(missing, true),
            ),
            (format!("{}FFFFF\r\nup and well", head("Transfer-Encoding: chunked")), done(found, false)),
            (format!("{}FFFFF\r\nup and", head("Transfer-Encoding: chunked")), Step::Waiting),
            (
                format!("{}FFFFF\r\n{late}up and well", head("Transfer-Encoding: chunked")),
                done(missing, false),
            ),
            (format!("{}up and well", head("X: y")), done(found, false)),
            (format!("{}up and", head("X: y")), Step::Waiting),
            ("HTTP/1.1 204 No\r\n\r\n".into(), done(Outcome::TextMissing(204), true)),
            (
                "HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nill".into(),
                done(Outcome::UnexpectedStatus(500), true),
            ),
        ] {
            assert_eq!(Exchange::default().take(answer.as_bytes(), &check), expected, "{answer:.120}");
        }
        for (start, ended) in [
            (format!("{}up and", head("X: y")), missing),
            (format!("{}up and", head("Content-Length: 11")), Outcome::Closed),
        ] {
            let mut exchange = Exchange::default();
            exchange.take(start.as_bytes(), &check);
            assert_eq!(exchange.end(Outcome::Closed, &check), done(ended, false), "{start}");
            let late = Outcome::TimedOut(Phase::Reading);
            assert_eq!(exchange.end(late, &check), done(late, false), "more may have been to come");
        }
    }

    #[test]
    fn a_question_for_the_head_alone_is_answered_by_a_head_alone() {
        let check = Check {
            method: Method::Head,
            host: Some(Host::parse("a.example").unwrap()),
            ..Check::clone(&check())
        };
        let mut request = Vec::new();
        write_request(&mut request, "127.0.0.1:80".parse().unwrap(), &check);
        assert!(request.starts_with(b"HEAD / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: "));
        for (answer, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n", done(Outcome::Answered(200), true)),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", done(Outcome::Answered(200), true)),
            ("HTTP/1.1 200 OK\r\n\r\n", done(Outcome::Answered(200), true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", done(Outcome::Answered(200), false)),
        ] {
            assert_eq!(Exchange::default().take(answer.as_bytes(), &check), expected, "{answer}");
        }
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
