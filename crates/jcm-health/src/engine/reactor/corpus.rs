//! What nodes may answer, from `tests/corpus`: replayed cut at every place, and changed at random.

use std::net::SocketAddr;
use std::path::Path;

use jcm_model::check::Method;
use jcm_model::{Check, CheckKind, CheckSpec};
use proptest::prelude::*;

use super::answer::{BODY_BYTES_MAX, HEAD_BYTES_MAX};
use super::exchange::{Exchange, Step};
use super::talk::Talk;
use crate::outcome::Outcome;
use crate::trust::Trust;

/// What may wait to be sent on one connection, whatever a node says.
const OUTBOX_BYTES_MAX: usize = 64 * 1024;

fn entries(kind: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind);
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    entries.sort();
    assert!(entries.len() > 15, "the corpus of {kind} is there");
    entries
}

fn address() -> SocketAddr {
    "127.0.0.1:80".parse().unwrap()
}

fn policies(kind: &str) -> Vec<Check> {
    let check = |kind| Check { kind, ..CheckSpec::default().effective() };
    match kind {
        "grpc" => vec![check(CheckKind::Grpc)],
        "tls" => vec![check(CheckKind::Https), Check { verify: false, ..check(CheckKind::Https) }],
        _ => {
            let http = check(CheckKind::Http);
            let wanting = Check { body_contains: Some("well".into()), ..http.clone() };
            vec![http.clone(), Check { method: Method::Head, ..http }, wanting]
        }
    }
}

/// What an answer that comes in these pieces comes to. As the machine does it, a piece is no longer than there is room for.
fn verdict<'b>(check: &Check, trust: &Trust, pieces: impl Iterator<Item = &'b [u8]>) -> Outcome {
    let mut exchange = Exchange::default();
    let mut talk = Talk::start(address(), check, trust).expect("it can be started");
    let mut sent = Vec::new();
    let mut step = Step::Waiting;
    if let Some(talk) = &mut talk {
        step = talk.ask(address(), check);
    }
    for mut piece in pieces {
        while !piece.is_empty() && step == Step::Waiting {
            let room = if talk.is_some() { HEAD_BYTES_MAX } else { exchange.room() };
            let (part, rest) = piece.split_at(room.min(piece.len()));
            piece = rest;
            step = match &mut talk {
                Some(talk) => {
                    let step = talk.take(part, &mut exchange, check);
                    sent.clear();
                    talk.flush(&mut sent).expect("writing into memory");
                    assert!(sent.len() <= OUTBOX_BYTES_MAX, "{} bytes to be sent", sent.len());
                    step
                }
                None => exchange.take(part, check),
            };
            assert!(exchange.kept_bytes() <= HEAD_BYTES_MAX + BODY_BYTES_MAX + 1);
        }
    }
    if step == Step::Waiting {
        step = match &talk {
            Some(talk) => talk.end(Outcome::Closed, &exchange, check),
            None => exchange.end(Outcome::Closed, check),
        };
    }
    match step {
        Step::Done { outcome, .. } | Step::Unanswered(outcome) => outcome,
        Step::Waiting => panic!("an end is an end"),
    }
}

/// Cuts an answer at every place, or, where it is long, at some hundred places and at all of its beginning and end.
fn cut_everywhere(kind: &str) {
    const ALL_UP_TO: usize = 600;
    let trust = Trust::default();
    for (name, answer) in entries(kind) {
        for check in policies(kind) {
            let whole = verdict(&check, &trust, std::iter::once(answer.as_slice()));
            let single = verdict(&check, &trust, answer.chunks(1));
            assert_eq!(single, whole, "{kind}/{name} byte by byte");
            let step = (answer.len() / ALL_UP_TO).max(1);
            for at in (0..answer.len()).filter(|at| at % step == 0 || *at < 100 || at + 100 > answer.len()) {
                let (head, tail) = answer.split_at(at);
                let cut = verdict(&check, &trust, [head, tail].into_iter());
                assert_eq!(cut, whole, "{kind}/{name} cut at {at}");
            }
        }
    }
}

#[test]
fn an_answer_of_http_is_the_same_wherever_it_is_cut() {
    cut_everywhere("http");
}

#[test]
fn an_answer_of_grpc_is_the_same_wherever_it_is_cut() {
    cut_everywhere("grpc");
}

#[test]
fn an_answer_of_tls_is_the_same_wherever_it_is_cut() {
    cut_everywhere("tls");
}

#[test]
fn what_the_corpus_says_is_understood() {
    let trust = Trust::default();
    let check = |kind: &str, name: &str, expected: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind).join(name);
        let answer = std::fs::read(path).unwrap();
        let outcome = verdict(&policies(kind)[0], &trust, std::iter::once(answer.as_slice()));
        assert_eq!(outcome.to_string(), expected, "{kind}/{name}");
    };
    check("http", "plain", "status 200");
    check("http", "chunked", "status 200");
    check("http", "redirect", "unexpected status 302");
    check("http", "endless-headers", "headers are larger than 16 KiB");
    check("http", "cut-body", "connection closed before the answer was complete");
    check("grpc", "serving", "SERVING");
    check("grpc", "message-in-pieces", "SERVING");
    check("grpc", "not-serving", "the health service says NOT_SERVING");
    check("grpc", "unimplemented", "gRPC status 12 UNIMPLEMENTED");
    check("grpc", "status-huge", "gRPC status 2 UNKNOWN");
    check("grpc", "message-announced-huge", "not an answer of gRPC: its message is larger than 4 KiB");
    check("grpc", "not-found", "unexpected status 404");
    check("grpc", "http1", "not an answer of gRPC: the node does not speak HTTP/2");
    check("tls", "http1", "TLS failed: the node does not speak TLS");
    check("tls", "alert-handshake-failure", "TLS failed: the node refused with alert 40 (HandshakeFailure)");
    check("tls", "close-notify", "connection closed before the answer was complete");
}

/// One of the corpus, changed: bytes replaced, a part doubled, the end cut off.
fn changed(kind: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let entries: Vec<Vec<u8>> = entries(kind).into_iter().map(|(_, answer)| answer).collect();
    let change = (any::<prop::sample::Index>(), prop::option::of(any::<u8>()), 0..40_usize);
    (prop::sample::select(entries), prop::collection::vec(change, 1..6)).prop_map(|(mut answer, changes)| {
        for (at, byte, count) in changes {
            if answer.is_empty() {
                break;
            }
            let at = at.index(answer.len());
            match byte {
                Some(byte) => answer[at] = byte,
                None if count == 0 => answer.truncate(at),
                None => {
                    let part: Vec<u8> = answer[at..].iter().copied().take(count).collect();
                    answer.splice(at..at, part);
                }
            }
        }
        answer
    })
}

proptest! {
    #[test]
    fn a_changed_answer_is_the_same_however_it_is_cut(
        (kind, answer) in prop_oneof![
            changed("http").prop_map(|answer| ("http", answer)),
            changed("grpc").prop_map(|answer| ("grpc", answer)),
            changed("tls").prop_map(|answer| ("tls", answer)),
        ],
        size in 1..200_usize,
    ) {
        let trust = Trust::default();
        for check in policies(kind) {
            let whole = verdict(&check, &trust, std::iter::once(answer.as_slice()));
            prop_assert_eq!(verdict(&check, &trust, answer.chunks(size)), whole);
        }
    }
}
